"""`wait` over notes of all kinds."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from pathlib import Path

import pytest

from beam_pipeline.cli import main
from beam_pipeline.files.watermark_note import (
    NOTE,
    PartitionNote,
    TopicNote,
    WatermarkNote,
    load_watermark_note,
)
from beam_pipeline.times import ms_of

UNTIL = datetime(2026, 11, 24, 15, tzinfo=timezone.utc)
UNTIL_MS = ms_of(UNTIL)
COMPLETE = TopicNote(UNTIL_MS, {0: PartitionNote(5, 5, UNTIL_MS)})


def note_of(**topics: TopicNote) -> WatermarkNote:
    return WatermarkNote(round(1000 * time.time()), topics, frozenset({"dt=2026-11-24/hour=15"}))


def waited(tmp_path: Path, *flags: str, topics: str = "orders") -> int:
    words = (f"--input_topics={topics}", "--until=2026-11-24T15:00Z", f"--output_dir={tmp_path}")
    return main(["wait", *words, *flags])


def test_a_note_is_read_as_it_was_saved(tmp_path: Path) -> None:
    assert load_watermark_note(tmp_path) is None
    note = note_of(orders=TopicNote(None, {0: PartitionNote(5, None, None, 3)}), refunds=COMPLETE)
    note.save(tmp_path)
    assert load_watermark_note(tmp_path) == note


def test_what_is_complete_ends_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    note_of(orders=COMPLETE, refunds=TopicNote()).save(tmp_path)
    assert waited(tmp_path) == 0
    assert capsys.readouterr().out.startswith("complete: every event of orders before 2026-11-24")


def test_what_is_missing_is_told_at_the_timeout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    partitions = {
        0: PartitionNote(7, 7, UNTIL_MS),
        1: PartitionNote(1_234, 2_000, UNTIL_MS - 1),
        2: PartitionNote(0, 1, None, 4),
    }
    note_of(orders=TopicNote(UNTIL_MS - 1, partitions)).save(tmp_path)
    assert waited(tmp_path, "--timeout=0", topics="orders,refunds") == 1
    assert capsys.readouterr().out.splitlines() == [
        "not complete within 0 s:",
        "orders/1: landed up to offset 1,234, the log ends at 2,000, lag 766 records; in files up "
        "to 2026-11-24T14:59:59.999Z",
        "orders/2: landed up to offset 0, the log ends at 1, lag 1 record; in files up to no time "
        "yet; 4 records at most expired unread, see --accept_expired of `run`",
        "refunds: no run has noted how far this topic is in --output_dir",
    ]


def test_a_note_that_no_run_renews_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    WatermarkNote(1_000, {"orders": TopicNote(UNTIL_MS - 1, {})}).save(tmp_path)
    assert waited(tmp_path, "--timeout=0") == 1
    assert "is the pipeline running?" in capsys.readouterr().out


def test_it_goes_on_when_a_run_writes_the_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sleep(seconds: float) -> None:
        note_of(orders=COMPLETE).save(tmp_path)

    monkeypatch.setattr(time, "sleep", sleep)
    assert waited(tmp_path) == 0


@pytest.mark.parametrize(
    ("flag", "reason"),
    [
        ("--until=2026-11-24", "--until: '2026-11-24' is no time with its offset"),
        ("--until=noon", "--until: 'noon' is no time with its offset"),
        ("--timeout=-1", "--timeout: '-1' is no number of seconds from 0 on"),
        ("--timeout=soon", "--timeout: 'soon' is no number of seconds from 0 on"),
        ("--timeout=inf", "--timeout: 'inf' is no number of seconds from 0 on"),
    ],
)
def test_a_wrong_flag_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str, reason: str
) -> None:
    assert waited(tmp_path, flag) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert reason in line


def test_a_note_that_can_not_be_read_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / NOTE
    path.parent.mkdir()
    path.write_text("{}")
    assert waited(tmp_path) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert str(path) in line
    assert "remove it" in line
