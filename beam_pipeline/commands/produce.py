"""`beam-pipeline produce`: flags, their checks, and the run."""

from __future__ import annotations

import argparse
import contextlib
import math
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from beam_pipeline.errors import EnvironmentFailure, UsageError
from beam_pipeline.resources import event_schema_path
from beam_pipeline.settings.flags import add_kafka_flags
from beam_pipeline.topic_names import check_topic_name

if TYPE_CHECKING:
    from beam_pipeline.kafka.connection import KafkaConnection
    from beam_pipeline.producer.source import SourceRecord
    from beam_pipeline.producer.status import ProduceStatus

DESCRIPTION = """\
Sends records to a Kafka topic: synthetic events of a web shop, some of them broken or late on
request, or the lines of a file, byte for byte. Ends at a limit, at the end of the input or with
Ctrl-C; everything sent until then is delivered."""

EXAMPLES = """\
examples:
  five events a second, until Ctrl-C, to a topic that is created if it is missing:
    %(prog)s --kafka_bootstrap_servers=localhost:9092 --topic=events --create_topic

  a thousand events at 50/s, a tenth broken and a twentieth 15 to 30 seconds late:
    %(prog)s --kafka_bootstrap_servers=localhost:9092 --topic=events --events=1000 \\
      --events_per_second=50 --invalid_ratio=0.1 --late_ratio=0.05 --seed=7

  a file, as fast as possible, keyed by user:
    %(prog)s --kafka_bootstrap_servers=localhost:9092 --topic=events \\
      --input=events.jsonl --key_field=user_id --events_per_second=0

  a recorded day, one hour of it per minute:
    %(prog)s --kafka_bootstrap_servers=localhost:9092 --topic=events \\
      --input=day.jsonl --replay_speed=60 --event_time_field=created_at

  the output of another program:
    tail -f events.jsonl | %(prog)s --kafka_bootstrap_servers=localhost:9092 \\
      --topic=events --input=- --events_per_second=0
"""

