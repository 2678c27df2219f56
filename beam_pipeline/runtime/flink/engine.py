"""The pipeline on Flink: a cluster on this machine, or the user's own."""

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
from beam_pipeline.runtime.processes import LOOPBACK, ManagedProcess, Service, free_port
from beam_pipeline.runtime.programs.expansion import FLINK_ARGUMENTS, start_expansion_service
from beam_pipeline.runtime.programs.java import find_java
from beam_pipeline.runtime.programs.java_classes import OWN_CLASSES_PREFIX, beam_jars
from beam_pipeline.runtime.programs.jvm import (
    LOGGING_CONFIG,
    loopback_flags,
    start_jvm,
    write_agent,
)
from beam_pipeline.runtime.programs.progress import SetupProgress

LOOK_SECONDS = 1.0
AWAY_SECONDS = 120.0
MAX_REPAIRS = 20
MAX_BUNDLE_RECORDS = 20_000
"""A bundle writes a part for each window, topic and shard that it touches. Beam's default of 1,000
makes that the most of the work where a backlog touches many windows."""
MAX_BUNDLE_MS = 200
"""Three stages follow one another, and each passes a watermark on when its bundle ends. With Beam's
default of 1,000 ms a window's file comes three seconds later."""
WORKER_POOL, JOB_SERVER = "Python worker pool", "Beam job server"


@dataclass(frozen=True)
class FlinkTools:
    """What Flink needs; fetched on the first start. Without a distribution there is no cluster of
    one's own."""

    java: Path
    jars: list[Path]
    distribution: FlinkDistribution | None


def find_flink_tools(*, with_cluster: bool) -> FlinkTools:
    """Finds or fetches the programs, with progress.

    Raises:
      EnvironmentFailure: one can't be had.
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

    `master` is the host:port of a cluster's REST interface, None for one on this machine;
    `worker_pool` the host:port of the Python workers as TaskManagers reach them; `savepoint` what
    the first job is restored from.
    """

    parallelism: int
    checkpointing_interval_ms: int
    master: str | None = None
    worker_pool: str | None = None
    savepoint: str | None = None
    ship_jars: bool = False


