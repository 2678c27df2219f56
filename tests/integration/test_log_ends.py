"""Where the topics end is seen beside a run, and is not known while the broker is away."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from confluent_kafka import Producer

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.kafka.admin import EndOffsets
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.kafka.log_ends import LogEnds
from beam_pipeline.offset_sets import TopicPartition

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


def await_true(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)
