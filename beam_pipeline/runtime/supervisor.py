"""Runs the job until its goal or a signal; starts it again, from its files, when something died."""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

from beam_pipeline.config import BreakerLimits
from beam_pipeline.covered_offsets import CoveredOffsets
from beam_pipeline.errors import EnvironmentFailure, UsageError
from beam_pipeline.files.ledger import Ledger, load_ledger
from beam_pipeline.files.parts import sweep_dead_epochs, sweep_parts
from beam_pipeline.job_file import JobFile
from beam_pipeline.kafka.admin import alter_group_offsets, cluster_reachable
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.offset_sets import TopicPartition
from beam_pipeline.runtime.breaker import CircuitBreaker
from beam_pipeline.runtime.engine import Engine, EngineStatus, LogFile
from beam_pipeline.runtime.lease import Lease
from beam_pipeline.runtime.processes import ManagedProcess
from beam_pipeline.runtime.resume import Ends, cover_offset_gaps, find_resume_point
from beam_pipeline.settings.config import PipelineSettings

POLL_SECONDS = 0.2
SWEEP_SECONDS = 30.0
MAX_LISTING_SHARE = 0.05
STABLE_SECONDS = 600.0
STANDSTILL_SECONDS = 10.0
STATUS_FILE = "status.json"
MAX_BACKOFF_SECONDS = 30.0
JOB_GRACE_SECONDS = 5.0
USAGE_EXIT_CODE = 2


NEW_FILES_KEPT = 64


@dataclass
class RunStatus:
    """What a run has done so far, for whoever watches it; counts are over all its epochs.

    `starts` are the offsets where the epoch began to read, `covered` those that are in files now,
    and `new_files` the names of the newest files, for the watcher to take away.
    """

    state: str = "starting"
    epoch: str = ""
    counters: Counter[str] = field(default_factory=Counter)
    files: int = 0
    restarts: int = 0
    remaining: int | None = None
    notices: list[str] = field(default_factory=list)
    starts: dict[TopicPartition, int] = field(default_factory=dict)
    covered: CoveredOffsets = field(default_factory=CoveredOffsets)
    new_files: deque[str] = field(default_factory=lambda: deque(maxlen=NEW_FILES_KEPT))


@dataclass(frozen=True)
class RunPlan:
    """What to run; `beam_flags` go to Beam as they are."""

    connection: KafkaConnection
    settings: PipelineSettings
    beam_flags: Sequence[str]
    max_restarts: int
    breaker_limits: BreakerLimits | None = None
    detach: bool = False

    @property
    def output_dir(self) -> Path:
        """The root of the Parquet files."""
        return Path(self.settings.output_dir)

    @property
    def dead_letter_dir(self) -> Path:
        """The root of the dead-letter files."""
        return Path(self.settings.dead_letter_dir)


@dataclass(frozen=True)
class ResumedEpoch:
    """An epoch that a restored job goes on with, and the offsets that it has skipped all along
    (`CoveredOffsets.to_json`): those of files of the epoch itself may be rolled back."""

    name: str
    covered: list[dict[str, Any]]


