"""The comparison itself: a log's offsets against those of the files. Pure, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pyroaring import BitMap64

from beam_pipeline.offset_sets import OffsetSets, TopicPartition, interval
from beam_pipeline.tools.reconcile.coverage import Coverage, FileOverlap, FileProblem

LogBounds = Mapping[TopicPartition, tuple[int, int]]
"""Low watermark, inclusive, and high watermark, exclusive."""


@dataclass(frozen=True, slots=True)
class PartitionReconciliation:
    """One partition's log against the files.

    The promise holds for the partition if `missing`, `doubled_in_parquet`, `doubled_in_dead`,
    `in_both` and `beyond_end` are empty.

    Attributes:
        low, high: the log's bounds; offsets from `low` up to, not including, `high`.
        holes: offsets in the log's bounds that no reader is given (compacted away, transaction
            markers, aborted for a reader of committed records) and no file holds.
        covered: how many offsets in the log's bounds the files hold.
        parquet_rows, dead_letters: how many rows and lines there are, repeats included, those
            whose records have left the log too.
        missing: offsets of records that no file holds.
        doubled_in_parquet, doubled_in_dead: offsets with more than one row, or letter.
        in_both: offsets with a row and a letter.
        beyond_end: offsets in files that the log has not reached: the topic was made anew, or the
            files are another cluster's.
        expired: how many offsets below `low` the files hold. That is retention, and in order.
        expired_unseen: offsets below `low`, but above the lowest one in a file, that no file holds:
            holes, or records that left the log unread. It can no longer be told which.
    """

    partition: TopicPartition
    low: int
    high: int
    covered: int
    parquet_rows: int
    dead_letters: int
    expired: int
    holes: BitMap64
    missing: BitMap64
    doubled_in_parquet: BitMap64
    doubled_in_dead: BitMap64
    in_both: BitMap64
    beyond_end: BitMap64
    expired_unseen: BitMap64

    @property
    def records(self) -> int:
        """How many records the log holds: its offsets without the holes."""
        return self.high - self.low - len(self.holes)

    @property
    def doubled(self) -> BitMap64:
        """Offsets that are in the files more than once, wherever."""
        return self.doubled_in_parquet | self.doubled_in_dead | self.in_both

    @property
    def is_clean(self) -> bool:
        """Whether each record is in exactly one place."""
        return not (self.missing or self.doubled or self.beyond_end)


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """The partitions of the compared topics, in order."""

    partitions: list[PartitionReconciliation] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether each record of each partition is in exactly one place."""
        return all(partition.is_clean for partition in self.partitions)

    @property
    def records(self) -> int:
        """How many records the log holds."""
        return sum(partition.records for partition in self.partitions)

    @property
    def covered(self) -> int:
        """How many offsets of the log the files hold."""
        return sum(partition.covered for partition in self.partitions)

    @property
    def missing(self) -> int:
        """How many records are in no file."""
        return sum(len(partition.missing) for partition in self.partitions)

    @property
    def doubled(self) -> int:
        """How many offsets are in the files more than once, `in_both` included."""
        return sum(len(partition.doubled) for partition in self.partitions)

    @property
    def in_both(self) -> int:
        """How many offsets have a row and a dead letter."""
        return sum(len(partition.in_both) for partition in self.partitions)

    @property
    def beyond_end(self) -> int:
        """How many offsets in files the log has not reached."""
        return sum(len(partition.beyond_end) for partition in self.partitions)


@dataclass(frozen=True, slots=True)
class ReconcileReport:
    """The comparison, and what is worth knowing of the files.

    `overlaps` tells which files hold the offsets that are doubled, in both or beyond the log's end;
    `problems` are files that can't be counted on.
    """

    reconciliation: Reconciliation
    overlaps: list[FileOverlap]
    problems: list[FileProblem]
    parquet_files: int
    dead_letter_files: int
    isolation_level: str

    @property
    def is_clean(self) -> bool:
        """Whether each record is in exactly one place, and each file could be read."""
        return self.reconciliation.is_clean and not self.problems


def uncovered(log: LogBounds, parquet: Coverage, dead: Coverage) -> dict[TopicPartition, BitMap64]:
    """The offsets in the log's bounds that no file holds; partitions without any are left out."""
    found = {
        partition: interval(low, high)
        - parquet.offsets.get(partition, BitMap64())
        - dead.offsets.get(partition, BitMap64())
        for partition, (low, high) in log.items()
    }
    return {partition: offsets for partition, offsets in found.items() if offsets}


def compare(
    log: LogBounds,
    parquet: Coverage,
    dead: Coverage,
    holes: OffsetSets | None = None,
    ends: Mapping[TopicPartition, int] | None = None,
) -> Reconciliation:
    """Compares the log's offsets with those of the rows and of the dead letters.

    Args:
        log: each partition's bounds. A partition that only the files know counts as empty.
        parquet: what the Parquet files hold.
        dead: what the dead-letter files hold.
        holes: offsets in the bounds where the log holds no record for its readers. None: the log
            is whole, each uncovered offset is missing.
        ends: high watermarks taken after the files were read, to tell records that came meanwhile
            from those that the log never held. None: those of `log`.
    """
    partitions = sorted({*log, *parquet.offsets, *dead.offsets})
    return Reconciliation(
        [
            _compare_partition(
                partition,
                log.get(partition, (0, 0)),
                parquet,
                dead,
                (holes or {}).get(partition, BitMap64()),
                (ends or {}).get(partition, 0),
            )
            for partition in partitions
        ]
    )


def _compare_partition(
    partition: TopicPartition,
    bounds: tuple[int, int],
    parquet: Coverage,
    dead: Coverage,
    holes: BitMap64,
    latest_end: int,
) -> PartitionReconciliation:
    low, high = bounds
    rows = parquet.offsets.get(partition, BitMap64())
    letters = dead.offsets.get(partition, BitMap64())
    covered = rows | letters
    log = interval(low, high)
    real_holes = (log & holes) - covered
    lowest = covered.min() if covered else low
    return PartitionReconciliation(
        partition=partition,
        low=low,
        high=high,
        covered=len(log & covered),
        parquet_rows=parquet.records[partition],
        dead_letters=dead.records[partition],
        expired=covered.range_cardinality(0, low),
        holes=real_holes,
        missing=log - covered - real_holes,
        doubled_in_parquet=parquet.doubled.get(partition, BitMap64()),
        doubled_in_dead=dead.doubled.get(partition, BitMap64()),
        in_both=rows & letters,
        beyond_end=covered - interval(0, max(high, latest_end)),
        expired_unseen=interval(lowest, low) - covered,
    )
