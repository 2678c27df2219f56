"""What needs a broker and reads objects: replay, reconcile, and sending dead letters."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Message
from output_trees import OutputTree, dead_letter, sources

from beam_pipeline.files.sent_notes import letter_paths, read_notes
from beam_pipeline.kafka.admin import watermarks
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.kafka.delivery import Delivery
from beam_pipeline.kafka.log_reader import LogReader
from beam_pipeline.offset_sets import TopicPartition
from beam_pipeline.outbox.publisher import OutboxSettings
from beam_pipeline.runtime.outbox import Outbox, Unsent
from beam_pipeline.storage import urls
from beam_pipeline.storage.directory import DirectoryStorage
from beam_pipeline.storage.paths import ObjectPath
from beam_pipeline.tools.dlq import replay_journals
from beam_pipeline.tools.dlq.replay import replay
from beam_pipeline.tools.dlq.replay_journals import read_journal
from beam_pipeline.tools.dlq.replay_plan import ReplayChoice
from beam_pipeline.tools.reconcile.run import reconcile

FreshTopic = Callable[..., str]

EVERYTHING = ReplayChoice(lambda letter: True, to=None, max_attempts=5)
KILLED_REPLAY = """\
import sys
from pathlib import Path
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.storage.directory import DirectoryStorage
from beam_pipeline.storage.paths import ObjectPath
from beam_pipeline.tools.dlq.replay import replay
from beam_pipeline.tools.dlq.replay_plan import ReplayChoice

replay(
    KafkaConnection(sys.argv[1]),
    ObjectPath(DirectoryStorage(Path(sys.argv[2]))),
    ReplayChoice(lambda letter: True, to=None, max_attempts=5),
    events_per_second=200,
)
"""


@pytest.fixture
def tree(tmp_path: Path) -> OutputTree:
    return OutputTree(tmp_path)


def objects_of(directory: Path) -> ObjectPath:
    return ObjectPath(DirectoryStorage(directory))


def headers_in(connection: KafkaConnection, topic: str, name: str) -> Counter[str]:
    messages: list[Message] = []
    with LogReader(connection) as reader:
        for partition, (low, high) in watermarks(connection, topic).items():
            for some in reader.read(TopicPartition(topic, partition), low, high):
                messages += some
    headers: list[Any] = [dict(message.headers() or ()) for message in messages]
    return Counter(each[name].decode() for each in headers)


def test_a_replay_of_objects_killed_at_work_is_taken_up_where_it_was(
    kafka: KafkaConnection,
    fresh_topic: FreshTopic,
    tree: OutputTree,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    topic = fresh_topic(partitions=2)
    ids = set()
    for partition in range(2):
        letters = [dead_letter(topic, partition, offset) for offset in range(2000)]
        tree.raw_letters(letters)
        ids |= {letter["dlq_id"] for letter in letters}
    killed = subprocess.Popen(
        [
            *(sys.executable, "-c", KILLED_REPLAY),
            *(str(kafka.bootstrap_servers), str(tree.dead_letter_dir)),
        ]
    )
    try:
        deadline = time.monotonic() + 60
        while sum(high for _, high in watermarks(kafka, topic).values()) < 700:
            assert killed.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        killed.kill()
        killed.wait()
    root = objects_of(tree.dead_letter_dir)
    in_topic = headers_in(kafka, topic, "dlq.redrive.of")
    journal = read_journal(root, topic)
    assert journal.unfinished == {0: 0, 1: 0}
    assert 0 < len(journal.sent) < len(in_topic) < len(ids), "nothing was left to find in the topic"

    monkeypatch.setattr(replay_journals, "EXPIRY_SECONDS", 2.0)
    outcome = replay(kafka, root, EVERYTHING)
    assert outcome.sent == len(ids) - len(in_topic)
    assert headers_in(kafka, topic, "dlq.redrive.of") == dict.fromkeys(ids, 1)
    assert read_journal(root, topic).unfinished is None
    assert replay(kafka, root, EVERYTHING).sent == 0


def test_reconcile_says_of_objects_what_it_says_of_files(
    kafka: KafkaConnection, fresh_topic: FreshTopic, tree: OutputTree
) -> None:
    topic = fresh_topic()
    delivery = Delivery(kafka, stop_requested=lambda: False, on_poll=lambda: None)
    for number in range(30):
        delivery.send(topic, str(number).encode(), None, lambda error: None)
    delivery.finish()
    tree.parquet(sources(topic, 0, range(10)))
    tree.parquet(sources(topic, 0, range(8, 20)))
    tree.letters(sources(topic, 0, range(20, 25)))
    of_files = reconcile(kafka, [topic], tree.output_dir, tree.dead_letter_dir)
    of_objects = reconcile(
        kafka, [topic], objects_of(tree.output_dir), objects_of(tree.dead_letter_dir)
    )
    assert of_objects.reconciliation == of_files.reconciliation
    assert (of_objects.reconciliation.missing, of_objects.reconciliation.doubled) == (5, 2)
    assert len(of_objects.overlaps) == len(of_files.overlaps) == 2
    assert (of_objects.parquet_files, of_objects.dead_letter_files) == (2, 1)


def test_letters_in_objects_are_sent_to_their_topic_and_noted(
    kafka: KafkaConnection,
    fresh_topic: FreshTopic,
    tree: OutputTree,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    topic = fresh_topic()
    letters = [dead_letter(topic, 0, offset) for offset in range(3)]
    tree.raw_letters(letters)
    storage = DirectoryStorage(tree.dead_letter_dir)
    monkeypatch.setattr(urls, "open_storage", lambda url, config: storage)
    # The suffix is empty, so that the topic is there; `run` refuses that.
    settings = OutboxSettings(kafka, "", "s3://lake/dead")
    outbox = Outbox(settings, print, tmp_path / "log")
    outbox.begin()
    deadline = time.monotonic() + 60
    while outbox.is_busy:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    outbox.stop()
    assert outbox.unsent() == Unsent()
    assert headers_in(kafka, topic, "dlq.id") == {letter["dlq_id"]: 1 for letter in letters}
    ((name, note),) = read_notes(settings.root)
    assert [path.name for path in letter_paths(settings.root)] == [name]
    assert (note.letters, note.refused) == (3, ())
