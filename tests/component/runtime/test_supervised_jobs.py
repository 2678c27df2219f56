"""A run over real job processes, which are small scripts, and a fake engine."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from fake_engine import ORDERS, FakeEngine, FakeSource
from output_trees import OutputTree, sources
from pipeline_settings import settings_of

from beam_pipeline.covered_offsets import CoveredOffsets
from beam_pipeline.errors import EnvironmentFailure, UsageError
from beam_pipeline.files.expired import load_expired_note
from beam_pipeline.files.ledger import load_ledger
from beam_pipeline.files.left_out import load_left_out
from beam_pipeline.kafka.admin import LogBounds
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.offset_sets import TopicPartition
from beam_pipeline.runtime import broker_watch, group_progress
from beam_pipeline.runtime import supervisor as supervisor_module
from beam_pipeline.runtime.engine import EngineStatus
from beam_pipeline.runtime.epochs import ResumedEpoch
from beam_pipeline.runtime.lease import hold_lease
from beam_pipeline.runtime.lease_terms import LEASE_FILE, LeaseLostError, LeaseTimes
from beam_pipeline.runtime.restarts import RestartLimits
from beam_pipeline.runtime.resume import Ends
from beam_pipeline.runtime.run_events import RESTART
from beam_pipeline.runtime.run_plan import RunPlan
from beam_pipeline.runtime.run_status import RunStatus
from beam_pipeline.runtime.scope import END_SLACK_MS, Backfill, PartByTime, Scope
from beam_pipeline.runtime.supervisor import Supervisor
from beam_pipeline.settings.config import EndPoint, PipelineSettings, StartPoint
from beam_pipeline.storage.directory import DirectoryStorage
from beam_pipeline.storage.paths import ObjectPath, StoredPath
from beam_pipeline.storage.protocol import Content, StorageAwayError, StoredObject, Upload

# Notes what its job file says in the directory that it is given, then does the rest.
JOB = """
import json, os, signal, sys, time
from pathlib import Path
directory, flags = Path(sys.argv[1]), dict(flag.split("=", 1) for flag in sys.argv[2:])
number = len(list(directory.glob("job-*.json")))
told = json.loads(Path(flags["--job_file"]).read_text())
note = {
    "epoch": told["epoch"],
    "covered": told["covered"],
    "pid": os.getpid(),
    "topics": told["settings"]["input_topics"],
    "cut": told["cut"],
}
new = directory / "job.new"
new.write_text(json.dumps(note))
new.replace(directory / f"job-{number}.json")
def report(**counters):
    file = Path(told["status_file"])
    file.with_suffix(".new").write_text(json.dumps({"counters": counters}))
    file.with_suffix(".new").replace(file)
