"""The dead-letter topic is fed from the files in place: nothing is lost, nothing stops the job."""

from __future__ import annotations

import json
import os
import signal
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest
from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)
from integration.pipeline_runs import Finished, PipelineRun, running, send, wait_for

from beam_pipeline.files.sent_notes import read_notes
from beam_pipeline.kafka.admin import TopicSpec, create_topics, watermarks
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.runtime.programs.broker import EmbeddedBroker

pytestmark = pytest.mark.field

FreshTopic = Callable[..., str]
MONTH_MS = 30 * 86_400_000
EVERY_STAMP = {
    "message_timestamp_type": "CreateTime",
    "message_timestamp_after_max_ms": str(2**63 - 1),
    "message_timestamp_before_max_ms": str(2**63 - 1),
    "retention_ms": "-1",
}


@pytest.fixture
def run(tmp_path: Path) -> PipelineRun:
    return PipelineRun(tmp_path / "run")


@pytest.fixture
def schema(tmp_path: Path) -> str:
    path = tmp_path / "schema.json"
    path.write_text(
        json.dumps({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]})
    )
    return f"--schema={path}"


def make_dead_letter_topic(kafka: KafkaConnection, topic: str, **config: str) -> None:
    settings = {name.replace("_", "."): value for name, value in config.items()}
    create_topics(kafka, [TopicSpec(f"{topic}.dlq", 1, settings)])


@pytest.fixture(scope="module")
def guarded(
    java: Path, kafka_jars: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[KafkaConnection]:
    """A broker with access control; what no rule is about is allowed."""
    directory = tmp_path_factory.mktemp("guarded")
    settings = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "true",
    }
    with EmbeddedBroker(
        directory / "kafka",
        java=java,
        jars=kafka_jars,
        log_file=directory / "broker.log",
        settings=settings,
    ) as running_broker:
        yield running_broker.connection


@dataclass
class Guard:
    """A topic whose dead-letter topic nobody may write, until it is opened."""

    kafka: KafkaConnection
    topic: str = field(default_factory=lambda: f"test-{uuid.uuid4().hex[:12]}")

    def __post_init__(self) -> None:
        create_topics(
            self.kafka, [TopicSpec(self.topic, 1, {"message.timestamp.type": "LogAppendTime"})]
        )
        make_dead_letter_topic(self.kafka, self.topic)
        self._admin = AdminClient({**self.kafka.for_librdkafka()})
        self._rules = [
            AclBinding(
                ResourceType.TOPIC,
                f"{self.topic}.dlq",
                ResourcePatternType.LITERAL,
                "User:*",
                "*",
                operation,
                permission,
            )
            for operation, permission in (
                (AclOperation.ALL, AclPermissionType.ALLOW),
                (AclOperation.WRITE, AclPermissionType.DENY),
            )
        ]
        for future in self._admin.create_acls(self._rules).values():
            future.result()

    def open(self) -> None:
        """Allow everyone to write the dead-letter topic."""
        deny = self._rules[1]
        chosen = AclBindingFilter(
            deny.restype,
            deny.name,
            deny.resource_pattern_type,
            deny.principal,
            deny.host,
            deny.operation,
            deny.permission_type,
        )
        for future in self._admin.delete_acls([chosen]).values():
            future.result()


@pytest.fixture
def guard(guarded: KafkaConnection) -> Guard:
    return Guard(guarded)


def records_of(kafka: KafkaConnection, topic: str) -> list[Message]:
    """Every record of a topic."""
    consumer = Consumer({**kafka.for_librdkafka(), "group.id": "t", "enable.partition.eof": True})
    records: list[Message] = []
    for partition, (low, high) in watermarks(kafka, topic).items():
        consumer.assign([TopicPartition(topic, partition, low)])
        while low < high:
            record = consumer.poll(20)
            assert record is not None
            if record.error() is None:
                records.append(record)
                low = (record.offset() or 0) + 1
            else:
                break
    consumer.close()
    return records


def headers_of(record: Message) -> dict[str, bytes | None]:
    return dict(cast("list[tuple[str, bytes | None]]", record.headers()))


def by_offset(kafka: KafkaConnection, topic: str) -> dict[int, Message]:
    """The records of a dead-letter topic by the offset of the record that they are of."""
    return {
        int(headers_of(record)["__connect.errors.offset"] or b""): record
        for record in records_of(kafka, f"{topic}.dlq")
    }