DEFAULT_PARTITIONS = 4
DEFAULT_RATE = 5.0
STANDARD_INPUT = "-"
_UNSET_EVENT_FLAGS = {"invalid_ratio": 0.0, "late_ratio": 0.0, "seed": None, "schema": None}
# org.apache.kafka.common.internals.Topic


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `produce`, its description and its examples to `parser`."""
    parser.description = DESCRIPTION
    parser.epilog = EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    _add_target_flags(parser.add_argument_group("target"))
    _add_amount_flags(parser.add_argument_group("amount and rate"))
    _add_event_flags(parser.add_argument_group("synthetic events"))
    _add_input_flags(parser.add_argument_group("your own records"))
    output = parser.add_argument_group("output")
    output.add_argument(
        "--status_file",
        type=Path,
        metavar="PATH",
        help="JSON file with the counts, rewritten twice a second (default: none)",
    )
    output.add_argument("--quiet", action="store_true", help="no progress line")


def _add_target_flags(group: argparse._ArgumentGroup) -> None:
    add_kafka_flags(group)
    group.add_argument("--topic", required=True, help="topic to write to")
    group.add_argument(
        "--create_topic",
        action="store_true",
        help="create the topic if it is missing, with message.timestamp.type=LogAppendTime",
    )
    group.add_argument(
        "--partitions",
        type=int,
        metavar="N",
        help=f"partitions of a topic that --create_topic creates (default: {DEFAULT_PARTITIONS})",
    )


def _add_amount_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--events", type=int, metavar="N", help="end after N records (default: no limit)"
    )
    group.add_argument(
        "--seconds", type=float, metavar="S", help="end after S seconds (default: no limit)"
    )
    group.add_argument(
        "--events_per_second",
        type=float,
        default=DEFAULT_RATE,
        metavar="R",
        help="evenly paced rate; 0 means as fast as possible (default: %(default)g)",
    )


def _add_event_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--invalid_ratio",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of all records, 0 to 1, that are broken on purpose (default: %(default)g)",
    )
    group.add_argument(
        "--late_ratio",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of all records, 0 to 1, that are late on purpose (default: %(default)g)",
    )
    group.add_argument(
        "--late_seconds",
        type=float,
        default=30.0,
        metavar="S",
        help="a late record has an event time that is half of this to all of this in the past "
        "(default: %(default)g)",
    )
    group.add_argument(
        "--seed",
        type=int,
        metavar="N",
        help="the same seed makes the same events (default: random, printed at the end)",
    )
    group.add_argument(
        "--schema",
        type=Path,
        metavar="FILE",
        help="JSON Schema that each valid event must match before it is sent "
        "(default: that of the commerce event)",
    )


def _add_input_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--input",
        metavar="FILE",
        help="send this file instead, one record a line, byte for byte; - is standard input",
    )
    group.add_argument(
        "--key_field",
        metavar="NAME",
        help="top-level JSON field of each line that becomes the record's key (default: no key)",
    )
    group.add_argument(
        "--replay_speed",
        type=float,
        metavar="X",
        help="send the lines at the pace of their own times, X times as fast, instead of at an "
        "even rate (default: off)",
    )
    group.add_argument(
        "--event_time_field",
        metavar="FIELD",
        help="field with the time that --replay_speed uses, dotted when nested: RFC 3339, or "
        "milliseconds since 1970",
    )


def run(args: argparse.Namespace) -> int:
    """Produce as the flags say; return the exit code.

    Raises:
        UsageError: a flag is wrong.
        EnvironmentFailure: the cluster or the topic can't be used, or a record was not delivered.
    """
    _check_flags(args)
    # Imported here, so that help is immediate.
    from beam_pipeline.kafka.connection import KafkaConnection
    from beam_pipeline.producer.pacing import Rhythm
    from beam_pipeline.producer.progress import ProduceProgress
    from beam_pipeline.producer.send import produce
    from beam_pipeline.producer.status import report_to_file
    from beam_pipeline.producer.stop import StopRequest

    connection = KafkaConnection.from_flags(args.kafka_bootstrap_servers, args.kafka_config)
    seed = random.SystemRandom().randrange(2**31) if args.seed is None else args.seed
    with contextlib.ExitStack() as stack:
        lines = stack.enter_context(_opened(args.input)) if args.input else None
        source = _source(args, seed, lines)
        to_file = report_to_file(args.status_file) if args.status_file else None
        progress = stack.enter_context(ProduceProgress(args.topic, quiet=args.quiet))

        def report(status: ProduceStatus) -> None:
            progress.report(status)
            if to_file:
                to_file(status)

        stop = stack.enter_context(StopRequest())
        _ensure_topic(args, connection)
        rhythm = Rhythm(args.event_time_field, args.replay_speed) if args.replay_speed else None
        started = time.monotonic()
        status = produce(
            source,
            connection,
            args.topic,
            0.0 if rhythm else args.events_per_second,
            max_events=args.events,
            max_seconds=args.seconds,
            rhythm=rhythm,
            stop=stop,
            report=report,
        )
    print(_summary(args, status, time.monotonic() - started, seed))
    return 0


def _check_flags(args: argparse.Namespace) -> None:
    check_topic_name("--topic", args.topic)
    if args.partitions is not None and not args.create_topic:
        raise UsageError(f"--partitions={args.partitions}: add --create_topic, or leave it out")
    for flag in ("partitions", "events"):
        value = getattr(args, flag)
        if value is not None and value < 1:
            raise UsageError(f"--{flag}={value}: give 1 or more")
    if args.seconds is not None and not (math.isfinite(args.seconds) and args.seconds > 0):
        raise UsageError(f"--seconds={args.seconds:g}: give a number above 0")
    for flag in ("events_per_second", "late_seconds"):
        value = getattr(args, flag)
        if not (math.isfinite(value) and value >= 0):
            raise UsageError(f"--{flag}={value:g}: give 0 or more")
    for flag in ("invalid_ratio", "late_ratio"):
        value = getattr(args, flag)
        if not 0 <= value <= 1:
            raise UsageError(f"--{flag}={value:g}: give a share from 0 to 1, such as 0.1")
    if args.invalid_ratio + args.late_ratio > 1:
        raise UsageError(
            f"--invalid_ratio={args.invalid_ratio:g} and --late_ratio={args.late_ratio:g}: "
            "together they must be at most 1"
        )
    if args.input:
        for flag, unset in _UNSET_EVENT_FLAGS.items():
            # What a file or the environment says may be meant for other commands and inputs.
            if flag in args.given_flags and (value := getattr(args, flag)) != unset:
                raise UsageError(
                    f"--{flag}={value}: applies to synthetic events; leave out it or --input"
                )
    elif args.key_field is not None:
        raise UsageError(
            f"--key_field={args.key_field}: needs --input; synthetic events have a key"
        )
    _check_replay(args)


def _check_replay(args: argparse.Namespace) -> None:
    speed = args.replay_speed
    if speed is None:
        if "event_time_field" in args.given_flags:
            raise UsageError(
                f"--event_time_field={args.event_time_field}: needs --replay_speed; add that, or "
                "leave it out"
            )
        return
    if not (math.isfinite(speed) and speed > 0):
        raise UsageError(f"--replay_speed={speed:g}: give a number above 0")
    if not args.input:
        raise UsageError(
            f"--replay_speed={speed:g}: needs --input; synthetic events have the current time"
        )
    if not args.event_time_field:
        raise UsageError(
            f"--replay_speed={speed:g}: name the field of the time in --event_time_field"
        )
    if "events_per_second" in args.given_flags and args.events_per_second != DEFAULT_RATE:
        raise UsageError(
            f"--replay_speed={speed:g} and --events_per_second={args.events_per_second:g}: they "
            "exclude each other; leave one out"
        )


def _opened(path: str) -> contextlib.AbstractContextManager[BinaryIO]:
    if path == STANDARD_INPUT:
        return contextlib.nullcontext(sys.stdin.buffer)
    try:
        return Path(path).open("rb")
    except OSError as error:
        raise UsageError(
            f"--input={path}: {error.strerror}; give a readable file, or - for standard input"
        ) from error


def _source(args: argparse.Namespace, seed: int, lines: BinaryIO | None) -> Iterator[SourceRecord]:
    from beam_pipeline.producer.source import from_lines, synthetic
    from beam_pipeline.schemas import load_contract

    if lines is not None:
        return from_lines(lines, args.key_field)
    return synthetic(
        seed=seed,
        contract=load_contract(args.schema or event_schema_path()),
        invalid_ratio=args.invalid_ratio,
        late_ratio=args.late_ratio,
        late_seconds=args.late_seconds,
    )


def _ensure_topic(args: argparse.Namespace, connection: KafkaConnection) -> None:
    from beam_pipeline.kafka.admin import (
        TopicSpec,
        create_topics,
        partition_counts,
        require_cluster,
    )

    require_cluster(connection)
    if partition_counts(connection, [args.topic]):
        return
    if not args.create_topic:
        raise EnvironmentFailure(
            f"--topic={args.topic}: no such topic on {connection.bootstrap_servers}; "
            "add --create_topic to create it"
        )
    config = {"message.timestamp.type": "LogAppendTime"}
    topic = TopicSpec(args.topic, args.partitions or DEFAULT_PARTITIONS, config)
    create_topics(connection, [topic], exist_ok=True)


def _summary(args: argparse.Namespace, status: ProduceStatus, seconds: float, seed: int) -> str:
    rate = status.produced / seconds if seconds else 0.0
    line = f"{status.produced} records to {args.topic} in {seconds:.1f} s ({rate:.1f}/s)"
    if args.input:
        return f"{line}, all acknowledged"
    invalid = status.invalid.total()
    valid = status.produced - invalid - status.late
    return (
        f"{line}, all acknowledged: {valid} valid, {invalid} invalid, {status.late} late; "
        f"--seed={seed}"
    )
