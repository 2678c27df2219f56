"""Run jobs on Flink: on a cluster on this machine, or on the user's own."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from beam_pipeline.runtime.engine import EngineStatus, LogFile
from beam_pipeline.runtime.flink.cluster import (
    JOB_MANAGER,
    TASK_MANAGER,
    ClusterSettings,
    FlinkCluster,
    jars_without_flink,
)
from beam_pipeline.runtime.flink.distribution import FlinkDistribution, find_flink
from beam_pipeline.runtime.flink.job_record import job_name
from beam_pipeline.runtime.flink.metrics import job_counters
from beam_pipeline.runtime.flink.rest import (
    FlinkJob,
    FlinkRefusedError,
    FlinkRest,
    FlinkUnreachableError,
)
from beam_pipeline.runtime.processes import (
    LOOPBACK,
    ManagedProcess,
    Service,
    free_port,
    free_port_like,
)
from beam_pipeline.runtime.programs.expansion import FLINK_ARGUMENTS, start_expansion_service
from beam_pipeline.runtime.programs.java import find_java
from beam_pipeline.runtime.programs.java_classes import OWN_CLASSES_PREFIX, beam_jars
from beam_pipeline.runtime.programs.jvm import (
    LOGGING_CONFIG,
    READER_HEAP_MB,
    loopback_flags,
    start_jvm,
    write_agent,
)
from beam_pipeline.runtime.programs.progress import SetupProgress

POLL_SECONDS = 1.0
UNREACHABLE_SECONDS = 120.0
MAX_REPAIRS = 20
MAX_BUNDLE_RECORDS = 20_000
"""A bundle writes a part for each window, topic and shard that it touches. With Beam's default of
1,000 that is most of the work on a backlog with many windows."""
MAX_BUNDLE_MS = 200
"""Each of three stages in a row passes its watermark on when its bundle ends. With Beam's default
of 1,000 ms a window's file is written three seconds later."""
WORKER_POOL, JOB_SERVER = "Python worker pool", "Beam job server"


@dataclass(frozen=True)
class FlinkTools:
    """The programs that Flink needs; the distribution is for a cluster on this machine only."""

    java: Path
    jars: list[Path]
    distribution: FlinkDistribution | None


def find_flink_tools(*, with_cluster: bool) -> FlinkTools:
    """Find or fetch the programs, and show the progress.

    Raises:
      EnvironmentFailure: one can't be found or fetched.
    """
    with SetupProgress() as progress:
        java = find_java(progress)
        return FlinkTools(
            java=java,
            jars=beam_jars("flink", java, progress),
            distribution=find_flink(progress) if with_cluster else None,
        )


@dataclass(frozen=True)
class FlinkSettings:
    """How a job runs on Flink.

    Attributes:
      parallelism: task slots and Python workers of the job.
      checkpointing_interval_ms: milliseconds from one checkpoint to the next.
      master: host:port of a cluster's REST interface; None for a cluster on this machine.
      worker_pool: host:port of the Python workers as TaskManagers reach them.
      savepoint: what the first job is restored from.
      ship_jars: whether each job brings Beam's jars.
      plain_source: whether the job's source can't have classes of this project's.
      reader_heap_mb: heap for the reading of Kafka, in MiB; a local TaskManager has 1,280 MiB
        more.
    """

    parallelism: int
    checkpointing_interval_ms: int
    master: str | None = None
    worker_pool: str | None = None
    savepoint: str | None = None
    ship_jars: bool = False
    plain_source: bool = False
    reader_heap_mb: int = READER_HEAP_MB


