"""Windows by event time of topics that producers stamp (CreateTime): what closes them, and when."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)
from integration.pipeline_runs import PipelineRun, running, wait_for

from beam_pipeline.files.names import OutputFile
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.producer.events import EventFactory
from beam_pipeline.tools.reconcile.run import reconcile

pytestmark = pytest.mark.field

YEAR_MS = 365 * 86_400_000
ANY_STAMP = {
    "message_timestamp_type": "CreateTime",
    "message_timestamp_after_max_ms": str(2 * YEAR_MS),
    "retention_ms": "-1",
}
NO_LIMITS = ("--max_event_age_seconds=0", "--max_event_skew_seconds=0")


@pytest.fixture
def run(tmp_path: Path) -> PipelineRun:
    return PipelineRun(tmp_path / "run")


class Stamper:
    """Sends events with timestamps of its own."""

    def __init__(self, kafka: KafkaConnection, topic: str) -> None:
        self._topic = topic
        self._producer = Producer(kafka.for_librdkafka())
        self._events = EventFactory(5)

    def send(self, partition: int, event_ms: int, stamp_ms: int | None = None) -> None:
        value = json.dumps(self._events.make(event_ms)).encode()
        stamp = event_ms if stamp_ms is None else stamp_ms
        self._producer.produce(self._topic, value=value, partition=partition, timestamp=stamp)
        self._producer.poll(0)

    def flush(self) -> None:
        assert self._producer.flush(30) == 0


def panes(run: PipelineRun) -> Counter[tuple[str, int]]:
    """How many files each window and shard has."""
    files = [OutputFile.parse(path) for path in run.output_dir.glob("dt=*/hour=*/*.parquet")]
    return Counter((str(file.window_start), file.shard) for file in files if file)


def assert_clean(run: PipelineRun, kafka: KafkaConnection, topic: str, count: int) -> None:
    assert run.placed().total() == len(run.placed()) == count
    assert reconcile(kafka, [topic], run.output_dir, run.dead_letter_dir).is_clean


def test_records_out_of_order_within_the_bound_are_on_time(
    run: PipelineRun, kafka: KafkaConnection, fresh_topic: Callable[..., str]
) -> None:
    """Live: up to six seconds out of order; one timestamp is a year ahead, a partition is empty."""
    topic = fresh_topic(partitions=3, **ANY_STAMP)
    stamper, random = Stamper(kafka, topic), Random(7)
    words = run.run_words(kafka, topic, *NO_LIMITS, "--max_out_of_order_seconds=12")
    with running(run, words):
        for step in range(100):
            now_ms = round(time.time() * 1000)
            for partition in (0, 1):
                stamper.send(partition, now_ms - random.randrange(6_000))
            if step == 30:
                stamper.send(0, now_ms, stamp_ms=now_ms + YEAR_MS)
            stamper.flush()
            time.sleep(0.15)
        wait_for(lambda: run.placed().total() == 201, "every record in a file", 60)
    assert_clean(run, kafka, topic, 201)
    assert set(panes(run).values()) == {1}, panes(run)


@pytest.mark.parametrize(
    "engine", ["prism", pytest.param("flink", marks=pytest.mark.slow, id="flink")]
)
def test_windows_close_though_partitions_are_idle(
    run: PipelineRun, kafka: KafkaConnection, fresh_topic: Callable[..., str], engine: str
) -> None:
    """Live: a partition never gets a record, one goes quiet, one is a year ahead throughout."""
    topic = fresh_topic(partitions=4, **ANY_STAMP)
    stamper = Stamper(kafka, topic)
    words = run.run_words(
        kafka, topic, *NO_LIMITS, "--max_out_of_order_seconds=2", f"--engine={engine}"
    )
    with running(run, words):
        for step in range(60):
            now_ms = round(time.time() * 1000)
            stamper.send(0, now_ms)
            stamper.send(2, now_ms, stamp_ms=now_ms + YEAR_MS)
            if step < 10:
                stamper.send(1, now_ms)
            stamper.flush()
            time.sleep(0.1)
        wait_for(lambda: run.placed().total() == 130, "every record in a file", 120)
    assert_clean(run, kafka, topic, 130)


def test_records_from_before_the_topic_was_altered_are_landed(
    run: PipelineRun, kafka: KafkaConnection, fresh_topic: Callable[..., str]
) -> None:
    """LogAppendTime holds for new records only; the old ones keep their producers' timestamps."""
    topic = fresh_topic(**ANY_STAMP)
    stamper = Stamper(kafka, topic)
    for _ in range(20):
        stamper.send(0, round(time.time() * 1000) - 60_000)
    stamper.flush()
    entry = ConfigEntry(
        "message.timestamp.type",
        "LogAppendTime",
        incremental_operation=AlterConfigOpType.SET,
    )
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    admin = AdminClient({**kafka.for_librdkafka()})
    for future in admin.incremental_alter_configs([resource]).values():
        future.result()
    for _ in range(20):
        stamper.send(0, round(time.time() * 1000))
    stamper.flush()
    run.catch_up(kafka, topic, *NO_LIMITS)
    assert_clean(run, kafka, topic, 40)
