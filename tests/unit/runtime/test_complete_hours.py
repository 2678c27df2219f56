"""When an hour gets its marker, what the marker says, and what the note of the watermark says."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from output_trees import NOON, OutputTree, dead_letter, sources
from pyroaring import BitMap64

from beam_pipeline.config import Windowing
from beam_pipeline.files.expired import ExpiredNote
from beam_pipeline.files.ledger import Ledger
from beam_pipeline.files.left_out import LeftOutNote, LeftOutRange
from beam_pipeline.files.markers import MARKER_NAME, digest_of
from beam_pipeline.files.watermark_note import NOTE, load_watermark_note
from beam_pipeline.offset_sets import OffsetSets, TopicPartition
from beam_pipeline.runtime import complete_hours
from beam_pipeline.runtime.complete_hours import CLOCK_SLACK_MS, CompleteHours, HourRules
from beam_pipeline.runtime.log_watch import LogWatch
from beam_pipeline.storage.directory import DirectoryStorage
from beam_pipeline.storage.paths import ObjectPath, StoredPath
from beam_pipeline.times import ms_of

ORDERS, EMPTY, REFUNDS = (
    TopicPartition("orders", 0),
    TopicPartition("orders", 1),
    TopicPartition("refunds", 0),
)
HOUR = "dt=2026-11-23/hour=12"
ONE_O_CLOCK = NOON + timedelta(hours=1)
DELAY = timedelta(seconds=2, milliseconds=CLOCK_SLACK_MS)


@dataclass
class Run:
    """A run over files made by hand: each `look` is one of the supervisor's."""

    tree: OutputTree
    topics: tuple[str, ...] = ("orders",)
    note: ExpiredNote = field(default_factory=ExpiredNote)
    find_gaps: Callable[[OffsetSets], OffsetSets] = lambda offsets: {}
    held_seconds: float = 600.0
    ends: dict[TopicPartition, int] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)
    create_time_topics: tuple[str, ...] = ()
    in_store: bool = False
    is_read_only: bool = False

    def again(self, **how: Any) -> Run:
        """The run of another process on the same files."""
        return Run(self.tree, ends=self.ends, in_store=self.in_store, **how)

    def _place(self, root: Path) -> StoredPath:
        return ObjectPath(DirectoryStorage(root)) if self.in_store else root

    def begin(self, starts: dict[TopicPartition, int]) -> Run:
        places = self._place(self.tree.output_dir), self._place(self.tree.dead_letter_dir)
        watch = LogWatch(self.note, 30.0)
        self.hours = CompleteHours(
            *places,
            HourRules(self.topics, Windowing(60), 60, max_event_skew_seconds=300),
            watch,
            self.find_gaps,
            self.held_seconds,
            is_read_only=self.is_read_only,
        )
        self.ledger = Ledger(*places, on_counted=self.hours.note_file)
        self.ledger.load_snapshot()
        self.ledger.refresh()
        watch.begin(starts, dict.fromkeys(starts, 0), self.ledger, is_restored=False, now=0.0)
        self.notices += self.hours.begin(self.ledger, starts, self.topics, self.create_time_topics)
        return self

    def look(self, at: datetime, *, is_last: bool = False) -> None:
        self.ledger.refresh()
        starts = dict.fromkeys(self.ends, 0)
        asked_at = at.timestamp()
        self.notices += self.hours.look(self.ledger, starts, self.ends, asked_at, is_last=is_last)

    def marker(self, hour: str = HOUR) -> dict[str, Any] | None:
        path = self.tree.output_dir / hour / MARKER_NAME
        return json.loads(path.read_bytes()) if path.exists() else None

    def revision(self) -> int:
        marker = self.marker()
        return marker["revision"] if marker else 0

    def watermark(self, topic: str = "orders") -> datetime | None:
        note = load_watermark_note(self.tree.output_dir)
        assert note is not None
        watermark_ms = note.topics[topic].watermark_ms
        return (
            None
            if watermark_ms is None
            else datetime.fromtimestamp(watermark_ms / 1000, timezone.utc)
        )


