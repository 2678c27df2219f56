"""Compares the offsets of a topic's log with those in the files. Pure, no I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pyroaring import BitMap64

from beam_pipeline.offset_sets import OffsetSets, TopicPartition, interval
from beam_pipeline.tools.reconcile.coverage import Coverage, FileOverlap, FileProblem
from beam_pipeline.tools.reconcile.ledger_notes import LedgerNotes, LeftOut
from beam_pipeline.tools.reconcile.letter_topic import LetterTopic
from beam_pipeline.tools.reconcile.markers import MarkerReport
from beam_pipeline.tools.reconcile.table_state import TableState

LogBounds = Mapping[TopicPartition, tuple[int, int]]
"""Low watermark, inclusive, and high watermark, exclusive."""


@dataclass(frozen=True, slots=True)
class PartitionReconciliation:
    """The log of one partition compared with the files.

    The partition is clean if `missing`, `doubled_in_parquet`, `doubled_in_dead`, `in_both` and
    `beyond_end`, `rewritten` and `expired_unread` are empty.

    Attributes:
        low, high: the log's bounds; `low` is inclusive, `high` exclusive.
        offset_gaps: offsets within the bounds that have no record for a consumer and are in no
            file: compacted records, transaction markers and, for a `read_committed` consumer,
            aborted records.
        covered: how many offsets within the bounds the files hold.
        parquet_rows, dead_letters: how many rows and lines there are, including repeats and
            records that have expired from the log.
        missing: offsets of records that are in no file.
        doubled_in_parquet, doubled_in_dead: offsets with more than one row, or dead letter.
        in_both: offsets with a row and a dead letter.
        beyond_end: offsets in files that the log has not reached: the topic was recreated, or the
            files come from another cluster.
        expired: how many offsets below `low` the files hold. This is normal: retention.
        expired_unseen: offsets between the lowest one in a file and `low` that are in no file.
            They may be gaps or records that expired unread; the log can no longer show which.
        expired_unread: those of them, and those that a run found expired, that nothing explains:
            the ledger has no note that they had no record or were in a file, or are accepted.
        expired_accepted: the same for those that are accepted.
        rewritten: offsets at which the log has a record with another timestamp than the files.
        excluded: offsets within the bounds that `--start` or `--end` left out and that are in no
            file, by the flag. The log is not read there.
    """

    partition: TopicPartition
    low: int
    high: int
    covered: int
    parquet_rows: int
    dead_letters: int
    expired: int
    offset_gaps: BitMap64
    missing: BitMap64
    doubled_in_parquet: BitMap64
    doubled_in_dead: BitMap64
    in_both: BitMap64
    beyond_end: BitMap64
    expired_unseen: BitMap64
    expired_unread: BitMap64
    expired_accepted: BitMap64
    rewritten: BitMap64
    excluded: Mapping[str, BitMap64]

    @property
    def records(self) -> int:
        """How many records were to be landed: the log's offsets, less the gaps and the excluded."""
        excluded = sum(map(len, self.excluded.values()))
        return self.high - self.low - len(self.offset_gaps) - excluded

    @property
    def doubled(self) -> BitMap64:
        """Offsets that are in the files more than once, as rows, dead letters or both."""
        return self.doubled_in_parquet | self.doubled_in_dead | self.in_both

    @property
    def is_clean(self) -> bool:
        """Whether each record is in exactly one place."""
        return not (
            self.missing or self.doubled or self.beyond_end or self.rewritten or self.expired_unread
        )


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
        """How many records were to be landed."""
        return sum(partition.records for partition in self.partitions)

    @property
    def excluded(self) -> dict[str, int]:
        """How many offsets were left out, by the flag."""
        counts = Counter[str]()
        for partition in self.partitions:
            for flag, offsets in partition.excluded.items():
                counts[flag] += len(offsets)
        return dict(counts)

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

    @property
    def rewritten(self) -> int:
        """How many of the offsets that were looked at have another record in the log."""
        return sum(len(partition.rewritten) for partition in self.partitions)

    @property
    def expired_unread(self) -> int:
        """How many records expired unread, at most; accepted ones left out."""
        return sum(len(partition.expired_unread) for partition in self.partitions)

    @property
    def expired_accepted(self) -> int:
        """How many records expired unread, at most, and are accepted."""
        return sum(len(partition.expired_accepted) for partition in self.partitions)


