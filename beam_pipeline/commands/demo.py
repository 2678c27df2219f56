"""`beam-pipeline demo`: a broker, a producer and the pipeline, for a minute, and the proof."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from rich.console import Console

from beam_pipeline import resources
from beam_pipeline.commands import produce
from beam_pipeline.commands.broker import LOG_APPEND_TIME
from beam_pipeline.commands.launch import (
    Launch,
    RunLogs,
    logs_in,
    requests_text,
    stop_on_signals,
    storage_flags,
    temporary_directory,
    unsent_text,
    with_parts_dir,
)
from beam_pipeline.commands.queries import query_commands, table_queries
from beam_pipeline.commands.store import (
    DEFAULT_STORE_DIRECTORY,
    DEFAULT_STORE_PORT,
    check_bucket,
    export_text,
)
from beam_pipeline.errors import UsageError
from beam_pipeline.kafka.admin import TopicSpec, create_topics
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.runtime import preflight
from beam_pipeline.runtime.processes import ManagedProcess
from beam_pipeline.runtime.programs.broker import EmbeddedBroker
from beam_pipeline.runtime.programs.java import fetch_jars, find_java
from beam_pipeline.runtime.programs.progress import SetupProgress
from beam_pipeline.runtime.programs.store import REGION, EmbeddedStore
from beam_pipeline.runtime.programs.versitygw import find_versitygw
from beam_pipeline.runtime.resume import ends_of
from beam_pipeline.runtime.run_status import RunStatus
from beam_pipeline.runtime.supervisor import Supervisor
from beam_pipeline.runtime.table_committer import not_in_table_text
from beam_pipeline.settings.config import (
    PipelineSettings,
    engine_settings,
    pipeline_settings,
    supervision_settings,
)
from beam_pipeline.settings.flags import (
    DEFAULT_OUTPUT_DIR,
    add_engine_flags,
    add_landing_flags,
    add_supervision_flags,
    add_table_flags,
)
from beam_pipeline.settings.sources import without_configuration
from beam_pipeline.settings.table import TableJob, TableSettings, table_job, table_settings
from beam_pipeline.storage.config import StorageConfig
from beam_pipeline.terminal import plural
from beam_pipeline.tools.reconcile.run import reconcile
from beam_pipeline.tools.summary.gather import summarise
from beam_pipeline.tools.summary.text import summary_text

PARTITIONS = 4
EMBEDDED_STORE_URL = "s3://demo/events"

_DESCRIPTION = """\
Starts an embedded Kafka broker and a producer of synthetic events, runs the pipeline on them, and
ends once every event is in a file. Then it shows what was written, and checks that every record
of the topic is in exactly one place in the files.
"""
_EPILOG = """\
exit codes:
  0  every record is one row or one dead letter
  1  a record is missing or doubled, or something failed
  2  a flag is wrong

examples:
  ./run_direct.sh
  ./run_direct.sh --demo_seconds=20 --events_per_second=50 --invalid_ratio=0.1 --late_ratio=0.05
