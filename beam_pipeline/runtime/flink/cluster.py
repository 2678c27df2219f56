"""A Flink cluster on this machine: a JobManager and a TaskManager, on loopback only."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.runtime.flink.distribution import FlinkDistribution
from beam_pipeline.runtime.flink.rest import FlinkRest, FlinkUnreachableError
from beam_pipeline.runtime.processes import LOOPBACK, ManagedProcess, free_port, free_port_like
from beam_pipeline.runtime.programs.jvm import loopback_flags, start_jvm

JOB_MANAGER, TASK_MANAGER = "Flink JobManager", "Flink TaskManager"
READY_TIMEOUT_SECONDS = 60.0
_LOG4J = Path(__file__).with_name("log4j.properties")
_PARAMETERS_CLASS = "org.apache.flink.runtime.util.bash.BashJavaUtils"
_RESULT_PREFIX = "BASH_JAVA_UTILS_EXEC_RESULT:"

# env.java.opts.all in config.yaml of Flink 1.19, without the entries that only SQL needs.
_JAVA_MODULES = (
    "--add-exports=java.base/sun.net.util=ALL-UNNAMED",
    "--add-exports=java.security.jgss/sun.security.krb5=ALL-UNNAMED",
    *(
        f"--add-opens=java.base/{package}=ALL-UNNAMED"
        for package in (
            *("java.lang", "java.net", "java.io", "java.nio", "sun.nio.ch", "java.lang.reflect"),
            *("java.text", "java.time", "java.util", "java.util.concurrent"),
            *("java.util.concurrent.atomic", "java.util.concurrent.locks"),
        )
    ),
)


_PROMETHEUS = {
    "metrics.reporters": "prometheus",
    "metrics.reporter.prometheus.factory.class": (
        "org.apache.flink.metrics.prometheus.PrometheusReporterFactory"
    ),
}


@dataclass(frozen=True)
class ClusterSettings:
    """Sizes of a local cluster.

    Attributes:
        slots: the number of task slots.
        task_manager_mb, job_manager_mb: memory of each process, in MiB.
        prometheus: adds Flink's Prometheus reporter, which listens on all interfaces
            (PrometheusReporter of Flink 1.19 takes no address).
    """

    slots: int
    task_manager_mb: int = 2304
    job_manager_mb: int = 1024
    prometheus: bool = False


class FlinkCluster:
    """The two processes of a cluster. A port that was taken meanwhile is replaced at a start.

    Beam's jars are on the class path of both, `parent-first`. If each job brought them along, they
    would fill the TaskManager's metaspace after about four jobs.
    """

    def __init__(
        self,
        distribution: FlinkDistribution,
        java: Path,
        beam_jars: Sequence[Path],
        directory: Path,
        settings: ClusterSettings,
        log_files: Mapping[str, Path],
    ) -> None:
        """Describe the cluster; nothing is started yet.

        Args:
            distribution: Flink's own files.
            java: the `java` program.
            beam_jars: Beam's runner and KafkaIO, without Flink's own jars (`jars_without_flink`).
            directory: gets configuration, checkpoints, savepoints and temporary files.
            settings: sizes.
            log_files: one for `JOB_MANAGER` and one for `TASK_MANAGER`.
        """
        self._distribution = distribution
        self._java = java
        self._class_path = [*distribution.jars, *beam_jars]
        self.directory = directory
        self._log_files = log_files
        self._settings = settings
        self._ports = _Ports(*(free_port() for _ in range(4)))
        self._job_manager: ManagedProcess | None = None
        self._task_manager: ManagedProcess | None = None
        self._parameters: dict[str, tuple[list[str], list[str]]] = {}
        self.rest = FlinkRest(f"{LOOPBACK}:{self._ports.rest}")

    @property
    def metrics_address(self) -> str:
        """Return host:port of the TaskManager's Prometheus reporter."""
        return f"{LOOPBACK}:{self._ports.task_manager_metrics}"

    def dead(self, name: str) -> ManagedProcess | None:
        """Return the process of that name if it has ended by itself."""
        return next((p for p in self.processes if p.name == name and not p.alive), None)

    @property
    def processes(self) -> list[ManagedProcess]:
        """Return the processes that were started."""
        return [process for process in (self._job_manager, self._task_manager) if process]

    def start(self) -> None:
        """Start both; return before they are ready. From here on `rest` has the cluster's address.

        Raises:
            EnvironmentFailure: Flink refuses the configuration.
            OSError: the directory can't be written.
        """
        self._ports = _Ports(*map(free_port_like, self._ports))
        self.rest = FlinkRest(f"{LOOPBACK}:{self._ports.rest}")
        configuration = self.directory / "conf"
        for name in ("conf", "checkpoints", "savepoints", "tmp"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        config = cluster_config(
            self.directory, self._settings, rest_port=self._ports.rest, rpc_port=self._ports.rpc
        )
        (configuration / "config.yaml").write_text(format_config(config))
        if not self._parameters:
            self._parameters = self._find_parameters(configuration)
        self._job_manager = self._run(
            JOB_MANAGER,
            "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint",
            ["--executionMode", "cluster"],
        )
        self.start_task_manager()

    def start_task_manager(self) -> None:
        """Start the TaskManager, for the first time or after it died."""
        self._task_manager = self._run(
            TASK_MANAGER, "org.apache.flink.runtime.taskexecutor.TaskManagerRunner", []
        )

    def wait_ready(self, timeout_seconds: float = READY_TIMEOUT_SECONDS) -> None:
        """Wait until the JobManager answers and the TaskManager has offered its slots.

        Raises:
            EnvironmentFailure: a process ended first, or Flink was not ready in time.
        """
        deadline = time.monotonic() + timeout_seconds
        while True:
            for process in self.processes:
                if not process.alive:
                    raise process.failure(f"ended with exit code {process.returncode}")
            try:
                if self.rest.overview().slots:
                    return
            except FlinkUnreachableError:
                pass
            if time.monotonic() > deadline:
                raise EnvironmentFailure(f"Flink was not ready within {timeout_seconds:g} s")
            time.sleep(0.05)

    def stop(self, grace_seconds: float = 1.0) -> None:
        """End both processes."""
        with ExitStack() as stack:
            for process in self.processes:
                stack.callback(process.terminate, grace_seconds)
        self._job_manager = self._task_manager = None

    def latest_checkpoint(self) -> Path | None:
        """Return the newest complete checkpoint of any job; None where there is none."""
        return latest_checkpoint(self.directory / "checkpoints")

    def _run(self, name: str, main_class: str, arguments: Sequence[str]) -> ManagedProcess:
        flags, dynamic = self._parameters[name]
        log_file = self._log_files[name]
        metrics: list[str] = []
        if self._settings.prometheus:
            ports = self._ports
            port = ports.job_manager_metrics if name == JOB_MANAGER else ports.task_manager_metrics
            metrics = ["-D", f"metrics.reporter.prometheus.port={port}"]
        return start_jvm(
            name,
            self._java,
            self._class_path,
            main_class,
            ["--configDir", str(self.directory / "conf"), *arguments, *dynamic, *metrics],
            log_file,
            properties={
                "log4j.configurationFile": str(_LOG4J),
                "log.file": str(log_file.absolute()),  # shown by the web UI
                "java.io.tmpdir": str(self.directory / "tmp"),
            },
            extra_flags=[*flags, *_JAVA_MODULES, *loopback_flags(self._class_path)],
            environment={"FLINK_PLUGINS_DIR": str(self._distribution.plugins)},
        )

    def _find_parameters(self, configuration: Path) -> dict[str, tuple[list[str], list[str]]]:
        """Return JVM flags and `-D` settings of each process, as Flink's own tool computes them."""
        class_path = os.pathsep.join(map(str, self._distribution.parameter_jars))
        command = [str(self._java), "-XX:TieredStopAtLevel=1", "-cp", class_path]
        requests = {
            JOB_MANAGER: "GET_JM_RESOURCE_PARAMS",
            TASK_MANAGER: "GET_TM_RESOURCE_PARAMS",
        }
        parameters = {}
        for name, request in requests.items():
            try:
                output = subprocess.run(
                    [*command, _PARAMETERS_CLASS, request, "--configDir", str(configuration)],
                    capture_output=True,
                    text=True,
                    timeout=READY_TIMEOUT_SECONDS,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                raise EnvironmentFailure(
                    f"{name}: Flink did not compute its memory within {READY_TIMEOUT_SECONDS:g} s"
                ) from None
            if output.returncode != 0:
                lines = (output.stderr or output.stdout).strip().splitlines()
                reason = lines[-1] if lines else f"exit code {output.returncode}"
                raise EnvironmentFailure(f"{name}: Flink refuses its configuration: {reason}")
            parameters[name] = parse_parameters(output.stdout)
        return parameters


class _Ports(NamedTuple):
    rest: int
    rpc: int
    job_manager_metrics: int
    task_manager_metrics: int


def jars_without_flink(jars: Sequence[Path]) -> list[Path]:
    """Return the jars of the "flink" lock without those that a cluster has: Flink's and SLF4J's.

    The cache has a directory for each Maven group.
    """
    groups = ("org.apache.flink", "org.slf4j")
    return [jar for jar in jars if jar.parent.name not in groups]


def cluster_config(
    directory: Path, settings: ClusterSettings, *, rest_port: int, rpc_port: int
) -> dict[str, str]:
    """Return Flink's configuration of a local cluster, value by option."""
    return {
        "jobmanager.rpc.address": LOOPBACK,
        "jobmanager.rpc.port": str(rpc_port),
        "jobmanager.bind-host": LOOPBACK,
        "taskmanager.host": LOOPBACK,
        "taskmanager.bind-host": LOOPBACK,
        "rest.address": LOOPBACK,
        "rest.bind-address": LOOPBACK,
        "rest.port": str(rest_port),
        "jobmanager.memory.process.size": f"{settings.job_manager_mb}m",
        "taskmanager.memory.process.size": f"{settings.task_manager_mb}m",
        # State is names of parts, on the heap; managed memory is for RocksDB and SQL.
        "taskmanager.memory.managed.size": "16m",
        "taskmanager.memory.jvm-metaspace.size": "512m",
        # For gRPC: an element with values of several megabytes is sent in one piece.
        "taskmanager.memory.task.off-heap.size": "256m",
        "taskmanager.numberOfTaskSlots": str(settings.slots),
        "classloader.resolve-order": "parent-first",
        "state.backend.type": "hashmap",
        "state.checkpoints.dir": (directory / "checkpoints").as_uri(),
        "state.savepoints.dir": (directory / "savepoints").as_uri(),
        "io.tmp.dirs": str(directory / "tmp"),
        "restart-strategy.type": "failure-rate",
        "restart-strategy.failure-rate.delay": "1 s",
        "restart-strategy.failure-rate.failure-rate-interval": "5 min",
        "restart-strategy.failure-rate.max-failures-per-interval": "10",
        # A killed TaskManager is noticed within seconds, a frozen one after twenty.
        "heartbeat.interval": "1000",
        "heartbeat.timeout": "20000",
        "web.submit.enable": "false",
        "web.refresh-interval": "1000",
        "metrics.fetcher.update-interval": "1000",
        **(_PROMETHEUS if settings.prometheus else {}),
    }


def format_config(config: Mapping[str, str]) -> str:
    """Format `config.yaml` of Flink 1.19; each value is JSON, which is YAML too."""
    return "".join(f"{key}: {json.dumps(value)}\n" for key, value in config.items())


def parse_parameters(output: str) -> tuple[list[str], list[str]]:
    """Parse JVM flags and `-D` settings from the output of BashJavaUtils.

    Raises:
        EnvironmentFailure: it has another form.
    """
    results = [
        line.removeprefix(_RESULT_PREFIX)
        for line in output.splitlines()
        if line.startswith(_RESULT_PREFIX)
    ]
    if len(results) != 2:
        raise EnvironmentFailure(f"Flink's BashJavaUtils gave {len(results)} results, not 2")
    flags, dynamic = map(shlex.split, results)
    return flags, dynamic


def latest_checkpoint(directory: Path) -> Path | None:
    """Return the newest complete checkpoint of any job below a checkpoint directory.

    Flink writes `<job id>/chk-<number>/_metadata` last.
    """
    complete = [path for path in directory.glob("*/chk-*/_metadata") if path.is_file()]
    newest = max(complete, key=lambda path: path.stat().st_mtime_ns, default=None)
    return newest.parent if newest else None
