"""How far in time partitions are landed."""

from __future__ import annotations

from beam_pipeline.files.ledger import LastRecord
from beam_pipeline.offset_sets import TopicPartition
from beam_pipeline.runtime.landed_time import MAX_LOOKS, LandedTime, LandedTimes

FIRST, SECOND = TopicPartition("orders", 0), TopicPartition("orders", 1)


def test_a_landed_record_counts_once_all_before_it_are_landed() -> None:
    partition = LandedTime()
    partition.note_record(LastRecord(9, 1_000))
    partition.advance(9)
    assert partition.reached_ms is None
    partition.advance(10)
    assert partition.reached_ms == 1_000


def test_a_look_counts_once_the_log_is_landed_to_the_end_that_it_had() -> None:
    partition = LandedTime()
    partition.note_look(10, 1_000)
    partition.note_look(20, 2_000)
    partition.note_look(20, 3_000)
    partition.advance(19)
    assert partition.reached_ms == 1_000
    partition.advance(20)
    assert partition.reached_ms == 3_000


def test_looks_at_a_partition_far_behind_take_no_more_memory() -> None:
    partition = LandedTime()
    for look in range(10 * MAX_LOOKS):
        partition.note_look(look + 1, look)
    assert len(partition._looks) <= MAX_LOOKS
    partition.advance(10 * MAX_LOOKS)
    assert partition.reached_ms == 10 * MAX_LOOKS - 1


def test_an_empty_partition_holds_nothing_and_one_that_is_behind_does() -> None:
    times = LandedTimes()
    times.begin({FIRST: 0, SECOND: 0}, {}, ())
    times.look({FIRST: 5, SECOND: 0}, 1_000)
    for partition in times.partitions.values():
        partition.advance(0)
    assert times.reached_ms("orders") is None
    times.partitions[FIRST].advance(5)
    assert times.reached_ms("orders") == 1_000


def test_a_partition_that_was_added_holds_until_it_is_read() -> None:
    times = LandedTimes()
    times.begin({FIRST: 0}, {}, ())
    times.look({FIRST: 0}, 1_000)
    times.partitions[FIRST].advance(0)
    times.look({FIRST: 0, SECOND: 3}, 2_000)
    times.partitions[FIRST].advance(0)
    assert times.reached_ms("orders") is None


def test_no_time_is_later_than_the_last_look() -> None:
    times = LandedTimes()
    times.begin({FIRST: 0}, {FIRST: LastRecord(4, 9_000)}, ())
    times.partitions[FIRST].advance(5)
    assert times.reached_ms("orders") is None, "no look yet: a partition may have been added"
    times.look({FIRST: 6}, 2_000)
    assert times.reached_ms("orders") == 2_000


def test_the_times_of_producers_prove_nothing() -> None:
    times = LandedTimes()
    times.note_record(FIRST, LastRecord(3, 9_000))
    times.begin({FIRST: 0}, {FIRST: LastRecord(4, 9_500)}, ["orders"])
    times.note_record(FIRST, LastRecord(5, 9_700))
    times.look({FIRST: 7}, 10_000)
    times.partitions[FIRST].advance(6)
    assert times.reached_ms("orders") is None
    times.partitions[FIRST].advance(7)
    assert times.reached_ms("orders") == 10_000
