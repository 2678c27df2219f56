"""What of the log is behind the tables, held to the same rule written out with Python's sets."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from beam_pipeline.offset_sets import TopicPartition
from beam_pipeline.tools.reconcile.coverage import Coverage
from beam_pipeline.tools.reconcile.ledger_notes import LedgerNotes, LeftOut
from beam_pipeline.tools.reconcile.table_state import Pinned, TableState, lag_of

ORDERS, CLICKS = TopicPartition("orders", 0), TopicPartition("clicks", 1)
OFFSETS = st.sets(st.integers(0, 30))
LEFT_OUT = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30) | st.none()))


def coverage_of(offsets: set[int]) -> Coverage:
    coverage = Coverage()
    if offsets:
        coverage.add(ORDERS, np.array(sorted(offsets), dtype=np.int64))
    return coverage


@given(st.integers(0, 30), st.integers(0, 30), OFFSETS, OFFSETS, LEFT_OUT)
def test_lag_is_what_follows_the_last_offset_of_either_table(
    one: int,
    other: int,
    rows: set[int],
    letters: set[int],
    left_out: list[tuple[int, int | None]],
) -> None:
    low, high = sorted((one, other))
    spans = [LeftOut("--end", first, end) for first, end in left_out]
    lag = lag_of(
        {ORDERS: (low, high)},
        [coverage_of(rows), coverage_of(letters)],
        LedgerNotes(left_out={ORDERS: spans}),
    )
    excluded = {
        offset for first, end in left_out for offset in range(first, high if end is None else end)
    }
    last = max(rows | letters, default=-1)
    assert lag == {ORDERS: len(set(range(max(low, last + 1), high)) - excluded)}


def test_a_partition_that_no_table_has_is_behind_as_a_whole() -> None:
    lag = lag_of({ORDERS: (3, 9), CLICKS: (0, 4)}, [coverage_of({8}), Coverage()], LedgerNotes())
    assert lag == {ORDERS: 0, CLICKS: 4}
    assert TableState(Pinned("lake.orders"), Pinned("lake.letters"), lag).total_lag == 4
