"""Names as they are met in the field: topics, fields, directories, through a real broker."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from integration.pipeline_runs import Finished, PipelineRun, send

from beam_pipeline.files.names import OutputFile
from beam_pipeline.kafka.admin import TopicSpec, create_topics
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.tools.reconcile.run import reconcile

pytestmark = pytest.mark.field

SCHEMA = {
    "type": "object",
    "properties": {"at": {"type": "string", "format": "date-time"}, "n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}
EVENTS: list[bytes | None] = [
    b'{"n":1,"at":"2026-11-26T10:00:00Z"}',
    b'{"n":2,"at":"2026-11-26T10:00:01Z"}',
    b'{"n":"bad"}',
]
BY_EVENT_TIME = ("--event_time_field=at", "--max_event_age_seconds=0")


@pytest.fixture
def schema(tmp_path: Path) -> str:
    path = tmp_path / "event.schema.json"
    path.write_text(json.dumps(SCHEMA))
    return f"--schema={path}"


def assert_refused(finished: Finished, code: int, *words: str) -> None:
    assert finished.code == code, finished.output
    assert "Traceback" not in finished.output
    last = finished.output.strip().splitlines()[-1]
    for word in words:
        assert word in last


def test_topics_with_odd_names(
    tmp_path: Path, kafka: KafkaConnection, fresh_topic: Callable[..., str], schema: str
) -> None:
    mark = fresh_topic()
    topics = [
        f"a.b-c_D{mark}",
        f"__audit{mark}",
        f".hidden{mark}",
        f"-dash{mark}",
        f"x-20261124T141620Z-20261124T141630Z-s0-e1x-p0.parquet{mark}",
        f"{'M' * (160 - len(mark))}{mark}",
    ]
    create_topics(
        kafka, [TopicSpec(name, 1, {"message.timestamp.type": "LogAppendTime"}) for name in topics]
    )
    for topic in topics:
        send(kafka, topic, EVENTS)
    run = PipelineRun(tmp_path / "run")
    run.catch_up(kafka, ",".join(topics), schema, *BY_EVENT_TIME)
    assert reconcile(kafka, topics, run.output_dir, run.dead_letter_dir).is_clean
    for topic in topics:
        rows = [row["n"] for row in run.rows() if row["kafka_topic"] == topic]
        assert sorted(rows) == [1, 2]
    names = {OutputFile.parse(path) for path in run.output_dir.glob("dt=*/hour=*/*")}
    assert {name.topic for name in names if name} == set(topics)


@pytest.mark.parametrize(
    "name",
    [
        "landed [v1] q?*x",
        "a b/ü 日本 😀",
        "100%41 %s {x} $HOME",
        'it\'s "q" back\\slash',
        "dt=2020-01-01/hour=05/in",
        "-dash/~tilde/x:y;z&w#f",
    ],
)
def test_directories_with_odd_names(
    tmp_path: Path,
    kafka: KafkaConnection,
    fresh_topic: Callable[..., str],
    schema: str,
    name: str,
) -> None:
    topic = fresh_topic(partitions=2)
    send(kafka, topic, EVENTS)
    run = PipelineRun(tmp_path / name)
    run.catch_up(kafka, topic, schema, *BY_EVENT_TIME)
    broker = f"--kafka_bootstrap_servers={kafka.bootstrap_servers}"
    places = [f"--output_dir={run.output_dir}", f"--dead_letter_dir={run.dead_letter_dir}"]
    for words in (
        ["inspect", str(run.output_dir)],
        ["report", *places, f"--report_file={run.directory}/report.html"],
        ["compact", places[0]],
        ["dlq", "stats", places[1]],
        ["reconcile", broker, f"--input_topics={topic}", *places],
    ):
        finished = run.finish(*words)
        assert finished.code == 0, (words, finished.output)
    send(kafka, topic, EVENTS, partition=1)
    run.catch_up(kafka, topic, schema, *BY_EVENT_TIME)
    assert reconcile(kafka, [topic], run.output_dir, run.dead_letter_dir).is_clean
    assert len(run.rows()) == 4


def test_a_directory_behind_a_link(
    tmp_path: Path, kafka: KafkaConnection, fresh_topic: Callable[..., str], schema: str
) -> None:
    topic = fresh_topic()
    send(kafka, topic, EVENTS)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    run = PipelineRun(tmp_path / "link")
    run.catch_up(kafka, topic, schema, *BY_EVENT_TIME)
    again = PipelineRun(tmp_path / "real").catch_up(kafka, topic, schema, *BY_EVENT_TIME)
    assert "read 0," in again.output
    assert reconcile(kafka, [topic], run.output_dir, run.dead_letter_dir).is_clean


def landed(
    tmp_path: Path, kafka: KafkaConnection, topic: str, document: Any, *flags: str
) -> tuple[PipelineRun, Finished]:
    path = tmp_path / "own.schema.json"
    path.write_text(json.dumps(document))
    run = PipelineRun(tmp_path / "run")
    words = run.run_words(kafka, topic, "--until=caught_up", f"--schema={path}", *flags)
    return run, run.finish(*words)


@pytest.mark.parametrize("field", ["event.created", "@timestamp"])
def test_a_dotted_field_is_the_event_time(
    tmp_path: Path, kafka: KafkaConnection, fresh_topic: Callable[..., str], field: str
) -> None:
    """As in the Elastic Common Schema and OpenTelemetry."""
    time = {"type": "string", "format": "date-time"}
    document = {
        "type": "object",
        "properties": {"event.created": time, "@timestamp": time, "host.name": {"type": "string"}},
    }
    topic = fresh_topic()
    event = {"event.created": "2026-11-26T10:00:00Z", "@timestamp": "2026-11-26T11:00:00Z"}
    send(kafka, topic, [json.dumps(event).encode()])
    flags = (f"--event_time_field={field}", "--max_event_age_seconds=0")
    run, finished = landed(tmp_path, kafka, topic, document, *flags)
    assert finished.code == 0, finished.output
    (path,) = run.output_dir.glob("dt=*/hour=*/*.parquet")
    assert path.parent.name == ("hour=10" if field == "event.created" else "hour=11")


def test_fields_named_like_the_columns_that_are_added(
    tmp_path: Path, kafka: KafkaConnection, fresh_topic: Callable[..., str]
) -> None:
    """As Kafka Connect's InsertField makes them."""
    topic = fresh_topic()
    event = {"id": 1, "kafka_offset": 77, "hour": 5, "dt": "x", "_key": "k", "_value": {"a": 1}}
    send(kafka, topic, [json.dumps(event).encode()])
    named = {"type": "object", "properties": {"id": {}, "kafka_offset": {"type": "integer"}}}
    _, finished = landed(tmp_path, kafka, topic, named, "--window_by=append_time")
    assert_refused(finished, 2, "'kafka_offset' is a column that the pipeline adds", "extra")

    hour = {"type": "object", "properties": {"id": {}, "hour": {"type": "integer"}}}
    _, finished = landed(tmp_path, kafka, topic, hour, "--window_by=append_time")
    assert_refused(finished, 2, "column 'hour' has the name of a partition key", "--partition_keys")
    run, finished = landed(
        tmp_path,
        kafka,
        topic,
        hour,
        "--window_by=append_time",
        "--partition_keys=file_dt,file_hour",
    )
    assert finished.code == 0, finished.output
    assert reconcile(kafka, [topic], run.output_dir, run.dead_letter_dir).is_clean
    assert [*run.output_dir.glob("file_dt=*/file_hour=*/*.parquet")]


