"""The supervisor: runs one epoch after another until the goal or a stop, and restarts failed ones.

An epoch is one submission of the job. The next one resumes from the files of those before it.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

from beam_pipeline.config import Cut, PaneTiming, PartitionEnd, Windowing
from beam_pipeline.errors import EnvironmentFailure, UsageError
from beam_pipeline.files.expired import ExpiredNote, load_expired_note
from beam_pipeline.files.ledger import FileContent, Ledger
from beam_pipeline.files.names import PARQUET_SUFFIX
from beam_pipeline.job_file import COLUMNS_FILE, JobFile
from beam_pipeline.kafka.admin import LogBounds
from beam_pipeline.offset_sets import TopicPartition
from beam_pipeline.runtime.breaker import CircuitBreaker
from beam_pipeline.runtime.broker_watch import BrokerWatch
from beam_pipeline.runtime.complete_hours import CompleteHours, HourRules
from beam_pipeline.runtime.discovery import Admit, Discovery, NamesOf, names_of
from beam_pipeline.runtime.engine import Engine, EngineStatus, LogFile
from beam_pipeline.runtime.epochs import ResumedEpoch, new_epoch
from beam_pipeline.runtime.group_progress import GroupProgress
from beam_pipeline.runtime.held_columns import note_columns
from beam_pipeline.runtime.lease_terms import Lease, LeaseLostError
from beam_pipeline.runtime.leftovers import Leftovers
from beam_pipeline.runtime.log_watch import (
    AWAY_SECONDS,
    LOOK_SECONDS,
    LogWatch,
    landing_seconds,
)
from beam_pipeline.runtime.outages import Outages
from beam_pipeline.runtime.outbox import Outbox
from beam_pipeline.runtime.preflight import admit_topic
from beam_pipeline.runtime.processes import ManagedProcess
from beam_pipeline.runtime.restarts import RestartLimits, Restarts
from beam_pipeline.runtime.resume import Ends, Source
from beam_pipeline.runtime.run_events import RESTART, RunEvent
from beam_pipeline.runtime.run_plan import RunPlan
from beam_pipeline.runtime.run_status import OnTick, RunStatus
from beam_pipeline.runtime.scope import PartByTime, Scope
from beam_pipeline.runtime.storage_watch import StorageWatch
from beam_pipeline.runtime.table_committer import (
    LAST_COMMIT_SECONDS,
    STOP_COMMIT_SECONDS,
    TableCommitter,
)
from beam_pipeline.storage.paths import ObjectPath, StoredPath
from beam_pipeline.storage.protocol import StorageAwayError
from beam_pipeline.terminal import plural

POLL_SECONDS = 0.2
SWEEP_SECONDS = 30.0
MAX_LISTING_SHARE = 0.05
STORE_LISTING_SECONDS = 5.0
FULL_BYTES = 1024**2
STANDSTILL_SECONDS = 10.0
READ_SECONDS = 2.0
STATUS_FILE = "status.json"
JOB_GRACE_SECONDS = 5.0
USAGE_EXIT_CODE = 2
# How long the workers may still send their last dead letters, and how long a stop may take to.
LAST_LETTERS_SECONDS = 10.0
STOP_LETTERS_SECONDS = 3.0
JOB_COMMAND = (sys.executable, "-m", "beam_pipeline.job")


class Supervisor:
    """One run: epochs one after another."""

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
        source: Source | None = None,
        names: NamesOf | None = None,
        admit: Admit = admit_topic,
        outbox: Outbox | None = None,
        restart_limits: RestartLimits | None = None,
        scope: Scope | None = None,
        job_command: Sequence[str] = JOB_COMMAND,
    ) -> None:
        """Describe the run; nothing is started yet.

        Args:
          plan: what to run.
          engine: what the job runs on.
          log_file: returns the log file of a process.
          leases: of the directories that the job writes.
          resumed: the epoch that the engine's first job continues, from a savepoint.
          on_submit: called before each job is submitted.
          kept_epoch: called at the end; returns the epoch whose parts stay, for a savepoint of it.
          source: the topics; by default those of the plan.
          names: the names of all topics; by default those of the plan's cluster.
          admit: prepares to read a topic that has come.
          outbox: the dead-letter files that go to their topic; by default those of the plan.
          restart_limits: by default `max_restarts` of the plan with the usual backoff.
          scope: what of the logs the run lands; by default all.
          job_command: the program that submits the job.
        """
        self.status = RunStatus()
        self._covered: list[dict[str, Any]] = []
        self._resumed = resumed
        self._on_submit = on_submit
        self._kept_epoch = kept_epoch
        self._is_detached = False
        self._plan = plan
        self._engine = engine
        self._log_file = log_file
        self._leases = leases
        self._source = source or plan.source
        interval_seconds = plan.discovery_interval_seconds
        self._discovery = Discovery(
            plan.settings, interval_seconds, names or names_of(plan.connection), admit
        )
        self._look_seconds = min(LOOK_SECONDS, interval_seconds or LOOK_SECONDS)
        self._change: str | None = None
        self._outbox = outbox or Outbox(
            plan.outbox_settings, self.status.notices.append, log_file("dead-letters")
        )
        self._scope: Scope = scope or PartByTime(plan.output_dir)
        self._cut = Cut()
        self._table: TableCommitter | None = None
        if plan.table is not None:
            notices = self.status.notices
            self._table = TableCommitter(plan.table, log_file("table"), notices.append)
        self._group_progress = GroupProgress(lambda landed_to: self._source.commit(landed_to))
        self._restarts = Restarts(restart_limits or RestartLimits(plan.max_restarts))
        self._job_command = job_command
        self._counters_before: Counter[str] = Counter()
        self._roots = (plan.output_dir, plan.dead_letter_dir)
        self._outages = Outages(
            self.status, BrokerWatch(self._source.is_reachable), StorageWatch(self._roots)
        )
        self._leftovers = Leftovers(self._roots, plan.settings)
        self._ledger = Ledger(*self._roots)
        self._starts: dict[TopicPartition, int] = {}
        self._goal: Ends | None = None
        self._next_listing = 0.0
        self._moved_at = time.monotonic()
        self._read, self._read_at = 0, time.time()
        self._progress: tuple[str, int, int] | None = None
        settings = plan.settings
        grace_seconds = landing_seconds(
            settings.windowing, settings.timing, settings.max_out_of_order_seconds
        )
        self._log_watch = LogWatch(
            ExpiredNote(),
            grace_seconds,
            accept=plan.accept_expired,
            tells_of_added=not self._discovery.is_on,
        )
        self._hours = CompleteHours(
            *self._roots,
            HourRules(
                settings.input_topics,
                settings.windowing,
                settings.max_out_of_order_seconds,
                settings.max_event_skew_seconds,
            ),
            self._log_watch,
            self._source.find_gaps,
            grace_seconds,
        )
        self._has_expired_note = False
        self._next_look = 0.0
        self._has_landed_rows = self._has_noted_columns = False
        self._breaker = CircuitBreaker(plan.breaker_limits) if plan.breaker_limits else None

    def set_goal(self, ends: Ends) -> None:
        """End the run once every record before these offsets is in a file."""
        self._goal = ends

    def run(self, stop: Event, on_tick: OnTick) -> bool:
        """Run until the goal, a stop, or the submission of a job that is left running.

        Args:
          stop: ends the run when it is set.
          on_tick: called several times a second; what it raises ends the run.

        Returns:
          True when the goal was reached or the job was left running, False after a stop.

        Raises:
          EnvironmentFailure: the restarts in a row are used up, a directory is gone, or most
            records are dead letters.
          LeaseLostError: another pipeline has taken over a directory.
          UsageError: the job refuses its flags.
        """
        try:
            self._outbox.begin()
            self._outages.broker.start()
            is_reached = self._run_epochs(stop, on_tick)
            if self._is_detached:  # the job's workers send what they write
                self._send_last_letters(LAST_LETTERS_SECONDS, stop, on_tick)
            else:
                self._send_last_letters(self._plan.dead_letter_topic_timeout_seconds, stop, on_tick)
                self.status.unsent = self._outbox.unsent()
                self.status.unsent_reason = self._outbox.reason
                self._finish_scope()
                self._look_at_logs_last()
            self._commit_last(stop, on_tick)
            self.status.state = "ended"
            on_tick(self.status)  # a run that ends at once has notices too
            return is_reached
        finally:
            self._outages.broker.stop()
            self._outbox.stop()
            if self._table:
                self._table.stop()
            self._sweep_at_end()

    def _commit_last(self, stop: Event, on_tick: OnTick) -> None:
        """Have the committer put into the table what has landed."""
        if self._table is None:
            return

        def tick() -> None:
            self.status.state = "committing to the table"
            self._beat()
            on_tick(self.status)

        self._table.finish(
            tick, lambda: STOP_COMMIT_SECONDS if stop.is_set() else LAST_COMMIT_SECONDS
        )
        self.status.table = self._table.status

    def _look_at_table(self) -> None:
        if self._table:
            self._table.look()
            self.status.table = self._table.status

    def _await_workers_letters(self, stop: Event, on_tick: OnTick) -> None:
        """Let the workers send what they have put in place; a second sender would repeat letters.

        A worker that sends no whole file for `LAST_LETTERS_SECONDS` is not waited for.
        """
        left: int | None = None
        deadline = time.monotonic() + LAST_LETTERS_SECONDS
        with contextlib.suppress(StorageAwayError):
            while not stop.is_set() and (now := time.monotonic()) < deadline:
                before, left = left, self._outbox.unsent_files()
                if not left:
                    return
                if before is not None and left < before:
                    deadline = now + LAST_LETTERS_SECONDS
                self.status.state = "sending dead letters"
                self._beat()
                on_tick(self.status)
                stop.wait(5 * POLL_SECONDS if self._in_store else POLL_SECONDS)

    def _send_last_letters(self, seconds: float, stop: Event, on_tick: OnTick) -> None:
        """Send the dead letters in place until their topic has them.

        Args:
          seconds: how long the topic may take none. A stop ends it after `STOP_LETTERS_SECONDS`.
        """
        self._outbox.send_rest()
        began = time.monotonic()
        stopped_at: float | None = None
        while self._outbox.is_busy:
            now = time.monotonic()
            if stop.is_set():
                stopped_at = stopped_at or now
                if now - stopped_at > STOP_LETTERS_SECONDS:
                    break
            if now - max(began, self._outbox.moved_at) > seconds:
                break
            self.status.state = "sending dead letters"
            self._beat()
            on_tick(self.status)
            time.sleep(POLL_SECONDS)
        self._outbox.send_rest()  # counts what was refused
        self.status.refused_letters = self._outbox.refused

    def _run_epochs(self, stop: Event, on_tick: OnTick) -> bool:
        while True:
            started = time.monotonic()
            resumed, self._resumed = self._resumed, None
            failure = self._run_epoch(stop, on_tick, resumed)
            if failure is None and self._change is not None and not stop.is_set():
                self._prepare_new_epoch(self._change)
                continue
            if failure is None:
                return not stop.is_set()
            ran_seconds = time.monotonic() - started
            broker_is_away = not self._broker_answers()
            if broker_is_away:
                failure = f"the broker does not answer ({failure})"
            storage_is_away = not self._outages.storage_answers()
            if storage_is_away:
                failure = f"the object store does not answer ({failure})"
            failure += "".join(f"; {full}" for full in self._full_directories())
            is_outage = broker_is_away or storage_is_away
            backoff = self._restarts.backoff_after(ran_seconds, is_outage=is_outage)
            if backoff is None:
                raise EnvironmentFailure(
                    f"{failure}; gave up after {self._plan.max_restarts} restarts "
                    "(--max_restarts). Nothing is lost: the next start resumes from the files"
                )
            self._prepare_restart(failure)
            self._back_off(backoff, stop, on_tick)
            self._await(self._broker_answers, "waiting for the broker", stop, on_tick)
            self._await(
                self._outages.storage_answers, "waiting for the object store", stop, on_tick
            )
            if stop.is_set():
                return False

    def _broker_answers(self) -> bool:
        return self._outages.broker_answers(self._source.is_reachable())

    def _prepare_new_epoch(self, change: str) -> None:
        """Go on after an epoch that was ended because topics or partitions have changed."""
        self._change = None
        self.status.state = "restarting"
        self.status.notices.append(f"a new epoch begins: {change}")

    def _full_directories(self) -> Iterator[str]:
        """Yield a line for each directory of the run whose file system is full."""
        directories: dict[str, StoredPath] = {
            "--output_dir": self._plan.output_dir,
            "--dead_letter_dir": self._plan.dead_letter_dir,
            "the temporary directory, TMPDIR": Path(tempfile.gettempdir()),
        }
        if self._plan.settings.parts_dir:
            directories["--parts_dir"] = Path(self._plan.settings.parts_dir)
        for name, directory in directories.items():
            if isinstance(directory, ObjectPath):
                continue
            with contextlib.suppress(OSError):
                if shutil.disk_usage(directory).free < FULL_BYTES:
                    yield f"{name}={directory} is full; make room there"

    def _prepare_restart(self, failure: str) -> None:
        self.status.restarts += 1
        self.status.state = "restarting"
        how = "starting again"
        if checkpoint := self._engine.checkpoint():
            self._resumed = ResumedEpoch(self.status.epoch, self._covered)
            how += f" from {checkpoint.rpartition('/')[2]}"
        self.status.notices.append(f"{how} after: {failure}")
        self.status.events.append(RunEvent(RESTART, f"{how} after: {failure}"))

    def _back_off(self, seconds: float, stop: Event, on_tick: OnTick) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not stop.wait(POLL_SECONDS):
            self._beat()
            on_tick(self.status)

    def _await(self, answers: Callable[[], bool], state: str, stop: Event, on_tick: OnTick) -> None:
        """Wait while something is away without which a new epoch would fail at once."""
        while not stop.is_set() and not answers():
            self.status.state = state
            self._beat()
            on_tick(self.status)
            stop.wait(POLL_SECONDS)

    def _run_epoch(self, stop: Event, on_tick: OnTick, resumed: ResumedEpoch | None) -> str | None:
        """Run one epoch; return None at the goal or a stop, else one line with what failed."""
        self.status.state = "starting"
        scratch: Path | None = None
        job: ManagedProcess | None = None
        writes_to = self._plan.output_dir
        try:
            self.status.epoch = resumed.name if resumed else new_epoch()
            self._confirm_leases()
            self._engine.start(self.status.epoch)
            self._leftovers.sweep_other_epochs(self.status.epoch)
            if (outage := self._resume(resumed)) is not None:
                return outage
            self._confirm_leases()
            if not resumed:  # fails where another run has begun one, whose records must stay
                self._ledger.begin_epoch(self.status.epoch)
            self._on_submit(ResumedEpoch(self.status.epoch, self._covered))
            self._confirm_leases()
            writes_to = scratch = Path(tempfile.mkdtemp(prefix="beam-pipeline-"))
            job = self._submit(scratch)
            writes_to = self._plan.output_dir
            return self._watch(job, scratch / STATUS_FILE, stop, on_tick)
        except LeaseLostError:
            if job is not None:
                job.kill()  # no grace: another pipeline is writing already
            raise
        except OSError as error:  # a full disk, for example, may have space at the next try
            return f"{error.filename or writes_to}: {error.strerror or error}"
        finally:
            self.status.engine_is_up = self.status.job_is_up = False
            if job is not None and scratch is not None:
                job.terminate(JOB_GRACE_SECONDS)
                self._read_counters(scratch / STATUS_FILE)
            if self._is_detached:
                self._engine.leave()
            else:
                self._engine.stop()
            self._counters_before = Counter(self.status.counters)
            if scratch is not None:
                shutil.rmtree(scratch, ignore_errors=True)

    def _submit(self, scratch: Path) -> ManagedProcess:
        """Start the process that submits the job; its temporary files go to `scratch`."""
        job_file = scratch / "job.json"
        JobFile(
            settings=self._plan.settings,
            epoch=self.status.epoch,
            covered=self._covered,
            status_file=str(scratch / STATUS_FILE),
            goal=self._unread_goal(),
            cut=self._cut,
        ).write(job_file)
        return ManagedProcess(
            "pipeline",
            [
                *self._job_command,
                f"--job_file={job_file}",
                *self._plan.beam_flags,
                *self._engine.job_flags(),
            ],
            self._log_file("pipeline"),
            env={"TMPDIR": str(scratch)},
        )

    def _unread_goal(self) -> tuple[PartitionEnd, ...]:
        return tuple(
            PartitionEnd(topic, partition, end)
            for (topic, partition), end in (self._goal or {}).items()
            if self._starts.get(TopicPartition(topic, partition), 0) < end
        )

    def _resume(self, resumed: ResumedEpoch | None) -> str | None:
        """Set the group's offsets, and the covered offsets that the job skips.

        A restored job has offsets of its own, and skips what it has skipped before. Rows in files
        of its epoch come again, and are left out when their pane fires.

        Returns:
          one line when the broker went away meanwhile, else None.
        """
        try:
            self._find_starts(resumed)
        except EnvironmentFailure as error:
            if self._source.is_reachable():
                raise
            return str(error)
        return None

    def _find_starts(self, resumed: ResumedEpoch | None) -> None:
        if not resumed:  # a checkpoint knows the partitions that it began with
            self._take_topics()
        self.status.landed.begin(self.status.epoch, self._ledger.files)
        self._ledger = self._new_ledger()
        self._ledger.load_snapshot()
        if resumed:
            self._ledger.continue_epoch(resumed.name)
        self._abort_uploads(self.status.epoch)
        self._ledger.refresh()
        self._remove_strays()
        if not self._has_expired_note:
            self._log_watch.note = load_expired_note(self._plan.output_dir)
            self._has_expired_note = True
        topics = self._plan.settings.input_topics
        self._scope.prepare(self._source, topics, self._ledger, _now_ms())
        point = self._source.find_resume_point(self._ledger)
        self._find_goal()
        reading = self._scope.reading(self._ledger, point)
        self._starts = self.status.starts = dict(reading.starts)
        self._cut = reading.cut
        self._take_scope_notices()
        create_time_topics = self._source.create_time_topics()
        self.status.notices += self._hours.begin(
            self._ledger, point.starts, topics, create_time_topics
        )
        self._note_end()
        self.status.covered = self._ledger.covered
        now = time.monotonic()
        self._next_look = now + self._look_seconds
        self._take_notices(
            self._log_watch.begin(
                point.starts, point.log_starts, self._ledger, is_restored=bool(resumed), now=now
            )
        )
        if resumed:
            self._covered = resumed.covered
            return
        self._group_progress.settle()
        self._source.set_group_offsets(self._starts)
        self._covered = reading.skipped.to_json()

    def _find_goal(self) -> None:
        """Take the goal of the scope, once it has one."""
        if self._goal is None and (goal := self._scope.goal(self._source, _now_ms())) is not None:
            self._goal = self.status.ends = goal

    def _end_needs_new_epoch(self) -> bool:
        """Look whether the end of the run is known now, and has partitions that are not read."""
        if self._goal is not None or self._outages.broker.away_since is not None:
            return False
        with contextlib.suppress(EnvironmentFailure, StorageAwayError):  # the next look asks
            self._find_goal()
        if self._goal is None:
            return False
        self._note_end()
        if new := sorted(self._goal.keys() - self._starts.keys()):
            self._change = f"new: {', '.join(map(str, new))}"
        return self._change is not None

    def _note_end(self) -> None:
        """Let the hours know what is left out, and where the run ends."""
        self._hours.take_left_out(self._scope.note, self._ledger)
        if self._cut.end_ms is not None:
            self._hours.note_end(self._goal or {}, self._cut.end_ms)

    def _finish_scope(self) -> None:
        """Let the scope note what was landed. Where that fails, the next backfill does it."""
        try:
            self._scope.finish(self._ledger)
            self._hours.take_left_out(self._scope.note, self._ledger)
        except (EnvironmentFailure, OSError) as error:  # the files are in place
            self.status.notices.append(f"what is left out could not be noted anew: {error}")

    def _take_scope_notices(self) -> None:
        self.status.notices += self._scope.notices
        self._scope.notices.clear()

    def _take_topics(self) -> None:
        """Take the topics that there are now into the plan; what is gone is no goal any more.

        Raises:
          EnvironmentFailure: the cluster did not answer, or no topic is left.
        """
        try:
            self._discovery.begin_epoch(time.monotonic())
        finally:
            self._take_discovery_notices()
        settings = self._discovery.settings
        topics = settings.input_topics
        if topics == self._plan.settings.input_topics:
            return
        self._plan = replace(self._plan, settings=settings)
        self._source = self._source.with_topics(topics)
        if self._goal is not None:
            self._goal = {key: end for key, end in self._goal.items() if key.topic in topics}

    def _take_discovery_notices(self) -> None:
        self.status.notices += self._discovery.notices
        self._discovery.notices.clear()

    def _new_ledger(self) -> Ledger:
        return Ledger(
            *self._roots,
            partition_keys=self._plan.settings.partition_keys,
            on_counted=self._note_file,
        )

    def _note_file(self, path: StoredPath, content: FileContent) -> None:
        self._hours.note_file(path, content)
        self.status.landed.note(path, content)

    def _remove_strays(self) -> None:
        """Remove what workers of dead epochs have finished late; say how many of which epoch."""
        for epoch, files in sorted(self._ledger.remove_strays().items()):
            self.status.notices.append(
                f"removed {plural(files, 'file')} that a worker of the earlier epoch {epoch} "
                "finished late; this run lands these records"
            )

    def _abort_uploads(self, but_epoch: str) -> None:
        """End what workers of dead epochs have begun to upload."""
        if self._in_store:
            self._leftovers.abort_uploads(self._ledger.over_epochs(but=but_epoch))

    @property
    def _in_store(self) -> bool:
        return any(isinstance(root, ObjectPath) for root in self._roots)

    def _watch(
        self, job: ManagedProcess, status_file: Path, stop: Event, on_tick: OnTick
    ) -> str | None:
        files_before = len(self._ledger.files) - self.status.files
        self._next_listing = 0.0
        next_sweep = time.monotonic() + SWEEP_SECONDS
        while not stop.wait(POLL_SECONDS):
            self._beat()
            engine_status = self._engine.status()
            self.status.engine_is_up = engine_status.failure is None
            self.status.job_is_up = job.alive or engine_status.runs_alone
            read_before = self.status.counters["read"]
            self._take_status(engine_status, status_file)
            if self.status.counters["read"] > read_before:
                self._outages.broker.saw_records()
            self._outages.tell_of_broker()
            if self._breaker:
                self._breaker.check(self.status.counters)
            self._outages.with_storage(self._look_for_files)
            self._note_columns(status_file)
            self._look_at_logs()
            self._look_at_table()
            if self._end_needs_new_epoch() or self._needs_new_epoch():
                return None
            self.status.covered = self._ledger.covered
            self.status.files = len(self._ledger.files) - files_before
            self._outages.with_storage(self._outbox.look)
            self.status.refused_letters = self._outbox.refused
            if self._goal is not None and self._is_reached(self._goal):
                self._await_workers_letters(stop, on_tick)
                self._send_last_letters(LAST_LETTERS_SECONDS, stop, on_tick)
                return None
            if engine_status.runs_alone and self._plan.detach:
                self._is_detached = True
                self._note_columns(status_file)
                return None
            if engine_status.failure is not None:
                return engine_status.failure
            if engine_status.runs_alone:
                job.terminate(JOB_GRACE_SECONDS)
            elif not job.alive:
                return _failure_of(job)
            if time.monotonic() > next_sweep:
                next_sweep = time.monotonic() + SWEEP_SECONDS
                self._outages.with_storage(self._sweep)
            on_tick(self.status)
        return None

    def _look_for_files(self) -> None:
        """Add new files to the ledger, for at most `MAX_LISTING_SHARE` of the time.

        A listing of 100,000 files takes long. In an object store a listing has its price too: of a
        large tree, recent hours are listed, and the whole when all seems to be read.
        """
        started = time.monotonic()
        if started < self._next_listing:
            return
        pause = STORE_LISTING_SECONDS if self._in_store else 0.0
        self._next_listing = started + pause
        landed = self._ledger.refresh(whole=bool(self.status.waits_for))
        self._remove_strays()
        self._outages.storage.note(answers=True)
        self._has_landed_rows |= any(path.suffix == PARQUET_SUFFIX for path in landed)
        self.status.new_files.extend(landed)
        ended = time.monotonic()
        self._next_listing = ended + max(pause, (ended - started) / MAX_LISTING_SHARE)

    def _take_status(self, engine_status: EngineStatus, status_file: Path) -> None:
        self.status.restarts += len(engine_status.repairs)
        repairs = [f"started again, and restored: {repair}" for repair in engine_status.repairs]
        self.status.notices += repairs
        self.status.events.extend(RunEvent(RESTART, repair) for repair in repairs)
        if engine_status.counters is None:
            self._read_counters(status_file)
        elif engine_status.counters:
            self.status.state = "running"
            self.status.counters = self._counters_before + engine_status.counters

    def _note_columns(self, status_file: Path) -> None:
        """Note the columns once the run has landed a Parquet file, or leaves its job alone."""
        if self._has_noted_columns or not (self._is_detached or self._has_landed_rows):
            return
        with contextlib.suppress(OSError, ValueError, EnvironmentFailure):
            columns = json.loads(status_file.with_name(COLUMNS_FILE).read_bytes())
            note_columns(self._plan.output_dir, columns, self._plan.settings)
            self._has_noted_columns = True

    def _look_at_logs(self) -> None:
        """Look for records that expired unread, for partitions that were added, for complete hours.

        A broker that is away is asked less often: each try holds up the run for a moment.
        """
        if time.monotonic() < self._next_look:
            return
        asked_at = time.time()
        try:
            bounds = self._source.log_bounds()
        except EnvironmentFailure:
            self._next_look = time.monotonic() + AWAY_SECONDS
            return
        now = time.monotonic()
        self._next_look = now + self._look_seconds
        self._take_notices(self._log_watch.look(bounds.starts, self._ledger, now))
        self._outages.with_storage(lambda: self._look_for_complete_hours(bounds, asked_at))
        self.status.notices += self._group_progress.offer(self._landed_to())

    def _landed_to(self) -> dict[TopicPartition, int]:
        """Return the first offset, of each partition that is read, that may be in no file."""
        landed_to = self.status.watermarks.landed_to()
        return {key: landed_to[key] for key in self._starts.keys() & landed_to.keys()}

    def _look_for_complete_hours(
        self, bounds: LogBounds, asked_at: float, *, is_last: bool = False
    ) -> None:
        self.status.notices += self._hours.look(self._ledger, *bounds, asked_at, is_last=is_last)
        self.status.watermarks = self._hours.note
        self.status.events.extend(self._hours.events)
        self._hours.events.clear()

    def _needs_new_epoch(self) -> bool:
        """Look whether topics or partitions have changed; a run with a goal reads what it began."""
        if self._goal is not None or self._plan.detach:
            return False
        with contextlib.suppress(EnvironmentFailure):  # the broker is away: the next look tells
            self._change = self._discovery.change(self.status.waiting, time.monotonic())
        self._take_discovery_notices()
        return self._change is not None

    def _look_at_logs_last(self) -> None:
        """Look once more when the job is over; where the broker is away the next start does it."""
        with contextlib.suppress(EnvironmentFailure, OSError):
            self._ledger.refresh()
            self._remove_strays()
            asked_at = time.time()
            bounds = self._source.log_bounds()
            self._take_notices(self._log_watch.finish(bounds.starts, self._ledger))
            self._look_for_complete_hours(bounds, asked_at, is_last=True)
            self.status.notices += self._group_progress.finish(self._landed_to())

    def _take_notices(self, notices: Sequence[str]) -> None:
        self.status.notices += notices
        self.status.expired = self._log_watch.expired(self._ledger)
        self.status.waiting = self._log_watch.waiting
        self._save_expired()

    def _save_expired(self) -> None:
        if not self._log_watch.is_changed:
            return
        with contextlib.suppress(OSError):  # the next look, or the next start, saves it
            self._log_watch.note.save(self._plan.output_dir)
            self._log_watch.is_changed = False

    def _is_reached(self, goal: Ends) -> bool:
        """Return whether every record before the goal is in a file.

        When nothing moves, the offsets that remain may have no record: the log is read there.
        """
        self.status.remaining = self._remaining(goal)
        self.status.waits_for = self._waits_for()
        progress = (self.status.state, self.status.counters["read"], self.status.remaining)
        if progress != self._progress or self.status.state != "running":
            self._progress = progress
            self._moved_at = time.monotonic()
        elif self.status.remaining and time.monotonic() - self._moved_at > STANDSTILL_SECONDS:
            if self._source.is_reachable():
                with contextlib.suppress(EnvironmentFailure):  # the broker went away; try later
                    self._scope.cover_gaps(goal, self._starts, self._source, self._ledger)
            self._take_scope_notices()
            self._moved_at = time.monotonic()
        return self.status.remaining == 0

    def _waits_for(self) -> str:
        """Return what the offsets that are in no file wait for, once nothing more is read."""
        read, now = self.status.counters["read"], time.time()
        if self.status.state != "running" or read != self._read:
            self._read, self._read_at = read, now
        if not self.status.remaining or now - self._read_at < READ_SECONDS:
            return ""
        settings = self._plan.settings
        return wait_text(settings.windowing, settings.timing, self._read_at, now)

    def _remaining(self, goal: Ends) -> int:
        return self._scope.remaining(goal, self._starts, self._ledger, self._log_watch)

    def _read_counters(self, status_file: Path) -> None:
        try:
            status = json.loads(status_file.read_bytes())
        except OSError:  # not written yet
            return
        self.status.state = "running"
        self.status.counters = self._counters_before + Counter(status["counters"])

    def _sweep(self) -> None:
        # Only a restored job reads the parts of files that were written.
        seconds = self._plan.settings.part_retention_seconds
        retention = seconds if self._engine.restores_checkpoints else 0
        self._leftovers.sweep(self.status.epoch, retention)

    def _sweep_at_end(self) -> None:
        """Remove what dead epochs left; another pipeline's is alive once it has the lease."""
        with contextlib.suppress(EnvironmentFailure, StorageAwayError):
            self._confirm_leases()
            kept_epoch = self._kept_epoch()
            self._leftovers.sweep_other_epochs(kept_epoch)
            self._abort_uploads(kept_epoch)

    def _beat(self) -> None:
        for lease in self._leases:
            lease.beat()

    def _confirm_leases(self) -> None:
        for lease in self._leases:
            lease.confirm()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def wait_text(windowing: Windowing, timing: PaneTiming, read_at: float, now: float) -> str:
    """Return what records wait for that were read at `read_at`, in seconds since 1970.

    >>> wait_text(Windowing(60), PaneTiming(), read_at=50.0, now=55.0)
    'waiting for windows to close at 00:01:02Z'
    >>> wait_text(Windowing(60), PaneTiming(early_pane_seconds=5), read_at=50.0, now=55.0)
    'waiting for files'
    """
    window = windowing.window_seconds
    closes = (int(read_at) // window + 1) * window + windowing.watermark_delay_seconds
    if timing.early_pane_seconds or closes < now:
        return "waiting for files"
    return f"waiting for windows to close at {time.strftime('%H:%M:%SZ', time.gmtime(closes))}"


def _failure_of(job: ManagedProcess) -> str:
    """Return one line on a job process that has ended.

    Raises:
      UsageError: it refused its flags.
    """
    if job.returncode == USAGE_EXIT_CODE:
        no_reason = f"the job refused its flags and gave no reason (log: {job.log_file})"
        raise UsageError(next(iter(job.tail(1)), no_reason))
    return job.end()
