"""A real Kafka broker for the whole run, and a topic of its own for each test."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from beam_pipeline.kafka.admin import TopicSpec, create_topics
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.runtime.prism.build import find_prism, start_prism
from beam_pipeline.runtime.processes import Service
from beam_pipeline.runtime.programs.broker import EmbeddedBroker
from beam_pipeline.runtime.programs.progress import SetupProgress


@pytest.fixture(scope="session")
def broker(
    java: Path, kafka_jars: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EmbeddedBroker]:
    """A broker that runs until the last test."""
    directory = tmp_path_factory.mktemp("broker")
    with EmbeddedBroker(
        directory / "kafka", java=java, jars=kafka_jars, log_file=directory / "broker.log"
    ) as running:
        yield running


@pytest.fixture
def kafka(broker: EmbeddedBroker) -> KafkaConnection:
    """How a client reaches the broker."""
    return broker.connection


@pytest.fixture
def fresh_topic(kafka: KafkaConnection) -> Callable[..., str]:
    """Makes a topic that no other test uses, stamped with the log's append time."""

    def make(partitions: int = 1, **config: str) -> str:
        """`config` holds topic settings, with `_` for `.`; returns the topic's name."""
        name = f"test-{uuid.uuid4().hex[:12]}"
        settings = {key.replace("_", "."): value for key, value in config.items()}
        spec = TopicSpec(name, partitions, {"message.timestamp.type": "LogAppendTime", **settings})
        create_topics(kafka, [spec])
        return name

    return make


@pytest.fixture
def prism(tmp_path: Path) -> Iterator[Service]:
    """A Prism that takes jobs."""
    with SetupProgress() as progress:
        binary = find_prism(progress)
    started = start_prism(binary, tmp_path / "prism.log")
    try:
        started.wait_ready()
        yield started
    finally:
        started.process.terminate(5)


@pytest.fixture
def prism_endpoint(prism: Service) -> str:
    """Where it takes them."""
    return prism.endpoint