def reconciled(run: PipelineRun, kafka: KafkaConnection, topic: str) -> Finished:
    return run.finish(
        "reconcile",
        f"--kafka_bootstrap_servers={kafka.bootstrap_servers}",
        f"--input_topics={topic}",
        f"--output_dir={run.output_dir}",
        f"--dead_letter_dir={run.dead_letter_dir}",
        "--dead_letter_topic",
        "--json",
    )


def assert_proven(run: PipelineRun, kafka: KafkaConnection, topic: str) -> dict[str, Any]:
    """`reconcile --dead_letter_topic` is clean; returns what it says of the topic."""
    finished = reconciled(run, kafka, topic)
    assert finished.code == 0, finished.output
    report = json.loads(finished.output[finished.output.index("{") :])
    assert report["missing"] == report["doubled"] == 0
    (compared,) = report["dead_letter_topics"]
    assert compared["missing"]["count"] == 0
    return cast("dict[str, Any]", compared)


def test_a_bounded_run_ends_when_the_topic_has_every_letter(
    run: PipelineRun, kafka: KafkaConnection, fresh_topic: FreshTopic, schema: str
) -> None:
    topic = fresh_topic(partitions=2)
    for partition in range(2):
        send(kafka, topic, [b"broken %d" % number for number in range(300)], partition, key=b"k")
    run.catch_up(kafka, topic, schema, "--window_by=append_time")
    assert assert_proven(run, kafka, topic)["in_topic"] == 600
    values = [record.value() for record in records_of(kafka, f"{topic}.dlq")]
    assert Counter(values) == {b"broken %d" % number: 2 for number in range(300)}


def test_a_topic_that_takes_nothing_is_told_and_stops_nothing(
    run: PipelineRun, kafka: KafkaConnection, fresh_topic: FreshTopic, schema: str
) -> None:
    topic = fresh_topic()
    make_dead_letter_topic(kafka, topic, max_message_bytes="200")
    send(kafka, topic, [b'{"n":1}', *[b"broken" * 50] * 50, b'{"n":2}'])
    finished = run.catch_up(kafka, topic, schema, "--window_by=append_time")
    assert "dlq_topic_refused 50" in finished.output.splitlines()[-1]
    assert "max.message.bytes=200" in finished.output
    logs = "".join(path.read_text() for path in (run.directory / "logs").glob("*.log"))
    for letter in run.letters():
        assert f"dlq_topic_refused: {letter['dlq_id']} ({topic}/0 offset " in logs
    assert run.placed().total() == 52
    assert assert_proven(run, kafka, topic)["refused"] == 50
    stats = run.finish("dlq", "stats", f"--dead_letter_dir={run.dead_letter_dir}", "--json")
    assert sum(json.loads(stats.output)["refused_by_topic"].values()) == 50


def test_records_that_the_topic_refuses_are_sent_in_a_form_that_it_takes(
    run: PipelineRun, kafka: KafkaConnection, fresh_topic: FreshTopic, schema: str
) -> None:
    topic = fresh_topic(**EVERY_STAMP)
    make_dead_letter_topic(
        kafka, topic, cleanup_policy="compact", max_message_bytes="100000",
        message_timestamp_after_max_ms="3600000", message_timestamp_before_max_ms="864000000",
    )  # fmt: skip
    now = round(time.time() * 1000)
    large = Random(7).randbytes(150_000)
    send(kafka, topic, [large], key=b"k", timestamp=now)
    send(kafka, topic, [b"no key"], timestamp=now)
    send(kafka, topic, [b"ahead"], key=b"k2", timestamp=now + MONTH_MS)
    send(kafka, topic, [b"before 1970"], key=b"k3", timestamp=-5)
    send(kafka, topic, [b"all well"], key=b"k4", timestamp=now, headers=[("a", None), ("b", b"")])
    send(kafka, topic, [b'{"n":1}'], timestamp=now)
    send(kafka, topic, [large], timestamp=now + MONTH_MS, headers=[("h", large[:100_000])])

    finished = run.catch_up(kafka, topic, schema, "--window_by=create_time", "--max_restarts=1")

    assert "restarts 0" in finished.output.splitlines()[-1]
    assert run.placed().total() == 7
    assert assert_proven(run, kafka, topic)["in_topic"] == 6
    sent = by_offset(kafka, topic)
    assert (sent[0].key(), sent[0].value()) == (b"k", None)
    assert headers_of(sent[0])["dlq.value.length"] == b"150000"
    assert len(headers_of(sent[0])["dlq.value.sha256"] or b"") == 64
    assert sent[1].key() == headers_of(sent[1])["dlq.id"]
    assert headers_of(sent[1])["dlq.key.replaced"] == b"null"
    assert sent[1].value() == b"no key"
    for offset, stamp in ((2, now + MONTH_MS), (3, -5)):
        assert abs(sent[offset].timestamp()[1] - now) < 600_000
        assert headers_of(sent[offset])["dlq.original.timestamp"] == b"%d" % stamp
    assert sent[4].timestamp()[1] == now
    assert cast("list[Any]", sent[4].headers())[:2] == [("a", None), ("b", b"")]
    last = headers_of(sent[6])
    assert last["dlq.headers.left_out"] == b"1"
    assert last["dlq.key.replaced"] == b"null"


