"""`beam-pipeline broker`: the embedded Kafka in the foreground."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from rich.console import Console

from beam_pipeline import resources
from beam_pipeline.commands.launch import logs_in, stop_on_signals, temporary_directory
from beam_pipeline.errors import UsageError
from beam_pipeline.kafka.admin import TopicSpec, create_topics
from beam_pipeline.runtime.programs.broker import EmbeddedBroker
from beam_pipeline.runtime.programs.java import fetch_jars, find_java
from beam_pipeline.runtime.programs.progress import SetupProgress
from beam_pipeline.settings.flags import add_shared
from beam_pipeline.topic_names import check_topic_name

LOG_APPEND_TIME = {"message.timestamp.type": "LogAppendTime"}

_DESCRIPTION = """\
Runs a real Kafka broker for a machine that has none: one KRaft node on loopback, until Ctrl-C.
"""
_EPILOG = """\
example:
  %(prog)s --port=9092 --directory=kafka-data --topics=orders:4,refunds:1
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `broker`, its description and its example to `parser`."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--port", type=int, default=9092, help="loopback port; 0 takes a free one (default: 9092)"
    )
    parser.add_argument(
        "--directory",
        metavar="DIR",
        type=Path,
        help="directory that keeps the data between starts (default: a temporary one, removed at "
        "the end)",
    )
    parser.add_argument(
        "--topics",
        metavar="NAME[:PARTITIONS],…",
        default="",
        help="topics to create, with message.timestamp.type=LogAppendTime and 4 partitions unless "
        "a number is given",
    )
    add_shared(parser, "log_dir")


def run(args: argparse.Namespace) -> int:
    """Run the broker until a signal; return the exit code.

    Raises:
      PipelineError: what the user can mend.
    """
    topics = [topic_spec(text) for text in args.topics.split(",") if text.strip()]
    if not 0 <= args.port <= 65535:
        raise UsageError(f"--port={args.port}: must be 0 to 65535")
    stop = stop_on_signals()
    logs = logs_in(args.log_dir)
    with SetupProgress() as progress:
        java = find_java(progress)
        jars = fetch_jars(resources.java_lock_path("kafka"), progress)
    directory = args.directory or temporary_directory("kafka")
    try:
        with EmbeddedBroker(
            directory.absolute(), java=java, jars=jars, log_file=logs.file("broker"), port=args.port
        ) as broker:
            if topics:
                create_topics(broker.connection, topics, exist_ok=True)
            Console().print(
                f"Kafka is up at {broker.bootstrap}; Ctrl-C stops it (log: {logs.file('broker')})",
                highlight=False,
                soft_wrap=True,
            )
            while not stop.wait(0.5):
                if not broker.process.alive:
                    raise broker.process.failure("ended")
    finally:
        if args.directory is None:
            shutil.rmtree(directory, ignore_errors=True)
    return 0


def topic_spec(text: str) -> TopicSpec:
    """Read `NAME` or `NAME:PARTITIONS`.

    Raises:
      UsageError: NAME is no name for a topic, or PARTITIONS not a number of 1 or more.
    """
    name, _, partitions = text.strip().partition(":")
    if partitions and (not partitions.isdigit() or int(partitions) < 1):
        raise UsageError(f"--topics={text}: partitions must be a number of 1 or more")
    check_topic_name("--topics", name)
    return TopicSpec(name, int(partitions or 4), LOG_APPEND_TIME)
