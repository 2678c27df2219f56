"""`beam-pipeline demo`: a broker, a producer and the pipeline, for a minute, and the proof."""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from threading import Event

from rich.console import Console

from beam_pipeline import resources
from beam_pipeline.commands import produce
from beam_pipeline.commands.broker import LOG_APPEND_TIME
from beam_pipeline.commands.engines import (
    add_engine_flags,
    check_engine_flags,
    make_supervisor,
)
from beam_pipeline.commands.logs import RunLogs, logs_of
from beam_pipeline.commands.run import (
    add_supervision_flags,
    hold_leases,
    plan_of,
    stop_on_signals,
    view_of,
)
from beam_pipeline.errors import UsageError
from beam_pipeline.kafka.admin import TopicSpec, create_topics
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.runtime import preflight
from beam_pipeline.runtime.processes import ManagedProcess
from beam_pipeline.runtime.programs.broker import EmbeddedBroker
from beam_pipeline.runtime.programs.java import fetch_jars, find_java
from beam_pipeline.runtime.programs.progress import SetupProgress
from beam_pipeline.runtime.resume import ends_of
from beam_pipeline.runtime.supervisor import RunStatus, Supervisor
from beam_pipeline.settings.flags import add_landing_flags
from beam_pipeline.settings.sources import without_configuration
from beam_pipeline.tools.reconcile.run import reconcile
from beam_pipeline.tools.summary import summarise
from beam_pipeline.tools.summary_text import render

PARTITIONS = 4