def test_headers_of_the_record_stay_as_they_are(
    run: PipelineRun, kafka: KafkaConnection, fresh_topic: FreshTopic, schema: str
) -> None:
    topic = fresh_topic()
    headers: list[list[tuple[str, bytes | None]]] = [
        [("a", None)],
        [("a", b"1"), ("a", b"2"), ("a", None), ("A", b"3"), ("a", b"1")],
        [("dlq.attempt", b"4"), ("dlq.redrive.of", b"abc"), ("dlq.id", b"zz")],
        [("__connect.errors.topic", b"other"), ("", b"empty name"), ("bin", b"\xff\x00")],
        [(f"h{number}", b"v" * number) for number in range(100)],
        [],
    ]
    for number, own in enumerate(headers):
        send(kafka, topic, [b"broken %d" % number], headers=own)
    run.catch_up(kafka, topic, schema, "--window_by=append_time")
    assert_proven(run, kafka, topic)
    sent = by_offset(kafka, topic)
    for number, own in enumerate(headers):
        found = cast("list[tuple[str, bytes | None]]", sent[number].headers())
        assert found[: len(own)] == own
        assert found[len(own)][0] == "__connect.errors.topic"


def test_rows_land_while_the_topic_cannot_be_written(
    run: PipelineRun, guard: Guard, schema: str
) -> None:
    kafka, topic = guard.kafka, guard.topic
    send(kafka, topic, [b'{"n":1}', b"broken", b'{"n":2}'])
    flags = (schema, "--window_by=append_time", "--dead_letter_topic_timeout_seconds=3")
    finished = run.finish(*run.run_words(kafka, topic, "--until=caught_up", *flags))
    assert finished.code == 1
    assert "1 dead letters in 1 files are not in the topic" in finished.output.splitlines()[-1]
    assert "restarts 0" in finished.output
    assert "can't be written by this user" in finished.output
    assert finished.output.count("dead letters can't be sent to") == 1
    assert run.placed().total() == 3
    unproven = reconciled(run, kafka, topic)
    assert unproven.code == 1
    assert json.loads(unproven.output)["dead_letter_topics"][0]["missing"]["count"] == 1

    guard.open()
    finished = run.catch_up(kafka, topic, *flags)
    assert "sending 1 files of dead letters that earlier runs left" in finished.output
    assert assert_proven(run, kafka, topic)["in_topic"] == 1


def test_it_is_sent_in_the_same_run_once_the_topic_can_be_written(
    run: PipelineRun, guard: Guard, schema: str
) -> None:
    kafka, topic = guard.kafka, guard.topic
    with running(run, run.run_words(kafka, topic, schema, "--window_by=append_time")):
        send(kafka, topic, [b"broken"])
        wait_for(run.letters, "the letter in its file")
        send(kafka, topic, [b'{"n":1}'])
        wait_for(run.rows, "a row")
        assert records_of(kafka, f"{topic}.dlq") == []
        guard.open()
        wait_for(lambda: records_of(kafka, f"{topic}.dlq"), "the letter in the topic", 60)
    assert_proven(run, kafka, topic)


