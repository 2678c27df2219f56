"""`beam-pipeline run`: the pipeline on the user's own topics."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import time
from contextlib import ExitStack

from rich.console import Console

from beam_pipeline import resources
from beam_pipeline.commands.launch import (
    Launch,
    logs_in,
    requests_text,
    stop_on_signals,
    storage_flags,
    unsent_text,
    with_parts_dir,
)
from beam_pipeline.commands.live.view import late_text
from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.files.ledger import load_ledger
from beam_pipeline.records import COERCED
from beam_pipeline.runtime import preflight
from beam_pipeline.runtime.discovery import with_matching_topics
from beam_pipeline.runtime.flink.job_record import job_records
from beam_pipeline.runtime.log_watch import expired_text, waiting_text
from beam_pipeline.runtime.resume import ends_of
from beam_pipeline.runtime.run_status import RunStatus
from beam_pipeline.runtime.scope import PartByTime
from beam_pipeline.runtime.table_committer import not_in_table_text
from beam_pipeline.settings.config import (
    PipelineSettings,
    engine_settings,
    part_settings,
    pipeline_settings,
    supervision_settings,
)
from beam_pipeline.settings.flags import (
    CREATE_TIME,
    add_engine_flags,
    add_pipeline_flags,
    add_supervision_flags,
    add_table_flags,
)
from beam_pipeline.settings.table import table_settings
from beam_pipeline.terminal import printable

CAUGHT_UP = "caught_up"
CAUGHT_UP_EARLY_PANE_SECONDS = 5

_DESCRIPTION = """\
Writes Kafka topics to Parquet with exactly-once files: every record becomes one row or one dead
letter, even if any process is killed at any time. A restart resumes from the files.

Runs until Ctrl-C or SIGTERM; with --until=caught_up, until everything that was in the topics at
the start is in files, and the dead letters in files are in the dead-letter topic; with --end=TIME,
until everything before the time is. Flags after `--` are passed to Beam as they are.
"""
_EPILOG = """\
exit codes:
  0  ended as asked
  1  the broker, a topic, a directory or a process failed for good; with --until or --end also:
     dead letters could not be sent to their topic; in every run: records expired from the log
     before they were read (--accept_expired)
  2  a flag is wrong

examples:
  %(prog)s --kafka_bootstrap_servers=localhost:9092 --input_topics=orders \\
    --schema=order.schema.json --event_time_field=created_at
  %(prog)s --kafka_bootstrap_servers=localhost:9092 --input_topics=orders,refunds \\
    --until=caught_up --output_dir=lake/orders --dead_letter_dir=lake/dead
  %(prog)s --kafka_bootstrap_servers=localhost:9092 --input_topics=orders --start=latest
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `run`, its description and its examples to `parser`."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add_pipeline_flags(parser)
    add_table_flags(parser)
    group = parser.add_argument_group("run")
    group.add_argument(
        "--until",
        choices=(CAUGHT_UP,),
        help="end once everything that was in the topics at the start is in files "
        "(default: run until stopped)",
    )
    group.add_argument(
        "--start",
        metavar="earliest|latest|TIME",
        help="where topics begin that --output_dir has nothing of: at their first record, behind "
        "their last one, or at the first record that Kafka stamped at an RFC 3339 time or later; "
        "what lies before is noted as left out, and `backfill` lands it (default: earliest)",
    )
    group.add_argument(
        "--end",
        metavar="TIME",
        help="end once every record that comes before the first one that Kafka stamped at an RFC "
        "3339 time or later is in a file; the rest is noted as left out, and the next run without "
        "--end reads on there (default: run until stopped)",
    )
    group.add_argument(
        "--detach",
        action="store_true",
        help="with --flink_master, submit the job and leave it running; see `flink status`",
    )
    add_supervision_flags(group)
    add_engine_flags(parser)


