"""Covered offsets behave like plain sets of numbers, at any size."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroaring import BitMap64
from sample_records import kafka_record

from beam_pipeline.covered_offsets import CoveredOffsets, without_covered
from beam_pipeline.io.kafka import batch_of_records
from beam_pipeline.offset_sets import TopicPartition

KEYS = [TopicPartition("orders", 0), TopicPartition("orders", 1), TopicPartition("clicks", 0)]
BASES = [0, 2**16 - 20, 2**32 - 20, 2**53, 2**62]
OFFSETS = st.builds(lambda base, step: base + step, st.sampled_from(BASES), st.integers(0, 60))
RANGES = st.lists(
    st.tuples(st.sampled_from(KEYS), OFFSETS, st.integers(0, 30)).map(
        lambda drawn: (drawn[0], drawn[1], drawn[1] + drawn[2])
    ),
    max_size=12,
)
Ranges = list[tuple[TopicPartition, int, int]]
Model = dict[TopicPartition, set[int]]


def filled(ranges: Ranges) -> tuple[CoveredOffsets, Model]:
    """The covered offsets of `ranges`, and the same as sets."""
    covered, model = CoveredOffsets(), Model()
    for key, first, last in ranges:
        covered.add_range(*key, first, last)
        model.setdefault(key, set()).update(range(first, last + 1))
    return covered, model


def near(ranges: Ranges) -> st.SearchStrategy[int]:
    """Offsets at and around the ranges' ends."""
    ends = sorted({end for _, first, last in ranges for end in (first, last)} | {0})
    return st.builds(
        lambda end, step: max(0, end + step), st.sampled_from(ends), st.integers(-2, 2)
    )


@given(st.data(), RANGES, st.sampled_from(KEYS))
def test_the_prefix_ends_at_the_first_gap(
    data: st.DataObject, ranges: Ranges, key: TopicPartition
) -> None:
    covered, model = filled(ranges)
    start = data.draw(near(ranges))
    expected = start
    while expected in model.get(key, ()):
        expected += 1
    assert covered.prefix_end(*key, start) == expected


@given(st.data(), RANGES, st.sampled_from(KEYS))
def test_what_is_missing_is_counted(
    data: st.DataObject, ranges: Ranges, key: TopicPartition
) -> None:
    covered, model = filled(ranges)
    first = data.draw(near(ranges))
    end = data.draw(near(ranges) | st.just(first + 100))
    if end - first > 10_000:
        within = sum(first <= offset < end for offset in model.get(key, ()))
        assert covered.missing(*key, first, end) == end - first - within
        return
    absent = {offset for offset in range(first, end) if offset not in model.get(key, ())}
    assert covered.missing(*key, first, end) == len(absent)
    assert set(covered.gaps(*key, first, end)) == absent


@given(RANGES)
def test_bounds_and_partitions(ranges: Ranges) -> None:
    covered, model = filled(ranges)
    assert list(covered.partitions()) == sorted(model)
    for key in KEYS:
        offsets = model.get(key)
        assert covered.bounds(*key) == ((min(offsets), max(offsets) + 1) if offsets else None)


@given(RANGES, st.lists(st.tuples(st.sampled_from(KEYS), st.sets(OFFSETS, max_size=5))))
def test_a_set_is_added(ranges: Ranges, more: list[tuple[TopicPartition, set[int]]]) -> None:
    covered, model = filled(ranges)
    for key, offsets in more:
        added = BitMap64(offsets)
        covered.add(*key, added)
        assert set(added) == offsets
        if offsets:
            model.setdefault(key, set()).update(offsets)
    assert_same(covered, model)


def assert_same(covered: CoveredOffsets, model: Model) -> None:
    assert list(covered.partitions()) == sorted(key for key, offsets in model.items() if offsets)
    for key, offsets in model.items():
        first, end = (min(offsets), max(offsets) + 1) if offsets else (0, 0)
        assert covered.missing(*key, first, end) == end - first - len(offsets)
        assert all(covered.missing(*key, offset, offset + 1) == 0 for offset in offsets)


@given(st.data(), RANGES)
def test_beyond_is_what_a_reader_meets_again(data: st.DataObject, ranges: Ranges) -> None:
    covered, model = filled(ranges)
    starts = data.draw(st.dictionaries(st.sampled_from(KEYS), near(ranges)))
    expected = {
        key: {offset for offset in offsets if offset >= starts.get(key, 0)}
        for key, offsets in model.items()
    }
    assert_same(covered.beyond(starts), expected)
    assert_same(covered, model)


@given(st.data(), RANGES)
def test_a_reader_that_begins_before_its_start_skips_what_is_before_it(
    data: st.DataObject, ranges: Ranges
) -> None:
    covered, model = filled(ranges)
    starts = data.draw(st.dictionaries(st.sampled_from(KEYS), near(ranges)))
    where = data.draw(st.lists(st.tuples(st.sampled_from(KEYS), near(ranges)), max_size=10))
    records = batch_of_records(
        [
            kafka_record(None, topic=topic, partition=partition, offset=offset)
            for (topic, partition), offset in where
        ]
    )
    skipped = CoveredOffsets.from_json(json.loads(json.dumps(covered.beyond(starts).to_json())))
    fresh = without_covered(records, skipped)
    assert fresh.column("kafka_offset").to_pylist() == [
        offset
        for key, offset in where
        if offset >= starts.get(key, 0) and offset not in model.get(key, ())
    ]


@given(st.data(), RANGES)
def test_covered_records_are_left_out(data: st.DataObject, ranges: Ranges) -> None:
    covered, model = filled(ranges)
    where = data.draw(st.lists(st.tuples(st.sampled_from(KEYS), near(ranges)), max_size=10))
    records = batch_of_records(
        [
            kafka_record(None, topic=topic, partition=partition, offset=offset)
            for (topic, partition), offset in where
        ]
    )
    fresh = without_covered(records, covered)
    assert fresh.column("kafka_offset").to_pylist() == [
        offset for key, offset in where if offset not in model.get(key, ())
    ]
    assert fresh.schema == records.schema


@pytest.mark.parametrize(
    "copy",
    [
        lambda covered: CoveredOffsets.from_json(json.loads(json.dumps(covered.to_json()))),
        lambda covered: pickle.loads(pickle.dumps(covered)),
    ],
    ids=["json", "pickle"],
)
@given(RANGES)
def test_they_come_back(copy: Callable[[CoveredOffsets], CoveredOffsets], ranges: Ranges) -> None:
    covered, model = filled(ranges)
    again = copy(covered)
    assert_same(again, model)
    again.add_range("orders", 0, 0, 0)
    assert_same(covered, model)


def test_the_largest_offset_that_kafka_has() -> None:
    covered = CoveredOffsets()
    covered.add_range("orders", 0, 2**63 - 2, 2**63 - 1)
    assert covered.prefix_end("orders", 0, 2**63 - 2) == 2**63
    assert covered.bounds("orders", 0) == (2**63 - 2, 2**63)


def test_a_hundred_million_offsets_are_small() -> None:
    covered = CoveredOffsets()
    covered.add_range("orders", 0, 0, 10**8 - 1)
    assert covered.prefix_end("orders", 0, 0) == 10**8
    assert len(json.dumps(covered.to_json())) < 100_000


def test_an_empty_range_covers_nothing() -> None:
    covered = CoveredOffsets()
    covered.add_range("orders", 0, 5, 4)
    assert list(covered.partitions()) == []
    assert covered.to_json() == []
    assert covered.prefix_end("orders", 0, 5) == 5
