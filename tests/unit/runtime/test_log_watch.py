"""What a run says of records that expire unread, and of partitions that are added."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyroaring import BitMap64

from beam_pipeline.files.expired import ExpiredNote, load_expired_note
from beam_pipeline.files.ledger import Ledger
from beam_pipeline.offset_sets import TopicPartition
from beam_pipeline.runtime.log_watch import LogWatch, expired_text

ORDERS = TopicPartition("orders", 0)
GRACE = 30.0


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "output", tmp_path / "dead")


def watch_of(note: ExpiredNote | None = None, *, accept: bool = False) -> LogWatch:
    return LogWatch(note or ExpiredNote(), GRACE, accept=accept)


def begin(watch: LogWatch, ledger: Ledger, start: int, low: int, **how: bool) -> list[str]:
    is_restored = how.get("is_restored", False)
    return watch.begin({ORDERS: start}, {ORDERS: low}, ledger, is_restored=is_restored, now=0.0)


def test_what_expired_between_two_runs_is_told_with_its_count(ledger: Ledger) -> None:
    ledger.covered.add_range(*ORDERS, 0, 4)
    watch = watch_of()
    [notice] = begin(watch, ledger, 10, 10)
    assert notice.startswith("orders/0: at most 5 records expired from the log before")
    assert "(offsets 5-9)" in notice
    assert "retention.ms" in notice
    assert watch.expired(ledger) == {ORDERS: 5}
    assert expired_text(watch.expired(ledger)) is not None


def test_what_expired_before_the_first_start_is_no_loss(ledger: Ledger) -> None:
    watch = watch_of()
    assert begin(watch, ledger, 10, 10) == []
    assert watch.expired(ledger) == {}


def test_retention_that_overtakes_the_reader_is_told_once(ledger: Ledger) -> None:
    watch = watch_of()
    begin(watch, ledger, 0, 0)
    ledger.covered.add_range(*ORDERS, 0, 9)
    assert watch.look({ORDERS: 0}, ledger, 10.0) == []
    ledger.covered.add_range(*ORDERS, 50, 59)
    assert watch.look({ORDERS: 50}, ledger, 20.0) == [], "they may be on their way to a file"
    [notice] = watch.look({ORDERS: 50}, ledger, 20.0 + GRACE)
    assert "at most 40 records" in notice
    assert watch.look({ORDERS: 50}, ledger, 30.0 + GRACE) == []
    assert watch.look({ORDERS: 50}, ledger, 30.0 + 2 * GRACE) == []
    assert watch.expired(ledger) == {ORDERS: 40}
    assert watch.missing(ORDERS, 0, 60, ledger) == 0, "a bounded run does not wait for them"


def test_a_record_that_lands_later_is_no_loss(ledger: Ledger) -> None:
    watch = watch_of()
    begin(watch, ledger, 0, 0)
    ledger.covered.add_range(*ORDERS, 0, 9)
    watch.look({ORDERS: 20}, ledger, 10.0)
    assert watch.look({ORDERS: 20}, ledger, 10.0 + GRACE)
    ledger.covered.add_range(*ORDERS, 10, 19)
    assert watch.expired(ledger) == {}


def test_offsets_that_the_reader_passed_in_time_are_no_loss(ledger: Ledger) -> None:
    """Transaction markers: in no file, and later below the start of the log."""
    note = ExpiredNote()
    watch = watch_of(note)
    begin(watch, ledger, 0, 0)
    for first in range(0, 100, 10):
        ledger.covered.add_range(*ORDERS, first, first + 8)
    watch.look({ORDERS: 0}, ledger, 10.0)
    watch.look({ORDERS: 50}, ledger, 20.0)
    assert watch.look({ORDERS: 50}, ledger, 20.0 + GRACE) == []
    assert watch.expired(ledger) == {}
    assert list(note.without_record.of(ORDERS)) == [9, 19, 29, 39, 49]
    assert begin(watch_of(note), ledger, 50, 50) == [], "the next run knows"


def test_gaps_that_were_found_in_the_log_say_nothing_of_the_reader(ledger: Ledger) -> None:
    watch = watch_of()
    begin(watch, ledger, 0, 0)
    ledger.add_offset_gaps(*ORDERS, BitMap64([99]))
    watch.look({ORDERS: 0}, ledger, 10.0)
    watch.look({ORDERS: 50}, ledger, 20.0)
    assert watch.look({ORDERS: 50}, ledger, 20.0 + GRACE)
    assert watch.expired(ledger) == {ORDERS: 50}


def test_a_gap_that_was_known_to_be_one_is_no_loss(ledger: Ledger) -> None:
    ledger.covered.add_range(*ORDERS, 0, 4)
    ledger.add_offset_gaps(*ORDERS, BitMap64([5, 6]))
    watch = watch_of()
    [notice] = begin(watch, ledger, 10, 10)
    assert "(offsets 7-9)" in notice


def test_accepted_losses_are_noted_and_not_told_again(ledger: Ledger, tmp_path: Path) -> None:
    ledger.covered.add_range(*ORDERS, 0, 4)
    first = watch_of(accept=True)
    [notice] = begin(first, ledger, 10, 10)
    assert "accepted" in notice
    assert first.expired(ledger) == {}
    first.note.save(tmp_path)
    second = watch_of(load_expired_note(tmp_path))
    assert begin(second, ledger, 10, 10) == []
    assert second.expired(ledger) == {}
    third = watch_of(load_expired_note(tmp_path))
    [more] = begin(third, ledger, 12, 12)
    assert "at most 2 records" in more
    assert third.expired(ledger) == {ORDERS: 2}


def test_what_a_run_lost_before_it_landed_anything_can_be_accepted_later(ledger: Ledger) -> None:
    note = ExpiredNote()
    watch = watch_of(note)
    begin(watch, ledger, 0, 0)
    assert watch.finish({ORDERS: 7}, ledger)
    assert watch.expired(ledger) == {ORDERS: 7}
    assert begin(watch_of(note), ledger, 7, 7), "not accepted: told by each run"
    later = watch_of(note, accept=True)
    begin(later, ledger, 7, 7)
    assert later.expired(ledger) == {}


def test_a_restored_job_may_still_land_what_it_had_read(ledger: Ledger) -> None:
    ledger.covered.add_range(*ORDERS, 0, 4)
    watch = watch_of()
    assert begin(watch, ledger, 10, 10, is_restored=True) == []
    ledger.covered.add_range(*ORDERS, 5, 9)
    assert watch.look({ORDERS: 10}, ledger, GRACE) == []
    assert watch.expired(ledger) == {}


def test_partitions_that_are_added_wait_and_are_told_once(ledger: Ledger) -> None:
    watch = watch_of()
    begin(watch, ledger, 0, 0)
    grown = {ORDERS: 0, TopicPartition("orders", 1): 0, TopicPartition("orders", 2): 0}
    [notice] = watch.look(grown, ledger, 10.0)
    assert notice.startswith("orders/1, orders/2 added since the start: not read yet")
    assert watch.look(grown, ledger, 20.0) == []
    assert watch.waiting == [TopicPartition("orders", 1), TopicPartition("orders", 2)]
