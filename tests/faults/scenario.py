"""A pipeline under load on a topic of its own, what is done to it, and the verdict at the end."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from random import Random

from confluent_kafka import Consumer, TopicPartition
from faults.load import Load
from faults.results import Result
from hour_markers import MarkedTree
from integration.pipeline_runs import Finished, PipelineRun, Placed, wait_for
from stores import start_s3

from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.runtime.programs.broker import EmbeddedBroker
from beam_pipeline.storage.paths import StoredPath

SUPERVISOR, BROKER, STORE = "supervisor", "broker", "store"
COMMITTER = "table committer"
COMMAND_OF = {
    "job and Python worker": "beam_pipeline.job",
    "Prism": "--serve_http=false",
    "expansion service and Java worker": "beam_pipeline.LoopbackExpansion",
}
"""What the command line of each process below the supervisor holds."""

COMMAND_ON_FLINK = {
    "TaskManager": "TaskManagerRunner",
    "JobManager": "StandaloneSessionClusterEntrypoint",
    "worker pool": "beam_pipeline.worker_pool",
    "Python worker": "beam_pipeline.worker_start",
}
"""The same, on Flink; job server and expansion service live while a job is submitted only."""

VICTIMS = (SUPERVISOR, *COMMAND_OF, BROKER)
VICTIMS_ON_FLINK = (SUPERVISOR, *COMMAND_ON_FLINK, BROKER)
COMMAND_WITH_TABLE = {COMMITTER: "-m beam_pipeline.tables"}
PROGRESS_TIMEOUT_SECONDS = 150.0
MARKER_DELAY = timedelta(seconds=10)
"""The watermark delay, and how far the clock of the broker may be behind."""
RESTART_NOTICES = (
    "starting again after: ",
    "starting again from ",
    "started again, and restored: ",
)


class MortalStore:
    """An S3 server that may be killed; the next one has its directory and its port."""

    def __init__(self, directory: Path) -> None:
        self.at = start_s3(directory)
        self._port = int(self.at.service.endpoint.rpartition(":")[2])
        self._service = self.at.service

    def kill(self) -> None:
        os.kill(self._service.process.pid, signal.SIGKILL)
        self._service.process.wait(10)

    def start(self) -> None:
        """Starts it again, unless it runs."""
        if not self._service.process.alive:
            self._service = start_s3(self.at.directory, port=self._port).service

    def end(self) -> None:
        self._service.process.terminate(3.0)


@dataclass
class Scenario:
    """Everything random in it comes from `random`, and so from its seed and its name."""

    name: str
    seed: int
    run: PipelineRun
    broker: EmbeddedBroker
    topic: str
    record: Callable[[Result], None]
    flags: tuple[str, ...] = ("--num_shards=2",)
    store: MortalStore | None = None
    random: Random = field(init=False)
    load: Load = field(init=False)
    kills: Counter[str] = field(default_factory=Counter)
    _supervisor: subprocess.Popen[str] | None = None
    _starts: int = 0
    _broker_was_away: bool = False
    _began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.random = Random(f"{self.seed} {self.name}")
        self.load = Load(self.run, self.kafka, self.topic, self.random)

    @property
    def kafka(self) -> KafkaConnection:
        return self.broker.connection

    @property
    def hours(self) -> MarkedTree:
        """The markers of complete hours."""
        return MarkedTree(self.run.output_dir, self.run.dead_letter_dir)

    @property
    def supervisor(self) -> subprocess.Popen[str]:
        assert self._supervisor is not None, "not started"
        return self._supervisor

    def start(self) -> None:
        """Starts `beam-pipeline run`; its output goes to a file of its own."""
        self._starts += 1
        self._broker_was_away = not self.broker.process.alive
        self.run.directory.mkdir(parents=True, exist_ok=True)
        with self.run_log(self._starts).open("w", encoding="utf-8") as output:
            words = self.run.run_words(self.kafka, self.topic, *self.flags)
            self._supervisor = self.run.start(*words, output=output)

    def terminate(self) -> None:
        """SIGTERM to the supervisor; fails when it does not end well and soon."""
        self.supervisor.send_signal(signal.SIGTERM)
        code = self.supervisor.wait(30)
        # Before it has said a word it may not be listening for signals yet.
        unheard = code == -signal.SIGTERM and not self.told()
        assert code == 0 or unheard, f"exit code {code} after SIGTERM\n{self.told()}"

    def run_log(self, start: int) -> Path:
        return self.run.directory / f"run-{start}.out"

    def told(self, starts: range | None = None) -> str:
        """What the runs printed; by default the newest one."""
        if starts is None:
            starts = range(self._starts, self._starts + 1)
        return "".join(self.run_log(start).read_text(encoding="utf-8") for start in starts)

    def told_by_all(self) -> str:
        return self.told(range(1, self._starts + 1))

    def files(self) -> set[StoredPath]:
        """Parquet files in place."""
        return set(self.run.parquet_paths())

    def await_progress(self) -> None:
        """Waits until a Parquet file appears that is not there now."""
        before = self.files()

        def moved() -> bool:
            self.keep_running()
            return bool(self.files() - before)

        wait_for(moved, f"a new file\n{self.told()}", PROGRESS_TIMEOUT_SECONDS)

    def await_moment(self, amid_writing: bool) -> None:
        """Waits for a random moment: one with files being written, or any, in a start as well."""
        if amid_writing:
            self.await_progress()
            time.sleep(self.random.uniform(0, 4))
        else:
            time.sleep(self.random.uniform(0, 10))

    def require_running(self) -> None:
        code = self.supervisor.poll()
        assert code is None, f"the run ended by itself, exit code {code}\n{self.told()}"

    def keep_running(self) -> None:
        """Starts a run again that ended because the broker was away; nothing else may end it."""
        if self._broker_was_away and self.supervisor.poll() is not None:
            self.ended_clearly()
            self.start()
        self.require_running()

    def ended_clearly(self) -> str:
        """The last line of a run that ended by itself; fails unless it is a clear one."""
        code, told = self.supervisor.returncode, self.told()
        assert code == 1, f"exit code {code}\n{told}"
        assert "Traceback" not in told, told
        last = told.splitlines()[-1]
        assert last.startswith("beam-pipeline: "), told
        return last

    def pid_of(self, victim: str) -> int:
        """The process id of what runs below the supervisor; waits until it does."""

        def find() -> int | None:
            self.keep_running()
            processes = self.run.processes().items()
            sought = {**COMMAND_OF, **COMMAND_ON_FLINK, **COMMAND_WITH_TABLE}[victim]
            return next((pid for pid, command in processes if sought in command), None)

        pid: int = wait_for(find, f"{victim}\n{self.told()}", PROGRESS_TIMEOUT_SECONDS)
        return pid

    def kill(self, victim: str) -> None:
        """`kill -9`; what nobody starts again by itself is started again some seconds later.

        No marker of an hour may claim what is not there then.
        """
        self._kill(victim)
        claims = self.hours.false_claims()
        assert not claims, f"after kill -9 of {victim}, seed {self.seed}: {claims[:5]}"

    def _kill(self, victim: str) -> None:
        self.kills[victim] += 1
        if victim == SUPERVISOR:
            self.supervisor.kill()
            self.supervisor.wait(10)
            wait_for(lambda: not self.children(), "the end of every process", 20)
            time.sleep(self.random.uniform(0, 2))
            self.start()
        elif victim == BROKER:
            self.kill_broker()
            time.sleep(self.random.uniform(1, 6))
            self.start_broker()
        elif victim == STORE:
            assert self.store is not None, "the scenario has no store"
            self.store.kill()
            time.sleep(self.random.uniform(1, 6))
            self.store.start()
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid_of(victim), signal.SIGKILL)

    def children(self) -> dict[int, str]:
        """Processes of the pipeline, without the producers."""
        return {
            pid: command
            for pid, command in self.run.processes().items()
            if "beam_pipeline produce" not in command
        }

    def kill_broker(self) -> None:
        self._broker_was_away = True
        os.kill(self.broker.process.pid, signal.SIGKILL)
        self.broker.process.wait(10)

    def start_broker(self) -> None:
        self.broker.start()
        self.broker.wait_ready()

    def vanish(self, directory: Path) -> None:
        """Renames an output directory away; the run ends, saying so, and starts when it is back."""
        away = directory.with_name(f"{directory.name}-away")
        directory.rename(away)
        wait_for(lambda: self.supervisor.poll() is not None, f"the end\n{self.told()}", 60)
        assert f"{directory} has vanished" in self.ended_clearly()
        if directory.exists():  # a part or a file was being written
            shutil.rmtree(directory)
        away.rename(directory)
        self.start()

    @contextlib.contextmanager
    def stopped(self, pid: int) -> Iterator[None]:
        """The process is stopped by SIGSTOP for the time of the block."""
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def reconcile(self) -> Finished:
        return self.run.finish(
            "reconcile",
            f"--kafka_bootstrap_servers={self.kafka.bootstrap_servers}",
            f"--input_topics={self.topic}",
            *self.run.place_flags(),
            "--dead_letter_topic",
            "--up_to=end",
            "--json",
        )

    def settle(self) -> None:
        """Ends the load, starts again what is down, catches up, and holds files against the log.

        The verdict is `reconcile`'s and that of a count over the files' content alone. Each hour
        that is over has its marker, which says what is there.
        """
        self.load.end()
        if self.store is not None:
            self.store.start()
        if not self.broker.process.alive:
            self.start_broker()
        if self.supervisor.poll() is None:
            self.terminate()
        before = datetime.now(timezone.utc) - MARKER_DELAY
        self.run.catch_up(self.kafka, self.topic, *self.flags)
        assert self.run.processes() == {}
        assert self.hours.false_claims() == self.hours.stale() == []
        assert self.hours.unmarked(before) == []
        expected, placed = self.log(), self.run.placed()
        missing = expected - placed
        doubled = placed - expected
        result = Result(
            scenario=self.name,
            seed=self.seed,
            kills=self.kills.total(),
            records=expected.total(),
            restarts=self.restarts(),
            missing=missing.total(),
            doubled=doubled.total(),
            seconds=round(time.monotonic() - self._began),
        )
        self.record(result)
        reconciled = self.reconcile()
        verdict = f"seed {self.seed}, {dict(self.kills)}\n{reconciled.output[:2000]}"
        assert not missing, f"missing {sorted(missing)[:20]}, {verdict}"
        assert not doubled, f"doubled {sorted(doubled)[:20]}, {verdict}"
        assert reconciled.code == 0, verdict
        report = json.loads(reconciled.output)
        assert (report["missing"], report["doubled"]) == (0, 0), verdict
        assert report["records"] == expected.total() > 0, verdict

    def restarts(self) -> int:
        """Of the supervisor, and by it."""
        told = self.told_by_all()
        return self._starts - 1 + sum(told.count(notice) for notice in RESTART_NOTICES)

    def log(self) -> Counter[Placed]:
        """Every offset that the log holds, once."""
        consumer = Consumer({**self.kafka.for_librdkafka(), "group.id": "fault-suite"})
        metadata = consumer.list_topics(self.topic, timeout=20)
        offsets: Counter[Placed] = Counter()
        for partition in metadata.topics[self.topic].partitions:
            low, high = consumer.get_watermark_offsets(
                TopicPartition(self.topic, partition), timeout=20
            )
            offsets.update((self.topic, partition, offset) for offset in range(low, high))
        consumer.close()
        return offsets

    def end(self) -> None:
        """Ends whatever still runs, after a failure too."""
        for pid in self.run.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
                os.kill(pid, signal.SIGKILL)
        if self._supervisor is not None:
            self._supervisor.wait(10)