def test_what_is_inferred_from_such_fields_lands(
    tmp_path: Path, kafka: KafkaConnection, fresh_topic: Callable[..., str]
) -> None:
    topic = fresh_topic()
    event = {"id": 1, "kafka_offset": 77, "Hour": 5, "dt": "x", "ID": "same but for case"}
    send(kafka, topic, [json.dumps(event).encode()])
    samples = tmp_path / "samples.jsonl"
    samples.write_text(json.dumps(event) + "\n")
    inferred = PipelineRun(tmp_path / "infer").finish("schema", "infer", str(samples))
    assert inferred.code == 0, inferred.output
    document = json.loads(
        inferred.output[inferred.output.index("{") : inferred.output.rindex("}") + 1]
    )
    run, finished = landed(tmp_path, kafka, topic, document, "--window_by=append_time")
    assert finished.code == 0, finished.output
    (row,) = run.rows()
    assert json.loads(row["extra"])["kafka_offset"] == 77


@pytest.mark.parametrize(
    "document",
    [
        {"type": "object", "properties": {"id": {}, "ID": {}}},
        {
            "type": "object",
            "properties": {"w": {"type": "object", "properties": {"a": {}, "A": {}}}},
        },
    ],
)
def test_names_that_differ_in_case_alone(
    tmp_path: Path, kafka: KafkaConnection, fresh_topic: Callable[..., str], document: Any
) -> None:
    """DuckDB, Spark and Hive would mix the columns."""
    topic = fresh_topic()
    send(kafka, topic, [b'{"id": 1, "ID": 2}'])
    _, finished = landed(tmp_path, kafka, topic, document, "--window_by=append_time")
    assert_refused(finished, 2, "--schema=", "case")


@pytest.mark.parametrize("suffix", ["", " x", "/x", "..", "y" * 245])
def test_suffixes_that_make_no_dead_letter_topic(
    tmp_path: Path, kafka: KafkaConnection, fresh_topic: Callable[..., str], suffix: str
) -> None:
    topic = fresh_topic()
    flags = (f"--dead_letter_topic_suffix={suffix}", "--window_by=append_time")
    _, finished = landed(tmp_path, kafka, topic, SCHEMA, *flags)
    if suffix == "..":  # test-1234.. is a legal name
        assert finished.code == 0, finished.output
    else:
        assert_refused(finished, 2, "--dead_letter_topic_suffix=")
