"""Which engine a run is on, and what a run on Flink needs beside."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from beam_pipeline.commands.logs import RunLogs
from beam_pipeline.errors import EnvironmentFailure, UsageError
from beam_pipeline.runtime.flink.engine import FlinkEngine, FlinkSettings, end_job, find_flink_tools
from beam_pipeline.runtime.flink.job_record import (
    FlinkJobRecord,
    job_records,
    record_of_savepoint,
    remove_records,
)
from beam_pipeline.runtime.flink.preflight import (
    check_cluster,
    needs_jars,
    task_manager_hosts,
    unshared,
)
from beam_pipeline.runtime.flink.rest import FlinkRest, FlinkUnreachableError
from beam_pipeline.runtime.lease import Lease
from beam_pipeline.runtime.prism.engine import PrismEngine, find_local_tools
from beam_pipeline.runtime.supervisor import ResumedEpoch, RunPlan, Supervisor

PRISM, FLINK = "prism", "flink"
DEFAULT_WORKER_POOL = "localhost:50000"


def add_engine_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say what the job runs on."""
    group = parser.add_argument_group("engine")
    group.add_argument(
        "--engine",
        choices=(PRISM, FLINK),
        default=PRISM,
        help="what the job runs on: Beam's local runner, or Flink (default: %(default)s; flink "
        "by ./run_flink.sh)",
    )
    group.add_argument(
        "--flink_master",
        metavar="HOST:PORT",
        help="REST address of a Flink cluster of your own (default: one is started here)",
    )
    group.add_argument(
        "--worker_pool",
        metavar="HOST:PORT",
        default=DEFAULT_WORKER_POOL,
        help="with --flink_master, Beam's Python worker pool as a TaskManager reaches it "
        "(default: %(default)s, one beside each TaskManager)",
    )
    group.add_argument(
        "--parallelism",
        metavar="N",
        type=int,
        default=2,
        help="on Flink, task slots and Python processes of the job (default: %(default)s)",
    )
    group.add_argument(
        "--checkpointing_interval",
        metavar="MS",
        type=int,
        default=10_000,
        help="on Flink, milliseconds from one checkpoint to the next (default: %(default)s)",
    )
    group.add_argument(
        "--from_savepoint",
        metavar="PATH",
        help="on Flink, go on from a savepoint, or a retained checkpoint, of the job that landed "
        "--output_dir last",
    )


def check_engine_flags(args: argparse.Namespace) -> None:
    """Refuses values out of range, and flags that do not go together.

    Raises:
      UsageError: names the flag and the remedy.
    """
    for name, least in (("parallelism", 1), ("checkpointing_interval", 10)):
        if getattr(args, name) < least:
            raise UsageError(f"--{name}={getattr(args, name)}: must be {least} or more")
    if args.engine != FLINK:
        for name in ("flink_master", "from_savepoint", "detach"):
            if getattr(args, name, None):
                raise UsageError(f"--{name} needs --engine=flink, or ./run_flink.sh")
    if getattr(args, "detach", False) and not args.flink_master:
        raise UsageError("--detach needs --flink_master: a cluster started here ends with the run")
    if getattr(args, "detach", False) and getattr(args, "until", None):
        raise UsageError("--detach and --until do not go together: nobody would watch for the end")
    for name in ("flink_master", "worker_pool"):
        value = getattr(args, name)
        host, _, port = (value or "any:1").rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise UsageError(f"--{name}={value}: must be HOST:PORT")


def make_supervisor(
    args: argparse.Namespace,
    plan: RunPlan,
    logs: RunLogs,
    leases: list[Lease],
    stack: ExitStack,
    console: Console,
) -> Supervisor:
    """The run on the engine that the flags name; `stack` ends what it needs.

    Raises:
      EnvironmentFailure: the engine can't be had, or a job of the directory still runs.
    """
    end_earlier_jobs(plan.output_dir)
    if args.engine == PRISM:
        return Supervisor(
            plan,
            PrismEngine(find_local_tools(), logs.file),
            logs.file,
            leases,
            on_submit=lambda epoch: remove_records(plan.output_dir),
        )
    return _FlinkRun(args, plan, logs, stack, console).supervisor(leases)


