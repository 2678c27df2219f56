"""Records as they are met in the field, through a real broker: what lands is what was sent."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from confluent_kafka import Producer
from integration.pipeline_runs import PipelineRun, running, send, wait_for

from beam_pipeline.kafka.admin import watermarks
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.tools.reconcile.run import reconcile

pytestmark = pytest.mark.field

KEYWORDS = Path(__file__).parents[1] / "data" / "field" / "keywords.json"
READ_COMMITTED = "read_committed"
AT = "2026-11-26T10:00:00Z"
NUMBERED = {
    "type": "object",
    "properties": {"at": {"type": "string", "format": "date-time"}, "n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}
BY_EVENT_TIME = ("--event_time_field=at", "--max_event_age_seconds=0")
BY_APPEND_TIME = ("--window_by=append_time",)


@pytest.fixture
def run(tmp_path: Path) -> PipelineRun:
    return PipelineRun(tmp_path / "run")


@pytest.fixture
def schema_file(tmp_path: Path) -> Callable[[Any], str]:
    """Writes a schema, and returns the flag that names it."""

    def write(schema: Any) -> str:
        path = tmp_path / "event.schema.json"
        path.write_text(json.dumps(schema))
        return f"--schema={path}"

    return write


def numbered(n: object) -> bytes:
    return json.dumps({"n": n, "at": AT}).encode()


def assert_clean(run: PipelineRun, kafka: KafkaConnection, *topics: str, **how: Any) -> None:
    """Each record in one place, by `reconcile`, and by a count of rows and lines alone."""
    report = reconcile(kafka, topics, run.output_dir, run.dead_letter_dir, **how)
    assert report.is_clean
    assert set(run.placed().values()) <= {1}
    assert run.placed().total() == report.reconciliation.records


def rows_by_offset(run: PipelineRun) -> dict[tuple[int, int], dict[str, Any]]:
    """The rows by partition and offset."""
    return {(row["kafka_partition"], row["kafka_offset"]): row for row in run.rows()}


def test_keywords_patterns_and_formats(
    run: PipelineRun,
    kafka: KafkaConnection,
    fresh_topic: Callable[..., str],
    schema_file: Callable[[Any], str],
) -> None:
    field = json.loads(KEYWORDS.read_text())
    topic = fresh_topic()
    values = [
        json.dumps({name: value}, ensure_ascii=False).encode() for name, value, _ in field["cases"]
    ]
    send(kafka, topic, values)
    run.catch_up(kafka, topic, schema_file(field["schema"]), *BY_APPEND_TIME)
    assert_clean(run, kafka, topic)
    landed = {offset for _, offset in rows_by_offset(run)}
    wrong = [
        (name, value)
        for offset, (name, value, is_valid) in enumerate(field["cases"])
        if (offset in landed) != is_valid
    ]
    assert wrong == []
    assert {letter["error"]["code"] for letter in run.letters()} == {"SCHEMA_VIOLATION"}


LETTERS = {"type": "string", "pattern": "^\\p{L}[\\p{L}\\p{M}' -]*$"}
BUNDLED = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$id": "https://example.org/order",
    "type": "object",
    "properties": {
        "price": {"$ref": "money"},
        "total": {"$ref": "https://example.org/money"},
        "n": {"type": "integer"},
    },
    "$defs": {
        "money": {
            "$id": "https://example.org/money",
            "type": "object",
            "required": ["amount"],
            "properties": {
                "amount": {"$ref": "#/$defs/amount"},
                "currency": {"type": "string"},
            },
            "additionalProperties": False,
            "$defs": {
                "amount": {"type": "string", "x-decimal": {"precision": 18, "scale": 2}},
            },
        }
    },
}
TAGGED = {
    "type": "object",
    "properties": {
        "tags": {
            "type": "object",
            "patternProperties": {"^\\p{Ll}+$": {"type": "integer"}},
            "additionalProperties": False,
        }
    },
}


@pytest.mark.parametrize(
    ("schema", "events", "valid"),
    [
        (
            {"type": "object", "properties": {"name": LETTERS}},
            [{"name": "Müller-Lüdenscheidt"}, {"name": "山田"}, {"name": "R2D2"}],
            [True, True, False],
        ),
        (TAGGED, [{"tags": {"größe": 1}}, {"tags": {"Größe": 1}}], [True, False]),
        (
            BUNDLED,
            [
                {"n": 1, "price": {"amount": "1.50", "currency": "EUR"}},
                {"n": 2, "total": {"amount": "2.50"}},
                {"n": 3, "total": {"amount": 2.5}},
            ],
            [True, True, False],
        ),
    ],
    ids=["letters of all alphabets", "names by a pattern", "a bundle of schemas"],
)
def test_schemas_that_python_alone_would_refuse(
    run: PipelineRun,
    kafka: KafkaConnection,
    fresh_topic: Callable[..., str],
    schema_file: Callable[[Any], str],
    schema: Any,
    events: list[Any],
    valid: list[bool],
) -> None:
    topic = fresh_topic()
    send(kafka, topic, [json.dumps(event).encode() for event in events])
    run.catch_up(kafka, topic, schema_file(schema), *BY_APPEND_TIME)
    assert_clean(run, kafka, topic)
    landed = {offset for _, offset in rows_by_offset(run)}
    assert [offset in landed for offset in range(len(events))] == valid


def test_numbers_keep_their_digits(
    run: PipelineRun,
    kafka: KafkaConnection,
    fresh_topic: Callable[..., str],
    schema_file: Callable[[Any], str],
) -> None:
    schema = {
        "type": "object",
        "properties": {
            "amount": {"type": "number", "x-decimal": {"precision": 18, "scale": 2}},
            "big": {"type": "number", "x-decimal": {"precision": 38, "scale": 6}},
            "seq": {"type": "integer"},
            "tags": {"type": "array", "items": {"type": "integer"}},
            "u64": {"type": "integer", "minimum": 0, "maximum": 18446744073709551615},
            "free": True,
        },
    }
    texts = [
        '{"amount":1234567890123456.78}',
        '{"amount":9007199254740993}',
        '{"big":12345678901234567890.123456}',
        '{"seq":9007199254740993.0}',
        '{"seq":9.007199254740993e15}',
        '{"tags":[9007199254740993.0,1]}',
        '{"u64":18446744073709551615.0}',
        '{"free":0.1234567890123456789}',
        '{"rest":1234567890123456.78}',
    ]
    topic = fresh_topic()
    send(kafka, topic, [text.encode() for text in texts])
    run.catch_up(kafka, topic, schema_file(schema), *BY_APPEND_TIME)
    assert_clean(run, kafka, topic)
    rows = rows_by_offset(run)
    assert [rows[0, offset]["amount"] for offset in (0, 1)] == [
        Decimal("1234567890123456.78"),
        Decimal(9007199254740993),
    ]
    assert rows[0, 2]["big"] == Decimal("12345678901234567890.123456")
    assert [rows[0, offset]["seq"] for offset in (3, 4)] == [9007199254740993] * 2
    assert rows[0, 5]["tags"] == [9007199254740993, 1]
    assert rows[0, 6]["u64"] == 18446744073709551615
    assert rows[0, 7]["free"] == "0.1234567890123456789"
    assert json.loads(rows[0, 8]["extra"], parse_float=str) == {"rest": "1234567890123456.78"}


def transact(kafka: KafkaConnection, topic: str, *, leave_open: bool) -> Producer:
    """Sends committed and aborted transactions, and one that stays open; returns its producer."""
    settings = {**kafka.for_librdkafka(), "transactional.id": f"{topic}-a"}
    producer = Producer(settings)
    producer.init_transactions(30)
    for n in range(10):
        producer.begin_transaction()
        producer.produce(topic, numbered(n), partition=0)
        producer.produce(topic, numbered(100 + n), partition=1)
        producer.flush()
        (producer.commit_transaction if n % 2 else producer.abort_transaction)(30)
    send(kafka, topic, [numbered(51)], partition=2)
    producer.begin_transaction()
    producer.produce(topic, numbered(60), partition=1)
    producer.flush()
    if not leave_open:
        producer.abort_transaction(30)
    return producer


@pytest.mark.parametrize("leave_open", [False, True])
def test_transactions_for_a_reader_of_committed_records(
    run: PipelineRun,
    kafka: KafkaConnection,
    fresh_topic: Callable[..., str],
    schema_file: Callable[[Any], str],
    tmp_path: Path,
    leave_open: bool,
) -> None:
    topic = fresh_topic(partitions=3)
    producer = transact(kafka, topic, leave_open=leave_open)
    config = tmp_path / "client.properties"
    config.write_text(f"isolation.level={READ_COMMITTED}\n")
    flags = (schema_file(NUMBERED), f"--kafka_config={config}", *BY_EVENT_TIME)
    committed = {1, 3, 5, 7, 9, 101, 103, 105, 107, 109, 51}
    if leave_open:
        # The open transaction is not caught up with before it ends.
        words = run.run_words(kafka, topic, "--until=caught_up", *flags)
        with running(run, words):
            wait_for(lambda: {row["n"] for row in run.rows()} == committed, "what is committed")
        producer.abort_transaction(30)
    run.catch_up(kafka, topic, *flags)
    assert {row["n"] for row in run.rows()} == committed
    assert_clean(run, kafka, topic, isolation_level=READ_COMMITTED)


def test_records_around_the_largest_value(
    run: PipelineRun,
    kafka: KafkaConnection,
    fresh_topic: Callable[..., str],
    schema_file: Callable[[Any], str],
) -> None:
    """The topic takes 10 MB, the broker's default stays 1 MB: the dead-letter topic takes them."""
    topic = fresh_topic(max_message_bytes="10485760")
    schema = {**NUMBERED, "properties": {**NUMBERED["properties"], "pad": {"type": "string"}}}  # type: ignore[dict-item]
    sizes = (10, 1_048_000, 5 << 20, (8 << 20) - 200, (8 << 20) + 10, 9 << 20)
    for n, size in enumerate(sizes):
        for good in (True, False):
            event = {"at": AT, "n": n if good else "x", "pad": ""}
            event["pad"] = "p" * max(0, size - len(json.dumps(event)))
            send(kafka, topic, [json.dumps(event).encode()])
    run.catch_up(kafka, topic, schema_file(schema), *BY_EVENT_TIME)
    assert_clean(run, kafka, topic)
    assert sorted(row["n"] for row in run.rows()) == [0, 1, 2, 3]
    codes = Counter(letter["error"]["code"] for letter in run.letters())
    assert codes == {"SCHEMA_VIOLATION": 4, "TOO_LARGE": 4}
    assert sum(high - low for low, high in watermarks(kafka, f"{topic}.dlq").values()) == 8