@pytest.fixture(params=["directory", "object store"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    return Run(OutputTree(tmp_path), in_store=request.param == "object store")


@pytest.fixture(autouse=True)
def revisions_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(complete_hours, "REVISION_SECONDS", 0.0)


def test_an_hour_is_complete_when_all_that_came_in_time_is_in_files(run: Run) -> None:
    path = run.tree.parquet(sources("orders", 0, range(8)))
    run.tree.raw_letters([dead_letter(offset=8), dead_letter(offset=9)])
    run.ends = {ORDERS: 10, EMPTY: 0}
    run.begin({ORDERS: 0, EMPTY: 0})
    run.look(ONE_O_CLOCK + DELAY - timedelta(milliseconds=1))
    assert run.marker() is None
    run.look(ONE_O_CLOCK + DELAY)
    marker = run.marker()
    assert marker is not None
    assert {key: marker[key] for key in ("hour", "revision", "files", "rows", "dead_letters")} == {
        "hour": "2026-11-23T12:00:00Z",
        "revision": 1,
        "files": 1,
        "rows": 8,
        "dead_letters": 2,
    }
    assert marker["sha256"] == digest_of({path.name: path.stat().st_size})
    assert marker["topics"]["orders"]["partitions"] == {
        "0": {
            "landed_to": 10,
            "rows": {"count": 8, "first_offset": 0, "last_offset": 7},
            "dead_letters": {"count": 2, "first_offset": 8, "last_offset": 9},
        },
        "1": {"landed_to": 0, "rows": {"count": 0}, "dead_letters": {"count": 0}},
    }
    assert run.watermark() == ONE_O_CLOCK
    (event,) = run.hours.events
    assert event.text == f"{HOUR} is complete: 8 rows, 2 dead letters, revision 1"
    assert event.details["hour"] == "2026-11-23T12:00:00Z"


def test_one_that_only_reads_knows_the_watermark_and_writes_nothing(run: Run) -> None:
    run.is_read_only = True
    run.tree.parquet(sources("orders", 0, range(8)))
    run.ends = {ORDERS: 8}
    run.begin({ORDERS: 0})
    run.look(ONE_O_CLOCK + DELAY)
    assert run.hours.note.topics["orders"].watermark_ms == ms_of(ONE_O_CLOCK)
    assert run.marker() is None
    assert load_watermark_note(run.tree.output_dir) is None
    assert not run.hours.events


@pytest.mark.parametrize(
    ("before", "lacking"), [(ONE_O_CLOCK, [["orders", 0]]), (NOON - timedelta(minutes=5), [])]
)
def test_a_marker_says_what_is_left_out_until_it_is_landed(
    run: Run, before: datetime, lacking: list[Any]
) -> None:
    run.tree.parquet(sources("orders", 0, range(5, 13)))
    run.ends = {ORDERS: 13}
    run.begin({ORDERS: 5})
    left_out = LeftOutRange(ORDERS, 0, 5, "--start=latest", ms_of(before))
    note = LeftOutNote((left_out,), frozenset(["orders"]))
    run.ledger.left_out = note.offsets()
    run.hours.take_left_out(note, run.ledger)
    run.look(ONE_O_CLOCK + DELAY)
    marker = run.marker()
    assert marker is not None
    assert marker["excluded"] == lacking
    partition = marker["topics"]["orders"]["partitions"]["0"]
    assert (partition["landed_to"], partition["excluded"]) == (13, [[0, 4]])

    # A backfill finds that the offsets have no record; the hour gets no file.
    run.ledger.add_offset_gaps(*ORDERS, note.offsets().of(ORDERS))
    less = note.without({ORDERS: note.offsets().of(ORDERS)})
    run.ledger.left_out = less.offsets()
    run.hours.take_left_out(less, run.ledger)
    run.look(ONE_O_CLOCK + 2 * DELAY, is_last=True)
    marker = run.marker()
    assert marker is not None
    assert (marker["revision"], marker["excluded"]) == (2 if lacking else 1, [])


def test_the_end_of_a_run_proves_the_time_up_to_which_it_read(run: Run) -> None:
    run.tree.parquet(sources("orders", 0, range(8)))
    run.ends = {ORDERS: 20, EMPTY: 20}
    run.begin({ORDERS: 0, EMPTY: 0})
    run.look(ONE_O_CLOCK + DELAY)
    assert run.marker() is None
    run.hours.note_end({ORDERS: 8, EMPTY: 0}, ms_of(ONE_O_CLOCK + DELAY))
    run.look(ONE_O_CLOCK + 2 * DELAY)
    assert run.marker() is not None


def test_a_partition_that_is_behind_holds_the_hour(run: Run) -> None:
    run.tree.parquet(sources("orders", 0, range(5)))
    run.ends = {ORDERS: 5, EMPTY: 1}
    run.begin({ORDERS: 0, EMPTY: 0})
    run.look(ONE_O_CLOCK + timedelta(hours=2))
    assert run.marker() is None
    assert run.watermark() is None
    run.tree.parquet(sources("orders", 1, range(1)))
    run.look(ONE_O_CLOCK + timedelta(hours=2))
    assert run.revision() == 1


def test_each_topic_of_a_directory_counts_for_its_hours_and_has_a_watermark(run: Run) -> None:
    run.topics = ("orders", "refunds")
    run.tree.parquet(sources("orders", 0, range(5)))
    run.ends = {ORDERS: 5, REFUNDS: 1}
    run.begin({ORDERS: 0, REFUNDS: 0})
    run.look(ONE_O_CLOCK + DELAY)
    run.look(ONE_O_CLOCK + DELAY + timedelta(seconds=10))
    assert run.marker() is None
    assert run.watermark() == ONE_O_CLOCK + timedelta(seconds=10)
    assert run.watermark("refunds") is None
    run.tree.parquet(sources("refunds", 0, range(1)))
    run.look(ONE_O_CLOCK + DELAY + timedelta(seconds=20))
    assert run.revision() == 1


def test_a_backlog_is_complete_hour_by_hour_by_the_times_of_its_records(run: Run) -> None:
    after_one = ms_of(ONE_O_CLOCK + timedelta(seconds=3))
    run.ends = {ORDERS: 1_000}
    run.begin({ORDERS: 0})
    run.tree.parquet(sources("orders", 0, range(5)), last_records={"orders": {0: (4, after_one)}})
    run.look(ONE_O_CLOCK + timedelta(days=1))
    assert run.revision() == 1
    assert run.watermark() == ONE_O_CLOCK + timedelta(seconds=1)


def test_the_times_of_producers_complete_no_hour(run: Run) -> None:
    run.create_time_topics = ("orders",)
    after_two = ms_of(ONE_O_CLOCK + timedelta(hours=1))
    run.ends = {ORDERS: 6}
    run.begin({ORDERS: 0})
    run.tree.parquet(sources("orders", 0, range(5)), last_records={"orders": {0: (4, after_two)}})
    run.look(ONE_O_CLOCK + timedelta(days=1))
    assert run.marker() is None
    run.tree.parquet(sources("orders", 0, [5]))
    run.look(ONE_O_CLOCK + DELAY)
    assert run.marker() is None, "records may be out of order by a minute"
    run.look(ONE_O_CLOCK + DELAY + timedelta(seconds=60))
    assert run.revision() == 1


def test_a_late_file_raises_the_revision_and_a_look_without_one_does_not(run: Run) -> None:
    run.tree.parquet(sources("orders", 0, range(5)))
    run.ends = {ORDERS: 5}
    run.begin({ORDERS: 0})
    run.look(ONE_O_CLOCK + DELAY)
    run.look(ONE_O_CLOCK + DELAY + timedelta(seconds=10))
    assert run.revision() == 1
    run.tree.parquet(sources("orders", 0, [5]))
    run.ends = {ORDERS: 6}
    run.look(ONE_O_CLOCK + DELAY + timedelta(seconds=20))
    marker = run.marker()
    assert marker is not None
    assert (marker["revision"], marker["rows"], marker["files"]) == (2, 6, 2)
    run.tree.raw_letters([dead_letter(offset=6)])
    run.look(ONE_O_CLOCK + DELAY + timedelta(seconds=30))
    assert run.revision() == 3


def test_late_files_are_collected_before_the_marker_is_written_again(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(complete_hours, "REVISION_SECONDS", 600.0)
    run.tree.parquet(sources("orders", 0, range(5)))
    run.ends = {ORDERS: 5}
    run.begin({ORDERS: 0})
    run.look(ONE_O_CLOCK + DELAY)
    run.tree.parquet(sources("orders", 0, [5]))
    run.look(ONE_O_CLOCK + DELAY + timedelta(seconds=10))
    assert run.revision() == 1
    run.look(ONE_O_CLOCK + DELAY + timedelta(seconds=20), is_last=True)
    assert run.revision() == 2


def test_a_start_after_a_kill_knows_which_hours_are_open(run: Run) -> None:
    run.tree.parquet(sources("orders", 0, range(5)))
    run.ends = {ORDERS: 5}
    run.begin({ORDERS: 0})
    run.ledger.begin_epoch("20261124T133350Zx0001")  # the next start reads no file again
    again = run.again().begin({ORDERS: 5})
    again.look(ONE_O_CLOCK + DELAY)
    assert again.revision() == 1
    once_more = run.again().begin({ORDERS: 5})
    once_more.look(ONE_O_CLOCK + DELAY + timedelta(hours=1))
    assert once_more.revision() == 1
    assert once_more.hours.note.open_hours == frozenset()


def test_hours_of_older_versions_get_markers_without_holding_the_watermark(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.tree.parquet(sources("orders", 0, range(5)))
    run.ends = {ORDERS: 5}
    run.begin({ORDERS: 0})
    run.ledger.begin_epoch("20261124T133350Zx0001")
    (run.tree.output_dir / NOTE).unlink()
    monkeypatch.setattr(complete_hours, "MARKING_SECONDS", -1.0)
    again = run.again().begin({ORDERS: 5})
    again.look(ONE_O_CLOCK + timedelta(days=9))
    assert again.marker() is None
    assert again.watermark() == ONE_O_CLOCK + timedelta(days=9) - DELAY
    monkeypatch.setattr(complete_hours, "MARKING_SECONDS", 1.0)
    again.look(ONE_O_CLOCK + timedelta(days=9))
    assert again.revision() == 1


def test_the_watermark_passes_no_hour_whose_marker_is_not_written(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.ends = {ORDERS: 0}
    run.begin({ORDERS: 0})
    run.look(NOON)
    run.tree.parquet(sources("orders", 0, range(5)))
    run.ends = {ORDERS: 5}
    monkeypatch.setattr(complete_hours, "MARKING_SECONDS", -1.0)
    run.look(ONE_O_CLOCK + timedelta(hours=3))
    assert run.watermark() == ONE_O_CLOCK - timedelta(milliseconds=1)
    monkeypatch.setattr(complete_hours, "MARKING_SECONDS", 1.0)
    run.look(ONE_O_CLOCK + timedelta(hours=3))
    assert run.revision() == 1
    assert run.watermark() == ONE_O_CLOCK + timedelta(hours=3) - DELAY


def test_a_watermark_never_goes_back(run: Run) -> None:
    run.tree.parquet(sources("orders", 0, range(5)))
    run.ends = {ORDERS: 5}
    run.begin({ORDERS: 0})
    run.look(ONE_O_CLOCK + timedelta(hours=3))
    before = run.watermark()
    run.ends = {ORDERS: 9}
    again = run.again().begin({ORDERS: 5})
    again.look(ONE_O_CLOCK)
    assert again.watermark() == before
    assert again.notices == []


def test_files_that_were_removed_without_a_snapshot_make_the_watermark_begin_anew(
    run: Run,
) -> None:
    path = run.tree.parquet(sources("orders", 0, range(5)))
    run.ends = {ORDERS: 5}
    run.begin({ORDERS: 0})
    run.look(ONE_O_CLOCK + timedelta(hours=3))
    path.unlink()
    again = run.again().begin({ORDERS: 0})
    [notice] = again.notices
    assert "orders/0 was landed up to offset 5" in notice
    again.look(ONE_O_CLOCK)
    assert again.watermark() is None


def test_a_gap_at_the_end_that_no_snapshot_has_is_found_again(run: Run) -> None:
    run.tree.parquet(sources("orders", 0, range(5)))
    run.ends = {ORDERS: 6}
    run.begin({ORDERS: 0})
    run.ledger.add_offset_gaps("orders", 0, BitMap64([5]))
    run.look(ONE_O_CLOCK + DELAY)
    again = run.again(find_gaps=lambda offsets: offsets).begin({ORDERS: 5})
    assert again.notices == []
    again.look(ONE_O_CLOCK + timedelta(hours=1))
    assert again.watermark() == ONE_O_CLOCK + timedelta(hours=1) - DELAY


def test_the_log_is_read_where_the_landed_prefix_stands_still(run: Run) -> None:
    run.held_seconds = 0.0
    asked: list[OffsetSets] = []

    def find_gaps(offsets: OffsetSets) -> OffsetSets:
        asked.append(offsets)
        return {ORDERS: BitMap64([5])}

    run.find_gaps = find_gaps
    run.tree.parquet(sources("orders", 0, range(5)))
    run.ends = {ORDERS: 6}
    run.begin({ORDERS: 0})
    run.look(ONE_O_CLOCK)
    run.look(ONE_O_CLOCK)
    assert run.hours._gaps._thread is not None
    run.hours._gaps._thread.join()
    run.look(ONE_O_CLOCK + DELAY)
    assert asked == [{ORDERS: BitMap64([5])}]
    assert run.revision() == 1


def test_records_that_expired_unread_hold_the_hour_until_that_is_accepted(run: Run) -> None:
    run.tree.parquet(sources("orders", 0, range(5)))
    run.tree.parquet(sources("orders", 0, range(9, 12)))
    run.note.unread.add_range("orders", 0, 5, 8)
    run.ends = {ORDERS: 12}
    run.begin({ORDERS: 0})
    run.look(ONE_O_CLOCK + timedelta(hours=1))
    assert run.marker() is None
    run.note.accepted.add_range("orders", 0, 5, 8)
    run.look(ONE_O_CLOCK + timedelta(hours=1))
    assert run.revision() == 1


def test_a_file_that_the_ledger_does_not_count_is_in_no_marker(run: Run) -> None:
    kept = run.tree.parquet(sources("orders", 0, range(5)))
    run.ends = {ORDERS: 5}
    run.begin({ORDERS: 0})
    stray = run.tree.parquet(sources("orders", 0, range(5)))
    (kept.parent / "by-hand.parquet").write_bytes(b"x")
    run.hours.look(run.ledger, {ORDERS: 0}, run.ends, (ONE_O_CLOCK + DELAY).timestamp())
    marker = run.marker()
    assert stray.exists()
    assert marker is not None
    assert (marker["files"], marker["rows"]) == (1, 5)


def test_an_hour_that_was_deleted_gets_no_marker(run: Run) -> None:
    path = run.tree.parquet(sources("orders", 0, range(5)))
    run.ends = {ORDERS: 5}
    run.begin({ORDERS: 0})
    path.unlink()
    run.look(ONE_O_CLOCK + DELAY)
    assert run.marker() is None
    assert run.hours.note.open_hours == frozenset()


def test_a_file_that_can_not_be_read_is_told_once(run: Run) -> None:
    path = run.tree.parquet(sources("orders", 0, range(5)))
    run.ends = {ORDERS: 5}
    run.begin({ORDERS: 0})
    run.ledger.begin_epoch("20261124T133350Zx0001")
    path.write_bytes(b"damaged")
    again = run.again().begin({ORDERS: 5})
    again.look(ONE_O_CLOCK + DELAY)
    again.look(ONE_O_CLOCK + DELAY + timedelta(seconds=10))
    [notice] = again.notices
    assert notice.startswith(f"{HOUR} gets no marker: ")
    assert again.marker() is None