def test_what_was_killed_between_file_and_note_is_sent_by_the_next_start(
    run: PipelineRun, guard: Guard, schema: str
) -> None:
    kafka, topic = guard.kafka, guard.topic
    words = run.run_words(kafka, topic, schema, "--window_by=append_time")
    with running(run, words) as process:
        send(kafka, topic, [b"broken"] * 40)
        wait_for(lambda: len(run.letters()) == 40, "the letters in files")
        for pid in [process.pid, *run.processes()]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.wait(10)
        wait_for(lambda: not run.processes(), "the end of every process", 20)
    assert list(read_notes(run.dead_letter_dir)) == []
    guard.open()
    run.catch_up(kafka, topic, schema, "--window_by=append_time")
    assert assert_proven(run, kafka, topic)["in_topic"] == 40


HOSTILE: dict[str, dict[str, str]] = {
    "tiny": {"max_message_bytes": "1500"},
    # The cleaner leaves a log alone that is dirty by no more than this: all letters stay.
    "compacted": {
        "cleanup_policy": "compact",
        "max_message_bytes": "100000",
        "min_cleanable_dirty_ratio": "1.0",
    },
    "strict stamps": {
        "message_timestamp_before_max_ms": "1000",
        "message_timestamp_after_max_ms": "1000",
        "max_message_bytes": "30000",
    },
}


def hostile_records(seed: int, count: int) -> list[dict[str, Any]]:
    """Records of all sizes, keys, stamps and header shapes; none is valid."""
    random = Random(seed)
    now = round(time.time() * 1000)
    stamps = [now, now, 1, -1, -2, 1000, now + MONTH_MS, now - 400 * 86_400_000, 2**53 + 1]
    stamps += [253_402_300_800_000, 2**63 - 1, -62_135_596_800_001, -(2**63) + 1]
    keys = [None, b"", b"k", b"\xff\x00", b"y" * 3_000, random.randbytes(120_000)]
    names = ["", "a", "h" * 1_000, "\u043a\u043b\u044e\u0447", "dlq.id", "dlq.attempt", "e\x1b[31m"]

    def headers() -> list[tuple[str, bytes | None]]:
        contents = [None, b"", b"v", b"\xff\xfe", random.randbytes(random.choice((10, 20_000)))]
        return [
            (random.choice(names), random.choice(contents))
            for _ in range(random.choice((0, 0, 1, 3, 60)))
        ]

    return [
        {
            "value": random.choice(
                (None, b"", b"x", random.randbytes(random.choice((100, 5_000, 200_000))))
            ),
            "key": random.choice(keys),
            "timestamp": random.choice(stamps),
            "headers": headers(),
        }
        for _ in range(count)
    ]


def send_all(kafka: KafkaConnection, topic: str, records: Sequence[dict[str, Any]]) -> None:
    producer = Producer({**kafka.for_librdkafka(), "message.max.bytes": 10_000_000})
    errors: list[KafkaError | None] = []
    for record in records:
        producer.produce(topic, on_delivery=lambda error, _: errors.append(error), **record)
        producer.flush(30)
    assert errors == [None] * len(records)


@pytest.mark.parametrize("settings", HOSTILE.values(), ids=HOSTILE)
def test_no_letter_stops_the_job_whatever_it_is_and_whatever_the_topic_takes(
    run: PipelineRun,
    kafka: KafkaConnection,
    fresh_topic: FreshTopic,
    schema: str,
    settings: dict[str, str],
) -> None:
    topic = fresh_topic(max_message_bytes="5000000", **EVERY_STAMP)
    make_dead_letter_topic(kafka, topic, **settings)
    records = hostile_records(seed=len(settings) * 7, count=200)
    send_all(kafka, topic, records)
    finished = run.catch_up(kafka, topic, schema, "--window_by=create_time")
    assert "restarts 0" in finished.output.splitlines()[-1]
    assert len(run.letters()) == 200
    compared = assert_proven(run, kafka, topic)
    assert compared["in_topic"] == 200, finished.output
    own_form = 0
    for offset, record in by_offset(kafka, topic).items():
        sent = records[offset]
        found = cast("list[tuple[str, bytes | None]]", record.headers())
        own = sent["headers"]
        if (record.key(), record.value(), found[: len(own)]) == (sent["key"], sent["value"], own):
            own_form += 1
        assert headers_of(record)["dlq.original.timestamp"] == b"%d" % sent["timestamp"] or (
            "dlq.original.timestamp" not in headers_of(record) and settings == HOSTILE["tiny"]
        )
    assert own_form > 20