def test_many_partitions_of_which_one_has_nearly_all(
    run: PipelineRun,
    kafka: KafkaConnection,
    fresh_topic: Callable[..., str],
    schema_file: Callable[[Any], str],
) -> None:
    topic = fresh_topic(partitions=80)
    send(kafka, topic, [numbered(n) for n in range(4_000)], partition=7)
    for partition in range(40, 70):
        send(kafka, topic, [numbered(partition)], partition=partition)
    send(kafka, topic, [b"broken"], partition=79)
    run.catch_up(kafka, topic, schema_file(NUMBERED), *BY_EVENT_TIME, "--num_shards=200")
    assert_clean(run, kafka, topic)
    assert (len(run.rows()), len(run.letters())) == (4_030, 1)


def test_a_schema_120_levels_deep(
    run: PipelineRun,
    kafka: KafkaConnection,
    fresh_topic: Callable[..., str],
    schema_file: Callable[[Any], str],
) -> None:
    schema: dict[str, Any] = {"type": "object", "properties": {"v": {"type": "integer"}}}
    event: dict[str, Any] = {"v": 0}
    for level in range(1, 120):
        schema = {"type": "object", "properties": {"v": {"type": "integer"}, "d": schema}}
        event = {"v": level, "d": event}
    topic = fresh_topic()
    send(kafka, topic, [json.dumps(event).encode(), b'{"v": "x"}'])
    run.catch_up(kafka, topic, schema_file(schema), *BY_APPEND_TIME)
    assert_clean(run, kafka, topic)
    (row,) = run.rows()
    levels = 0
    while isinstance(row, dict) and row.get("d") is not None:
        levels, row = levels + 1, row["d"]
        if isinstance(row, str):
            row = json.loads(row)
    assert levels == 119