"""
DIE = "sys.exit('boom')"
RUN = "report(read=5); time.sleep(60)"
DIE_THEN_RUN = f"number or {DIE}\n{RUN}"
NO_SPACE = OSError(28, "No space left on device")


@dataclass
class Run:
    """A supervisor with what it is given, and the hands of its user."""

    directory: Path
    engine: FakeEngine = field(default_factory=FakeEngine)
    source: FakeSource = field(default_factory=FakeSource)
    limits: RestartLimits = field(
        default_factory=lambda: RestartLimits(10, first_backoff_seconds=0.0)
    )
    stop: Event = field(default_factory=Event)
    detach: bool = False
    on_submit: Callable[[ResumedEpoch], None] = lambda epoch: None
    states: list[str] = field(default_factory=list)
    plan_class: type[RunPlan] = RunPlan
    resumed: ResumedEpoch | None = None
    flags: tuple[str, ...] = ("--input_topics=orders",)
    discovery_interval_seconds: float = 0.0
    refused: dict[str, str] = field(default_factory=dict)
    scope: Scope | None = None

    def __post_init__(self) -> None:
        self.tree = OutputTree(self.directory)

    def supervisor(self, job: str, leases: Any = ()) -> Supervisor:
        plan = self.plan_class(
            connection=KafkaConnection("127.0.0.1:9"),
            settings=settings_of(
                *self.flags,
                f"--output_dir={self.tree.output_dir}",
                f"--dead_letter_dir={self.tree.dead_letter_dir}",
            ),
            beam_flags=[],
            max_restarts=self.limits.max_restarts,
            detach=self.detach,
            discovery_interval_seconds=self.discovery_interval_seconds,
        )
        self.made = Supervisor(
            plan,
            self.engine,
            lambda name: self.directory / f"{name}.log",
            leases,
            resumed=self.resumed,
            on_submit=self.on_submit,
            source=self.source,
            names=lambda: list(self.source.names),
            admit=self.admit,
            restart_limits=self.limits,
            scope=self.scope,
            job_command=[sys.executable, "-c", JOB + job, str(self.directory)],
        )
        return self.made

    def admit(self, settings: PipelineSettings, topic: str) -> None:
        if topic in self.refused:
            raise EnvironmentFailure(self.refused[topic])

    def until(self, job: str, condition: Callable[[RunStatus], bool]) -> RunStatus:
        """Run until a status meets the condition, then stop."""

        def on_tick(status: RunStatus) -> None:
            self.states.append(status.state)
            if condition(status):
                self.stop.set()

        assert self.supervisor(job).run(self.stop, on_tick) is False
        assert self.stop.is_set()
        return self.made.status

    def jobs(self) -> list[dict[str, Any]]:
        """What each job noted, in order."""
        files = sorted(self.directory.glob("job-*.json"))
        return [json.loads(file.read_bytes()) for file in files]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(supervisor_module, "POLL_SECONDS", 0.01)
    return Run(tmp_path)


def no_tick(status: RunStatus) -> None:
    """Watch nothing."""


def is_running(status: RunStatus) -> bool:
    return status.state == "running"


def test_it_gives_up_after_max_restarts_in_a_row(run: Run) -> None:
    run.limits = replace(run.limits, max_restarts=2)
    with pytest.raises(EnvironmentFailure, match=r"exit code 1: boom .*gave up after 2 restarts"):
        run.supervisor(DIE).run(run.stop, no_tick)
    assert run.made.status.restarts == 2
    assert [notice.partition(" (log")[0] for notice in run.made.status.notices] == [
        "starting again after: pipeline ended with exit code 1: boom"
    ] * 2
    assert len({job["epoch"] for job in run.jobs()}) == 3
    assert run.engine.epochs == [job["epoch"] for job in run.jobs()]
    assert run.engine.calls == ["start", "stop"] * 3


def test_an_epoch_that_ran_long_enough_resets_the_count(run: Run) -> None:
    run.limits = replace(run.limits, max_restarts=1, stable_seconds=-1.0)
    status = run.until(DIE, lambda status: status.restarts == 4)
    assert status.restarts == 4


def test_the_counters_are_summed_over_the_epochs(run: Run) -> None:
    status = run.until(
        f"report(read=5); {DIE_THEN_RUN}", lambda status: status.counters["read"] == 10
    )
    assert status.counters["read"] == 10


def test_a_failure_of_the_engine_ends_the_epoch_and_a_repair_does_not(run: Run) -> None:
    run.engine.statuses = [EngineStatus(repairs=["TaskManager"]), EngineStatus("Prism ended")]
    status = run.until(RUN, lambda status: len(run.engine.epochs) == 2 and is_running(status))
    assert status.notices == [
        "started again, and restored: TaskManager",
        "starting again after: Prism ended",
    ]
    assert status.restarts == 2
    assert [event.kind for event in status.events] == [RESTART] * 2
    assert not any(Path(f"/proc/{job['pid']}").exists() for job in run.jobs())


def covered_of(job: dict[str, Any]) -> list[int]:
    covered = CoveredOffsets.from_json(job["covered"])
    return [offset for offset in range(100) if not covered.missing(*ORDERS, offset, offset + 1)]


@pytest.mark.parametrize("checkpoints", [["file:///checkpoints/j1/chk-7"], []])
def test_a_restored_job_keeps_its_epoch_and_its_covered_offsets(
    run: Run, checkpoints: list[str]
) -> None:
    run.engine.restores_checkpoints = True
    run.engine.checkpoints = list(checkpoints)
    run.tree.parquet(sources("orders", 0, range(5)))
    run.tree.parquet(sources("orders", 0, range(7, 9)))
    submitted: list[str] = []

    def on_submit(epoch: ResumedEpoch) -> None:
        submitted.append(epoch.name)
        if len(submitted) == 1:  # as if the first job had written it
            run.tree.parquet(sources("orders", 0, range(5, 7)))

    run.on_submit = on_submit
    status = run.until(DIE_THEN_RUN, is_running)
    first, second = run.jobs()
    assert submitted == [first["epoch"], second["epoch"]]
    assert covered_of(first) == [7, 8]
    if checkpoints:
        assert status.notices[0].startswith("starting again from chk-7 after: ")
        assert second["epoch"] == first["epoch"]
        assert covered_of(second) == [7, 8]
        assert run.source.group_offsets == [{ORDERS: 5}], "a restored job has its own offsets"
    else:
        assert second["epoch"] != first["epoch"]
        assert covered_of(second) == []
        assert run.source.group_offsets == [{ORDERS: 5}, {ORDERS: 9}]


def test_a_job_that_fails_in_an_outage_of_the_broker_does_not_count(run: Run) -> None:
    run.limits = replace(run.limits, max_restarts=0)
    run.source.reachable = [False, False, False]
    run.until(DIE_THEN_RUN, is_running)
    assert len(run.jobs()) == 2
    assert "waiting for the broker" in run.states


def test_a_broker_that_goes_while_the_job_runs_is_told(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job itself only retries."""
    monkeypatch.setattr(broker_watch, "INTERVAL_SECONDS", 0.05)
    run.source.reachable = [True, False, False]
    since: list[Any] = []

    def is_back(status: RunStatus) -> bool:
        since.append(status.broker_away_since)
        return len(status.notices) == 2

    status = run.until(RUN, is_back)
    away, back = status.notices
    assert away.startswith("the broker has not answered since ")
    assert back.startswith("the broker answers again, after ")
    assert any(since)
    assert (status.restarts, status.broker_away_since) == (0, None)


