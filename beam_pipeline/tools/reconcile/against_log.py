"""Compares what was read, from files or from tables, with the log of the topics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Protocol

from pyroaring import BitMap64

from beam_pipeline.kafka.admin import watermarks
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.kafka.log_reader import READ_UNCOMMITTED, find_records
from beam_pipeline.offset_sets import OffsetSets, TopicPartition
from beam_pipeline.terminal import progress_bar
from beam_pipeline.tools.reconcile.compare import LogBounds, Reconciliation, compare, uncovered
from beam_pipeline.tools.reconcile.coverage import Coverage, FileOverlap
from beam_pipeline.tools.reconcile.ledger_notes import LandedSettings, LedgerNotes
from beam_pipeline.tools.reconcile.rewritten import find_rewritten
from beam_pipeline.tools.reconcile.up_to import Comparable, Until, UpTo, comparable


class Contents(Protocol):
    """What was read: the offsets of rows and of dead letters."""

    @property
    def parquet(self) -> Coverage:
        """Those of the rows."""

    @property
    def dead(self) -> Coverage:
        """Those of the dead letters."""

    @property
    def window_ends(self) -> Sequence[datetime]:
        """The ends of the windows of all files."""

    def await_newer(self, settings: LandedSettings) -> Coverage:
        """Wait until records that were read already have landed; return what has come since."""

    def overlaps(self, suspects: OffsetSets) -> list[FileOverlap]:
        """Return the files that hold any of some offsets."""


@dataclass(frozen=True)
class Comparison:
    """Contents compared with the log.

    Attributes:
        reconciliation: the comparison, partition by partition.
        overlaps: the files that hold doubled offsets, or offsets beyond the log's end.
        part: the part of the log that was compared.
        log: the bounds of the whole log, from before the contents were read.
        isolation_level: the one that the log was read with.
    """

    reconciliation: Reconciliation
    overlaps: list[FileOverlap]
    part: Comparable
    log: LogBounds
    isolation_level: str


def isolation_level_of(connection: KafkaConnection, isolation_level: str | None) -> str:
    """Return the isolation level that was asked for, or that of the connection's properties."""
    return isolation_level or connection.properties.get("isolation.level", READ_UNCOMMITTED)


def compare_with_log(
    connection: KafkaConnection,
    topics: Sequence[str],
    log: LogBounds,
    contents: Contents,
    settings: LandedSettings,
    notes: LedgerNotes,
    *,
    isolation_level: str,
    accept_expired: bool,
    up_to: UpTo,
) -> Comparison:
    """Compare contents with the log.

    Args:
        connection: the cluster.
        topics: the input topics.
        log: the log's bounds, fetched before the contents were read.
        contents: what was read.
        settings: those of the pipeline.
        notes: what the ledger says.
        isolation_level: that of the pipeline's consumer.
        accept_expired: whether records that expired unread are accepted.
        up_to: up to where the log is compared.

    Raises:
        EnvironmentFailure: the cluster can't be read.
    """
    parquet, dead = contents.parquet, contents.dead
    part = comparable(
        connection, log, up_to, contents.window_ends, [parquet, dead], settings, notes
    )
    gaps = offset_gaps(connection, uncovered(part.bounds, parquet, dead, notes), isolation_level)
    compare_contents = partial(
        compare,
        _without_expired(part.bounds, log_bounds(connection, topics)),
        parquet,
        dead,
        gaps,
        notes=notes,
        accept_expired=accept_expired,
        rewritten=find_rewritten(connection, log, [parquet, dead]),
        ends={key: high for key, (_, high) in log.items()},
    )
    reconciliation = compare_contents()
    if up_to is not Until.END and reconciliation.missing:
        compare_contents = partial(compare_contents, landed_since=contents.await_newer(settings))
        reconciliation = compare_contents()
    if reconciliation.beyond_end:
        # A running pipeline may have written records that arrived after the first look at the log.
        ends = {partition: high for partition, (_, high) in log_bounds(connection, topics).items()}
        reconciliation = compare_contents(ends=ends)
    suspects = {
        partition.partition: partition.doubled | partition.beyond_end
        for partition in reconciliation.partitions
        if partition.doubled or partition.beyond_end
    }
    overlaps = contents.overlaps(suspects) if suspects else []
    return Comparison(reconciliation, overlaps, part, log, isolation_level)


def log_bounds(connection: KafkaConnection, topics: Sequence[str]) -> LogBounds:
    """Return the bounds of each partition's log.

    Raises:
        EnvironmentFailure: a topic is missing, or the cluster can't be read.
    """
    return {
        TopicPartition(topic, partition): bounds
        for topic in topics
        for partition, bounds in watermarks(connection, topic).items()
    }


def unlanded(
    connection: KafkaConnection,
    ends: Mapping[TopicPartition, int],
    log: LogBounds,
    uncovered_of: Callable[[LogBounds], OffsetSets],
    isolation_level: str,
) -> dict[TopicPartition, BitMap64]:
    """Return the offsets of records that are in no file, though a marker says that they are.

    Left out are those that were left out on purpose.
    """
    claimed = {
        key: (low, max(low, min(high, ends[key])))
        for key, (low, high) in log.items()
        if key in ends
    }
    not_in_files = uncovered_of(claimed)
    gaps = offset_gaps(connection, not_in_files, isolation_level)
    return {key: offsets - gaps[key] for key, offsets in not_in_files.items()}


def offset_gaps(
    connection: KafkaConnection, not_in_files: OffsetSets, isolation_level: str
) -> dict[TopicPartition, BitMap64]:
    """Return those of some offsets at which the log has no record for a consumer."""
    total = sum(len(offsets) for offsets in not_in_files.values())
    with progress_bar("Reading the log at offsets that no file has", total) as progress:
        records = find_records(connection, not_in_files, isolation_level, progress)
    return {partition: offsets - records[partition] for partition, offsets in not_in_files.items()}


def _without_expired(before: LogBounds, after: LogBounds) -> LogBounds:
    """Return the bounds of `before`, from where the log begins after it was read.

    What expired while the log was read had no record there, and is no gap for that.
    """
    return {
        partition: (max(low, min(high, after.get(partition, (low, high))[0])), high)
        for partition, (low, high) in before.items()
    }
