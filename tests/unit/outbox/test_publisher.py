"""The thread that sends dead-letter files, without a broker: it never waits, raises or gives up."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from output_trees import OutputTree

from beam_pipeline.files.sent_notes import SentNote, read_notes, write_note
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.outbox import publisher as publisher_module
from beam_pipeline.outbox.publish import FileProgress, FileSender, TopicUnavailable
from beam_pipeline.outbox.publisher import OutboxSettings, Publisher
from beam_pipeline.runtime.outbox import Outbox, Unsent

NOBODY = KafkaConnection("127.0.0.1:9", {"sasl.username": "u", "sasl.password": "s3cret"})


@pytest.fixture
def tree(tmp_path: Path) -> OutputTree:
    return OutputTree(tmp_path)


class Cluster:
    """Stands in for `FileSender`: what it is told to refuse is unavailable."""

    def __init__(self) -> None:
        self.away: set[str] = set()
        self.sent: list[str] = []
        self.changed = threading.Condition()

    def sender(self, *args: object, **kwargs: object) -> Cluster:
        return self

    def send_file(self, path: Path, progress: FileProgress) -> SentNote:
        with self.changed:
            if any(path.name.startswith(topic) for topic in self.away):
                raise TopicUnavailable("no leader")
            self.sent.append(path.name)
            self.changed.notify_all()
        status = path.stat()
        return SentNote(status.st_size, status.st_mtime_ns, "", 1)

    def close(self) -> None:
        """Nothing is open."""

    def await_sent(self, count: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.sent) >= count, 20)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    made = Cluster()
    monkeypatch.setattr(publisher_module, "FileSender", made.sender)
    monkeypatch.setattr(publisher_module, "FIRST_BACKOFF_SECONDS", 0.01)
    monkeypatch.setattr(publisher_module, "MAX_BACKOFF_SECONDS", 0.02)
    return made


def settings_of(tree: OutputTree) -> OutboxSettings:
    return OutboxSettings(NOBODY, ".dlq", str(tree.dead_letter_dir))


def await_idle(publisher: Publisher | Outbox) -> None:
    deadline = time.monotonic() + 20
    while publisher.is_busy:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_settings_show_no_secret(tree: OutputTree) -> None:
    assert "s3cret" not in repr(settings_of(tree))


def test_a_topic_that_is_away_holds_up_only_its_own_files(
    tree: OutputTree, cluster: Cluster
) -> None:
    said: list[str] = []
    publisher = Publisher(settings_of(tree), said.append, print)
    away = [tree.letters([("clicks", 0, offset)]) for offset in range(3)]
    here = [tree.letters([("orders", 0, offset)]) for offset in range(3)]
    cluster.away = {"clicks"}
    publisher.put([*away, *here])
    cluster.await_sent(3)
    assert sorted(cluster.sent) == [path.name for path in here]
    assert publisher.is_busy
    cluster.away = set()
    await_idle(publisher)
    publisher.stop()
    assert {name for name, _ in read_notes(tree.dead_letter_dir)} == {
        path.name for path in [*away, *here]
    }
    assert [line.partition(":")[0].partition(",")[0] for line in said] == [
        "dead letters can't be sent to clicks.dlq",
        "dead letters are sent to clicks.dlq again",
    ]


def test_what_has_a_note_or_is_gone_is_passed_over(tree: OutputTree, cluster: Cluster) -> None:
    noted, gone, new = (tree.letters([("orders", 0, offset)]) for offset in range(3))
    status = noted.stat()
    note = SentNote(status.st_size, status.st_mtime_ns, "", 1)
    write_note(tree.dead_letter_dir, noted.name, note, private=True)
    cluster.away = set()
    publisher = Publisher(settings_of(tree), print, print)
    gone.unlink()
    publisher.put([noted, new])
    await_idle(publisher)
    publisher.stop()
    assert cluster.sent == [new.name]


def test_a_note_that_cannot_be_written_is_tried_again_without_sending_again(
    tree: OutputTree, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tree.letters([("orders", 0, 1)])
    errors = [OSError(28, "No space left on device")]

    def full_at_first(*args: object, **kwargs: object) -> None:
        if errors:
            raise errors.pop()
        write_note(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(publisher_module, "write_note", full_at_first)
    publisher = Publisher(settings_of(tree), print, print)
    publisher.put([path])
    await_idle(publisher)
    publisher.stop()
    assert cluster.sent == [path.name]
    assert [name for name, _ in read_notes(tree.dead_letter_dir)] == [path.name]


def test_a_line_that_is_no_letter_is_told_and_left(tree: OutputTree) -> None:
    said: list[str] = []
    path = tree.letters([("orders", 0, 1)])
    path.write_bytes(b'{"source":{}}\n')
    publisher = Publisher(settings_of(tree), said.append, print)
    publisher.put([path])
    await_idle(publisher)
    publisher.stop()
    (line,) = said
    assert f"{path}, byte 0: KeyError" in line
    assert list(read_notes(tree.dead_letter_dir)) == []


def test_nothing_waits_for_a_broker_that_is_away(tree: OutputTree) -> None:
    connection = KafkaConnection("127.0.0.1:9")
    settings = OutboxSettings(connection, ".dlq", str(tree.dead_letter_dir))
    publisher = Publisher(settings, print, print)
    publisher.put([tree.letters([("orders", 0, 1)])])
    assert publisher.is_busy
    publisher.stop()


def test_a_sender_that_is_stopped_leaves_the_file_as_not_sent(tree: OutputTree) -> None:
    sender = FileSender(KafkaConnection("127.0.0.1:9"), ".dlq", stop_requested=lambda: True)
    progress = FileProgress()
    with pytest.raises(TopicUnavailable, match="stopped"):
        sender.send_file(tree.letters([("orders", 0, 1)]), progress)
    assert not progress.done
    sender.close()


def test_an_outbox_sends_what_earlier_runs_left_and_counts_the_rest(
    tree: OutputTree, cluster: Cluster
) -> None:
    said: list[str] = []
    old = tree.letters([("orders", 0, 1)])
    outbox = Outbox(settings_of(tree), said.append, tree.root / "log")
    outbox.begin()
    assert outbox.unsent() == Unsent()
    left = tree.letters([("orders", 0, 2), ("orders", 0, 3)])
    assert outbox.unsent() == Unsent(1, 2)
    outbox.look()  # too new to be left over
    assert not outbox.is_busy
    outbox.send_rest()
    await_idle(outbox)
    outbox.stop()
    assert cluster.sent == [left.name]
    assert outbox.unsent() == Unsent()
    assert said == [
        "1 files of dead letters are from a version that sent them while it ran, and count as "
        f"sent; to send them again, empty {tree.dead_letter_dir}/_published"
    ]
    assert old.exists()