def run(args: argparse.Namespace, beam_flags: list[str]) -> int:
    """Run until the goal or a signal; return the exit code.

    Raises:
      PipelineError: what the user can mend.
    """
    values = vars(args)
    until_caught_up = args.until == CAUGHT_UP
    now_ms = time.time_ns() // 1_000_000
    part = part_settings(values, now_ms)
    has_ended = part.end is not None and part.end.time_ms < now_ms
    if args.early_pane_seconds is None and (
        until_caught_up or has_ended or (part.end is not None and args.window_by == CREATE_TIME)
    ):
        values["early_pane_seconds"] = CAUGHT_UP_EARLY_PANE_SECONDS
    settings, engine = pipeline_settings(values), engine_settings(values)
    settings = with_matching_topics(with_parts_dir(settings, engine))
    supervision = supervision_settings(values)
    stop = stop_on_signals()
    table = table_settings(values)
    launch = Launch(
        settings, engine, supervision, beam_flags, logs_in(args.log_dir), Console(), table
    )
    launch.check()
    preflight.prepare(settings)
    connection, topics = settings.connection(), settings.topics()
    title = settings.input_topic_pattern or ", ".join(topics)
    with ExitStack() as stack:
        scope = PartByTime(settings.output_path, part.start, part.end)
        supervisor = launch.supervisor(connection, stack, scope, is_part=part.end is not None)
        observe = launch.observers(stack, supervisor.status)
        if until_caught_up:
            supervisor.set_goal(ends_of(connection, topics))
        launch.say(
            f"writing {title} from {connection.bootstrap_servers} to "
            f"{settings.output_dir}, dead letters to {settings.dead_letter_dir} "
            f"(log: {launch.logs.file('pipeline')})"
        )
        caught_up = launch.follow(supervisor, observe, title, stop)
        if engine.detach and caught_up:
            launch.say(_detached_text(settings))
            return 0
        if not engine.on_flink:  # a job on Flink may be resumed, and then replaces files
            save_ledger(settings)
        reached = "caught up" if part.end is None else f"read up to {part.end.flag}"
        launch.say(last_line(supervisor.status, reached if caught_up else "stopped"))
        if coerced := _coerced_text(supervisor.status):
            launch.say(coerced)
        unsent = unsent_text(supervisor.status, settings, at_stop=not caught_up)
        expired = expired_text(supervisor.status.expired)
        requests = requests_text(supervisor.status, settings)
        outside = not_in_table_text(supervisor.status.table)
        for line in (requests, unsent, expired, waiting_text(supervisor.status.waiting), outside):
            if line is not None:
                launch.say(line)
    return 1 if expired is not None or (unsent is not None and caught_up) else 0


def last_line(status: RunStatus, how: str) -> str:
    counters = status.counters
    late = f", late {late_text(counters)}" if counters["late"] else ""
    return (
        f"{how}: read {counters['read']:,}, valid {counters['valid']:,}, "
        f"dead {counters['dead']:,}, files {status.files:,}, restarts {status.restarts}{late}"
        + (f", dlq_topic_refused {status.refused_letters:,}" if status.refused_letters else "")
    )


def _coerced_text(status: RunStatus) -> str:
    """Return how many values were coerced, by field; empty if none were."""
    prefix = f"{COERCED}."
    counts = sorted(
        (name.removeprefix(prefix), count)
        for name, count in status.counters.items()
        if name.startswith(prefix) and count
    )
    shown = ", ".join(f"{printable(path)} {count:,}" for path, count in counts[:_COERCED_SHOWN])
    more = len(counts) - _COERCED_SHOWN
    others = f" and {more:,} more fields" if more > 0 else ""
    return f"{COERCED}: {shown}{others}" if counts else ""


_COERCED_SHOWN = 20


def _detached_text(settings: PipelineSettings) -> str:
    (record,) = job_records(settings.output_path)
    place = shlex.join([f"--output_dir={settings.output_dir}", *storage_flags(settings)])
    program = resources.program("run_flink.sh", "beam-pipeline flink")
    return (
        f"job {record.job_ids[-1]} runs on http://{record.master}/#/job/running/"
        f"{record.job_ids[-1]}; manage it with\n"
        f"  {program} status {place}\n"
        f"  {program} savepoint {place}\n"
        f"  {program} cancel {place}"
    )


def save_ledger(settings: PipelineSettings) -> None:
    """Save which offsets the files of the run that has ended hold, so that they may be deleted.

    Where that fails, the next start does it.
    """
    with contextlib.suppress(EnvironmentFailure, OSError):
        load_ledger(settings.output_path, settings.dead_letter_path).save()
