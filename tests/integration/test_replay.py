"""Dead letters go back to a real topic: byte for byte, and once."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Message
from output_trees import OutputTree, dead_letter

from beam_pipeline.commands import dlq as dlq_command
from beam_pipeline.errors import EnvironmentFailure, UsageError
from beam_pipeline.kafka.admin import watermarks
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.kafka.log_reader import LogReader
from beam_pipeline.offset_sets import TopicPartition
from beam_pipeline.tools.dlq.replay import replay
from beam_pipeline.tools.dlq.replay_journals import read_journal
from beam_pipeline.tools.dlq.replay_plan import ReplayChoice

FreshTopic = Callable[..., str]

EVERYTHING = ReplayChoice(lambda letter: True, to=None, max_attempts=5)
EVERY_BYTE = bytes(range(256))


@pytest.fixture
def tree(tmp_path: Path) -> OutputTree:
    return OutputTree(tmp_path)


def records(connection: KafkaConnection, topic: str) -> list[Message]:
    with LogReader(connection) as reader:
        return [
            message
            for partition, (low, high) in watermarks(connection, topic).items()
            for messages in reader.read(TopicPartition(topic, partition), low, high)
            for message in messages
        ]


def redriven(connection: KafkaConnection, topic: str) -> Counter[str]:
    headers: list[Any] = [dict(message.headers() or ()) for message in records(connection, topic)]
    return Counter(found["dlq.redrive.of"].decode() for found in headers)


def dlq(kafka: KafkaConnection, tree: OutputTree, *arguments: str) -> int:
    parser = argparse.ArgumentParser()
    dlq_command.add_flags(parser)
    connection = f"--kafka_bootstrap_servers={kafka.bootstrap_servers}"
    directory = f"--dead_letter_dir={tree.dead_letter_dir}"
    return dlq_command.run(parser.parse_args(["replay", connection, directory, *arguments]))


def test_key_value_and_headers_come_back_byte_for_byte(
    kafka: KafkaConnection, fresh_topic: FreshTopic, tree: OutputTree
) -> None:
    topic = fresh_topic(partitions=3, message_timestamp_type="CreateTime")
    headers: list[tuple[str, bytes | None]] = [
        ("trace", EVERY_BYTE),
        ("trace", b""),
        ("none", None),
        ("ключ", b"v"),
        ("__connect.errors.topic", b"x"),
        ("dlq.attempt", b"2"),
        ("dlq.id", b"y"),
    ]
    letters = [
        dead_letter(topic, 2, 0, key=EVERY_BYTE, value=EVERY_BYTE, headers=headers, attempt=2),
        dead_letter(topic, 1, 0, key=None, value=None),
        dead_letter(topic, 0, 0, key=b"", value=b""),
        dead_letter(topic, 9, 0, key=b"k", value=b"a partition that is gone"),
    ]
    tree.raw_letters(letters)
    assert replay(kafka, tree.dead_letter_dir, EVERYTHING).sent == 4

    found = {message.value(): message for message in records(kafka, topic)}
    assert len(found) == 4
    whole, tombstone, empty = found[EVERY_BYTE], found[None], found[b""]
    assert (whole.partition(), whole.key(), whole.value()) == (2, EVERY_BYTE, EVERY_BYTE)
    assert whole.headers() == [
        ("trace", EVERY_BYTE),
        ("trace", b""),
        ("none", None),
        ("ключ", b"v"),
        ("dlq.attempt", b"3"),
        ("dlq.redrive.of", letters[0]["dlq_id"].encode()),
    ]
    assert whole.timestamp()[1] == 1795435204500
    assert (tombstone.partition(), tombstone.key(), tombstone.value()) == (1, None, None)
    assert (empty.partition(), empty.key(), empty.value()) == (0, b"", b"")


def test_run_twice_it_sends_once(
    kafka: KafkaConnection,
    fresh_topic: FreshTopic,
    tree: OutputTree,
    capsys: pytest.CaptureFixture[str],
) -> None:
    topic = fresh_topic()
    tree.raw_letters([dead_letter(topic, 0, offset) for offset in range(20)])
    tree.raw_letters([dead_letter(topic, 0, 20, code="TOO_OLD", attempt=5)])
    assert dlq(kafka, tree, "--dry_run") == 0
    out = capsys.readouterr().out
    assert f"20 letters would go to {topic}\n  20 of SCHEMA_VIOLATION" in out
    assert "1 skipped: their records were tried --max_attempts=5 times" in out
    assert records(kafka, topic) == []
    assert not (tree.dead_letter_dir / "_replayed").exists()

    assert dlq(kafka, tree) == 0
    assert "20 of 20 letters sent" in capsys.readouterr().out
    assert dlq(kafka, tree) == 0
    out = capsys.readouterr().out
    assert "0 of 0 letters sent" in out
    assert "20 skipped: an earlier replay sent them" in out
    assert set(redriven(kafka, topic).values()) == {1}

    assert dlq(kafka, tree, "--max_attempts=6") == 0
    assert len(redriven(kafka, topic)) == 21


def test_a_replay_killed_at_work_is_taken_up_where_it_was(
    kafka: KafkaConnection, fresh_topic: FreshTopic, tree: OutputTree
) -> None:
    topic = fresh_topic(partitions=2)
    ids = set()
    for partition in range(2):
        letters = [dead_letter(topic, partition, offset) for offset in range(2000)]
        tree.raw_letters(letters)
        ids |= {letter["dlq_id"] for letter in letters}
    killed = subprocess.Popen(
        [
            *(sys.executable, "-m", "beam_pipeline", "dlq", "replay", "--events_per_second=200"),
            f"--kafka_bootstrap_servers={kafka.bootstrap_servers}",
            f"--dead_letter_dir={tree.dead_letter_dir}",
        ]
    )
    try:
        deadline = time.monotonic() + 60
        while sum(high for _, high in watermarks(kafka, topic).values()) < 120:
            assert killed.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        killed.kill()
        killed.wait()
    in_topic = redriven(kafka, topic)
    journal = read_journal(tree.dead_letter_dir, topic)
    assert journal.unfinished == {0: 0, 1: 0}
    assert len(journal.sent) < len(in_topic) < len(ids), "nothing was left to find in the topic"

    outcome = replay(kafka, tree.dead_letter_dir, EVERYTHING)
    assert outcome.sent == len(ids) - len(in_topic)
    assert redriven(kafka, topic) == dict.fromkeys(ids, 1)
    assert read_journal(tree.dead_letter_dir, topic).unfinished is None
    assert replay(kafka, tree.dead_letter_dir, EVERYTHING).sent == 0


def test_another_topic_and_a_condition(
    kafka: KafkaConnection, fresh_topic: FreshTopic, tree: OutputTree
) -> None:
    origin, retry = fresh_topic(), fresh_topic(partitions=4)
    tree.raw_letters(
        [
            dead_letter(origin, 0, 1, key=b"one"),
            dead_letter(origin, 0, 2, key=b"two", code="TOO_OLD"),
            dead_letter(origin, 0, 3, key=b"three", failed_at="2026-11-23T11:59:59.999Z"),
        ]
    )
    conditions = ["--where=code=SCHEMA_VIOLATION", "--where=since=2026-11-23T12:00:00Z"]
    assert dlq(kafka, tree, f"--to={retry}", *conditions) == 0
    assert [message.key() for message in records(kafka, retry)] == [b"one"]
    assert records(kafka, origin) == []
    # What went to another topic may still go home.
    assert dlq(kafka, tree) == 0
    assert {message.key() for message in records(kafka, origin)} == {b"one", b"two", b"three"}


def test_letters_are_paced(
    kafka: KafkaConnection, fresh_topic: FreshTopic, tree: OutputTree
) -> None:
    topic = fresh_topic()
    tree.raw_letters([dead_letter(topic, 0, offset) for offset in range(31)])
    started = time.monotonic()
    assert replay(kafka, tree.dead_letter_dir, EVERYTHING, events_per_second=20).sent == 31
    assert time.monotonic() - started >= 1.5


def test_a_letter_the_broker_refuses_does_not_hold_the_others(
    kafka: KafkaConnection, fresh_topic: FreshTopic, tree: OutputTree
) -> None:
    topic = fresh_topic(max_message_bytes="20000")
    large = dead_letter(topic, 0, 1, value=b"x" * 30_000)
    tree.raw_letters([dead_letter(topic, 0, 0), large, dead_letter(topic, 0, 2)])
    outcome = replay(kafka, tree.dead_letter_dir, EVERYTHING)
    assert outcome.sent == 2
    assert list(outcome.refused) == [large["dlq_id"]]
    assert "too large" in outcome.refused[large["dlq_id"]]
    # It is not forgotten either.
    again = replay(kafka, tree.dead_letter_dir, EVERYTHING)
    assert (again.sent, again.plan.already_sent, len(again.refused)) == (0, 2, 1)


def test_a_letter_that_cannot_be_sent_byte_for_byte_is_not_sent(
    kafka: KafkaConnection, fresh_topic: FreshTopic, tree: OutputTree
) -> None:
    topic = fresh_topic()
    one = dead_letter(topic, 0, 0, headers=[("nul\0byte", b"")])
    tree.raw_letters([one])
    outcome = replay(kafka, tree.dead_letter_dir, EVERYTHING)
    assert (outcome.sent, list(outcome.refused)) == (0, [one["dlq_id"]])
    assert records(kafka, topic) == []


def test_a_topic_that_is_missing_is_one_clear_line(
    kafka: KafkaConnection, tree: OutputTree
) -> None:
    tree.raw_letters([dead_letter("nowhere", 0, 0)])
    with pytest.raises(EnvironmentFailure, match=r"^topic nowhere doesn't exist"):
        replay(kafka, tree.dead_letter_dir, EVERYTHING)
    with pytest.raises(UsageError, match=r"^--dead_letter_dir="):
        replay(kafka, tree.dead_letter_dir / "no", EVERYTHING)