@dataclass(frozen=True, slots=True)
class ReconcileReport:
    """The comparison and the files at fault.

    Attributes:
        reconciliation: the comparison, partition by partition.
        overlaps: the files that hold doubled offsets, or offsets beyond the log's end.
        problems: the files that can't be read, or that contradict their own footer.
        parquet_files, dead_letter_files: how many files were read.
        isolation_level: the one that the log was read with.
        letter_topics: the dead-letter topics, if they were to be compared.
        up_to: which part of the log was compared, for people; empty for all of it.
        behind: how many offsets behind that part were not compared.
        strays: the names of those of `overlaps` that a worker of an earlier epoch finished late.
        markers: the markers of complete hours.
        table: the table that was compared; None if the files of directories were.
    """

    reconciliation: Reconciliation
    overlaps: list[FileOverlap]
    problems: list[FileProblem]
    parquet_files: int
    dead_letter_files: int
    isolation_level: str
    letter_topics: list[LetterTopic] = field(default_factory=list)
    up_to: str = ""
    behind: int = 0
    strays: frozenset[str] = frozenset()
    markers: MarkerReport = field(default_factory=MarkerReport)
    table: TableState | None = None

    @property
    def doubled_in_strays(self) -> int:
        """How many of the doubled offsets are in strays."""
        doubled = {
            partition.partition: partition.doubled for partition in self.reconciliation.partitions
        }
        in_strays: dict[TopicPartition, BitMap64] = {}
        for overlap in self.overlaps:
            if overlap.path.name in self.strays:
                common = overlap.offsets & doubled.get(overlap.partition, BitMap64())
                in_strays.setdefault(overlap.partition, BitMap64()).update(common)
        return sum(map(len, in_strays.values()))

    @property
    def is_clean(self) -> bool:
        """Whether each record is in exactly one place, and each file and marker is sound.

        With dead-letter topics: also whether each dead letter is in its topic.
        """
        return (
            self.reconciliation.is_clean
            and not self.problems
            and not self.markers.problems
            and all(topic.is_clean for topic in self.letter_topics)
        )

    @property
    def missing_letters(self) -> int:
        """How many dead letters are in no topic, though none of them was refused."""
        return sum(len(topic.missing) for topic in self.letter_topics)


def uncovered(
    log: LogBounds, parquet: Coverage, dead: Coverage, notes: LedgerNotes | None = None
) -> dict[TopicPartition, BitMap64]:
    """Return the offsets within the log's bounds that are in no file, for partitions with any.

    What was left out, by the notes, is not among them.
    """
    notes = notes or LedgerNotes()
    not_in_files = {
        partition: interval(low, high)
        - notes.excluded(partition, low, high)
        - parquet.offsets.get(partition, BitMap64())
        - dead.offsets.get(partition, BitMap64())
        for partition, (low, high) in log.items()
    }
    return {partition: offsets for partition, offsets in not_in_files.items() if offsets}