_DESCRIPTION = """\
Starts an embedded Kafka and a producer of synthetic events, runs the pipeline on them, and ends by
itself once every event is in a closed window's file. Then it shows what came out and proves, from
the files and the topic, that every record is in exactly one place.
"""
_EPILOG = """\
exit codes:
  0  every record read is a row or a dead letter, once
  1  a record is missing or doubled, or something failed
  2  a flag is wrong

examples:
  ./run_direct.sh
  ./run_direct.sh --demo_seconds=20 --events_per_second=50 --invalid_ratio=0.1 --late_ratio=0.05
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `demo`, its description and its examples to `parser`."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    group = parser.add_argument_group("demo")
    group.add_argument(
        "--demo_seconds",
        metavar="SECONDS",
        type=float,
        default=60.0,
        help="how long events are produced (default: %(default)g)",
    )
    group.add_argument(
        "--events_per_second",
        metavar="R",
        type=float,
        default=5.0,
        help="how many are produced a second (default: %(default)g)",
    )
    group.add_argument(
        "--invalid_ratio",
        metavar="SHARE",
        type=float,
        default=0.05,
        help="share of the events, 0 to 1, that are broken on purpose (default: %(default)g)",
    )
    group.add_argument(
        "--late_ratio",
        metavar="SHARE",
        type=float,
        default=0.02,
        help="share of the events, 0 to 1, that come late on purpose (default: %(default)g)",
    )
    group.add_argument(
        "--seed",
        metavar="N",
        type=int,
        default=1,
        help="the same seed makes the same events (default: %(default)s)",
    )
    group.add_argument(
        "--keep_broker",
        action="store_true",
        help="leave the broker up at the end, and say how to look around and how to end it",
    )
    add_supervision_flags(group)
    add_engine_flags(parser)
    add_landing_flags(parser)
    parser.set_defaults(window_seconds=10, kafka_config=None, consumer_group=None)


def run(args: argparse.Namespace, beam_flags: list[str]) -> int:
    """Runs the demo; the exit code.

    Raises:
      PipelineError: what the user can mend.
    """
    _check_flags(args)
    check_engine_flags(args)
    stop = stop_on_signals()
    logs = logs_of(args)
    console = Console()
    topic = f"demo-{logs.started}"
    with SetupProgress() as progress:
        java = find_java(progress)
        kafka_jars = fetch_jars(resources.java_lock_path("kafka"), progress)
    directory = Path(tempfile.mkdtemp(prefix="beam-pipeline-demo-"))
    with ExitStack() as stack:
        broker = EmbeddedBroker(
            directory,
            java=java,
            jars=kafka_jars,
            log_file=logs.file("broker"),
            outlives_parent=args.keep_broker,
        )
        end_broker = stack.enter_context(ExitStack())
        end_broker.callback(shutil.rmtree, directory, ignore_errors=True)
        end_broker.callback(broker.stop, 3.0)
        broker.start()
        broker.wait_ready()
        create_topics(broker.connection, [TopicSpec(topic, PARTITIONS, LOG_APPEND_TIME)])
        args.kafka_bootstrap_servers = broker.bootstrap
        args.input_topics = topic
        connection = preflight.check(args)
        leases = hold_leases(stack, args)
        supervisor = make_supervisor(
            args, plan_of(args, connection, beam_flags), logs, leases, stack, console
        )
        console.print(
            f"topic {topic} on an embedded broker at {broker.bootstrap}; "
            f"{args.demo_seconds:g} s at {args.events_per_second:g} events a second "
            f"(logs: {logs.directory}/{logs.started}-*.log)",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        produced = _run_pipeline(args, logs, connection, supervisor, stop, console, topic)
        if stop.is_set():
            console.print("stopped before the end", highlight=False)
            return 1
        holds = _prove(args, connection, topic, produced, console)
        if args.keep_broker:
            end_broker.pop_all()
            hint = broker_hint(args, broker.process.pid, directory)
            console.print(hint, markup=False, highlight=False, soft_wrap=True)
    return 0 if holds else 1


def _check_flags(args: argparse.Namespace) -> None:
    for name in ("demo_seconds", "events_per_second"):
        if not 0 < getattr(args, name) < float("inf"):
            raise UsageError(f"--{name}={getattr(args, name):g}: must be more than 0")
    for name in ("invalid_ratio", "late_ratio"):
        if not 0 <= getattr(args, name) <= 1:
            raise UsageError(f"--{name}={getattr(args, name):g}: must be from 0 to 1")


def _run_pipeline(
    args: argparse.Namespace,
    logs: RunLogs,
    connection: KafkaConnection,
    supervisor: Supervisor,
    stop: Event,
    console: Console,
    topic: str,
) -> int:
    """Produces while the pipeline runs, until all of it is in files; how many were produced."""
    status_file = logs.directory / f".{logs.started}-producer.json"
    producer_flags = argparse.ArgumentParser()
    produce.add_flags(producer_flags)
    producer = ManagedProcess(
        "producer",
        [
            sys.executable,
            *("-m", "beam_pipeline", "produce", "--quiet"),
            f"--kafka_bootstrap_servers={connection.bootstrap_servers}",
            f"--topic={topic}",
            f"--events={round(args.demo_seconds * args.events_per_second)}",
            f"--events_per_second={args.events_per_second}",
            f"--invalid_ratio={args.invalid_ratio}",
            f"--late_ratio={args.late_ratio}",
            f"--seed={args.seed}",
            f"--status_file={status_file}",
        ],
        logs.file("producer"),
        env=without_configuration(producer_flags),
    )
    produced = 0
    goal_set = False

    def on_tick(status: RunStatus) -> None:
        nonlocal produced, goal_set
        produced = _produced(status_file)
        if not goal_set and not producer.alive:
            if producer.returncode != 0:
                raise producer.failure(f"ended with exit code {producer.returncode}")
            produced = _produced(status_file)
            supervisor.set_goal(ends_of(connection, [topic]))
            goal_set = True
        view.show(status, produced)

    try:
        with producer, view_of(args, topic, connection, console) as view:
            supervisor.run(stop, on_tick)
    finally:
        status_file.unlink(missing_ok=True)
    return produced


def _produced(status_file: Path) -> int:
    try:
        return int(json.loads(status_file.read_bytes())["acked"])
    except FileNotFoundError:
        return 0


def _prove(
    args: argparse.Namespace,
    connection: KafkaConnection,
    topic: str,
    produced: int,
    console: Console,
) -> bool:
    """Shows what came out, and whether every produced record is in exactly one place."""
    output_dir, dead_letter_dir = Path(args.output_dir), Path(args.dead_letter_dir)
    report = reconcile(connection, [topic], output_dir, dead_letter_dir)
    summary = summarise(output_dir, dead_letter_dir, topic)
    console.print(render(summary, report.reconciliation))
    in_topic = report.reconciliation.records
    holds = report.is_clean and produced == in_topic == summary.rows + summary.dead_letters
    console.print(
        f"produced {produced:,} = in the topic {in_topic:,} = valid {summary.rows:,} "
        f"+ dead {summary.dead_letters:,}: {'holds' if holds else 'DOES NOT HOLD'}",
        style="green" if holds else "red",
        highlight=False,
    )
    return holds


def broker_hint(args: argparse.Namespace, broker_pid: int, directory: Path) -> str:
    """What may be done with a broker that stays, as commands to copy."""
    program = resources.program("run_direct.sh")
    at_broker = f"--kafka_bootstrap_servers={args.kafka_bootstrap_servers}"
    topic = args.input_topics
    places = [f"--output_dir={args.output_dir}", f"--dead_letter_dir={args.dead_letter_dir}"]
    reconcile = [program, "reconcile", at_broker, f"--input_topics={topic}", *places]
    produce = [program, "produce", at_broker, f"--topic={topic}", "--events=100"]
    return (
        f"the broker is still up at {args.kafka_bootstrap_servers}; look around with\n"
        f"  {shlex.join(reconcile)}\n  {shlex.join(produce)}\nand end it with\n"
        f"  kill {broker_pid}; rm -r {shlex.quote(str(directory))}"
    )
