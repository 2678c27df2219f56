"""What a reconciliation of a table says of the table itself. Pure, no I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from beam_pipeline.offset_sets import TopicPartition, interval
from beam_pipeline.tools.reconcile.coverage import Coverage
from beam_pipeline.tools.reconcile.ledger_notes import LedgerNotes


@dataclass(frozen=True, slots=True)
class ForeignSnapshot:
    """A snapshot that another writer made.

    Attributes:
        table: the table.
        snapshot_id: its id.
        operation: append, overwrite, delete or replace.
        engine: what it says of its writer; empty if it says nothing.
        committed_ms: when it was made, in milliseconds since 1970.
    """

    table: str
    snapshot_id: int
    operation: str
    engine: str
    committed_ms: int


@dataclass(frozen=True, slots=True)
class Pinned:
    """The snapshot of a table that was read.

    Attributes:
        name: the table.
        snapshot_id: the snapshot; None if the table does not exist or has none.
        committed_ms: when it was made, in milliseconds since 1970; 0 if there is none.
    """

    name: str
    snapshot_id: int | None = None
    committed_ms: int = 0


@dataclass(frozen=True, slots=True)
class TableState:
    """The two tables that were compared with the log.

    Attributes:
        rows: that of the rows.
        letters: that of the dead letters.
        lag: how many offsets of each partition's log are behind the last one of the tables.
        foreign: the snapshots that others made, of those that the tables keep.
    """

    rows: Pinned
    letters: Pinned
    lag: Mapping[TopicPartition, int]
    foreign: tuple[ForeignSnapshot, ...] = ()

    @property
    def total_lag(self) -> int:
        """How many offsets of the log are behind the last ones of the tables."""
        return sum(self.lag.values())


def lag_of(
    log: Mapping[TopicPartition, tuple[int, int]], coverages: Sequence[Coverage], notes: LedgerNotes
) -> dict[TopicPartition, int]:
    """Return how many offsets of each partition's log are behind the last one of the tables.

    What was left out on purpose is not counted.
    """
    lag = {}
    for key, (low, high) in log.items():
        held = [coverage.offsets[key] for coverage in coverages if key in coverage.offsets]
        end = max([low, *(offsets.max() + 1 for offsets in held if offsets)])
        lag[key] = len(interval(end, high) - notes.excluded(key, end, high))
    return lag
