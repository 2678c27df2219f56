"""A real Flink cluster on this machine: a JobManager and a TaskManager, on loopback only."""

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

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.runtime.flink.distribution import FlinkDistribution
from beam_pipeline.runtime.flink.rest import FlinkRest, FlinkUnreachableError
from beam_pipeline.runtime.processes import LOOPBACK, ManagedProcess, free_port
from beam_pipeline.runtime.programs.java_classes import OWN_CLASSES_PREFIX
from beam_pipeline.runtime.programs.jvm import loopback_flags, start_jvm

JOB_MANAGER, TASK_MANAGER = "Flink JobManager", "Flink TaskManager"
READY_TIMEOUT_SECONDS = 60.0
_LOG4J = Path(__file__).with_name("log4j.properties")
_PARAMETERS_CLASS = "org.apache.flink.runtime.util.bash.BashJavaUtils"
_RESULT_PREFIX = "BASH_JAVA_UTILS_EXEC_RESULT:"

# env.java.opts.all in the config.yaml of a Flink 1.19 release, without what only SQL needs.
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
    """Sizes of a local cluster, in MiB, and its number of task slots; `prometheus` adds Flink's
    reporter, which listens on all interfaces (PrometheusReporter of 1.19 takes no address)."""

    slots: int
    task_manager_mb: int = 2048
    job_manager_mb: int = 1024
    prometheus: bool = False


class FlinkCluster:
    """The two processes; the addresses stay when one is started again.

    Beam's jars are on the class path of both, `parent-first`: shipped with each job they would
    fill the TaskManager's metaspace after about four jobs.
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
            distribution: Flink itself.
            java: the `java` program.
            beam_jars: Beam's runner and KafkaIO, without Flink's own jars (`jars_without_flink`).
            directory: takes configuration, checkpoints, savepoints and temporary files.
            settings: sizes.
            log_files: by `JOB_MANAGER` and `TASK_MANAGER`.
        """
        self._distribution = distribution
        self._java = java
        self._class_path = [*distribution.jars, *beam_jars]
        self.directory = directory
        self._log_files = log_files
        self._config = cluster_config(
            directory, settings, rest_port=free_port(), rpc_port=free_port()
        )
        self._metrics_ports = {JOB_MANAGER: free_port(), TASK_MANAGER: free_port()}
        self._job_manager: ManagedProcess | None = None
        self._task_manager: ManagedProcess | None = None
        self._parameters: dict[str, tuple[list[str], list[str]]] = {}
        self.rest = FlinkRest(f"{LOOPBACK}:{self._config['rest.port']}")

    @property
    def metrics_address(self) -> str:
        """Where the TaskManager's Prometheus reporter answers, if there is one, as host:port."""
        return f"{LOOPBACK}:{self._metrics_ports[TASK_MANAGER]}"

    def dead(self, name: str) -> ManagedProcess | None:
        """The process of that name, if it has ended by itself."""
        return next((p for p in self.processes if p.name == name and not p.alive), None)

    @property
    def processes(self) -> list[ManagedProcess]:
        """The processes that were started."""
        return [process for process in (self._job_manager, self._task_manager) if process]

    def start(self) -> None:
        """Start both; returns before they are ready.

        Raises:
            EnvironmentFailure: the directory can't be written, or Java refuses the configuration.
        """
        configuration = self.directory / "conf"
        try:
            for name in ("conf", "checkpoints", "savepoints", "tmp"):
                (self.directory / name).mkdir(parents=True, exist_ok=True)
            (configuration / "config.yaml").write_text(format_config(self._config))
        except OSError as error:
            raise EnvironmentFailure(f"{error.filename}: {error.strerror}") from error
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
            EnvironmentFailure: a process ended first, or the time was up.
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
        """The newest complete checkpoint of any job, None where there is none."""
        return latest_checkpoint(self.directory / "checkpoints")

    def _run(self, name: str, main_class: str, arguments: Sequence[str]) -> ManagedProcess:
        flags, dynamic = self._parameters[name]
        log_file = self._log_files[name]
        metrics: list[str] = []
        if "metrics.reporters" in self._config:
            metrics = ["-D", f"metrics.reporter.prometheus.port={self._metrics_ports[name]}"]
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
        """Per process its JVM flags and its `-D` settings, worked out by Flink's own tool."""
        class_path = os.pathsep.join(map(str, self._distribution.parameter_jars))
        command = [str(self._java), "-XX:TieredStopAtLevel=1", "-cp", class_path]
        commands = {
            JOB_MANAGER: "GET_JM_RESOURCE_PARAMS",
            TASK_MANAGER: "GET_TM_RESOURCE_PARAMS",
        }
        found = {}
        for name, wanted in commands.items():
            told = subprocess.run(
                [*command, _PARAMETERS_CLASS, wanted, "--configDir", str(configuration)],
                capture_output=True,
                text=True,
                timeout=READY_TIMEOUT_SECONDS,
                check=False,
            )
            if told.returncode != 0:
                last = (told.stderr or told.stdout).strip().splitlines()[-1:]
                raise EnvironmentFailure(f"{name}: Flink refuses its configuration: {last}")
            found[name] = parse_parameters(told.stdout)
        return found


def jars_without_flink(jars: Sequence[Path]) -> list[Path]:
    """The jars of the "flink" lock without those that a cluster has itself: Flink's, and the
    logging that it brings along. The cache has a directory for each group. The project's own
    classes are not in it: they go with each job, so a cluster can't have those of another version.
    """
    own = ("org.apache.flink", "org.slf4j")
    return [
        jar
        for jar in jars
        if jar.parent.name not in own and not jar.name.startswith(OWN_CLASSES_PREFIX)
    ]


def cluster_config(
    directory: Path, settings: ClusterSettings, *, rest_port: int, rpc_port: int
) -> dict[str, str]:
    """Flink's configuration of a local cluster, option to value."""
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
        # State is the names of parts, on the heap; managed memory is for RocksDB and SQL.
        "taskmanager.memory.managed.size": "16m",
        "taskmanager.memory.jvm-metaspace.size": "512m",
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
        # A killed TaskManager is noticed in seconds, one that stands still in twenty.
        "heartbeat.interval": "1000",
        "heartbeat.timeout": "20000",
        "web.submit.enable": "false",
        "web.refresh-interval": "1000",
        "metrics.fetcher.update-interval": "1000",
        **(_PROMETHEUS if settings.prometheus else {}),
    }


def format_config(config: Mapping[str, str]) -> str:
    """`config.yaml` of Flink 1.19; a JSON text is a YAML text."""
    return "".join(f"{key}: {json.dumps(value)}\n" for key, value in config.items())


def parse_parameters(output: str) -> tuple[list[str], list[str]]:
    """JVM flags and `-D` settings out of what BashJavaUtils prints.

    Raises:
        EnvironmentFailure: it printed something else.
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
    """The newest complete checkpoint below a checkpoint directory, of whichever job.

    Flink writes `<job id>/chk-<number>/_metadata` last.
    """
    complete = [path for path in directory.glob("*/chk-*/_metadata") if path.is_file()]
    newest = max(complete, key=lambda path: path.stat().st_mtime_ns, default=None)
    return newest.parent if newest else None
