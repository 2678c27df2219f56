"""A user's mistake, or a broken environment, is one clear line and leaves nothing running."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import Consumer
from integration.pipeline_runs import Finished, PipelineRun, wait_for

from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.runtime.processes import free_port


@pytest.fixture
def run(tmp_path: Path) -> PipelineRun:
    return PipelineRun(tmp_path / "run")


def assert_one_line(finished: Finished, code: int, *said: str) -> None:
    assert finished.code == code, finished.output
    last = finished.output.strip().splitlines()[-1]
    for words in said:
        assert words in last
    assert "Traceback" not in finished.output


def test_broker_unreachable(run: PipelineRun) -> None:
    kafka = KafkaConnection(f"127.0.0.1:{free_port()}")
    finished = run.finish(*run.run_words(kafka, "orders"))
    assert_one_line(finished, 1, "--kafka_bootstrap_servers", kafka.bootstrap_servers)
    assert run.processes() == {}


def test_topic_missing(run: PipelineRun, kafka: KafkaConnection) -> None:
    finished = run.finish(*run.run_words(kafka, "no-such-topic"))
    assert_one_line(finished, 1, "--input_topics=no-such-topic", "create it")


@pytest.mark.parametrize("name", ["orders.*", "^orders", "orders eu", ".."])
def test_a_pattern_is_no_topic(run: PipelineRun, kafka: KafkaConnection, name: str) -> None:
    finished = run.finish(*run.run_words(kafka, name))
    assert_one_line(finished, 2, f"--input_topics={name}: ", "name each topic")


def test_a_group_with_another_member(
    run: PipelineRun, kafka: KafkaConnection, fresh_topic: Callable[..., str]
) -> None:
    topic = fresh_topic()
    member = Consumer({**kafka.for_librdkafka(), "group.id": f"group-{topic}"})
    member.subscribe([topic])
    try:
        wait_for(lambda: member.poll(0.1) is None and member.assignment(), "its assignment", 30)
        words = run.run_words(kafka, topic, f"--consumer_group=group-{topic}")
        finished = run.finish(*words)
    finally:
        member.close()
    assert_one_line(finished, 1, f"--consumer_group=group-{topic}: another consumer is a member")


def test_topic_with_the_other_timestamps(
    run: PipelineRun, kafka: KafkaConnection, fresh_topic: Callable[..., str]
) -> None:
    topic = fresh_topic(message_timestamp_type="CreateTime")
    finished = run.finish(*run.run_words(kafka, topic, "--window_by=append_time"))
    assert_one_line(finished, 1, topic, "LogAppendTime", "--window_by=event_time")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON"),
        ('{"type": "objekt"}', "not a valid JSON Schema"),
        ('{"type": "object", "properties": {"a": {"$ref": "other.json"}}}', "other.json"),
        ('{"type": "object", "properties": {"a": {"type": "string"}}}', "--event_time_field"),
        ('{"type": "object", "properties": {"kafka_offset": {}}}', "kafka_offset"),
    ],
)
def test_schema_broken(
    run: PipelineRun,
    kafka: KafkaConnection,
    fresh_topic: Callable[..., str],
    tmp_path: Path,
    text: str,
    said: str,
) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text(text)
    finished = run.finish(*run.run_words(kafka, fresh_topic(), f"--schema={schema}"))
    assert_one_line(finished, 2, str(schema), said)


def test_annotation_that_does_not_fit(
    run: PipelineRun, kafka: KafkaConnection, fresh_topic: Callable[..., str], tmp_path: Path
) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text(
        '{"type": "object", "properties": {"n": {"type": "integer", "x-normalize": ["trim"]}}}'
    )
    finished = run.finish(
        *run.run_words(kafka, fresh_topic(), f"--schema={schema}", "--window_by=append_time")
    )
    assert_one_line(finished, 2, str(schema), "n: the annotation does not fit")
    assert run.processes() == {}


def test_output_directory_that_can_not_be_written(
    run: PipelineRun, kafka: KafkaConnection, fresh_topic: Callable[..., str]
) -> None:
    run.directory.mkdir()
    run.output_dir.write_text("a file where the directory should be")
    finished = run.finish(*run.run_words(kafka, fresh_topic()))
    assert_one_line(finished, 1, f"--output_dir={run.output_dir}")


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--window_seconds=0", "--window_seconds=0"),
        ("--num_shards=-1", "--num_shards=-1"),
        ("--window_second=3", "--window_second=3"),
        ("--max_dead_ratio=7", "--max_dead_ratio=7"),
        ("--event_time_field=nope", "nope"),
    ],
)
def test_flag_out_of_range(
    run: PipelineRun,
    kafka: KafkaConnection,
    fresh_topic: Callable[..., str],
    flag: str,
    said: str,
) -> None:
    finished = run.finish(*run.run_words(kafka, fresh_topic(), flag))
    assert_one_line(finished, 2, said)


def test_missing_flags_are_named(run: PipelineRun) -> None:
    assert_one_line(run.finish("run"), 2, "--input_topics")