def test_windows_close_while_most_partitions_are_idle(
    run: PipelineRun,
    kafka: KafkaConnection,
    fresh_topic: Callable[..., str],
    schema_file: Callable[[Any], str],
) -> None:
    topic = fresh_topic(partitions=4)
    with running(run, run.run_words(kafka, topic, schema_file(NUMBERED), *BY_APPEND_TIME)):

        def has_two_files() -> bool:
            send(kafka, topic, [numbered(1)], partition=1)
            return len(list(run.output_dir.glob("dt=*/hour=*/*.parquet"))) >= 2

        wait_for(has_two_files, "two windows that have closed")
    run.catch_up(kafka, topic, schema_file(NUMBERED), *BY_APPEND_TIME)
    assert_clean(run, kafka, topic)


def test_files_of_one_run_have_one_schema(
    run: PipelineRun,
    kafka: KafkaConnection,
    fresh_topic: Callable[..., str],
    schema_file: Callable[[Any], str],
) -> None:
    """Columns that are null in a whole file keep their type."""
    schema = {
        "type": "object",
        "properties": {
            "at": {"type": "string", "format": "date-time"},
            "tags": {"type": "array", "items": {"type": "integer"}},
            "kind": {"enum": ["a", "b"]},
        },
    }
    topic = fresh_topic()
    send(
        kafka,
        topic,
        [
            b'{"at": "2026-11-26T10:00:00Z"}',
            b'{"at": "2026-11-26T10:00:10Z", "tags": [1], "kind": "a"}',
            b'{"at": "2026-11-26T10:00:20Z", "tags": [], "kind": "b", "more": {}}',
        ],
    )
    run.catch_up(kafka, topic, schema_file(schema), *BY_EVENT_TIME)
    assert_clean(run, kafka, topic)
    paths = list(run.output_dir.glob("dt=*/hour=*/*.parquet"))
    assert len(paths) == 3
    assert len({str(pq.read_schema(path).remove_metadata()) for path in paths}) == 1