class FlinkEngine:
    """Flink, with a job server and an expansion service for as long as a job is submitted.

    On this machine a TaskManager or a worker pool that died is started again, and Flink restores
    the job from its last checkpoint; after the JobManager's death the job is submitted again, from
    the last checkpoint too.
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
        """`directory` takes the local cluster's files, and outlives `stop`; `on_job` is told the
        id of each job that was submitted."""
        self._on_job = on_job
        self._tools = tools
        self._settings = settings
        self._log_file = log_file
        self._directory = directory
        self._cluster = self._make_cluster()
        self.rest = self._cluster.rest if self._cluster else FlinkRest(settings.master or "")
        self._submission: list[ManagedProcess] = []
        self._worker_pool: ManagedProcess | None = None
        self._worker_port = free_port()
        self._flags: list[str] = []
        self._job_name = ""
        self._job: FlinkJob | None = None
        self._restore_from = settings.savepoint
        self._restored: str | None = settings.savepoint
        self._repair_count = 0
        self._next_look = 0.0
        self._seen_at = 0.0
        self._counted: Counter[str] = Counter()
        self._counted_before: Counter[str] = Counter()

    @property
    def job_id(self) -> str | None:
        """Flink's id of the job, once it runs."""
        return self._job.id if self._job else None

    @property
    def is_local(self) -> bool:
        """Whether the cluster is this engine's own."""
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
            ClusterSettings(slots=self._settings.parallelism),
            {
                JOB_MANAGER: self._log_file("jobmanager"),
                TASK_MANAGER: self._log_file("taskmanager"),
            },
        )

    def start(self, epoch: str) -> None:
        self._job_name = job_name(epoch)
        self._job = None
        self._repair_count = 0
        self._seen_at = time.monotonic()
        self._counted_before, self._counted = Counter(), Counter()
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
        if self._restore_from:
            self._flags.append(f"--savepoint_path={self._restore_from}")
            self._restored, self._restore_from = self._restore_from, None

    def job_flags(self) -> list[str]:
        return self._flags

    def status(self) -> EngineStatus:
        if self._cluster and (dead := self._cluster.dead(JOB_MANAGER)):
            return self._status(dead.end())
        repairs = self._repair()
        if repairs and self._repair_count > MAX_REPAIRS:
            return self._status(f"{repairs[-1]}, started again {MAX_REPAIRS} times")
        now = time.monotonic()
        if now < self._next_look:
            return self._status(None, repairs)
        self._next_look = now + LOOK_SECONDS
        try:
            failure = self._look()
            self._seen_at = now
        except FlinkUnreachableError as error:
            failure = str(error) if now - self._seen_at > AWAY_SECONDS else None
        except FlinkRefusedError:
            failure = None  # a job that starts or restarts has no metrics yet
        return self._status(failure, repairs)

    def _status(self, failure: str | None, repairs: Sequence[str] = ()) -> EngineStatus:
        return EngineStatus(
            failure, repairs, self._counted_before + self._counted, self._job is not None
        )

    def checkpoint(self) -> str | None:
        """On this machine the newest one, unless that was tried; it is then restored from."""
        newest = self._cluster.latest_checkpoint() if self._cluster else None
        if newest is None or newest.as_uri() == self._restored:
            return None
        self._restore_from = newest.as_uri()
        return self._restore_from

    def cancel(self) -> None:
        """Ends the job on a cluster that goes on, and waits for that.

        Raises:
          EnvironmentFailure: it can't be told whether the job has ended.
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
        """Ends what only a submission needs; the job goes on."""
        for process in self._submission:
            process.kill()  # SIGTERM would have the job server cancel its jobs
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
        """Class path and JVM flags of a job server that ships next to nothing with a job.

        Beam 2.70, FlinkJobInvoker: it ships whatever is on its class path, 150 MB, which takes
        longer than all the rest of a start. It finds that by the property java.class.path, and
        jars that come in with an agent are not in there; jamm is one that does nothing by itself.
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
        """Starts again what the job survives the death of; what that was."""
        if self._cluster is None or self._worker_pool is None:
            return []
        task_manager = self._cluster.dead(TASK_MANAGER)
        if task_manager is None and self._worker_pool.alive:
            return []
        dead = task_manager or self._worker_pool
        repairs = [f"{dead.name} (exit code {dead.returncode})"]
        # Workers of a dead TaskManager must not write a file of a timeline that is rolled back.
        self._worker_pool.kill()
        self._start_worker_pool()
        if task_manager:
            self._cluster.start_task_manager()
        self._repair_count += 1
        return repairs

    def _look(self) -> str | None:
        """Finds the job, or what became of it; why it must be submitted again."""
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
            return f"the job ended as {job.state}: {self.rest.failure(job.id) or 'no reason'}"
        self._count(job_counters(self.rest, job.id))
        return None

    def _find_job(self) -> FlinkJob | None:
        jobs = [job for job in self.rest.jobs() if job.name == self._job_name]
        return next((job for job in jobs if not job.is_over), None)

    def _count(self, counted: Counter[str]) -> None:
        """Flink counts from zero after it has restored a job."""
        if counted["read"] < self._counted["read"]:
            self._counted_before += self._counted
        self._counted = counted


def end_job(rest: FlinkRest, job_id: str) -> None:
    """Cancels a job and waits until it is over.

    Raises:
      EnvironmentFailure: that can't be told.
    """
    job = rest.job(job_id)
    if job is None or job.is_over:
        return
    with contextlib.suppress(FlinkRefusedError):  # it ended meanwhile
        rest.cancel(job_id)
    rest.await_end(job_id)