class FlinkEngine:
    """Flink, with a job server and an expansion service while a job is submitted.

    On this machine a TaskManager or a worker pool that died is started again, and Flink restores
    the job from its last checkpoint. After the death of the JobManager the job is submitted again,
    from the last checkpoint too.
    """

    name = "Flink"
    restores_checkpoints = True

    def __init__(
        self,
        tools: FlinkTools,
        settings: FlinkSettings,
        directory: Path,
        log_file: LogFile,
        on_job: Callable[[str], None] = lambda job_id: None,
    ) -> None:
        """Describe the engine; nothing is started yet.

        Args:
          tools: the programs.
          settings: how jobs run.
          directory: gets the local cluster's files, which `stop` leaves there.
          log_file: returns the log file of a process.
          on_job: called with Flink's id of each job that was submitted.
        """
        self._on_job = on_job
        self._tools = tools
        self._settings = settings
        self._log_file = log_file
        self._directory = directory
        self._cluster = self._make_cluster()
        self._rest = FlinkRest(settings.master or "")
        self._submission: list[ManagedProcess] = []
        self._worker_pool: ManagedProcess | None = None
        self._worker_port = free_port()
        self._flags: list[str] = []
        self._job_name = ""
        self._job: FlinkJob | None = None
        self._restore_from = settings.savepoint
        self._restored: str | None = settings.savepoint
        self._repair_count = 0
        self._next_poll = 0.0
        self._reached_at = 0.0
        self._counters: Counter[str] = Counter()
        self._counters_before: Counter[str] = Counter()

    @property
    def rest(self) -> FlinkRest:
        """Return a client of the cluster; a local cluster's address may change at `start`."""
        return self._cluster.rest if self._cluster else self._rest

    @property
    def job_id(self) -> str | None:
        """Return Flink's id of the job, once it runs."""
        return self._job.id if self._job else None

    @property
    def is_local(self) -> bool:
        """Return whether the cluster is this engine's own."""
        return self._cluster is not None

    def _make_cluster(self) -> FlinkCluster | None:
        distribution = self._tools.distribution
        if self._settings.master or distribution is None:
            return None
        return FlinkCluster(
            distribution,
            self._tools.java,
            jars_without_flink(self._tools.jars),
            self._directory,
            ClusterSettings(
                slots=self._settings.parallelism,
                task_manager_mb=1280 + self._settings.reader_heap_mb,
            ),
            {
                JOB_MANAGER: self._log_file("jobmanager"),
                TASK_MANAGER: self._log_file("taskmanager"),
            },
        )

    def start(self, epoch: str) -> None:
        # Taken first: a start that fails is followed by a new epoch, which must not restore it.
        restore_from, self._restore_from = self._restore_from, None
        self._restored = restore_from or self._restored
        self._job_name = job_name(epoch)
        self._job = None
        self._repair_count = 0
        self._reached_at = time.monotonic()
        self._counters_before, self._counters = Counter(), Counter()
        self._worker_port = free_port_like(self._worker_port)
        expansion = self._start_expansion_service()
        if self._cluster:
            self._cluster.start()
            self._start_worker_pool()
        job_server = self._start_job_server()
        settings = self._settings
        pool = settings.worker_pool or f"{LOOPBACK}:{self._worker_port}"
        self._flags = [
            "--runner=PortableRunner",
            f"--job_endpoint={job_server.endpoint}",
            "--environment_type=EXTERNAL",
            f"--environment_config={pool}",
            f"--expansion_service={expansion.endpoint}",
            "--experiments=use_deprecated_read",
            f"--job_name={self._job_name}",
            f"--parallelism={settings.parallelism}",
            f"--sdk_worker_parallelism={settings.parallelism}",
            f"--checkpointing_interval={settings.checkpointing_interval_ms}",
            f"--max_bundle_size={MAX_BUNDLE_RECORDS}",
            f"--max_bundle_time_mills={MAX_BUNDLE_MS}",
            "--externalized_checkpoints_enabled",
            "--retain_externalized_checkpoints_on_cancellation",
            "--detach",
        ]
        if settings.plain_source:
            self._flags.append("--plain_source")
        if restore_from:
            self._flags.append(f"--savepoint_path={restore_from}")

    def job_flags(self) -> list[str]:
        return self._flags

    def status(self) -> EngineStatus:
        if self._cluster and (dead := self._cluster.dead(JOB_MANAGER)):
            return self._status(dead.end())
        repairs = self._repair()
        if repairs and self._repair_count > MAX_REPAIRS:
            return self._status(f"{repairs[-1]}, started again {MAX_REPAIRS} times")
        now = time.monotonic()
        if now < self._next_poll:
            return self._status(None, repairs)
        self._next_poll = now + POLL_SECONDS
        try:
            failure = self._poll_job()
            self._reached_at = now
        except FlinkUnreachableError as error:
            failure = str(error) if now - self._reached_at > UNREACHABLE_SECONDS else None
        except FlinkRefusedError:
            failure = None  # a job that is starting has no metrics yet
        return self._status(failure, repairs)

    def _status(self, failure: str | None, repairs: Sequence[str] = ()) -> EngineStatus:
        return EngineStatus(
            failure, repairs, self._counters_before + self._counters, self._job is not None
        )

    def checkpoint(self) -> str | None:
        """Return the newest checkpoint on this machine, unless the last job was restored from it.

        The next job is restored from it.
        """
        newest = self._cluster.latest_checkpoint() if self._cluster else None
        if newest is None or newest.as_uri() == self._restored:
            return None
        self._restore_from = newest.as_uri()
        return self._restore_from

    def cancel(self) -> None:
        """Cancel the job on the user's own cluster, and wait for its end.

        Raises:
          EnvironmentFailure: the cluster does not answer, or the job still runs.
        """
        job = self._job or self._find_job()
        if job is not None:
            end_job(self.rest, job.id)
        self._job = None

    def stop(self) -> None:
        with ExitStack() as stack:
            if self._cluster:
                stack.callback(self._cluster.stop)
            else:
                stack.callback(self.cancel)
            if self._worker_pool:
                stack.callback(self._worker_pool.terminate, 1.0)
            stack.callback(self.leave)
        self._worker_pool = None

    def leave(self) -> None:
        """End what only a submission needs; the job continues."""
        for process in self._submission:
            process.kill()  # at SIGTERM the job server cancels its jobs
        self._submission.clear()

    def _start_expansion_service(self) -> Service:
        service = start_expansion_service(
            self._tools.java,
            self._tools.jars,
            self._log_file("expansion"),
            arguments=FLINK_ARGUMENTS,
            heap_mb=512,
        )
        self._submission.append(service.process)
        return service

    def _start_job_server(self) -> Service:
        port = free_port()
        jars = self._tools.jars
        flags: list[str] = []
        if not self._settings.ship_jars:
            jars, flags = self._unshipped()
        process = start_jvm(
            JOB_SERVER,
            self._tools.java,
            jars,
            "org.apache.beam.runners.flink.FlinkJobServerDriver",
            [
                f"--flink-master={self.rest.master}",
                f"--job-host={LOOPBACK}",
                f"--job-port={port}",
                "--artifact-port=0",
                "--expansion-port=-1",
                f"--artifacts-dir={self._directory / 'artifacts'}",
            ],
            self._log_file("jobserver"),
            heap_mb=512,
            properties={"java.util.logging.config.file": str(LOGGING_CONFIG)},
            extra_flags=[*loopback_flags(self._tools.jars), *flags],
        )
        self._submission.append(process)
        return Service(process, f"{LOOPBACK}:{port}")

    def _unshipped(self) -> tuple[list[Path], list[str]]:
        """Return class path and JVM flags of a job server that ships almost nothing with a job.

        Beam 2.70, FlinkJobInvoker: it ships everything on its class path, 150 MB, which takes
        longer than all the rest of a start. It reads the property java.class.path, which lacks
        jars that an agent brings. jamm is an agent that does nothing by itself.
        """
        shipped = [
            jar
            for jar in self._tools.jars
            if jar.name.startswith(("beam-runners-flink-", OWN_CLASSES_PREFIX))
        ]
        agent = self._directory / "agent.jar"
        self._directory.mkdir(parents=True, exist_ok=True)
        write_agent(agent, "org.github.jamm.MemoryMeter", self._tools.jars)
        return shipped, [f"-javaagent:{agent}"]

    def _start_worker_pool(self) -> None:
        # The pool starts its workers with the first `python` on PATH.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        self._worker_pool = ManagedProcess(
            WORKER_POOL,
            [
                sys.executable,
                *("-m", "beam_pipeline.worker_pool"),
                f"--service_port={self._worker_port}",
            ],
            self._log_file("workers"),
            env={"PATH": path},
        )

    def _repair(self) -> list[str]:
        """Start the TaskManager or the worker pool again if it died; return what was dead.

        Flink restores the job from its last checkpoint.
        """
        if self._cluster is None or self._worker_pool is None:
            return []
        task_manager = self._cluster.dead(TASK_MANAGER)
        if task_manager is None and self._worker_pool.alive:
            return []
        dead = task_manager or self._worker_pool
        repairs = [f"{dead.name} (exit code {dead.returncode})"]
        # Workers of a dead TaskManager must not write files of work that is rolled back.
        self._worker_pool.kill()
        self._start_worker_pool()
        if task_manager:
            self._cluster.start_task_manager()
        self._repair_count += 1
        return repairs

    def _poll_job(self) -> str | None:
        """Find the job and read its counters; return why it must be submitted again, if so."""
        if self._job is None:
            self._job = self._find_job()
            if self._job is None:
                return None
            self._on_job(self._job.id)
            self.leave()
        job = self.rest.job(self._job.id)
        if job is None:
            return f"job {self._job.id} is unknown to Flink at {self.rest.master}"
        self._job = job
        if job.is_over:
            reason = self.rest.failure(job.id) or "Flink gives no reason"
            return f"the job ended as {job.state}: {reason}"
        self._take_counters(job_counters(self.rest, job.id))
        return None

    def _find_job(self) -> FlinkJob | None:
        jobs = [job for job in self.rest.jobs() if job.name == self._job_name]
        return next((job for job in jobs if not job.is_over), None)

    def _take_counters(self, counters: Counter[str]) -> None:
        """Take a job's counters; Flink counts from zero again after it has restored a job."""
        if counters["read"] < self._counters["read"]:
            self._counters_before += self._counters
        self._counters = counters


def end_job(rest: FlinkRest, job_id: str) -> None:
    """Cancel a job and wait for its end.

    Raises:
      EnvironmentFailure: the cluster does not answer, or the job still runs.
    """
    job = rest.job(job_id)
    if job is None or job.is_over:
        return
    with contextlib.suppress(FlinkRefusedError):  # the job has ended meanwhile
        rest.cancel(job_id)
    rest.await_end(job_id)
