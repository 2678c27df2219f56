"""Up to where the log is compared: its end, a time, or what a running pipeline should have landed.

A pipeline that never stops has records on their way at any time: those of windows that are open.

- `end`: every record of the log must be in a file.
- a time: every record that Kafka stamped before it must be in a file.
- `landed`: every record whose window must have closed, and which is before the last landed one of
  its partition if that has any, must be in a file, or in the next late pane, which is waited for.
  Two facts prove that windows have closed; the later one counts:
  - A file of a window that ends at W is written when the watermark has passed W (without early
    panes). So all records stamped before W were read, and one stamped before W less
    `--max_event_skew_seconds` can't belong to a window after W.
  - The watermark follows the timestamps of the partition that is read last. A landed record was
    read. So the watermark has passed the timestamp of the last landed record of each partition, or
    the clock where a partition is landed to its end, and windows of records stamped a skew, a
    window and `--watermark_delay_seconds` before have closed.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import TypeAlias

from pyroaring import BitMap64

from beam_pipeline.kafka.admin import offsets_at
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.kafka.log_reader import timestamps_at
from beam_pipeline.offset_sets import TopicPartition, interval
from beam_pipeline.times import ms_of, rfc3339, rfc3339_of_ms
from beam_pipeline.tools.reconcile.compare import LogBounds
from beam_pipeline.tools.reconcile.coverage import Coverage
from beam_pipeline.tools.reconcile.ledger_notes import LandedSettings, LedgerNotes

NEVER_MS = -(2**63)
"""No window is known to have closed."""

_IDLE_SECONDS = 5.0
"""How far the watermark of an idle partition may be behind the clock."""

_TIMEOUT_SECONDS = 15.0


class Until(Enum):
    """A point of the log that is no time."""

    END = "end"
    LANDED = "landed"


UpTo: TypeAlias = "Until | datetime"
"""Up to where to compare; a time is aware."""


@dataclass(frozen=True)
class Comparable:
    """The part of the log that is compared.

    Attributes:
        bounds: its bounds.
        behind: how many offsets behind it are not compared.
        text: what is compared, for people; empty for the whole log.
    """

    bounds: LogBounds
    behind: int
    text: str


def comparable(
    connection: KafkaConnection,
    log: LogBounds,
    up_to: UpTo,
    window_ends: Iterable[datetime],
    coverages: Sequence[Coverage],
    settings: LandedSettings,
    notes: LedgerNotes,
) -> Comparable:
    """Return the part of the log that must be in files.

    Args:
        connection: the cluster.
        log: the bounds of the whole log.
        up_to: up to where to compare.
        window_ends: the ends of the windows of the files that were read.
        coverages: what they hold.
        settings: those of the pipeline.
        notes: what the ledger says.

    Raises:
        EnvironmentFailure: the cluster refused.
    """
    if up_to is Until.END:
        return Comparable(log, 0, "")
    if isinstance(up_to, datetime):
        bounds = _cut(log, _offsets_at(connection, log, ms_of(up_to)))
        text = f"up to what Kafka stamped before {rfc3339(up_to)}"
        return Comparable(bounds, _behind(log, bounds), text)
    landed = {
        key: max(coverage.offsets[key].max() for coverage in coverages if key in coverage.offsets)
        + 1
        for key in log
        if any(key in coverage.offsets for coverage in coverages)
    }
    closed = [
        _closed_by_files(window_ends, settings),
        _closed_by_last_records(connection, log, landed, settings),
    ]
    closed_ms = max(closed)
    if closed_ms == NEVER_MS:
        ends = {
            key: _prefix_end(key, low, coverages, notes.excluded(key, low, high))
            for key, (low, high) in log.items()
        }
        bounds = _cut(log, ends)
        text = "up to the first record that is in no file: nothing proves that a window has closed"
    else:
        ends = _offsets_at(connection, log, closed_ms)
        # A partition of which nothing is landed may be one that is not read at all.
        bounds = _cut(log, {key: min(end, landed.get(key, end)) for key, end in ends.items()})
        text = f"up to what is landed and was stamped before {rfc3339_of_ms(closed_ms)}"
    return Comparable(bounds, _behind(log, bounds), text)


def _closed_by_files(window_ends: Iterable[datetime], settings: LandedSettings) -> int:
    """Return the time before which stamped records are in closed windows, by the windows written.

    An early file says nothing of the watermark.
    """
    latest = max(window_ends, default=None)
    if settings.has_early_panes or latest is None:
        return NEVER_MS
    return ms_of(latest) - round(1000 * settings.skew_seconds)


def _closed_by_last_records(
    connection: KafkaConnection,
    log: LogBounds,
    landed: Mapping[TopicPartition, int],
    settings: LandedSettings,
) -> int:
    """Return the same by how far the partitions are landed.

    One that is landed to its end follows the clock, unless its timestamps are the producers'.
    """
    if not landed:
        return NEVER_MS
    last = {
        key: end - 1
        for key, end in landed.items()
        if key in log and (end < log[key][1] or not settings.follows_clock)
    }
    timestamps = timestamps_at(connection, last, _TIMEOUT_SECONDS) if last else {}
    if timestamps.keys() != last.keys():
        return NEVER_MS
    now_ms = round(1000 * (time.time() - _IDLE_SECONDS))
    open_seconds = (
        settings.skew_seconds + settings.window_seconds + settings.watermark_delay_seconds
    )
    return min([now_ms, *timestamps.values()]) - round(1000 * open_seconds)


def _offsets_at(
    connection: KafkaConnection, log: LogBounds, timestamp_ms: int
) -> dict[TopicPartition, int]:
    return {
        TopicPartition(topic, partition): offset
        for topic in sorted({key.topic for key in log})
        for partition, offset in offsets_at(connection, topic, timestamp_ms).items()
    }


def _cut(
    log: LogBounds, ends: Mapping[TopicPartition, int]
) -> dict[TopicPartition, tuple[int, int]]:
    return {key: (low, max(low, min(high, ends.get(key, low)))) for key, (low, high) in log.items()}


def _behind(log: LogBounds, bounds: LogBounds) -> int:
    return sum(high - bounds[key][1] for key, (_, high) in log.items())


def _prefix_end(
    key: TopicPartition, low: int, coverages: Sequence[Coverage], excluded: BitMap64
) -> int:
    """Return the first offset from `low` on that is in no file and was not left out."""
    covered = excluded.copy()
    for coverage in coverages:
        covered |= coverage.offsets.get(key, BitMap64())
    if not covered:
        return low
    uncovered = interval(low, covered.max() + 1) - covered
    return int(uncovered.min()) if uncovered else max(low, covered.max() + 1)
