"""Where the topics end is seen beside a run, and is not known while the broker is away."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import Producer

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.kafka.admin import EndOffsets, TopicSpec, create_topics
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.kafka.log_ends import LogEnds
from beam_pipeline.offset_sets import TopicPartition
from beam_pipeline.runtime.programs.broker import EmbeddedBroker

ORDERS = TopicPartition("orders", 0)


def test_the_ends_follow_the_log(kafka: KafkaConnection, fresh_topic: Callable[..., str]) -> None:
    topic = fresh_topic(partitions=2)
    partitions = [TopicPartition(topic, 0), TopicPartition(topic, 1)]
    with LogEnds(kafka) as log_ends:
        log_ends.watch(partitions)
        await_true(lambda: log_ends.ends() == {(topic, 0): 0, (topic, 1): 0})
        producer = Producer(kafka.for_librdkafka())
        for _ in range(20):
            producer.produce(topic, b"v", partition=1)
        assert producer.flush(30) == 0
        await_true(lambda: log_ends.ends() == {(topic, 0): 0, (topic, 1): 20})
        rate = log_ends.rate(partitions[1])
        assert rate is not None
        assert 0 < rate < 20
        assert log_ends.rate(partitions[0]) == 0
        assert log_ends.rate(TopicPartition(topic, 7)) is None


def test_a_broker_that_is_away_holds_nobody_up() -> None:
    nobody = KafkaConnection.from_flags("127.0.0.1:9", None)
    with pytest.raises(EnvironmentFailure, match="end of orders"):
        EndOffsets(nobody).fetch([ORDERS], timeout_seconds=0.5)
    started = time.monotonic()
    with LogEnds(nobody) as log_ends:
        log_ends.watch([ORDERS])
        assert log_ends.ends() == {}
        assert log_ends.rate(ORDERS) is None
    assert time.monotonic() - started < 1


def test_a_broker_that_was_restarted_is_seen_again(
    java: Path, kafka_jars: list[Path], tmp_path: Path
) -> None:
    """A client from before the restart gets FENCED_LEADER_EPOCH ever after (librdkafka 2.16)."""
    broker = EmbeddedBroker(
        tmp_path / "kafka", java=java, jars=kafka_jars, log_file=tmp_path / "broker.log"
    )
    with broker, LogEnds(broker.connection) as log_ends:
        create_topics(broker.connection, [TopicSpec("orders", 1)])
        log_ends.watch([ORDERS])
        await_true(lambda: log_ends.ends() == {ORDERS: 0})
        broker.stop()
        await_true(lambda: log_ends.ends() == {})
        broker.start()
        broker.wait_ready()
        await_true(lambda: log_ends.ends() == {ORDERS: 0})


def await_true(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)
