"""The journal tells what was sent, whatever was killed while it was written."""

from __future__ import annotations

import os
from datetime import datetime, timezone
from pathlib import Path

import pytest

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.tools.dlq import replay_journal
from beam_pipeline.tools.dlq.replay_journal import JournalState
from beam_pipeline.tools.dlq.replay_journals import journal_of, read_journal

NOW = datetime(2026, 11, 24, 13, 33, 50, tzinfo=timezone.utc)


def test_nothing_was_sent_without_a_journal(tmp_path: Path) -> None:
    assert read_journal(tmp_path, "orders") == JournalState()


def test_a_run_that_ended(tmp_path: Path) -> None:
    with journal_of(tmp_path, "orders") as journal:
        journal.begin({0: 812, 1: 790}, NOW)
        journal.note_sent(["a", "b"])
        journal.note_sent(["c"])
        journal.end(NOW)
    assert read_journal(tmp_path, "orders") == JournalState({"a", "b", "c"}, None)
    assert (tmp_path / "_replayed" / "orders.jsonl").read_text() == (
        '{"run":"begin","at":"2026-11-24T13:33:50Z","ends":{"0":812,"1":790}}\n'
        '{"sent":"a"}\n{"sent":"b"}\n{"sent":"c"}\n'
        '{"run":"end","at":"2026-11-24T13:33:50Z"}\n'
    )


def test_runs_that_were_cut_off_are_looked_for_from_the_first_on(tmp_path: Path) -> None:
    with journal_of(tmp_path, "orders") as journal:
        journal.begin({0: 1}, NOW)
        journal.end(NOW)
        journal.begin({0: 5}, NOW)
        journal.note_sent(["a"])
    with journal_of(tmp_path, "orders") as journal:
        assert journal.state == JournalState({"a"}, {0: 5})
        journal.begin({0: 9}, NOW)
    assert read_journal(tmp_path, "orders") == JournalState({"a"}, {0: 5})


def test_a_torn_line_at_any_byte_is_as_if_it_was_not_written(tmp_path: Path) -> None:
    with journal_of(tmp_path, "orders") as journal:
        journal.begin({0: 5}, NOW)
        journal.note_sent(["a"])
    path = tmp_path / "_replayed" / "orders.jsonl"
    whole = path.read_bytes()
    last_line = whole.rindex(b"\n", 0, -1) + 1
    for length in range(last_line, len(whole)):
        path.write_bytes(whole[:length])
        assert read_journal(tmp_path, "orders") == JournalState(set(), {0: 5})
        with journal_of(tmp_path, "orders") as journal:
            journal.note_sent(["b"])
        assert read_journal(tmp_path, "orders") == JournalState({"b"}, {0: 5})


def test_a_torn_line_is_cut_without_reading_the_lines_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "orders.jsonl"
    lines = b'{"sent":"a"}\n' * 100_000
    torn = b'{"sent":"' + b"b" * 10_000
    path.write_bytes(lines + torn)
    read: list[int] = []
    pread = os.pread

    def counting(descriptor: int, length: int, offset: int) -> bytes:
        read.append(length)
        return pread(descriptor, length, offset)

    monkeypatch.setattr(os, "pread", counting)
    replay_journal._cut_torn_line(path)
    assert path.read_bytes() == lines
    assert sum(read) < 2 * len(torn)


@pytest.mark.parametrize("content", [b"", b"torn", b"torn" * 5_000])
def test_a_journal_of_a_torn_line_alone_is_emptied(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "orders.jsonl"
    path.write_bytes(content)
    replay_journal._cut_torn_line(path)
    assert path.read_bytes() == b""


def test_topics_have_journals_of_their_own(tmp_path: Path) -> None:
    with journal_of(tmp_path, "orders") as one, journal_of(tmp_path, "clicks") as other:
        one.begin({0: 5}, NOW)
        one.note_sent(["a"])
        other.begin({0: 7}, NOW)
    assert read_journal(tmp_path, "orders") == JournalState({"a"}, {0: 5})
    assert read_journal(tmp_path, "clicks") == JournalState(set(), {0: 7})


def test_a_second_replay_to_the_same_topic_is_refused(tmp_path: Path) -> None:
    with (
        journal_of(tmp_path, "orders"),
        pytest.raises(EnvironmentFailure, match="another replay to topic orders is running"),
        journal_of(tmp_path, "orders"),
    ):
        pass
    with journal_of(tmp_path, "orders"):
        pass


@pytest.mark.parametrize("line", ["nonsense\n", "[]\n", '{"run":"begin"}\n', "{}\n"])
def test_a_journal_that_makes_no_sense_stops_the_replay(tmp_path: Path, line: str) -> None:
    path = tmp_path / "_replayed" / "orders.jsonl"
    path.parent.mkdir()
    path.write_text(line + '{"sent":"a"}\n')
    with pytest.raises(EnvironmentFailure, match="can't be read"):
        read_journal(tmp_path, "orders")
