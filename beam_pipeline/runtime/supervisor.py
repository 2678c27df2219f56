"""Runs the job until its goal or a signal; starts it again, from its files, when something died."""

from __future__ import annotations

import json
import secrets
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

from beam_pipeline.errors import EnvironmentFailure, UsageError
from beam_pipeline.io.kafka_admin import alter_group_offsets, cluster_reachable
from beam_pipeline.io.kafka_connection import KafkaConnection
from beam_pipeline.io.ledger import Ledger, load_ledger
from beam_pipeline.io.part_files import sweep_dead_epochs, sweep_parts
from beam_pipeline.offsets import TopicPartition
from beam_pipeline.runtime.breaker import BreakerLimits, CircuitBreaker
from beam_pipeline.runtime.engine import Engine, LogFile
from beam_pipeline.runtime.lease import Lease
from beam_pipeline.runtime.processes import ManagedProcess
from beam_pipeline.runtime.resume import Ends, cover_holes, find_resume_point

POLL_SECONDS = 0.2
SWEEP_SECONDS = 30.0
STABLE_SECONDS = 600.0
STANDSTILL_SECONDS = 10.0
MAX_BACKOFF_SECONDS = 30.0
JOB_GRACE_SECONDS = 5.0
USAGE_EXIT_CODE = 2


@dataclass
class RunStatus:
    """What a run has done so far, for whoever watches it; counts are over all its epochs."""

    state: str = "starting"
    epoch: str = ""
    counters: Counter[str] = field(default_factory=Counter)
    files: int = 0
    restarts: int = 0
    remaining: int | None = None
    notices: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class RunPlan:
    """What to run, and where its files are."""

    connection: KafkaConnection
    topics: Sequence[str]
    consumer_group: str
    output_dir: Path
    dead_letter_dir: Path
    job_flags: Sequence[str]
    part_retention_seconds: int
    max_restarts: int
    breaker_limits: BreakerLimits | None = None


