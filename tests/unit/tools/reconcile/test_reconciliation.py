"""The comparison, held to the same rules written out with Python's sets."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st
from pyroaring import BitMap64

from beam_pipeline.offset_sets import TopicPartition, offset_set
from beam_pipeline.tools.reconcile.compare import compare, uncovered
from beam_pipeline.tools.reconcile.coverage import Coverage
from beam_pipeline.tools.reconcile.ledger_notes import LedgerNotes, LeftOut

PARTITIONS = [TopicPartition("orders", 0), TopicPartition("orders", 1), TopicPartition("clicks", 0)]

Pieces = list[tuple[TopicPartition, list[int]]]
PIECES = st.lists(
    st.tuples(st.sampled_from(PARTITIONS), st.lists(st.integers(0, 30), max_size=12)), max_size=6
)
LOGS = st.dictionaries(
    st.sampled_from(PARTITIONS),
    st.tuples(st.integers(0, 30), st.integers(0, 30)).map(lambda ends: (min(ends), max(ends))),
)
HOLES = st.dictionaries(st.sampled_from(PARTITIONS), st.sets(st.integers(0, 30)))


def coverage_of(pieces: Pieces) -> Coverage:
    coverage = Coverage()
    for partition, offsets in pieces:
        coverage.add(partition, np.array(offsets, dtype=np.int64))
    return coverage


def counts_of(pieces: Pieces, partition: TopicPartition) -> Counter[int]:
    return Counter(x for owner, offsets in pieces if owner == partition for x in offsets)


@given(LOGS, PIECES, PIECES, HOLES)
@example({PARTITIONS[0]: (3, 9)}, [(PARTITIONS[0], [1, 3, 4, 4])], [(PARTITIONS[0], [4, 7, 9])], {})
def test_compare_agrees_with_plain_sets(
    log: dict[TopicPartition, tuple[int, int]],
    rows: Pieces,
    letters: Pieces,
    holes: dict[TopicPartition, set[int]],
) -> None:
    found = compare(
        log,
        coverage_of(rows),
        coverage_of(letters),
        {
            partition: offset_set(np.array(sorted(offsets), dtype=np.int64))
            for partition, offsets in holes.items()
        },
    )
    owners = {owner for owner, _ in rows + letters}
    assert [one.partition for one in found.partitions] == sorted(owners | log.keys())
    for one in found.partitions:
        low, high = log.get(one.partition, (0, 0))
        in_rows = counts_of(rows, one.partition)
        in_letters = counts_of(letters, one.partition)
        covered = in_rows.keys() | in_letters.keys()
        in_log = set(range(low, high))
        real_holes = (in_log & holes.get(one.partition, set())) - covered

        assert (one.low, one.high) == (low, high)
        assert one.parquet_rows == in_rows.total()
        assert one.dead_letters == in_letters.total()
        assert one.covered == len(in_log & covered)
        assert set(one.offset_gaps) == real_holes
        assert one.records == len(in_log - real_holes)
        assert set(one.missing) == in_log - covered - real_holes
        assert set(one.doubled_in_parquet) == {x for x, n in in_rows.items() if n > 1}
        assert set(one.doubled_in_dead) == {x for x, n in in_letters.items() if n > 1}
        assert set(one.in_both) == in_rows.keys() & in_letters.keys()
        assert set(one.beyond_end) == {x for x in covered if x >= high}
        assert one.expired == len({x for x in covered if x < low})
        lowest = min(covered, default=low)
        assert set(one.expired_unseen) == set(range(lowest, low)) - covered
        once = {x for x, n in (in_rows + in_letters).items() if n == 1}
        exactly_once = in_log - real_holes <= once and once == covered and not one.beyond_end
        assert one.expired_unread == one.expired_unseen
        assert one.is_clean == (exactly_once and not one.expired_unseen)
    assert found.is_clean == all(one.is_clean for one in found.partitions)


@given(LOGS, PIECES, PIECES)
def test_uncovered_is_what_is_missing_from_a_log_without_holes(
    log: dict[TopicPartition, tuple[int, int]], rows: Pieces, letters: Pieces
) -> None:
    parquet, dead = coverage_of(rows), coverage_of(letters)
    missing = {
        one.partition: one.missing for one in compare(log, parquet, dead).partitions if one.missing
    }
    assert uncovered(log, parquet, dead) == missing


@given(PIECES, PIECES)
def test_merged_coverage_is_that_of_all_pieces(some: Pieces, others: Pieces) -> None:
    merged = coverage_of(some)
    merged.merge(coverage_of(others))
    together = coverage_of(some + others)
    assert merged.offsets == together.offsets
    assert merged.doubled == together.doubled
    assert merged.records == together.records


def test_records_that_came_while_files_were_read_are_not_beyond_the_end() -> None:
    partition = PARTITIONS[0]
    rows = coverage_of([(partition, [0, 1, 2, 3])])
    log = {partition: (0, 2)}
    assert not compare(log, rows, Coverage()).is_clean
    assert compare(log, rows, Coverage(), ends={partition: 4}).is_clean
    assert list(compare(log, rows, Coverage(), ends={partition: 3}).partitions[0].beyond_end) == [3]


def test_the_ledger_explains_offsets_that_the_log_no_longer_has_and_no_others() -> None:
    partition = PARTITIONS[0]
    rows = coverage_of([(partition, [3, 4, 10])])
    notes = LedgerNotes(
        explained={partition: BitMap64([5, 6, 12])},
        unread={partition: BitMap64([0, 5, 13])},
        accepted={partition: BitMap64([7, 14])},
    )
    [found] = compare({partition: (10, 16)}, rows, Coverage(), notes=notes).partitions
    assert list(found.expired_unseen) == [5, 6, 7, 8, 9]
    assert list(found.expired_unread) == [0, 8, 9]
    assert list(found.expired_accepted) == [7]
    assert list(found.missing) == [11, 12, 13, 14, 15]
    [found] = compare(
        {partition: (10, 11)}, rows, Coverage(), notes=notes, accept_expired=True
    ).partitions
    assert found.is_clean
    assert list(found.expired_accepted) == [0, 7, 8, 9]


@given(LOGS, PIECES, st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30) | st.none())))
def test_what_was_left_out_is_excluded_unless_a_file_has_it(
    log: dict[TopicPartition, tuple[int, int]],
    rows: Pieces,
    spans: list[tuple[int, int | None]],
) -> None:
    partition = PARTITIONS[0]
    low, high = log.setdefault(partition, (0, 0))
    notes = LedgerNotes(left_out={partition: [LeftOut("--start=latest", *span) for span in spans]})
    left_out = {
        offset
        for first, end in spans
        for offset in range(first, max(high, 31) if end is None else end)
    }
    parquet = coverage_of(rows)
    landed = set(parquet.offsets.get(partition, ()))
    found = {
        one.partition: one for one in compare(log, parquet, Coverage(), notes=notes).partitions
    }
    plain = {one.partition: one for one in compare(log, parquet, Coverage()).partitions}
    one, without = found.pop(partition), plain.pop(partition)
    in_log = set(range(low, high))
    assert set(one.excluded.get("--start=latest", ())) == (in_log & left_out) - landed
    assert set(one.missing) == set(without.missing) - left_out
    assert set(one.expired_unread) == set(without.expired_unread) - left_out
    assert one.records == len(in_log - (left_out - landed))
    assert (one.doubled, one.beyond_end) == (without.doubled, without.beyond_end)
    assert found == plain
    assert set(uncovered(log, parquet, Coverage(), notes).get(partition, ())) == set(one.missing)
