"""Up to where the log is compared: its end, a time, or what a running pipeline should have landed.

A pipeline that never stops has records on their way at any time: those of windows that are open.

- `end`: every record of the log must be in a file.
- a time: every record that Kafka stamped before it must be in a file.
- `landed`: a file of a window that ends at W proves that the watermark has passed W, so that all
  records stamped before W have been read. A record stamped before W less
  `--max_event_skew_seconds` can't belong to a window after W. So each such record must be in a file
  (or in the next late pane, which is waited for), as far as the partition has landed at all: a
  restarted reader may take a partition's watermark ahead of its backlog. A record that is missing
  before the last landed one is found. What is behind it is not compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import TypeAlias

from pyroaring import BitMap64

from beam_pipeline.files.names import OutputFile
from beam_pipeline.kafka.admin import offsets_at
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.offset_sets import TopicPartition, interval
from beam_pipeline.times import ms_of, rfc3339
from beam_pipeline.tools.reconcile.compare import LogBounds
from beam_pipeline.tools.reconcile.coverage import Coverage
from beam_pipeline.tools.reconcile.ledger_notes import LandedSettings

UNLIMITED_SKEW_SECONDS = 86_400
"""The skew that is assumed where `--max_event_skew_seconds=0` sets no limit."""


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
    paths: Iterable[Path],
    coverages: Sequence[Coverage],
    settings: LandedSettings,
) -> Comparable:
    """Return the part of the log that must be in files.

    Args:
        connection: the cluster.
        log: the bounds of the whole log.
        up_to: up to where to compare.
        paths: the files that were read.
        coverages: what they hold.
        settings: those of the pipeline.

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
        key: max(
            (coverage.offsets[key].max() + 1 for coverage in coverages if key in coverage.offsets),
            default=low,
        )
        for key, (low, _) in log.items()
    }
    if settings.has_early_panes:
        # An early file says nothing of the watermark: only what is there without a gap is certain.
        prefixes = {key: _prefix_end(key, low, coverages) for key, (low, _) in log.items()}
        bounds = _cut(log, prefixes)
        text = "up to the first record that is in no file, since early files prove no more"
        return Comparable(bounds, _behind(log, bounds), text)
    window_ends = [file.window_end for file in map(OutputFile.parse, paths) if file is not None]
    if not window_ends:
        return Comparable(_cut(log, {}), _behind(log, _cut(log, {})), "nothing is landed yet")
    skew_seconds = settings.max_event_skew_seconds or UNLIMITED_SKEW_SECONDS
    closed_ms = ms_of(max(window_ends)) - round(1000 * skew_seconds)
    closed = _offsets_at(connection, log, closed_ms)
    ends = {key: min(landed[key], closed.get(key, low)) for key, (low, _) in log.items()}
    bounds = _cut(log, ends)
    text = (
        f"up to what is landed: what Kafka stamped {skew_seconds:,g} s or more before the end of "
        f"the last written window, {rfc3339(max(window_ends))}"
    )
    return Comparable(bounds, _behind(log, bounds), text)


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


def _prefix_end(key: TopicPartition, low: int, coverages: Sequence[Coverage]) -> int:
    """Return the first offset from `low` on that is in no file."""
    covered = BitMap64()
    for coverage in coverages:
        covered |= coverage.offsets.get(key, BitMap64())
    if not covered:
        return low
    uncovered = interval(low, covered.max() + 1) - covered
    return int(uncovered.min()) if uncovered else max(low, covered.max() + 1)
