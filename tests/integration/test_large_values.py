"""Values of many megabytes that compress well: one fetch, which counts compressed bytes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import Producer
from integration.pipeline_runs import PipelineRun

from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.tools.reconcile.run import reconcile
from bench.measure import run_measured

pytestmark = pytest.mark.field

GIBIBYTE = 1 << 30
SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$id": "urn:test:large:1",
    "type": "object",
    "x-event-time": "at",
    "properties": {
        "at": {"type": "string", "format": "date-time"},
        "pad": {"type": "string"},
    },
    "required": ["at", "pad"],
}


@pytest.fixture
def run(tmp_path: Path) -> PipelineRun:
    return PipelineRun(tmp_path / "run")


def send_large(kafka: KafkaConnection, topic: str, size: int, count: int) -> None:
    """Sends `count` values of about `size` bytes to each of two partitions."""
    producer = Producer(
        {
            **kafka.for_librdkafka(),
            "message.max.bytes": 16_000_000,
            "compression.codec": "zstd",
            "linger.ms": 5,
        }
    )
    value = json.dumps({"at": "2026-11-26T10:00:00Z", "pad": "p" * size}).encode()
    for _ in range(count):
        for partition in (0, 1):
            producer.produce(topic, value=value, partition=partition)
            producer.poll(0)
    assert producer.flush(60) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "count"), [(7_900_000, 60), (9_000_000, 40)], ids=["rows", "dead letters"]
)
def test_they_land_in_three_gigabytes(
    run: PipelineRun,
    kafka: KafkaConnection,
    fresh_topic: Callable[..., str],
    tmp_path: Path,
    size: int,
    count: int,
) -> None:
    topic = fresh_topic(partitions=2, max_message_bytes="16000000")
    send_large(kafka, topic, size, count)
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps(SCHEMA))
    words = run.run_words(
        kafka,
        topic,
        f"--schema={schema}",
        "--max_event_age_seconds=0",
        "--max_restarts=0",
        "--until=caught_up",
    )
    run.directory.mkdir()
    usage = run_measured(
        "run",
        run.command(*words),
        tmp_path / "output.log",
        env=dict(os.environ),
        cwd=run.directory,
        timeout_seconds=240,
    )
    assert usage.exit_code == 0, (tmp_path / "output.log").read_text()
    report = reconcile(kafka, [topic], run.output_dir, run.dead_letter_dir)
    assert report.is_clean
    assert usage.peak_rss_bytes < 3 * GIBIBYTE


def test_small_and_large_records_come_in_order_and_once(
    run: PipelineRun, kafka: KafkaConnection, fresh_topic: Callable[..., str], tmp_path: Path
) -> None:
    """A poll ends in the midst of a compressed batch, and goes on with the record it stopped at."""
    topic = fresh_topic(partitions=2, max_message_bytes="16000000")
    for size in (10, 3_000_000, 10, 5_000_000, 100_000):
        send_large(kafka, topic, size, 5)
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps(SCHEMA))
    run.catch_up(kafka, topic, f"--schema={schema}", "--max_event_age_seconds=0")
    assert run.placed().total() == len(run.placed()) == 50
    assert reconcile(kafka, [topic], run.output_dir, run.dead_letter_dir).is_clean
    sizes = {(row["kafka_partition"], row["kafka_offset"]): len(row["pad"]) for row in run.rows()}
    expected = [size for size in (10, 3_000_000, 10, 5_000_000, 100_000) for _ in range(5)]
    for partition in (0, 1):
        assert [sizes[partition, offset] for offset in range(25)] == expected
