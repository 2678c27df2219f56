"""The producer against a real broker: what was sent is what is in the topic."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Message, TopicPartition

from beam_pipeline.cli import main
from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.kafka.admin import partition_counts, topic_config, watermarks
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.producer.breakage import BREAKAGES
from beam_pipeline.producer.send import produce
from beam_pipeline.producer.source import INPUT, SourceRecord, from_lines, synthetic
from beam_pipeline.resources import event_schema_path
from beam_pipeline.schemas import load_contract

FreshTopic = Callable[..., str]
DEADLINE_SECONDS = 30.0


def read_topic(kafka: KafkaConnection, topic: str) -> list[Message]:
    """Every record of a topic, partition by partition."""
    ends = watermarks(kafka, topic)
    consumer = Consumer(
        {
            **kafka.for_librdkafka(),
            "group.id": "test-reader",
            "enable.auto.commit": False,
            "fetch.message.max.bytes": 16 * 1024 * 1024,
        }
    )
    consumer.assign([TopicPartition(topic, part, low) for part, (low, _) in ends.items()])
    wanted = sum(high - low for low, high in ends.values())
    messages: list[Message] = []
    deadline = time.monotonic() + DEADLINE_SECONDS
    while len(messages) < wanted and time.monotonic() < deadline:
        messages.extend(consumer.consume(wanted - len(messages), timeout=1.0))
    consumer.close()
    assert len(messages) == wanted
    assert not any(message.error() for message in messages)
    return sorted(messages, key=lambda message: (message.partition(), message.offset()))


def values(messages: list[Message]) -> list[bytes | None]:
    return [message.value() for message in messages]


def lines_source(lines: list[bytes], key_field: str | None = None) -> Iterator[SourceRecord]:
    return from_lines(io.BytesIO(b"".join(line + b"\n" for line in lines)), key_field)


def flags(kafka: KafkaConnection, topic: str, *more: str) -> list[str]:
    target = f"--kafka_bootstrap_servers={kafka.bootstrap_servers}"
    return ["produce", target, f"--topic={topic}", "--quiet", *more]


def test_synthetic_records_arrive_with_their_keys(
    kafka: KafkaConnection, fresh_topic: FreshTopic
) -> None:
    topic = fresh_topic(partitions=3)
    source = synthetic(
        seed=11, contract=load_contract(event_schema_path()), invalid_ratio=0.3, late_ratio=0.2
    )
    sent = list(itertools.islice(source, 500))
    status = produce(iter(sent), kafka, topic)

    messages = read_topic(kafka, topic)
    assert sorted((m.key() or b"", m.value() or b"") for m in messages) == sorted(
        (record.key or b"", record.value or b"") for record in sent
    )
    assert sum(m.value() is None for m in messages) == status.invalid["tombstone"] > 0
    assert status.produced == status.acked == 500
    assert set(status.invalid) == {breakage.name for breakage in BREAKAGES}
    assert status.late > 0
    assert status.done
    placed = {(message.key(), message.partition()) for message in messages}
    assert len(placed) == len({message.key() for message in messages})


def test_lines_come_back_byte_for_byte(
    kafka: KafkaConnection, fresh_topic: FreshTopic, tmp_path: Path
) -> None:
    lines = [
        b'{"user": "u-1", "n": 1}',
        b"",
        b"\xff\xfe\x00\r",
        b"   ",
        "grün €".encode(),
        b'{"user": "u-2", "text": "\\u0000"}',
        b"x" * 3_000_000,
        b"no newline at the end",
    ]
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"\n".join(lines))
    topic = fresh_topic()

    arguments = flags(kafka, topic, f"--input={path}", "--key_field=user", "--events_per_second=0")
    assert main(arguments) == 0

    messages = read_topic(kafka, topic)
    assert values(messages) == lines
    keys = [message.key() for message in messages]
    assert keys == [b"u-1", None, None, None, None, b"u-2", None, None]


def test_standard_input_is_sent_while_it_comes(
    kafka: KafkaConnection, fresh_topic: FreshTopic
) -> None:
    topic = fresh_topic()
    with start_produce(kafka, topic, "--input=-", "--events_per_second=0") as process:
        assert process.stdin
        process.stdin.write(b"first\n")
        process.stdin.flush()
        wait_for(lambda: watermarks(kafka, topic)[0][1] == 1)
        process.stdin.write(b"\nlast")
        output, _ = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 0
    assert b"3 records" in output
    assert values(read_topic(kafka, topic)) == [b"first", b"", b"last"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("waiting_for", ["the clock", "standard input"])
def test_a_signal_ends_it_and_loses_nothing(
    kafka: KafkaConnection,
    fresh_topic: FreshTopic,
    tmp_path: Path,
    number: signal.Signals,
    waiting_for: str,
) -> None:
    topic = fresh_topic()
    status_file = tmp_path / "status.json"
    source = ["--input=-"] if waiting_for == "standard input" else ["--seed=1"]
    more = [*source, "--events_per_second=20", f"--status_file={status_file}"]
    with start_produce(kafka, topic, *more) as process:
        if process.stdin and waiting_for == "standard input":
            process.stdin.write(b"a\nb\n")
            process.stdin.flush()
        wait_for(lambda: watermarks(kafka, topic)[0][1] >= 2)
        process.send_signal(number)
        assert process.wait(DEADLINE_SECONDS) == 0
    status = json.loads(status_file.read_bytes())
    assert status["done"]
    assert status["produced"] == status["acked"] == len(read_topic(kafka, topic))


def test_the_rate_is_even(kafka: KafkaConnection, fresh_topic: FreshTopic) -> None:
    topic = fresh_topic()
    taken: list[float] = []

    def source() -> Iterator[SourceRecord]:
        while True:
            taken.append(time.monotonic())
            yield SourceRecord(None, b"{}", INPUT)

    status = produce(source(), kafka, topic, 20.0, max_seconds=2.0)

    assert status.acked == 40
    # Never early; a busy machine may make one late, but lateness does not add up.
    behind = [moment - taken[0] - index / 20 for index, moment in enumerate(taken)]
    assert min(behind) > -0.05
    assert sorted(behind)[len(behind) // 2] < 0.1


def test_limits_and_the_status_file(
    kafka: KafkaConnection,
    fresh_topic: FreshTopic,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    topic = fresh_topic()
    path = tmp_path / "status.json"
    amounts = ["--events=200", "--events_per_second=0", "--invalid_ratio=0.5", "--seed=3"]
    assert main(flags(kafka, topic, *amounts, f"--status_file={path}")) == 0

    status = json.loads(path.read_bytes())
    assert (status["produced"], status["acked"], status["done"]) == (200, 200, True)
    invalid = sum(status["invalid"].values())
    assert 60 < invalid < 140
    assert len(read_topic(kafka, topic)) == 200
    printed = capsys.readouterr().out.strip().splitlines()
    assert len(printed) == 1
    assert f"{200 - invalid} valid, {invalid} invalid" in printed[0]


def test_a_missing_topic_is_named_or_made(kafka: KafkaConnection, fresh_topic: FreshTopic) -> None:
    topic = f"{fresh_topic()}-made"
    arguments = flags(kafka, topic, "--events=1")
    produced = subprocess.run(
        [sys.executable, "-m", "beam_pipeline", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert produced.returncode == 1
    assert f"--topic={topic}" in produced.stderr
    assert "--create_topic" in produced.stderr
    assert len(produced.stderr.strip().splitlines()) == 1

    assert main([*arguments, "--create_topic", "--partitions=3"]) == 0
    assert partition_counts(kafka, [topic]) == {topic: 3}
    assert topic_config(kafka, [topic])[topic]["message.timestamp.type"] == "LogAppendTime"
    assert len(read_topic(kafka, topic)) == 1


def test_a_refused_record_is_told_with_its_reason(
    kafka: KafkaConnection, fresh_topic: FreshTopic
) -> None:
    topic = fresh_topic(max_message_bytes="1000")
    source = lines_source([b"small", b"x" * 5000, *[b"after"] * 1000])
    with pytest.raises(EnvironmentFailure, match="Message size too large; raise"):
        produce(source, kafka, topic, 100.0)
    assert len(read_topic(kafka, topic)) < 1001


@contextlib.contextmanager
def start_produce(
    kafka: KafkaConnection, topic: str, *more: str
) -> Iterator[subprocess.Popen[bytes]]:
    """The command as a process of its own, which does not outlive the test."""
    process = subprocess.Popen(
        [sys.executable, "-m", "beam_pipeline", *flags(kafka, topic, *more)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.05)


def test_a_replay_keeps_the_rhythm_of_the_lines(
    kafka: KafkaConnection, fresh_topic: FreshTopic, tmp_path: Path
) -> None:
    """Two seconds of events take one at twice the speed; one out of order waits for none."""
    topic = fresh_topic()
    lines = [f'{{"at":"2013-01-01T00:00:{second:04.1f}Z"}}' for second in (0.0, 1.0, 0.5, 2.0)]
    path = tmp_path / "events.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines))
    started = time.monotonic()
    words = [f"--input={path}", "--replay_speed=2", "--event_time_field=at"]
    assert main(flags(kafka, topic, *words)) == 0
    assert time.monotonic() - started >= 1.0
    assert values(read_topic(kafka, topic)) == [line.encode() for line in lines]
    words = [f"--input={path}", "--replay_speed=1", "--event_time_field=at", "--seconds=0.9"]
    assert main(flags(kafka, topic, *words)) == 0
    assert values(read_topic(kafka, topic))[4:] == [lines[0].encode()]
