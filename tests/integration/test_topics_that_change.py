"""Partitions are added and topics come and go while a pipeline runs, under load."""

from __future__ import annotations

import json
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewPartitions
from flink_clusters import require_flink
from integration.pipeline_runs import PipelineRun, running, send, wait_for

from beam_pipeline.kafka.admin import TopicSpec, create_topics, watermarks
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.producer.events import EventFactory
from beam_pipeline.producer.source import wall_clock_ms

APPEND_TIME = {"message.timestamp.type": "LogAppendTime"}


class Topics:
    """Topics of one prefix, with their load."""

    def __init__(self, kafka: KafkaConnection) -> None:
        self.kafka = kafka
        self.prefix = f"change-{uuid.uuid4().hex[:8]}"
        self.partitions: Counter[str] = Counter()
        self._admin = AdminClient({**kafka.for_librdkafka()})
        self._factory = EventFactory(1)

    def make(self, name: str, **config: str) -> str:
        topic = f"{self.prefix}.{name}"
        create_topics(self.kafka, [TopicSpec(topic, 1, {**APPEND_TIME, **config})])
        self.partitions[topic] = 1
        return topic

    def add_partition(self, topic: str) -> None:
        (grown,) = self._admin.create_partitions(
            [NewPartitions(topic, self.partitions[topic] + 1)]
        ).values()
        grown.result(30)
        self.partitions[topic] += 1

    def delete(self, topic: str) -> None:
        del self.partitions[topic]
        (deleted,) = self._admin.delete_topics([topic]).values()
        deleted.result(30)

    @contextmanager
    def load(self) -> Iterator[None]:
        """Some events a second to every partition, for the time of the block."""
        stop = threading.Event()

        def send_all() -> None:
            while not stop.wait(0.2):
                for topic, partitions in list(self.partitions.items()):
                    for partition in range(partitions):
                        event = self._factory.make(wall_clock_ms())
                        send(self.kafka, topic, [json.dumps(event).encode()] * 3, partition)

        thread = threading.Thread(target=send_all)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def test_a_run_reads_what_comes_and_goes_on_without_what_is_deleted(
    tmp_path: Path, kafka: KafkaConnection
) -> None:
    _change_topics(PipelineRun(tmp_path / "run"), Topics(kafka), [])


def test_it_does_so_on_flink(tmp_path: Path, kafka: KafkaConnection) -> None:
    require_flink()
    _change_topics(PipelineRun(tmp_path / "run"), Topics(kafka), ["--engine=flink"])


def _change_topics(run: PipelineRun, topics: Topics, engine: list[str]) -> None:
    kafka = topics.kafka
    first, doomed = topics.make("orders"), topics.make("doomed")
    words = [
        *("run", f"--kafka_bootstrap_servers={kafka.bootstrap_servers}"),
        f"--input_topic_pattern={topics.prefix}[.].*",
        *run.place_flags(),
        *("--window_seconds=5", "--discovery_interval=3", *engine),
    ]
    log = run.directory.with_name("run.out")

    def landed(topic: str, partition: int) -> bool:
        return any(place[:2] == (topic, partition) for place in run.placed())

    with log.open("w") as output, running(run, words, output=output) as process, topics.load():

        def wait_landed(topic: str, partition: int) -> None:
            def seen() -> bool:
                assert process.poll() is None, log.read_text()
                return landed(topic, partition)

            wait_for(seen, f"{topic}/{partition} in files\n{log.read_text()}", 120)

        wait_landed(first, 0)
        wait_landed(doomed, 0)
        topics.add_partition(first)
        second = topics.make("refunds")
        wait_landed(first, 1)
        wait_landed(second, 0)
        topics.delete(doomed)
        wait_for(lambda: f"{doomed} deleted" in log.read_text(), "a notice of the deletion", 120)
        topics.add_partition(second)
        topics.make("late")
        wait_landed(second, 1)
        wait_landed(f"{topics.prefix}.late", 0)
    told = log.read_text()
    assert "Traceback" not in told
    kept = sorted(topics.partitions)
    caught_up = run.catch_up(kafka, ",".join(kept))
    assert "restarts 0" in caught_up.output
    expected = Counter(
        (topic, partition, offset)
        for topic in kept
        for partition, (low, high) in watermarks(kafka, topic).items()
        for offset in range(low, high)
    )
    placed = run.placed()
    assert Counter({key: n for key, n in placed.items() if key[0] != doomed}) == expected
    assert max(placed.values()) == 1
    checked = run.finish(
        *("reconcile", f"--kafka_bootstrap_servers={kafka.bootstrap_servers}"),
        *(f"--input_topic_pattern={topics.prefix}[.].*", *run.place_flags(), "--json"),
    )
    assert checked.code == 0, checked.output
    report = json.loads(checked.output)
    assert {partition["topic"] for partition in report["partitions"]} == set(kept)
    assert report["missing"] == report["doubled"] == 0


def test_a_pattern_that_matches_nothing_is_refused(tmp_path: Path, kafka: KafkaConnection) -> None:
    run = PipelineRun(tmp_path / "run")
    finished = run.finish(
        *("run", f"--kafka_bootstrap_servers={kafka.bootstrap_servers}"),
        *("--input_topic_pattern=no-such-[0-9]+", *run.place_flags()),
    )
    assert finished.code == 2
    assert "--input_topic_pattern=no-such-[0-9]+: matches the whole name of no" in finished.output


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--input_topic_pattern=a", "--input_topics=b"], "exclude each other"),
        (["--input_topic_pattern=a("], "is no regular expression"),
    ],
)
def test_a_pattern_that_is_none_is_refused(
    tmp_path: Path, kafka: KafkaConnection, flags: list[str], reason: str
) -> None:
    run = PipelineRun(tmp_path / "run")
    address = f"--kafka_bootstrap_servers={kafka.bootstrap_servers}"
    for command in ("run", "reconcile"):
        finished = run.finish(command, address, *flags, *run.place_flags())
        assert finished.code == 2
        assert reason in finished.output
        assert "Traceback" not in finished.output