def test_an_outage_while_resuming_does_not_count(run: Run) -> None:
    run.limits = replace(run.limits, max_restarts=0)
    run.source.resume_errors = [EnvironmentFailure("Kafka: offsets of topic orders: timed out")]
    run.source.reachable = [False, False, False]
    status = run.until(RUN, is_running)
    away, again, back = status.notices
    assert away.startswith("the broker has not answered since ")
    assert again == (
        "starting again after: the broker does not answer "
        "(Kafka: offsets of topic orders: timed out)"
    )
    assert back == "the broker answers again, after 0 s"
    assert status.broker_away_since is None
    assert run.engine.calls == ["start", "stop"] * 2


def test_a_refusal_of_the_cluster_while_resuming_ends_the_run(run: Run) -> None:
    run.source.resume_errors = [EnvironmentFailure("topic orders is not the one")]
    with pytest.raises(EnvironmentFailure, match="topic orders is not the one"):
        run.supervisor(RUN).run(run.stop, no_tick)
    assert run.jobs() == []


def test_a_stop_during_the_backoff_ends_the_run(run: Run) -> None:
    run.limits = replace(run.limits, first_backoff_seconds=1e6, max_backoff_seconds=1e6)
    run.until(DIE, lambda status: status.state == "restarting")
    assert len(run.jobs()) == 1


def test_a_stop_while_the_broker_is_away_ends_the_run(run: Run) -> None:
    run.source.reachable = [False] * 1000
    run.until(DIE, lambda status: status.state == "waiting for the broker")
    assert len(run.jobs()) == 1


def test_a_detached_job_is_left_running(run: Run) -> None:
    run.detach = True
    run.engine.statuses = [EngineStatus(), EngineStatus(runs_alone=True)]
    assert run.supervisor(RUN).run(run.stop, no_tick) is True
    assert run.engine.calls == ["start", "leave"]


