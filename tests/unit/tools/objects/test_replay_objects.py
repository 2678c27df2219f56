"""The journal of a replay in an object store tells what was sent, whoever was killed when."""

from __future__ import annotations

import threading
import time
from datetime import datetime, timezone
from pathlib import Path

import pytest

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.storage.directory import DirectoryStorage
from beam_pipeline.storage.paths import ObjectPath
from beam_pipeline.storage.protocol import StorageAwayError
from beam_pipeline.tools.dlq.replay_journal import FileJournal, JournalState
from beam_pipeline.tools.dlq.replay_journals import journal_of, read_journal, replayed_ids
from beam_pipeline.tools.dlq.replay_objects import ObjectJournal, read_object_journal

NOW = datetime(2026, 11, 24, 13, 33, 50, tzinfo=timezone.utc)
EXPIRY = 0.2
LONG_EXPIRY = 20.0


@pytest.fixture
def root(tmp_path: Path) -> ObjectPath:
    return ObjectPath(DirectoryStorage(tmp_path))


def quick(
    root: ObjectPath, topic: str = "orders", *, beats: bool = True, expiry: float = EXPIRY
) -> ObjectJournal:
    """A journal whose lock expires soon; without `beats` it is never renewed, as of a dead run."""
    return ObjectJournal(
        root, topic, beat_seconds=EXPIRY / 10 if beats else 3600, expiry_seconds=expiry
    )


def kill(journal: ObjectJournal) -> None:
    """Leave the lock as it is, and renew it no more."""
    journal._lock._version = None
    journal.__exit__(None, None, None)


def test_nothing_was_sent_without_a_journal(root: ObjectPath) -> None:
    assert read_journal(root, "orders") == JournalState()
    assert replayed_ids(root) == set()


def test_a_run_that_ended(root: ObjectPath, tmp_path: Path) -> None:
    with journal_of(root, "orders") as journal:
        journal.begin({0: 812, 1: 790}, NOW)
        journal.note_sent(["a", "b"])
        journal.note_sent([])
        journal.note_sent(["c"])
        journal.end(NOW)
    assert read_journal(root, "orders") == JournalState({"a", "b", "c"}, None)
    objects = sorted((tmp_path / "_replayed" / "orders").glob("*.jsonl"))
    assert b"".join(path.read_bytes() for path in objects) == (
        b'{"run":"begin","at":"2026-11-24T13:33:50Z","ends":{"0":812,"1":790}}\n'
        b'{"sent":"a"}\n{"sent":"b"}\n{"sent":"c"}\n'
        b'{"run":"end","at":"2026-11-24T13:33:50Z"}\n'
    )
    assert not (tmp_path / "_replayed" / "orders.lock.json").exists()


def test_runs_that_were_cut_off_are_looked_for_from_the_first_on(root: ObjectPath) -> None:
    with quick(root) as journal:
        journal.begin({0: 1}, NOW)
        journal.end(NOW)
        journal.begin({0: 5}, NOW)
        journal.note_sent(["a"])
    with quick(root) as journal:
        assert journal.state == JournalState({"a"}, {0: 5})
        journal.begin({0: 9}, NOW)
    assert read_journal(root, "orders") == JournalState({"a"}, {0: 5})


def test_many_writes_come_back_in_their_order(root: ObjectPath) -> None:
    with quick(root) as journal:
        for number in range(40):
            journal.begin({0: number}, NOW)
            journal.note_sent([str(number)])
            journal.end(NOW)
        journal.begin({0: 40}, NOW)
    assert read_journal(root, "orders") == JournalState(set(map(str, range(40))), {0: 40})


def test_each_topic_has_a_journal_and_a_lock_of_its_own(root: ObjectPath) -> None:
    names = ("orders", "orders.eu", "orders.jsonl")
    journals = [quick(root, name) for name in names]
    for journal, name in zip(journals, names, strict=True):
        journal.__enter__()
        journal.note_sent([f"of {name}"])
    for journal in journals:
        journal.__exit__(None, None, None)
    for name in names:
        assert read_journal(root, name).sent == {f"of {name}"}
    assert replayed_ids(root) == {f"of {name}" for name in names}


def test_a_journal_that_was_copied_from_a_directory_counts(
    root: ObjectPath, tmp_path: Path
) -> None:
    with FileJournal(tmp_path, "orders") as journal:
        journal.begin({0: 5}, NOW)
        journal.note_sent(["a"])
    with quick(root) as of_objects:
        assert of_objects.state == JournalState({"a"}, {0: 5})
        of_objects.note_sent(["b"])
    assert replayed_ids(root) == {"a", "b"}