def end_earlier_jobs(output_dir: Path) -> None:
    """Sees to it that no Flink job writes the directory any more.

    One whose command was killed is cancelled; one that was detached on purpose is not.

    Raises:
      EnvironmentFailure: a detached job runs, or a cluster does not tell.
    """
    for record in job_records(output_dir):
        try:
            job = record.running_job()
        except FlinkUnreachableError as error:
            if record.local:
                continue
            raise EnvironmentFailure(
                f"job {record.job_name} may still write --output_dir={output_dir}: {error}; bring "
                "the cluster back, or see that the job has ended and remove "
                f"{output_dir}/_ledger/flink"
            ) from None
        if job is None:
            continue
        if record.detached:
            raise EnvironmentFailure(
                f"--output_dir={output_dir} is being written by job {job.id} on {record.master}; "
                f"end it with: ./run_flink.sh cancel --output_dir={output_dir}"
            )
        end_job(FlinkRest(record.master), job.id)


def directories_of(args: argparse.Namespace) -> dict[str, Path]:
    """The directories that every worker and this machine must share, by flag."""
    return {f"--{name}": Path(getattr(args, name)) for name in ("output_dir", "dead_letter_dir")}


class _FlinkRun:
    """A run on Flink and the record of its jobs."""

    def __init__(
        self,
        args: argparse.Namespace,
        plan: RunPlan,
        logs: RunLogs,
        stack: ExitStack,
        console: Console,
    ) -> None:
        self._args, self._plan, self._logs = args, plan, logs
        self._record: FlinkJobRecord | None = None
        self._resumed: FlinkJobRecord | None = None
        if args.from_savepoint:
            self._resumed = record_of_savepoint(plan.output_dir, args.from_savepoint)
        ship_jars = False
        if args.flink_master:
            rest = FlinkRest(args.flink_master)
            check_cluster(rest, args.parallelism, args.worker_pool)
            for warning in unshared(task_manager_hosts(rest), directories_of(args)):
                console.print(warning, markup=False, highlight=False, soft_wrap=True)
            ship_jars = needs_jars(rest)
        directory = Path(tempfile.mkdtemp(prefix="beam-pipeline-flink-"))
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        self._engine = FlinkEngine(
            find_flink_tools(with_cluster=not args.flink_master),
            FlinkSettings(
                parallelism=args.parallelism,
                checkpointing_interval_ms=args.checkpointing_interval,
                master=args.flink_master,
                worker_pool=args.worker_pool if args.flink_master else None,
                savepoint=args.from_savepoint,
                ship_jars=ship_jars,
            ),
            directory,
            logs.file,
            on_job=self._note_job,
        )
        console.print(
            f"Flink's web UI: {self._engine.rest.web_url}", highlight=False, soft_wrap=True
        )

    def supervisor(self, leases: list[Lease]) -> Supervisor:
        resumed = self._resumed
        return Supervisor(
            self._plan,
            self._engine,
            self._logs.file,
            leases,
            resumed=ResumedEpoch(resumed.epoch, resumed.covered) if resumed else None,
            on_submit=self._note_epoch,
            kept_epoch=self._kept_epoch,
        )

    def _note_epoch(self, epoch: ResumedEpoch) -> None:
        """Before a job is submitted: savepoints of other epochs are of the past from here on."""
        output_dir = self._plan.output_dir
        earlier = [record for record in job_records(output_dir) if record.epoch == epoch.name]
        self._record = FlinkJobRecord(
            epoch=epoch.name,
            master=self._engine.rest.master,
            dead_letter_dir=str(self._plan.dead_letter_dir),
            part_retention_seconds=self._plan.part_retention_seconds,
            covered=epoch.covered,
            detached=self._plan.detach,
            local=self._engine.is_local,
            job_ids=earlier[0].job_ids if earlier else (),
            savepoints=earlier[0].savepoints if earlier else (),
        )
        self._record.save(output_dir)
        remove_records(output_dir, but_epoch=epoch.name)

    def _note_job(self, job_id: str) -> None:
        (record,) = job_records(self._plan.output_dir)
        record.with_job(job_id).save(self._plan.output_dir)

    def _kept_epoch(self) -> str:
        """A job on a cluster of the user's leaves a checkpoint behind; one here only savepoints."""
        records = job_records(self._plan.output_dir)
        kept = [record for record in records if record.savepoints or not record.local]
        remove_records(self._plan.output_dir, but_epoch=kept[0].epoch if kept else "")
        return kept[0].epoch if kept else ""