def test_a_submission_that_is_over_is_not_a_failure(run: Run) -> None:
    alone = EngineStatus(runs_alone=True)
    run.engine.statuses = [EngineStatus(), *[alone] * 1000]
    status = run.until(RUN, lambda status: len(run.engine.statuses) < 990)
    assert (status.restarts, status.notices) == (0, [])
    assert run.engine.calls == ["start", "stop"]


def test_the_goal_ends_the_run(run: Run) -> None:
    run.tree.parquet(sources("orders", 0, range(5)))
    supervisor = run.supervisor(RUN)
    supervisor.set_goal({ORDERS: 7})
    letters: list[Path] = []

    def on_tick(status: RunStatus) -> None:
        if status.remaining == 2 and not letters:
            letters.append(run.tree.letters(sources("orders", 0, range(5, 7))))

    assert supervisor.run(run.stop, on_tick) is True
    assert supervisor.status.state == "ended"
    assert supervisor.status.files == 1


@pytest.mark.parametrize(
    ("job", "message"),
    [
        ("print('--schema=x: no such file', file=sys.stderr); sys.exit(2)", "^--schema=x: no such"),
        ("sys.exit(2)", r"refused its flags and gave no reason \(log: .*pipeline.log\)"),
    ],
)
def test_a_job_that_refuses_its_flags_ends_the_run(run: Run, job: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run.supervisor(job).run(run.stop, no_tick)
    assert len(run.jobs()) == 1
    assert run.engine.calls == ["start", "stop"]


def test_a_temporary_directory_that_can_not_be_made_is_tried_again(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = run.directory / "tmp"
    monkeypatch.setattr(tempfile, "tempdir", str(missing))

    def make_room(status: RunStatus) -> bool:
        missing.mkdir(exist_ok=True)
        return is_running(status)

    run.limits = replace(run.limits, first_backoff_seconds=0.05)
    status = run.until(RUN, make_room)
    (notice,) = status.notices
    assert notice.startswith(f"starting again after: {missing}/")
    assert notice.endswith(": No such file or directory")


def test_a_full_disk_at_the_start_of_the_engine_is_tried_again(run: Run) -> None:
    run.engine.start_errors = [NO_SPACE]
    status = run.until(RUN, is_running)
    assert status.notices == [
        f"starting again after: {run.tree.output_dir}: No space left on device"
    ]
    assert run.engine.calls == ["start", "stop"] * 2


def test_a_full_disk_at_each_submission_ends_the_run_with_one_line(run: Run) -> None:
    def on_submit(epoch: ResumedEpoch) -> None:
        raise NO_SPACE

    run.on_submit = on_submit
    run.limits = replace(run.limits, max_restarts=1)
    with pytest.raises(EnvironmentFailure) as caught:
        run.supervisor(RUN).run(run.stop, no_tick)
    assert str(caught.value).startswith(f"{run.tree.output_dir}: No space left on device; gave up")
    assert run.jobs() == []


def test_a_run_that_loses_its_lease_kills_its_job_and_leaves_the_others_parts(run: Run) -> None:
    graceful = run.directory / "graceful"
    job = f"signal.signal(signal.SIGTERM, lambda *_: Path({str(graceful)!r}).touch()); {RUN}"
    part = run.tree.output_dir / "_tmp" / "epoch-of-the-other" / "part.arrow"
    other = {"host": "elsewhere", "pid": 7, "heartbeat": 0.0, "id": "ff"}

    def take_over(status: RunStatus) -> None:
        if is_running(status):
            part.parent.mkdir(parents=True)
            part.touch()
            (run.tree.output_dir / LEASE_FILE).write_text(json.dumps(other))

    with (
        pytest.raises(LeaseLostError, match="process 7 on elsewhere"),
        hold_lease(run.tree.output_dir, "--output_dir", LeaseTimes(heartbeat=0.0)) as lease,
    ):
        run.supervisor(job, [lease]).run(run.stop, take_over)
    (noted,) = run.jobs()
    with pytest.raises(ProcessLookupError):
        os.kill(noted["pid"], 0)
    assert not graceful.exists(), "it was killed, and had no time to write"
    assert run.engine.calls == ["start", "stop"]
    assert part.exists()
    assert json.loads((run.tree.output_dir / LEASE_FILE).read_text()) == other


def late_file(run: Run, epoch: str) -> Path:
    """A file that a worker of another epoch finishes now."""
    run.tree.epoch = epoch
    return run.tree.parquet(sources("orders", 0, range(20, 25)))


def test_what_a_worker_of_a_dead_epoch_finishes_late_is_removed_and_told(run: Run) -> None:
    late: list[Path] = []

    def is_removed(status: RunStatus) -> bool:
        if len(run.jobs()) == 2 and is_running(status) and not late:
            late.append(late_file(run, run.jobs()[0]["epoch"]))
        return bool(late) and not late[0].exists()

    status = run.until(DIE_THEN_RUN, is_removed)
    assert status.covered.is_empty
    dead = run.jobs()[0]["epoch"]
    assert status.notices[1:] == [
        f"removed 1 file that a worker of the earlier epoch {dead} finished late; "
        "this run lands these records"
    ]


def test_what_came_late_while_no_run_was_there_is_not_counted(run: Run) -> None:
    run.until(DIE_THEN_RUN, lambda status: len(run.jobs()) == 2 and is_running(status))
    dead, last = (job["epoch"] for job in run.jobs())
    late = late_file(run, dead)
    landed = late_file(run, last)
    run.stop = Event()
    status = run.until(RUN, lambda status: len(run.jobs()) == 3 and is_running(status))
    assert not late.exists()
    assert landed.exists()
    assert covered_of(run.jobs()[2]) == list(range(20, 25))
    assert len(status.notices) == 1


def test_of_two_runs_that_begin_an_epoch_at_once_the_second_submits_no_job(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It also leaves alone the records of the other's jobs, which `on_submit` replaces."""
    submitted: list[str] = []
    run.on_submit = lambda epoch: submitted.append(epoch.name)

    def begin_another(starts: Ends) -> None:
        load_ledger(run.tree.output_dir, run.tree.dead_letter_dir).begin_epoch("another")

    monkeypatch.setattr(run.source, "set_group_offsets", begin_another)
    with pytest.raises(EnvironmentFailure, match="another pipeline took the lease over"):
        run.supervisor(RUN).run(run.stop, no_tick)
    assert (submitted, run.jobs()) == ([], [])


def test_a_savepoint_of_an_epoch_that_is_over_is_refused(run: Run) -> None:
    for epoch in ("epoch1", "epoch2"):
        load_ledger(run.tree.output_dir, run.tree.dead_letter_dir).begin_epoch(epoch)
    run.resumed = ResumedEpoch("epoch1", [])
    with pytest.raises(EnvironmentFailure, match="epoch1 can't be restored: epoch epoch2 has beg"):
        run.supervisor(RUN).run(run.stop, no_tick)
    assert run.jobs() == []


def test_a_savepoint_of_the_last_epoch_is_continued(run: Run) -> None:
    load_ledger(run.tree.output_dir, run.tree.dead_letter_dir).begin_epoch("epoch1")
    run.resumed = ResumedEpoch("epoch1", [])
    run.tree.epoch = "epoch1"
    landed = run.tree.parquet(sources("orders", 0, range(5)))
    status = run.until(RUN, is_running)
    assert [job["epoch"] for job in run.jobs()] == ["epoch1"]
    assert landed.exists()
    assert not status.covered.is_empty


@dataclass(frozen=True)
class AwayStorage(DirectoryStorage):
    """A storage that does not answer while a file is there; uploads are files in `_uploads`."""

    def _ask(self) -> None:
        if (self.root / "away").exists():
            raise StorageAwayError(f"{self.url} does not answer")

    def read(self, key: str) -> Content:
        self._ask()
        return super().read(key)

    def stat(self, key: str) -> StoredObject:
        self._ask()
        return super().stat(key)

    def children(self, key: str = "") -> list[StoredObject | str]:
        self._ask()
        return super().children(key)

    def uploads(self, prefix: str = "") -> Iterator[Upload]:
        for path in sorted((self.root / "_uploads").glob("*")):
            yield Upload(path.name, "1", 0.0)

    def abort_upload(self, upload: Upload) -> None:
        (self.root / "_uploads" / upload.key).unlink()


class StorePlan(RunPlan):
    """The run reaches its directories as object stores."""

    @property
    def output_dir(self) -> StoredPath:
        return ObjectPath(AwayStorage(Path(self.settings.output_dir)))


@pytest.fixture
def store_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(supervisor_module, "STORE_LISTING_SECONDS", 0.01)
    run.plan_class = StorePlan
    return run


def test_a_store_that_goes_while_the_job_runs_is_told_and_the_run_goes_on(store_run: Run) -> None:
    run, since = store_run, list[Any]()
    away = run.tree.output_dir / "away"

    def is_back(status: RunStatus) -> bool:
        since.append(status.storage_away_since)
        if is_running(status) and not status.notices:
            away.touch()
        if len(status.notices) == 1:
            away.unlink()
        return len(status.notices) == 2

    status = run.until(RUN, is_back)
    gone, back = status.notices
    assert gone.startswith("the object store has not answered since ")
    assert back == "the object store answers again, after 0 s"
    assert any(since)
    assert (status.restarts, status.storage_away_since) == (0, None)


def test_a_job_that_fails_in_an_outage_of_the_store_does_not_count(store_run: Run) -> None:
    run = store_run
    run.limits = replace(run.limits, max_restarts=0)
    away = run.tree.output_dir / "away"

    def runs_again(status: RunStatus) -> bool:
        if status.state == "waiting for the object store":
            away.unlink(missing_ok=True)
        return is_running(status)

    status = run.until(f"number or Path({str(away)!r}).touch()\n{DIE_THEN_RUN}", runs_again)
    assert len(run.jobs()) == 2
    assert "waiting for the object store" in run.states
    assert any("the object store does not answer (pipeline ended" in n for n in status.notices)


def test_a_store_that_is_away_at_the_start_is_waited_for(store_run: Run) -> None:
    run = store_run
    run.limits = replace(run.limits, max_restarts=0)
    away = run.tree.output_dir / "away"
    away.touch()

    def runs(status: RunStatus) -> bool:
        if status.state == "waiting for the object store":
            away.unlink(missing_ok=True)
        return is_running(status)

    run.until(RUN, runs)
    assert len(run.jobs()) == 1


def test_uploads_of_dead_epochs_are_aborted_at_the_start_and_at_the_end(store_run: Run) -> None:
    run = store_run
    uploads = run.tree.output_dir / "_uploads"
    uploads.mkdir()
    name = "orders-20261123T120000Z-20261123T120010Z-s0-e{}-p0.parquet"
    load_ledger(run.tree.output_dir, run.tree.dead_letter_dir).begin_epoch("dead")
    dead, foreign = uploads / name.format("dead"), uploads / name.format("foreign")
    dead.touch()
    foreign.touch()
    own: list[Path] = []

    def runs(status: RunStatus) -> bool:
        if is_running(status):
            assert not dead.exists()
            own.append(uploads / name.format(status.epoch))
            own[0].touch()
        return bool(own)

    run.until(RUN, runs)
    assert list(uploads.iterdir()) == [foreign]


def test_what_the_caller_raises_at_a_tick_ends_the_run(run: Run) -> None:
    def on_tick(status: RunStatus) -> None:
        raise EnvironmentFailure("the producer has ended")

    with pytest.raises(EnvironmentFailure, match="the producer has ended"):
        run.supervisor(RUN).run(run.stop, on_tick)
    assert run.engine.calls == ["start", "stop"]


def test_what_expired_before_the_start_is_told_and_noted(run: Run) -> None:
    run.tree.parquet(sources("orders", 0, range(5)))
    run.source.log_begins = 10
    status = run.until(RUN, is_running)
    assert status.expired == {ORDERS: 5}
    assert [notice for notice in status.notices if "at most 5 records expired" in notice]
    assert list(load_expired_note(run.tree.output_dir).unread.of(ORDERS)) == [5, 6, 7, 8, 9]


def test_what_expires_while_it_reads_is_told_and_a_bounded_run_ends(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(supervisor_module, "landing_seconds", lambda *timing: 0.0)

    def on_tick(status: RunStatus) -> None:
        if run.source.log_begins == 0 and is_running(status):
            run.source.log_begins = 90
            run.tree.parquet(sources("orders", 0, range(90, 100)))

    supervisor = run.supervisor(RUN)
    supervisor.set_goal({ORDERS: 100})
    assert supervisor.run(run.stop, on_tick)
    assert supervisor.status.expired == {ORDERS: 90}
    assert len([notice for notice in supervisor.status.notices if "expired" in notice]) == 1


def test_a_broker_that_does_not_answer_a_look_is_no_failure(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "LOOK_SECONDS", 0.0)
    asked = []

    def log_bounds() -> LogBounds:
        asked.append(1)
        raise EnvironmentFailure("no answer")

    monkeypatch.setattr(run.source, "log_bounds", log_bounds)
    status = run.until(RUN, lambda status: is_running(status) and bool(asked))
    assert status.restarts == 0


def test_partitions_that_are_added_are_read_by_a_new_epoch(tmp_path: Path) -> None:
    run = Run(tmp_path, discovery_interval_seconds=0.05)
    added = TopicPartition("orders", 1)

    def reads_both(status: RunStatus) -> bool:
        if status.counters["read"]:
            run.source.partitions = [ORDERS, added]
        return set(status.starts) == {ORDERS, added} and len(run.jobs()) == 2

    status = run.until(RUN, reads_both)
    assert status.restarts == 0
    assert len(set(run.engine.epochs)) == 2
    assert run.source.group_offsets[-1] == {ORDERS: 0, added: 0}
    assert status.notices == ["a new epoch begins: new: orders/1"]


def test_topics_that_match_are_read_when_they_come(tmp_path: Path) -> None:
    run = Run(
        tmp_path,
        flags=("--input_topic_pattern=orders.*",),
        discovery_interval_seconds=0.05,
        refused={"orders.bad": "stamps records itself"},
    )
    run.source.partitions = []

    def reads_all(status: RunStatus) -> bool:
        if status.counters["read"]:
            run.source.names = ["orders", "orders.bad", "orders.eu", "orders.eu.dlq", "other"]
        return len(run.jobs()) == 2

    status = run.until(RUN, reads_all)
    assert [job["topics"] for job in run.jobs()] == [["orders"], ["orders", "orders.eu"]]
    assert status.notices == [
        "orders.bad is not read: stamps records itself",
        "a new epoch begins: new: orders.eu",
    ]


def test_a_topic_that_is_deleted_does_not_stop_the_others(tmp_path: Path) -> None:
    run = Run(tmp_path, flags=("--input_topics=orders,refunds",), discovery_interval_seconds=0.05)
    refunds = TopicPartition("refunds", 0)
    run.source.partitions, run.source.names = [ORDERS, refunds], ["orders", "refunds"]

    def reads_one(status: RunStatus) -> bool:
        if status.counters["read"]:
            run.source.names = ["orders"]
        if len(run.jobs()) == 2:
            run.source.names = ["orders", "refunds"]  # another topic of that name
        return len(run.jobs()) == 2 and run.states.count("running") > 8

    status = run.until(RUN, reads_one)
    assert [job["topics"] for job in run.jobs()] == [["orders", "refunds"], ["orders"]]
    assert set(status.starts) == {ORDERS}
    assert status.notices == [
        "a new epoch begins: deleted: refunds",
        "refunds deleted; what was not in files is lost. The other topics are read on",
    ]


def test_a_run_whose_topics_are_all_deleted_ends(tmp_path: Path) -> None:
    run = Run(tmp_path, discovery_interval_seconds=0.05)

    def delete(status: RunStatus) -> bool:
        if status.counters["read"]:
            run.source.names = []
        return False

    with pytest.raises(EnvironmentFailure, match="orders deleted while the run read it"):
        run.until(RUN, delete)


@pytest.mark.parametrize("interval_seconds", [0.0, 3600.0])
def test_no_epoch_begins_before_the_interval(tmp_path: Path, interval_seconds: float) -> None:
    run = Run(tmp_path, discovery_interval_seconds=interval_seconds)

    def after_some_looks(status: RunStatus) -> bool:
        if status.counters["read"]:
            run.source.names = []
        return run.states.count("running") > 8

    run.until(RUN, after_some_looks)
    assert len(run.jobs()) == 1


def test_the_landed_prefix_is_committed_while_it_runs_and_at_the_end(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_progress, "INTERVAL_SECONDS", 0.0)
    run.source.log_end = 9
    run.tree.parquet(sources("orders", 0, range(5)))
    while_running: list[int] = []

    def has_committed(status: RunStatus) -> bool:
        run.made._next_look = 0.0
        if status.state != "ended":
            while_running[:] = [len(run.source.commits)]
        return bool(run.source.commits)

    run.until(RUN, has_committed)
    assert run.source.group_offsets == [{ORDERS: 5}]
    assert len(run.source.commits) > while_running[0]
    assert all(commit == {ORDERS: 5} for commit in run.source.commits)


def test_a_run_to_a_time_reads_a_partition_that_came_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records are stamped with their offsets. The end is asked for once its time has passed."""
    now_ms = [0]
    monkeypatch.setattr(supervisor_module, "_now_ms", lambda: now_ms[0])
    run, added = Run(tmp_path), TopicPartition("orders", 1)
    run.scope = PartByTime(run.tree.output_dir, end=EndPoint("--end=T", 5))
    run.source.log_end = 9

    def on_tick(status: RunStatus) -> None:
        if status.state == "running" and not now_ms[0]:
            run.tree.parquet(sources("orders", 0, range(5)))
            run.source.partitions.append(added)
            now_ms[0] = 5 + END_SLACK_MS
        elif status.state == "running" and added in status.starts:
            run.tree.parquet(sources("orders", 1, range(5)))

    assert run.supervisor(RUN).run(run.stop, on_tick) is True
    assert run.made.status.restarts == 0
    notes = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("job-*.json"))]
    ends = [["orders", 0, 5], ["orders", 1, 5]]
    assert [note["cut"] for note in notes] == [
        {"ends": [], "end_ms": 5},
        {"ends": ends, "end_ms": 5},
    ]
    spans = load_left_out(run.tree.output_dir).note.ranges
    assert [(span.key.partition, span.first, span.end) for span in spans] == [
        (0, 5, None),
        (1, 5, None),
    ]


def test_a_backfill_takes_what_it_has_landed_out_of_the_note(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.source.log_end = 100
    run.scope = PartByTime(run.tree.output_dir, StartPoint("--start=latest"))
    run.until(RUN, lambda status: status.state == "running")
    run.source.log_end = 120
    run.scope, run.stop = Backfill(run.tree.output_dir, from_ms=90), Event()
    landed: list[Path] = []

    def on_tick(status: RunStatus) -> None:
        if status.state == "running" and not landed:
            assert status.starts == {ORDERS: 90}
            landed.append(run.tree.parquet(sources("orders", 0, range(90, 100))))

    assert run.supervisor(RUN).run(run.stop, on_tick) is True
    assert run.source.group_offsets == [{ORDERS: 100}, {ORDERS: 90}]
    (span,) = load_left_out(run.tree.output_dir).note.ranges
    assert (span.first, span.end) == (0, 90)
    ledger = load_ledger(run.tree.output_dir, run.tree.dead_letter_dir)
    assert list(ledger.covered.of(ORDERS)) == list(range(90, 100))
