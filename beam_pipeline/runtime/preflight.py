"""Checks made before a graph is built: each failure is one line with its remedy."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from beam_pipeline.errors import EnvironmentFailure, UsageError
from beam_pipeline.files.durable import make_directory
from beam_pipeline.kafka.admin import (
    TopicSpec,
    create_topics,
    partition_counts,
    require_cluster,
    topic_config,
)
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.settings.flags import (
    CREATE_TIME,
    PRIVATE,
    check_pipeline_flags,
    connection_of,
    contract_of,
    event_time_field,
    topics_of,
)

DEAD_LETTER_OVERHEAD_BYTES = 1024 * 1024
"""Room for the headers that a dead letter gets beside the original record."""


def check(flags: argparse.Namespace) -> KafkaConnection:
    """Checks flags, schema, directories, broker and topics; makes missing dead-letter topics.

    Raises:
      UsageError: a flag is wrong.
      EnvironmentFailure: the broker, a topic or a directory does not serve.
    """
    check_pipeline_flags(flags)
    topics = topics_of(flags.input_topics)
    connection = connection_of(flags)
    event_time_field(flags, contract_of(flags))
    if not Path(flags.reference_dir).is_dir():
        raise UsageError(f"--reference_dir={flags.reference_dir}: no such directory")
    check_writable(Path(flags.output_dir), "--output_dir")
    private = flags.dead_letter_access == PRIVATE
    check_writable(Path(flags.dead_letter_dir), "--dead_letter_dir", private=private)
    require_cluster(connection)
    check_topics(connection, topics, flags.window_by)
    make_dead_letter_topics(connection, topics, flags.dead_letter_topic_suffix)
    return connection


def check_writable(directory: Path, flag: str, *, private: bool = False) -> None:
    """Makes `directory` where it is missing, and a file in it for a moment.

    A `private` one is made for its user alone; one that is there keeps its mode.

    Raises:
      EnvironmentFailure: it can't be written.
    """
    probe = directory / f".{flag.strip('-')}.probe"
    try:
        make_directory(directory, private=private)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise EnvironmentFailure(
            f"{flag}={directory}: {error.strerror}; give a directory that can be written"
        ) from None


def check_topics(connection: KafkaConnection, topics: Sequence[str], window_by: str) -> None:
    """Checks that the topics exist and stamp records as `window_by` needs.

    Raises:
      EnvironmentFailure: one is missing, or has the other kind of timestamp.
    """
    existing = partition_counts(connection, topics)
    for topic in topics:
        if topic not in existing:
            raise EnvironmentFailure(
                f"--input_topics={topic}: no such topic on {connection.bootstrap_servers}; "
                "create it, or correct the name"
            )
    configs = topic_config(connection, topics)
    for topic in topics:
        kind = configs[topic].get("message.timestamp.type")
        if window_by != CREATE_TIME and kind != "LogAppendTime":
            raise EnvironmentFailure(
                f"--input_topics={topic}: has message.timestamp.type={kind}, and "
                f"--window_by={window_by} needs LogAppendTime; set it with kafka-configs --alter "
                f"--topic {topic} --add-config message.timestamp.type=LogAppendTime, "
                f"or give --window_by={CREATE_TIME}"
            )


def make_dead_letter_topics(
    connection: KafkaConnection, topics: Sequence[str], suffix: str
) -> None:
    """Makes the dead-letter topics that are missing, as wide as their input topics.

    Raises:
      UsageError: the suffix makes a dead-letter topic an input topic.
      EnvironmentFailure: one can't be made.
    """
    names = {f"{topic}{suffix}": topic for topic in topics}
    both = sorted(set(names) & set(topics))
    if both:
        raise UsageError(
            f"--dead_letter_topic_suffix={suffix!r}: {both[0]} is an input topic itself"
        )
    partitions = partition_counts(connection, [*names, *topics])
    configs = topic_config(connection, topics)
    missing = [
        TopicSpec(
            name,
            partitions[topic],
            config={
                "max.message.bytes": str(
                    int(configs[topic]["max.message.bytes"]) + DEAD_LETTER_OVERHEAD_BYTES
                )
            },
        )
        for name, topic in names.items()
        if name not in partitions
    ]
    if missing:
        create_topics(connection, missing, exist_ok=True)