def test_one_replay_at_a_time(root: ObjectPath) -> None:
    with quick(root), pytest.raises(EnvironmentFailure, match="another replay to topic orders"):
        quick(root, expiry=LONG_EXPIRY).__enter__()
    with quick(root) as journal:
        journal.confirm()


def test_of_many_that_start_at_once_one_has_the_lock(root: ObjectPath) -> None:
    start = threading.Barrier(8)
    holders: list[ObjectJournal] = []
    refused: list[str] = []

    def take() -> None:
        journal = quick(root, expiry=LONG_EXPIRY)
        start.wait()
        try:
            journal.__enter__()
        except EnvironmentFailure as error:
            refused.append(str(error))
        else:
            holders.append(journal)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(holders), len(refused)) == (1, 7)
    holders[0].__exit__(None, None, None)


def test_the_lock_of_a_run_that_was_killed_is_taken_over(root: ObjectPath) -> None:
    killed = quick(root, beats=False)
    killed.__enter__()
    killed.begin({0: 5}, NOW)
    killed.note_sent(["a"])
    kill(killed)
    began = time.monotonic()
    with quick(root) as journal:
        assert time.monotonic() - began >= EXPIRY
        assert journal.state == JournalState({"a"}, {0: 5})


def test_a_run_that_stood_still_sends_no_more_once_it_was_taken_over(root: ObjectPath) -> None:
    frozen = quick(root, beats=False)
    frozen.__enter__()
    with quick(root) as journal:
        with pytest.raises(EnvironmentFailure, match="another replay to topic orders"):
            frozen.confirm()
        frozen.note_sent(["a"])  # what was acknowledged before is noted all the same
        frozen.__exit__(None, None, None)
        journal.confirm()
    assert read_journal(root, "orders").sent == {"a"}


class LosesAnswers(DirectoryStorage):
    """Makes each change, and answers as if it was refused."""

    def put_if_absent(self, source: Path, key: str) -> bool:
        super().put_if_absent(source, key)
        return False

    def put_if_match(self, key: str, content: bytes, version: str | None) -> str | None:
        super().put_if_match(key, content, version)
        return None


def test_lost_answers_lose_neither_lines_nor_the_lock(tmp_path: Path) -> None:
    root = ObjectPath(LosesAnswers(tmp_path))
    with quick(root) as journal:
        time.sleep(EXPIRY / 2)  # some beats
        journal.confirm()
        journal.note_sent(["a"])
    assert read_journal(root, "orders").sent == {"a"}


class Away(DirectoryStorage):
    """A storage that takes nothing while it is away."""

    is_away = False

    def put_if_match(self, key: str, content: bytes, version: str | None) -> str | None:
        if Away.is_away:
            raise StorageAwayError("no answer")
        return super().put_if_match(key, content, version)

    def put_if_absent(self, source: Path, key: str) -> bool:
        if Away.is_away:
            raise StorageAwayError("no answer")
        return super().put_if_absent(source, key)


def confirm_for(journal: ObjectJournal, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        journal.confirm()


def test_a_store_that_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = ObjectPath(Away(tmp_path))
    with quick(root) as journal:
        monkeypatch.setattr(Away, "is_away", True)
        with pytest.raises(EnvironmentFailure, match=r"_replayed/orders: no answer"):
            journal.note_sent(["a"])
        with pytest.raises(EnvironmentFailure, match="no answer"):
            confirm_for(journal, 10)  # before long the lock may be another's
        monkeypatch.setattr(Away, "is_away", False)
        journal.confirm()
        journal.note_sent(["a"])
    assert read_journal(root, "orders").sent == {"a"}


@pytest.mark.parametrize("content", [b'{"neither":1}\n', b"[]\n", b"x\n"])
def test_an_object_that_is_no_part_of_a_journal(root: ObjectPath, content: bytes) -> None:
    root.storage.put("_replayed/orders/00000001-x.jsonl", content)
    with pytest.raises(EnvironmentFailure, match="without it letters may be sent twice"):
        read_object_journal(root, "orders")
    with pytest.raises(EnvironmentFailure, match="without it letters may be sent twice"):
        quick(root).__enter__()
    assert not (root / "_replayed" / "orders.lock.json").exists()