"""


@dataclass(frozen=True)
class DemoSettings:
    """What the demo's producer sends."""

    seconds: float
    events_per_second: float
    invalid_ratio: float
    late_ratio: float
    seed: int

    @property
    def events(self) -> int:
        """How many events are sent, at least one."""
        return max(1, round(self.seconds * self.events_per_second))


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `demo`, its description and its examples to `parser`."""
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
        help="share of the events, 0 to 1, that are late on purpose (default: %(default)g)",
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
        help="leave the broker running at the end, and print how to use and how to stop it",
    )
    group.add_argument(
        "--embedded_store",
        action="store_true",
        help="start an S3 store over data/store, and write to s3://demo/events there; --output_dir "
        "and --dead_letter_dir may name other buckets of it",
    )
    add_supervision_flags(group)
    add_engine_flags(parser)
    add_landing_flags(parser)
    add_table_flags(parser)
    parser.set_defaults(window_seconds=10)


def run(args: argparse.Namespace, beam_flags: list[str]) -> int:
    """Run the demo; return the exit code.

    Raises:
      PipelineError: what the user can mend.
    """
    demo = demo_settings(args)
    if args.embedded_store and args.output_dir == DEFAULT_OUTPUT_DIR:
        args.output_dir = EMBEDDED_STORE_URL
    settings, engine = pipeline_settings(vars(args)), engine_settings(vars(args))
    settings = with_parts_dir(settings, engine)
    buckets = _embedded_buckets(settings) if args.embedded_store else []
    supervision, table = supervision_settings(vars(args)), table_settings(vars(args))
    stop = stop_on_signals()
    logs = logs_in(args.log_dir)
    console = Console()
    topic = f"demo-{logs.started}"
    with SetupProgress() as progress:
        java = find_java(progress)
        kafka_jars = fetch_jars(resources.java_lock_path("kafka"), progress)
        store = _embedded_store(logs, progress) if buckets else None
    directory = temporary_directory("demo")
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
        if store is not None:
            stack.callback(store.stop, 3.0)
            store.start(*buckets)
            os.environ.update(store.environment)  # for the processes of the run, too
        broker.wait_ready()
        create_topics(broker.connection, [TopicSpec(topic, PARTITIONS, LOG_APPEND_TIME)])
        settings = dataclasses.replace(
            settings, kafka_bootstrap_servers=broker.bootstrap, input_topics=(topic,)
        )
        launch = Launch(settings, engine, supervision, beam_flags, logs, console, table)
        launch.check()
        preflight.prepare(settings)
        supervisor = launch.supervisor(broker.connection, stack)
        launch.say(
            f"topic {topic} on an embedded broker at {broker.bootstrap}; "
            f"{demo.seconds:g} s at {demo.events_per_second:g} events a second "
            f"(logs: {logs.directory}/{logs.started}-*.log)"
        )
        produced = _run_pipeline(demo, launch, broker.connection, supervisor, stop)
        if stop.is_set():
            launch.say(_stopped_text(supervisor.status, settings))
            return 1
        unsent = unsent_text(supervisor.status, settings, at_stop=False)
        if unsent is not None:
            launch.say(unsent)
        holds = _prove(settings, broker.connection, produced, console) and unsent is None
        if table is not None:
            holds &= _prove_table(settings, broker.connection, table, produced, console)
            outside = not_in_table_text(supervisor.status.table)
            if outside is not None:
                launch.say(outside)
        requests = requests_text(supervisor.status, settings)
        if requests is not None:
            launch.say(requests)
        launch.say(_next_steps(settings) if store is None else store_hint(settings, store))
        if table is not None:
            launch.say(table_hint(table_job(settings, table)))
        if args.keep_broker:
            end_broker.pop_all()
            launch.say(broker_hint(settings, broker.process.pid, directory))
    return 0 if holds else 1


def _embedded_buckets(settings: PipelineSettings) -> list[str]:
    """Return the buckets that the embedded store needs.

    Raises:
      UsageError: a flag names another storage.
    """
    buckets: dict[str, None] = {}
    for flag, value in (
        ("--output_dir", settings.output_dir),
        ("--dead_letter_dir", settings.dead_letter_dir),
    ):
        if not value.startswith("s3://"):
            raise UsageError(
                f"{flag}={value}: --embedded_store is an S3 store; give a URL such as "
                f"{EMBEDDED_STORE_URL}, or leave the flag out"
            )
        bucket = value.removeprefix("s3://").partition("/")[0]
        check_bucket(flag, bucket)
        buckets[bucket] = None
    return list(buckets)


def _embedded_store(logs: RunLogs, progress: SetupProgress) -> EmbeddedStore:
    directory = DEFAULT_STORE_DIRECTORY.absolute()
    return EmbeddedStore(directory, find_versitygw(progress), logs.file("store"))


def demo_settings(args: argparse.Namespace) -> DemoSettings:
    """Convert and check the flags of the producer.

    Raises:
      UsageError: a value is out of range.
    """
    for name in ("demo_seconds", "events_per_second"):
        if not 0 < getattr(args, name) < float("inf"):
            raise UsageError(f"--{name}={getattr(args, name):g}: must be more than 0")
    for name in ("invalid_ratio", "late_ratio"):
        if not 0 <= getattr(args, name) <= 1:
            raise UsageError(f"--{name}={getattr(args, name):g}: must be from 0 to 1")
    return DemoSettings(
        args.demo_seconds, args.events_per_second, args.invalid_ratio, args.late_ratio, args.seed
    )


def _run_pipeline(
    demo: DemoSettings,
    launch: Launch,
    connection: KafkaConnection,
    supervisor: Supervisor,
    stop: Event,
) -> int:
    """Produce while the pipeline runs, until everything is in files; return how many events."""
    (topic,) = launch.settings.topics()
    status_file = launch.logs.directory / f".{launch.logs.started}-producer.json"
    producer = _producer(demo, launch, status_file)
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
        observe(status)

    try:
        with ExitStack() as stack, producer, launch.view(topic, connection) as view:
            observe = launch.observers(stack, supervisor.status)
            supervisor.run(stop, on_tick)
    finally:
        status_file.unlink(missing_ok=True)
    return produced


def _producer(demo: DemoSettings, launch: Launch, status_file: Path) -> ManagedProcess:
    (topic,) = launch.settings.topics()
    producer_flags = argparse.ArgumentParser()
    produce.add_flags(producer_flags)
    return ManagedProcess(
        "producer",
        [
            sys.executable,
            *("-m", "beam_pipeline", "produce", "--quiet"),
            f"--kafka_bootstrap_servers={launch.settings.kafka_bootstrap_servers}",
            f"--topic={topic}",
            f"--events={demo.events}",
            f"--events_per_second={demo.events_per_second}",
            f"--invalid_ratio={demo.invalid_ratio}",
            f"--late_ratio={demo.late_ratio}",
            f"--seed={demo.seed}",
            f"--status_file={status_file}",
        ],
        launch.logs.file("producer"),
        env=without_configuration(producer_flags),
    )


def _produced(status_file: Path) -> int:
    try:
        return int(json.loads(status_file.read_bytes())["acked"])
    except FileNotFoundError:
        return 0


def _prove(
    settings: PipelineSettings, connection: KafkaConnection, produced: int, console: Console
) -> bool:
    """Show what was written, and whether every produced record is in exactly one place."""
    (topic,) = settings.topics()
    output_dir, dead_letter_dir = settings.output_path, settings.dead_letter_path
    report = reconcile(connection, [topic], output_dir, dead_letter_dir)
    summary = summarise(output_dir, dead_letter_dir, topic)
    console.print(summary_text(summary, report.reconciliation))
    in_topic = report.reconciliation.records
    holds = report.is_clean and produced == in_topic == summary.rows + summary.dead_letters
    console.print(
        f"produced {produced:,} = in the topic {in_topic:,} = valid {summary.rows:,} "
        f"+ dead {summary.dead_letters:,}: {'holds' if holds else 'DOES NOT HOLD'}",
        style="green" if holds else "red",
        highlight=False,
    )
    return holds


def _prove_table(
    settings: PipelineSettings,
    connection: KafkaConnection,
    table: TableSettings,
    produced: int,
    console: Console,
) -> bool:
    """Read the tables back; show whether every produced record is in one of them, once."""
    from beam_pipeline.tools.reconcile.table_run import TablePlace, reconcile_table  # half a second

    topics, output_dir = settings.topics(), settings.output_path
    place = TablePlace(table.name, table.catalog)
    report = reconcile_table(connection, topics, place, output_dir)
    partitions = report.reconciliation.partitions
    rows = sum(partition.parquet_rows for partition in partitions)
    letters = sum(partition.dead_letters for partition in partitions)
    holds = report.is_clean and rows + letters == produced
    console.print(
        f"table {table.name}: {rows:,} rows + {table.letters_name}: {letters:,} = {produced:,}: "
        f"{'holds' if holds else 'DOES NOT HOLD'}",
        style="green" if holds else "red",
        highlight=False,
    )
    return holds


def _stopped_text(status: RunStatus, settings: PipelineSettings) -> str:
    """Return what the files have of a demo that was stopped."""
    rows = plural(status.counters["parquet.rows"], "row")
    letters = plural(status.counters["dead_letters.rows"], "dead letter")
    return (
        f"stopped before the end: {rows} in {settings.output_dir} and {letters} in "
        f"{settings.dead_letter_dir}; other records went with the demo's broker"
    )


def _next_steps(settings: PipelineSettings) -> str:
    """Return where the files are, and commands to look at them."""
    return (
        f"rows are in {settings.output_dir}, dead letters in {settings.dead_letter_dir}; "
        f"look at them with\n{_commands(settings)}"
    )


def table_hint(job: TableJob) -> str:
    """Return commands that query the table of a demo."""
    lines = "\n".join(f"  {_as_typed(command)}" for command in table_queries(job, "event_type"))
    return f"query the table {job.table.name} with\n{lines}"


def store_hint(settings: PipelineSettings, store: EmbeddedStore) -> str:
    """Return where the objects are, and commands to serve and to look at them."""
    url = f"http://127.0.0.1:{DEFAULT_STORE_PORT}"
    return (
        f"rows are in {settings.output_dir}, dead letters in {settings.dead_letter_dir}; the store "
        f"keeps them in {DEFAULT_STORE_DIRECTORY}/buckets. Serve them again with\n"
        f"  {resources.program('run_direct.sh')} store\nand look at them in another terminal with\n"
        f"  {export_text({**store.environment, 'AWS_ENDPOINT_URL': url})}\n"
        f"{_commands(settings, StorageConfig(endpoint=url, region=REGION))}"
    )


def _commands(settings: PipelineSettings, config: StorageConfig | None = None) -> str:
    """Return commands to look at what was written, a line each."""
    program = resources.program("run_direct.sh")
    dead = [f"--dead_letter_dir={settings.dead_letter_dir}", *storage_flags(settings)]
    commands = [
        *query_commands(settings, "event_type", config),
        [program, "dlq", "stats", *dead],
        [program, "report", f"--output_dir={settings.output_dir}", *dead],
    ]
    return "\n".join(f"  {_as_typed(command)}" for command in commands)


def _as_typed(words: Sequence[str]) -> str:
    """Return a command as a person would type it: double quotes, where the words allow them."""
    return " ".join(
        f'"{word}"'
        if shlex.quote(word) != word and not set(word) & set('"$`\\!')
        else shlex.quote(word)
        for word in words
    )


def broker_hint(settings: PipelineSettings, broker_pid: int, directory: Path) -> str:
    """Return commands to copy for a broker that stays up: look around, and stop it."""
    program = resources.program("run_direct.sh")
    bootstrap = settings.kafka_bootstrap_servers
    at_broker = f"--kafka_bootstrap_servers={bootstrap}"
    (topic,) = settings.topics()
    places = [
        f"--output_dir={settings.output_dir}",
        f"--dead_letter_dir={settings.dead_letter_dir}",
        *storage_flags(settings),
    ]
    reconcile_words = [program, "reconcile", at_broker, f"--input_topics={topic}", *places]
    produce_words = [program, "produce", at_broker, f"--topic={topic}", "--events=100"]
    return (
        f"the broker is still running at {bootstrap}; look around with\n"
        f"  {shlex.join(reconcile_words)}\n  {shlex.join(produce_words)}\nand stop it with\n"
        f"  kill {broker_pid}; rm -r {shlex.quote(str(directory))}"
    )