class Supervisor:
    """One run: epochs one after another, each resuming where the files of those before it end."""

    def __init__(
        self,
        plan: RunPlan,
        engine: Engine,
        log_file: LogFile,
        leases: Sequence[Lease],
        *,
        resumed: ResumedEpoch | None = None,
        on_submit: Callable[[ResumedEpoch], None] = lambda epoch: None,
        kept_epoch: Callable[[], str] = lambda: "",
    ) -> None:
        """Describe the run; nothing is started yet.

        Args:
          resumed: the epoch that the engine's first job goes on with, from a savepoint.
          on_submit: told of each job before it is submitted.
          kept_epoch: asked at the end which epoch's parts stay, for a savepoint of it.
        """
        self.status = RunStatus()
        self._covered: list[dict[str, Any]] = []
        self._resumed = resumed
        self._on_submit = on_submit
        self._kept_epoch = kept_epoch
        self._left = False
        self._plan = plan
        self._engine = engine
        self._log_file = log_file
        self._leases = leases
        self._counted: Counter[str] = Counter()
        self._ledger = Ledger(plan.output_dir, plan.dead_letter_dir)
        self._starts: dict[TopicPartition, int] = {}
        self._goal: Ends | None = None
        self._next_listing = 0.0
        self._moved_at = time.monotonic()
        self._progress: tuple[str, int, int] | None = None
        self._breaker = CircuitBreaker(plan.breaker_limits) if plan.breaker_limits else None

    def set_goal(self, ends: Ends) -> None:
        """The run ends once every record before these offsets is in a file."""
        self._goal = ends

    def run(self, stop: Event, on_tick: Callable[[RunStatus], None]) -> bool:
        """Runs until the goal is reached or the job left alone (True), or `stop` is set (False).

        Raises:
          EnvironmentFailure: it died more often than `max_restarts` allows.
          UsageError: the job refuses its flags.
        """
        try:
            return self._run_epochs(stop, on_tick)
        finally:
            self._sweep_dead_epochs(self._kept_epoch())

    def _run_epochs(self, stop: Event, on_tick: Callable[[RunStatus], None]) -> bool:
        restarts_in_a_row = 0
        while True:
            started = time.monotonic()
            resumed, self._resumed = self._resumed, None
            failure = self._run_epoch(stop, on_tick, resumed)
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
            again = "starting again"
            if checkpoint := self._engine.checkpoint():
                self._resumed = ResumedEpoch(self.status.epoch, self._covered)
                again += f" from {checkpoint.rpartition('/')[2]}"
            self.status.notices.append(f"{again} after: {failure}")
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

    def _run_epoch(
        self,
        stop: Event,
        on_tick: Callable[[RunStatus], None],
        resumed: ResumedEpoch | None,
    ) -> str | None:
        """One submission; None at its goal or a stop, else what died."""
        self.status.state = "starting"
        scratch = Path(tempfile.mkdtemp(prefix="beam-pipeline-"))
        job: ManagedProcess | None = None
        try:
            self.status.epoch = resumed.name if resumed else new_epoch()
            self._engine.start(self.status.epoch)
            self._sweep_dead_epochs(self.status.epoch)
            try:
                self._resume(resumed)
            except EnvironmentFailure as error:
                if cluster_reachable(self._plan.connection, 2.0):
                    raise
                return str(error)
            except OSError as error:  # a full disk may have room again at the next try
                return f"{error.filename or self._plan.output_dir}: {error.strerror}"
            job = self._submit(scratch)
            return self._watch(job, scratch / STATUS_FILE, stop, on_tick)
        finally:
            if job is not None:
                job.terminate(JOB_GRACE_SECONDS)
                self._read_counters(scratch / STATUS_FILE)
            if self._left:
                self._engine.leave()
            else:
                self._engine.stop()
            self._counted = Counter(self.status.counters)
            shutil.rmtree(scratch, ignore_errors=True)

    def _submit(self, scratch: Path) -> ManagedProcess:
        """Starts the process that submits the job; its scratch directory takes what it needs."""
        self._on_submit(ResumedEpoch(self.status.epoch, self._covered))
        job_file = scratch / "job.json"
        JobFile(
            settings=self._plan.settings,
            epoch=self.status.epoch,
            covered=self._covered,
            status_file=str(scratch / STATUS_FILE),
        ).write(job_file)
        return ManagedProcess(
            "pipeline",
            [
                sys.executable,
                *("-m", "beam_pipeline.job"),
                f"--job_file={job_file}",
                *self._plan.beam_flags,
                *self._engine.job_flags(),
            ],
            self._log_file("pipeline"),
            env={"TMPDIR": str(scratch)},
        )

    def _resume(self, resumed: ResumedEpoch | None) -> None:
        """Sets the group's offsets to what the files do not cover, and what lies beyond aside.

        A restored job has its own offsets, and files of its epoch are no ground to skip a record.
        """
        plan = self._plan
        # Only a runner that goes back in time replaces files; looking at each again costs.
        live_epoch = self.status.epoch if self._engine.restores_checkpoints else ""
        self._ledger = load_ledger(plan.output_dir, plan.dead_letter_dir, live_epoch)
        point = find_resume_point(plan.connection, plan.settings.input_topics, self._ledger)
        self._starts = self.status.starts = point.starts
        self.status.covered = self._ledger.covered
        self.status.notices += [
            notice for notice in point.notices if notice not in self.status.notices
        ]
        if resumed:
            self._covered = resumed.covered
            return
        self._ledger.save()
        alter_group_offsets(plan.connection, plan.settings.consumer_group, self._starts)
        self._covered = self._ledger.covered.beyond(self._starts).to_json()

    def _watch(
        self,
        job: ManagedProcess,
        status_file: Path,
        stop: Event,
        on_tick: Callable[[RunStatus], None],
    ) -> str | None:
        files_before = len(self._ledger.files) - self.status.files
        self._next_listing = 0.0
        next_sweep = time.monotonic() + SWEEP_SECONDS
        while not stop.wait(POLL_SECONDS):
            self._beat()
            status = self._engine.status()
            self._take_counters(status, status_file)
            if self._breaker:
                self._breaker.check(self.status.counters)
            self._look_for_files()
            self.status.covered = self._ledger.covered
            self.status.files = len(self._ledger.files) - files_before
            if self._goal is not None and self._reached(self._goal):
                return None
            if status.runs_alone and self._plan.detach:
                self._left = True
                return None
            if status.failure is not None:
                return status.failure
            if status.runs_alone:
                job.terminate(JOB_GRACE_SECONDS)
            elif not job.alive:
                return self._failure(job)
            if time.monotonic() > next_sweep:
                next_sweep = time.monotonic() + SWEEP_SECONDS
                self._sweep()
            on_tick(self.status)
        return None

    def _look_for_files(self) -> None:
        """Reads what is new, at most for `MAX_LISTING_SHARE` of the time: with 100,000 files the
        listing alone takes long."""
        started = time.monotonic()
        if started >= self._next_listing:
            self.status.new_files.extend(self._ledger.refresh())
            ended = time.monotonic()
            self._next_listing = ended + (ended - started) / MAX_LISTING_SHARE

    def _take_counters(self, status: EngineStatus, status_file: Path) -> None:
        self.status.restarts += len(status.repairs)
        self.status.notices += [f"started again, and restored: {what}" for what in status.repairs]
        if status.counters is None:
            self._read_counters(status_file)
        elif status.counters:
            self.status.state = "running"
            self.status.counters = self._counted + status.counters

    def _failure(self, job: ManagedProcess) -> str:
        if job.returncode == USAGE_EXIT_CODE:
            raise UsageError(job.tail(1)[-1])
        return job.end()

    def _reached(self, goal: Ends) -> bool:
        """Whether every record before the goal is in a file; looks for holes when nothing moves."""
        self.status.remaining = self._remaining(goal)
        progress = (self.status.state, self.status.counters["read"], self.status.remaining)
        if progress != self._progress or self.status.state != "running":
            self._progress = progress
            self._moved_at = time.monotonic()
        elif self.status.remaining and time.monotonic() - self._moved_at > STANDSTILL_SECONDS:
            spans = {key: (self._starts.get(key, 0), end) for key, end in goal.items()}
            if cluster_reachable(self._plan.connection, 2.0):
                with contextlib.suppress(EnvironmentFailure):  # it went away; the next look tells
                    cover_offset_gaps(self._plan.connection, self._ledger, spans)
            self._moved_at = time.monotonic()
        return self.status.remaining == 0

    def _remaining(self, goal: Ends) -> int:
        covered = self._ledger.covered
        return sum(
            covered.missing(key.topic, key.partition, self._starts.get(key, 0), end)
            for key, end in goal.items()
        )

    def _read_counters(self, status_file: Path) -> None:
        try:
            found = json.loads(status_file.read_bytes())
        except FileNotFoundError:
            return
        self.status.state = "running"
        self.status.counters = self._counted + Counter(found["counters"])

    def _sweep(self) -> None:
        retention = (
            self._plan.settings.part_retention_seconds if self._engine.restores_checkpoints else 0
        )
        for root in (self._plan.output_dir, self._plan.dead_letter_dir):
            sweep_parts(root, self.status.epoch, retention)

    def _sweep_dead_epochs(self, live_epoch: str) -> None:
        for root in (self._plan.output_dir, self._plan.dead_letter_dir):
            sweep_dead_epochs(root, live_epoch)

    def _beat(self) -> None:
        for lease in self._leases:
            lease.beat()


def new_epoch() -> str:
    """An identity for a submission that sorts by time: `20261124T133350Zx3f9a`."""
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}x{secrets.token_hex(2)}"
