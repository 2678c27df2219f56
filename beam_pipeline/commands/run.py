"""`beam-pipeline run`: the pipeline on the user's own topics."""

from __future__ import annotations

import argparse
import contextlib
import signal
from contextlib import ExitStack
from pathlib import Path
from threading import Event

from rich.console import Console

from beam_pipeline import resources
from beam_pipeline.commands.engines import (
    PRISM,
    add_engine_flags,
    check_engine_flags,
    make_supervisor,
)
from beam_pipeline.commands.live.view import RunView
from beam_pipeline.commands.logs import add_log_flag, logs_of
from beam_pipeline.errors import EnvironmentFailure, UsageError
from beam_pipeline.files.ledger import load_ledger
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.runtime import preflight
from beam_pipeline.runtime.breaker import BreakerLimits
from beam_pipeline.runtime.flink.job_record import job_records
from beam_pipeline.runtime.lease import Lease, hold_lease
from beam_pipeline.runtime.resume import ends_of
from beam_pipeline.runtime.supervisor import RunPlan, RunStatus
from beam_pipeline.settings.flags import add_pipeline_flags, consumer_group_of, topics_of

CAUGHT_UP = "caught_up"
CAUGHT_UP_EARLY_PANE_SECONDS = 5

_DESCRIPTION = """\
Lands Kafka topics as Parquet: every record becomes a row or a dead letter, exactly once in the
files, whatever is killed and whenever. A restart resumes from the files.

Runs until Ctrl-C or SIGTERM, or with --until=caught_up until everything that was in the topics at
the start is in files. Flags behind `--` go to Beam as they are.
"""
_EPILOG = """\
exit codes:
  0  ended as asked
  1  the broker, a topic, a directory or a process failed for good
  2  a flag is wrong

examples:
  beam-pipeline run --kafka_bootstrap_servers=localhost:9092 --input_topics=orders \\
    --schema=order.schema.json --event_time_field=created_at
  beam-pipeline run --kafka_bootstrap_servers=localhost:9092 --input_topics=orders,refunds \\
    --until=caught_up --output_dir=lake/orders --dead_letter_dir=lake/dead
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `run`, its description and its examples to `parser`."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add_pipeline_flags(parser)
    group = parser.add_argument_group("run")
    group.add_argument(
        "--until",
        choices=(CAUGHT_UP,),
        help="end by itself once everything that was in the topics at the start is in files "
        "(default: run on)",
    )
    group.add_argument(
        "--detach",
        action="store_true",
        help="with --flink_master, submit the job and leave it; see `flink status`",
    )
    add_supervision_flags(group)
    add_engine_flags(parser)


def add_supervision_flags(group: argparse._ArgumentGroup) -> None:
    """Adds the flags that say how a run is looked after."""
    group.add_argument(
        "--max_restarts",
        metavar="N",
        type=int,
        default=10,
        help="how often in a row what died is started again (default: %(default)s)",
    )
    group.add_argument(
        "--max_dead_ratio",
        metavar="SHARE",
        type=float,
        help="stop when more than this share, 0 to 1, of the records read over "
        "--dead_ratio_window_seconds are dead letters, as after a wrong --schema (default: off)",
    )
    group.add_argument(
        "--dead_ratio_window_seconds",
        metavar="SECONDS",
        type=float,
        default=60.0,
        help="time over which --max_dead_ratio is measured (default: %(default)g)",
    )
    add_log_flag(group)  # type: ignore[arg-type]


def run(args: argparse.Namespace, beam_flags: list[str]) -> int:
    """Runs until the goal or a signal; the exit code.

    Raises:
      PipelineError: what the user can mend.
    """
    check_engine_flags(args)
    stop = stop_on_signals()
    logs = logs_of(args)
    connection = preflight.check(args)
    if args.until == CAUGHT_UP and args.early_pane_seconds is None:
        args.early_pane_seconds = CAUGHT_UP_EARLY_PANE_SECONDS
    with ExitStack() as stack:
        leases = hold_leases(stack, args)
        console = Console()
        supervisor = make_supervisor(
            args, plan_of(args, connection, beam_flags), logs, leases, stack, console
        )
        topics = topics_of(args.input_topics)
        if args.until == CAUGHT_UP:
            supervisor.set_goal(ends_of(connection, topics))
        console.print(
            f"landing {', '.join(topics)} from {connection.bootstrap_servers} in "
            f"{args.output_dir}, dead letters in {args.dead_letter_dir} "
            f"(log: {logs.file('pipeline')})",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        with view_of(args, ", ".join(topics), connection, console) as view:
            caught_up = supervisor.run(stop, view.show)
        if args.detach and caught_up:
            console.print(_left_line(args), markup=False, highlight=False, soft_wrap=True)
            return 0
        if args.engine == PRISM:  # a job on Flink may be resumed, and replace files
            remember_files(args)
        console.print(_last_line(supervisor.status, caught_up), markup=False, highlight=False)
    return 0


def _last_line(status: RunStatus, caught_up: bool) -> str:
    counters = status.counters
    how = "caught up" if caught_up else "stopped"
    return (
        f"{how}: read {counters['read']:,}, valid {counters['valid']:,}, "
        f"dead {counters['dead']:,}, files {status.files:,}, restarts {status.restarts}"
    )


def _left_line(args: argparse.Namespace) -> str:
    (record,) = job_records(Path(args.output_dir))
    program = resources.program("run_flink.sh", "beam-pipeline flink")
    return (
        f"job {record.job_ids[-1]} runs on http://{record.master}/#/job/running/"
        f"{record.job_ids[-1]}; look after it with\n"
        f"  {program} status --output_dir={args.output_dir}\n"
        f"  {program} savepoint --output_dir={args.output_dir}\n"
        f"  {program} cancel --output_dir={args.output_dir}"
    )


def remember_files(args: argparse.Namespace) -> None:
    """Notes what the files of the run that has ended cover, so that they may be deleted. Where that
    fails, the next start does it."""
    with contextlib.suppress(EnvironmentFailure, OSError):
        load_ledger(args.output_dir, args.dead_letter_dir).save()


def stop_on_signals() -> Event:
    """An event that SIGINT and SIGTERM set."""
    stop = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop


def view_of(
    args: argparse.Namespace, title: str, connection: KafkaConnection, console: Console
) -> RunView:
    """The view of a run into the directories that the flags name."""
    return RunView(title, console, connection, Path(args.output_dir), Path(args.dead_letter_dir))


def hold_leases(stack: ExitStack, args: argparse.Namespace) -> list[Lease]:
    """Holds the output and the dead-letter directory for the time of `stack`."""
    directories: dict[Path, str] = {}
    for name in ("output_dir", "dead_letter_dir"):
        directories.setdefault(Path(getattr(args, name)).resolve(), f"--{name}")
    return [
        stack.enter_context(hold_lease(directory, flag)) for directory, flag in directories.items()
    ]


def plan_of(
    args: argparse.Namespace, connection: KafkaConnection, beam_flags: list[str]
) -> RunPlan:
    """The run that the flags describe; the pipeline's own flags go to the job as they came."""
    return RunPlan(
        connection=connection,
        topics=topics_of(args.input_topics),
        consumer_group=consumer_group_of(args),
        output_dir=Path(args.output_dir),
        dead_letter_dir=Path(args.dead_letter_dir),
        job_flags=[*pipeline_flags(args), *beam_flags],
        part_retention_seconds=args.part_retention_seconds,
        max_restarts=args.max_restarts,
        breaker_limits=_breaker_limits(args),
        detach=getattr(args, "detach", False),
    )


def _breaker_limits(args: argparse.Namespace) -> BreakerLimits | None:
    if args.max_restarts < 0:
        raise UsageError(f"--max_restarts={args.max_restarts}: must be 0 or more")
    if args.max_dead_ratio is None:
        return None
    if not 0 <= args.max_dead_ratio <= 1:
        raise UsageError(f"--max_dead_ratio={args.max_dead_ratio:g}: must be from 0 to 1")
    if not args.dead_ratio_window_seconds > 0:
        raise UsageError(
            f"--dead_ratio_window_seconds={args.dead_ratio_window_seconds:g}: must be more than 0"
        )
    return BreakerLimits(args.max_dead_ratio, args.dead_ratio_window_seconds)


def pipeline_flags(args: argparse.Namespace) -> list[str]:
    """The pipeline's flags as arguments for the job."""
    parser = argparse.ArgumentParser(add_help=False)
    add_pipeline_flags(parser)
    names = [action.dest for action in parser._actions]
    values = {name: getattr(args, name) for name in names}
    return [
        f"--{name}={one}"
        for name, value in values.items()
        for one in (value if isinstance(value, list) else [value])
        if one is not None
    ]