class Supervisor:
    """One run: epochs one after another, each resuming where the files of those before it end."""

    def __init__(
        self, plan: RunPlan, engine: Engine, log_file: LogFile, leases: Sequence[Lease]
    ) -> None:
        self.status = RunStatus()
        self._plan = plan
        self._engine = engine
        self._log_file = log_file
        self._leases = leases
        self._counted: Counter[str] = Counter()
        self._ledger = Ledger(plan.output_dir, plan.dead_letter_dir)
        self._starts: dict[TopicPartition, int] = {}
        self._goal: Ends | None = None
        self._moved_at = time.monotonic()
        self._breaker = CircuitBreaker(plan.breaker_limits) if plan.breaker_limits else None

    def set_goal(self, ends: Ends) -> None:
        """The run ends once every record before these offsets is in a file."""
        self._goal = ends

    def run(self, stop: Event, on_tick: Callable[[RunStatus], None]) -> bool:
        """Runs until the goal is reached (True) or `stop` is set (False).

        Raises:
          EnvironmentFailure: it died more often than `max_restarts` allows.
          UsageError: the job refuses its flags.
        """
        restarts_in_a_row = 0
        while True:
            started = time.monotonic()
            failure = self._run_epoch(stop, on_tick)
            if failure is None:
                self.status.state = "ended"
                return not stop.is_set()
            if time.monotonic() - started > STABLE_SECONDS:
                restarts_in_a_row = 0
            restarts_in_a_row += 1
            if restarts_in_a_row > self._plan.max_restarts:
                raise EnvironmentFailure(
                    f"{failure}; gave up after {self._plan.max_restarts} restarts "
                    "(--max_restarts). Nothing is lost: the next start resumes from the files"
                )
            self.status.restarts += 1
            self.status.notices.append(f"starting again after: {failure}")
            self.status.state = "restarting"
            backoff_seconds = min(2.0 ** (restarts_in_a_row - 1), MAX_BACKOFF_SECONDS)
            deadline = time.monotonic() + backoff_seconds
            while time.monotonic() < deadline and not stop.wait(POLL_SECONDS):
                self._beat()
                on_tick(self.status)
            self._await_broker(stop, on_tick)
            if stop.is_set():
                return False

    def _await_broker(self, stop: Event, on_tick: Callable[[RunStatus], None]) -> None:
        """Waits while the broker is away; that is no fault of what would be started again."""
        while not stop.is_set() and not cluster_reachable(self._plan.connection, 2.0):
            self.status.state = "waiting for the broker"
            self._beat()
            on_tick(self.status)

    def _run_epoch(self, stop: Event, on_tick: Callable[[RunStatus], None]) -> str | None:
        """One epoch; None at its goal or a stop, else what died."""
        self.status.state = "starting"
        scratch = Path(tempfile.mkdtemp(prefix="beam-pipeline-"))
        job: ManagedProcess | None = None
        try:
            self._engine.start()
            self.status.epoch = new_epoch()
            for root in (self._plan.output_dir, self._plan.dead_letter_dir):
                sweep_dead_epochs(root, self.status.epoch)
            try:
                covered_file = self._resume(scratch)
            except EnvironmentFailure as error:
                if cluster_reachable(self._plan.connection, 2.0):
                    raise
                return str(error)
            except OSError as error:  # a full disk may have room again at the next try
                return f"{error.filename or self._plan.output_dir}: {error.strerror}"
            status_file = scratch / "status.json"
            job = ManagedProcess(
                "pipeline",
                [
                    sys.executable,
                    *("-m", "beam_pipeline.job"),
                    *self._plan.job_flags,
                    *self._engine.job_flags(),
                    f"--epoch={self.status.epoch}",
                    f"--covered_offsets={covered_file}",
                    f"--status_file={status_file}",
                ],
                self._log_file("pipeline"),
                env={"TMPDIR": str(scratch)},
            )
            return self._watch(job, status_file, stop, on_tick)
        finally:
            if job is not None:
                job.terminate(JOB_GRACE_SECONDS)
                self._read_counters(scratch / "status.json")
            self._engine.stop()
            self._counted = Counter(self.status.counters)
            shutil.rmtree(scratch, ignore_errors=True)
            for root in (self._plan.output_dir, self._plan.dead_letter_dir):
                sweep_dead_epochs(root, "")

    def _resume(self, scratch: Path) -> Path:
        """Sets the group's offsets to what the files do not cover; the file of what lies beyond."""
        plan = self._plan
        self._ledger = load_ledger(plan.output_dir, plan.dead_letter_dir)
        point = find_resume_point(plan.connection, plan.topics, self._ledger)
        self._ledger.save()
        self._starts = point.starts
        self.status.notices += [
            notice for notice in point.notices if notice not in self.status.notices
        ]
        alter_group_offsets(plan.connection, plan.consumer_group, self._starts)
        path = scratch / "covered.json"
        path.write_text(json.dumps(self._ledger.covered.beyond(self._starts).to_json()))
        return path

    def _watch(
        self,
        job: ManagedProcess,
        status_file: Path,
        stop: Event,
        on_tick: Callable[[RunStatus], None],
    ) -> str | None:
        files_before = len(self._ledger.files) - self.status.files
        next_sweep = time.monotonic() + SWEEP_SECONDS
        while not stop.wait(POLL_SECONDS):
            self._beat()
            self._read_counters(status_file)
            if self._breaker:
                self._breaker.check(self.status.counters)
            self._ledger.refresh()
            self.status.files = len(self._ledger.files) - files_before
            if self._goal is not None and self._reached(self._goal):
                return None
            dead = self._engine.dead_process() or (None if job.alive else job)
            if dead is not None:
                return self._failure(dead)
            if time.monotonic() > next_sweep:
                next_sweep = time.monotonic() + SWEEP_SECONDS
                self._sweep()
            on_tick(self.status)
        return None

    def _failure(self, dead: ManagedProcess) -> str:
        if dead.name == "pipeline" and dead.returncode == USAGE_EXIT_CODE:
            raise UsageError(dead.tail(1)[-1])
        return str(dead.failure(f"ended with exit code {dead.returncode}"))

    def _reached(self, goal: Ends) -> bool:
        """Whether every record before the goal is in a file; looks for holes when nothing moves."""
        remaining = self._remaining(goal)
        if remaining != self.status.remaining:
            self.status.remaining = remaining
            self._moved_at = time.monotonic()
        elif remaining and time.monotonic() - self._moved_at > STANDSTILL_SECONDS:
            self._moved_at = time.monotonic()
            spans = {key: (self._starts.get(key, 0), end) for key, end in goal.items()}
            cover_holes(self._plan.connection, self._ledger, spans)
        return remaining == 0

    def _remaining(self, goal: Ends) -> int:
        covered = self._ledger.covered
        return sum(
            covered.missing(topic, partition, self._starts.get((topic, partition), 0), end)
            for (topic, partition), end in goal.items()
        )

    def _read_counters(self, status_file: Path) -> None:
        try:
            found = json.loads(status_file.read_bytes())
        except FileNotFoundError:
            return
        self.status.state = "running"
        self.status.counters = self._counted + Counter(found["counters"])

    def _sweep(self) -> None:
        retention = self._plan.part_retention_seconds if self._engine.restores_checkpoints else 0
        for root in (self._plan.output_dir, self._plan.dead_letter_dir):
            sweep_parts(root, self.status.epoch, retention)

    def _beat(self) -> None:
        for lease in self._leases:
            lease.beat()


def new_epoch() -> str:
    """An identity for a submission that sorts by time: `20261124T133350Zx3f9a`."""
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}x{secrets.token_hex(2)}"
