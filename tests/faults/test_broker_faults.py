"""The broker's side: away for a while, and partitions that a topic did not have before."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest
from confluent_kafka.admin import AdminClient, NewPartitions
from faults.scenario import Scenario
from integration.pipeline_runs import send, wait_for

from beam_pipeline.kafka.admin import partition_counts
from beam_pipeline.producer.events import EventFactory
from beam_pipeline.producer.source import wall_clock_ms


@pytest.mark.faults
def test_a_broker_that_is_away_is_waited_for(
    scenario: Callable[..., Scenario], pytestconfig: pytest.Config
) -> None:
    away_seconds: float = pytestconfig.getoption("faults_broker_away_seconds")
    waiting = scenario(f"broker away for {away_seconds:g} s")
    waiting.start()
    waiting.load.start()
    waiting.await_progress()
    time.sleep(waiting.random.uniform(0, 5))
    waiting.kill_broker()
    waiting.kills["broker"] += 1
    time.sleep(away_seconds)
    waiting.require_running()
    waiting.start_broker()
    waiting.await_progress()
    waiting.settle()


@pytest.mark.faults
def test_new_partitions_are_no_silent_gap(scenario: Callable[..., Scenario]) -> None:
    """A running reader does not see them (KafkaIO of Beam 2.73 looks once, at its start):
    `reconcile` tells so until the next start."""
    growing = scenario("new partitions", partitions=2)
    growing.start()
    growing.load.start()
    growing.await_progress()
    widen(growing, 4)
    send_to(growing, partition=2)
    growing.await_progress()
    time.sleep(15)
    growing.await_progress()
    told = growing.reconcile()
    partitions = {one["partition"]: one for one in json.loads(told.output)["partitions"]}
    assert told.code == 1
    assert partitions[2]["missing"]["count"] == partitions[2]["records"] == 50
    assert partitions[3]["records"] == 0

    growing.terminate()
    widen(growing, 5)
    send_to(growing, partition=4)
    growing.start()
    growing.await_progress()
    send_to(growing, partition=3)
    wait_for(
        lambda: {partition for _, partition, _ in growing.run.placed()} == set(range(5)),
        "rows of every partition",
    )
    growing.settle()


def widen(growing: Scenario, partitions: int) -> None:
    admin = AdminClient({**growing.kafka.for_librdkafka()})
    new = NewPartitions(growing.topic, partitions)
    admin.create_partitions([new])[growing.topic].result()
    wait_for(
        lambda: partition_counts(growing.kafka, [growing.topic])[growing.topic] == partitions,
        "the new partitions",
    )


def send_to(growing: Scenario, partition: int) -> None:
    factory = EventFactory(growing.random.randrange(2**31))
    events = (json.dumps(factory.make(wall_clock_ms())).encode() for _ in range(50))
    send(growing.kafka, growing.topic, [*events], partition)