def compare(
    log: LogBounds,
    parquet: Coverage,
    dead: Coverage,
    offset_gaps: OffsetSets | None = None,
    ends: Mapping[TopicPartition, int] | None = None,
    *,
    notes: LedgerNotes | None = None,
    accept_expired: bool = False,
    rewritten: OffsetSets | None = None,
    landed_since: Coverage | None = None,
) -> Reconciliation:
    """Compare the log's offsets with those of the rows and of the dead letters.

    Args:
        log: each partition's bounds. A partition that only files know counts as empty.
        parquet: the offsets in the Parquet files.
        dead: the offsets in the dead-letter files.
        offset_gaps: offsets within the bounds where the log has no record for a consumer. None
            means that there are none: each uncovered offset is missing.
        ends: high watermarks fetched after the files were read. Offsets in files below these, but
            beyond the bounds, are new records and no fault. None means those of `log`.
        notes: what the ledger says of offsets below the bounds.
        accept_expired: whether all records that expired unread are accepted.
        rewritten: offsets at which the log has another record than the files.
        landed_since: files that came after `parquet` and `dead`; what they hold is not missing.
    """
    partitions = sorted({*log, *parquet.offsets, *dead.offsets})
    return Reconciliation(
        [
            _compare_partition(
                partition,
                log.get(partition, (0, 0)),
                parquet,
                dead,
                (offset_gaps or {}).get(partition, BitMap64()),
                (ends or {}).get(partition, 0),
                _Explained.of(partition, notes or LedgerNotes(), accept_expired),
                (rewritten or {}).get(partition, BitMap64()),
                landed_since.offsets.get(partition, BitMap64()) if landed_since else BitMap64(),
            )
            for partition in partitions
        ]
    )


@dataclass(frozen=True)
class _Explained:
    """The ledger's notes on one partition; see `LedgerNotes`."""

    explained: BitMap64
    unread: BitMap64
    accepted: BitMap64
    all_accepted: bool
    left_out: Sequence[LeftOut]

    @staticmethod
    def of(partition: TopicPartition, notes: LedgerNotes, accept_expired: bool) -> _Explained:
        nothing = BitMap64()
        return _Explained(
            notes.explained.get(partition, nothing),
            notes.unread.get(partition, nothing),
            notes.accepted.get(partition, nothing),
            accept_expired,
            notes.left_out.get(partition, ()),
        )

    def excluded(self, low: int, high: int, landed: BitMap64) -> dict[str, BitMap64]:
        """Return what was left out between two offsets and is not landed, each offset once."""
        excluded: dict[str, BitMap64] = {}
        told = landed.copy()
        for left_out in self.left_out:
            if offsets := left_out.within(low, high) - told:
                told |= offsets
                excluded[left_out.flag] = excluded.get(left_out.flag, BitMap64()) | offsets
        return excluded


def _compare_partition(
    partition: TopicPartition,
    bounds: tuple[int, int],
    parquet: Coverage,
    dead: Coverage,
    offset_gaps: BitMap64,
    latest_end: int,
    notes: _Explained,
    rewritten: BitMap64,
    landed_since: BitMap64,
) -> PartitionReconciliation:
    low, high = bounds
    rows = parquet.offsets.get(partition, BitMap64())
    letters = dead.offsets.get(partition, BitMap64())
    covered = rows | letters
    log = interval(low, high)
    uncovered_gaps = (log & offset_gaps) - covered
    lowest = covered.min() if covered else low
    unseen = interval(lowest, low) - covered
    unread = (unseen | (notes.unread & interval(0, low))) - covered - notes.explained
    for expired in notes.excluded(0, low, covered).values():
        unread -= expired
    excluded = notes.excluded(low, high, covered | uncovered_gaps | landed_since)
    missing = log - covered - uncovered_gaps - landed_since
    for offsets in excluded.values():
        missing -= offsets
    accepted = unread if notes.all_accepted else unread & notes.accepted
    return PartitionReconciliation(
        partition=partition,
        low=low,
        high=high,
        covered=len(log & covered),
        parquet_rows=parquet.records[partition],
        dead_letters=dead.records[partition],
        expired=covered.range_cardinality(0, low),
        offset_gaps=uncovered_gaps,
        missing=missing,
        doubled_in_parquet=parquet.doubled.get(partition, BitMap64()),
        doubled_in_dead=dead.doubled.get(partition, BitMap64()),
        in_both=rows & letters,
        beyond_end=covered - interval(0, max(high, latest_end)),
        expired_unseen=unseen,
        expired_unread=unread - accepted,
        expired_accepted=accepted,
        rewritten=rewritten,
        excluded=excluded,
    )
