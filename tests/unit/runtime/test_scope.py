"""What a run lands by `--start`, `--end` and `backfill`, over a fake log."""

from __future__ import annotations

from pathlib import Path

from fake_engine import ORDERS, FakeSource
from pyroaring import BitMap64

from beam_pipeline.config import Cut, PartitionEnd
from beam_pipeline.files.expired import ExpiredNote
from beam_pipeline.files.ledger import Ledger
from beam_pipeline.files.left_out import LeftOutRange, load_left_out
from beam_pipeline.offset_sets import TopicPartition
from beam_pipeline.runtime.log_watch import LogWatch
from beam_pipeline.runtime.scope import END_SLACK_MS, Backfill, PartByTime, Reading, Scope
from beam_pipeline.settings.config import EndPoint, StartPoint

ADDED = TopicPartition("orders", 1)
LATEST = StartPoint("--start=latest")
NOW_MS = 1_000


def ledger_of(directory: Path, covered: range = range(0)) -> Ledger:
    ledger = Ledger(directory, directory)
    ledger.covered.add(*ORDERS, BitMap64(covered))
    return ledger


def source_of(log_end: int) -> FakeSource:
    """Each record is stamped with its offset."""
    source = FakeSource()
    source.log_end = log_end
    return source


def begin(scope: Scope, source: FakeSource, ledger: Ledger, now_ms: int = NOW_MS) -> Reading:
    """Begin an epoch, as the supervisor does."""
    scope.prepare(source, ["orders"], ledger, now_ms)
    point = source.find_resume_point(ledger)
    scope.goal(source, now_ms)
    return scope.reading(ledger, point)


def spans_in(directory: Path) -> list[tuple[int, int | None]]:
    return [(span.first, span.end) for span in load_left_out(directory).note.ranges]


def test_a_start_counts_for_the_first_run_of_a_topic_alone(tmp_path: Path) -> None:
    source = source_of(100)
    first = PartByTime(tmp_path, LATEST)
    assert begin(first, source, ledger_of(tmp_path)).starts == {ORDERS: 100}
    (span,) = load_left_out(tmp_path).note.ranges
    assert span == LeftOutRange(ORDERS, 0, 100, "--start=latest", NOW_MS + 5_000)
    # A kill before anything is landed, and new records and a new partition meanwhile.
    source.log_end, source.partitions = 150, [ORDERS, ADDED]
    again = PartByTime(tmp_path, LATEST)
    assert begin(again, source, ledger_of(tmp_path)).starts == {ORDERS: 100, ADDED: 0}
    assert again.notices == [
        "--start=latest counts for topics that this directory has not read; "
        "orders/0 goes on at 100, orders/1 goes on at 0"
    ]
    assert spans_in(tmp_path) == [(0, 100)]


def test_a_directory_with_files_goes_on_where_it_was(tmp_path: Path) -> None:
    scope = PartByTime(tmp_path, StartPoint("--start=T", time_ms=50))
    reading = begin(scope, source_of(100), ledger_of(tmp_path, range(10)))
    assert reading.starts == {ORDERS: 10}
    assert spans_in(tmp_path) == []


def test_partitions_that_come_while_it_runs_are_read_from_their_first_record(
    tmp_path: Path,
) -> None:
    source, ledger = source_of(100), ledger_of(tmp_path)
    scope = PartByTime(tmp_path, StartPoint("--start=T", time_ms=40))
    assert begin(scope, source, ledger).starts == {ORDERS: 40}
    source.partitions = [ORDERS, ADDED]
    assert begin(scope, source, ledger).starts == {ORDERS: 40, ADDED: 0}


def test_an_end_is_known_once_its_time_has_passed(tmp_path: Path) -> None:
    source, ledger = source_of(10), ledger_of(tmp_path)
    scope = PartByTime(tmp_path, end=EndPoint("--end=T", 30))
    early = begin(scope, source, ledger, now_ms=29)
    assert early.cut == Cut((), end_ms=30)
    source.log_end = 80
    assert scope.goal(source, 29 + END_SLACK_MS) is None
    assert spans_in(tmp_path) == []
    assert scope.goal(source, 30 + END_SLACK_MS) == {ORDERS: 30}
    assert spans_in(tmp_path) == [(30, None)]
    assert begin(scope, source, ledger).cut == Cut((PartitionEnd(*ORDERS, 30),), end_ms=30)
    later = PartByTime(tmp_path)
    reading = begin(later, source, ledger_of(tmp_path, range(30)))
    assert (reading.starts, reading.cut) == ({ORDERS: 30}, Cut())
    assert later.notices == ["read now: what was left out by --end=T (orders/0: from 30 on)"]
    assert spans_in(tmp_path) == []


def test_a_backfill_reads_what_was_left_out_and_is_in_no_file(tmp_path: Path) -> None:
    source = source_of(100)
    begin(PartByTime(tmp_path, LATEST), source, ledger_of(tmp_path))
    source.log_end = 200
    ledger = ledger_of(tmp_path, range(100, 180))
    ledger.covered.add(*ORDERS, BitMap64([25, 26, 39]))  # of a backfill that was killed
    scope = Backfill(tmp_path, from_ms=20, to_ms=40)
    reading = begin(scope, source, ledger)
    assert reading.starts == {ORDERS: 20}
    assert list(reading.skipped.of(ORDERS)) == [25, 26]
    assert reading.cut.ends == (PartitionEnd(*ORDERS, 39),)
    goal = {ORDERS: 40}
    assert scope.goal(source, NOW_MS) == goal
    scope.finish(ledger)  # it was stopped; what is in files is left out no more
    assert spans_in(tmp_path) == [(0, 25), (27, 39), (40, 100)]
    ledger.covered.add(*ORDERS, BitMap64(range(20, 40)))
    scope.finish(ledger)
    assert spans_in(tmp_path) == [(0, 20), (40, 100)]
    assert begin(PartByTime(tmp_path), source, ledger).starts == {ORDERS: 180}


def test_what_has_expired_stays_left_out_and_is_not_waited_for(tmp_path: Path) -> None:
    source = source_of(100)
    begin(PartByTime(tmp_path, LATEST), source, ledger_of(tmp_path))
    source.log_begins = 30
    ledger = ledger_of(tmp_path)
    scope = Backfill(tmp_path)
    assert begin(scope, source, ledger).starts == {ORDERS: 30}
    assert scope.notices == [
        "orders/0: 30 of the offsets that were left out are not in the log any more, which begins "
        "at 30; they stay left out"
    ]
    ledger.covered.add(*ORDERS, BitMap64(range(30, 90)))
    source.log_begins = 95
    goal = {ORDERS: 100}
    log_watch = LogWatch(ExpiredNote(), 0.0)
    assert scope.remaining(goal, {}, ledger, log_watch) == 10
    scope.cover_gaps(goal, {}, source, ledger)
    assert scope.remaining(goal, {}, ledger, log_watch) == 5
    ledger.covered.add(*ORDERS, BitMap64(range(95, 100)))
    assert scope.remaining(goal, {}, ledger, log_watch) == 0
    scope.finish(ledger)
    assert spans_in(tmp_path) == [(0, 30), (90, 95)]
