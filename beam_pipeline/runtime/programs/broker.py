"""An embedded Kafka broker: one KRaft node that listens on loopback only."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.kafka.admin import cluster_reachable
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.kafka.properties import format_properties
from beam_pipeline.runtime.processes import LOOPBACK, ManagedProcess, free_port, require_free_port
from beam_pipeline.runtime.programs.jvm import start_jvm

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
_BATCH_OVERHEAD_BYTES = 64 * 1024
_FORMAT_TIMEOUT_SECONDS = 60.0
_NAME = "Kafka broker"
# A program that lives for a second gains nothing from Java's second compiler.
_SHORT_LIVED = ("-XX:TieredStopAtLevel=1",)


class EmbeddedBroker:
    """A Kafka broker with its data in one directory.

    It may be stopped and started again, with the same address and data. A new object on the same
    directory has the same data and a new address. A context manager: ready inside, stopped at the
    end.
    """

    def __init__(
        self,
        directory: Path,
        *,
        java: Path,
        jars: Sequence[Path],
        log_file: Path,
        port: int = 0,
        heap_mb: int = 512,
        settings: Mapping[str, str] | None = None,
        outlives_parent: bool = False,
    ) -> None:
        """Describe the broker; nothing is started yet.

        Args:
            directory: server.properties and the data are in it; made when missing.
            java: the `java` program.
            jars: those of the "kafka" lock.
            log_file: the broker's warnings and errors are appended to it.
            port: loopback port to listen on; 0 is any free one.
            heap_mb: upper bound of the heap, in MiB.
            settings: server properties that are added, or replace the default ones.
            outlives_parent: leave it running when this process dies.
        """
        self._directory = directory
        self._java = java
        self._jars = jars
        self._log_file = log_file
        self._port = port or free_port()
        self._heap_mb = heap_mb
        self._settings = settings or {}
        self._outlives_parent = outlives_parent
        self._process: ManagedProcess | None = None

    @property
    def bootstrap(self) -> str:
        """Return the broker's address for clients, host:port."""
        return f"{LOOPBACK}:{self._port}"

    @property
    def connection(self) -> KafkaConnection:
        """Return a client's connection to the broker."""
        return KafkaConnection(self.bootstrap)

    @property
    def process(self) -> ManagedProcess:
        """Return the broker's process.

        Raises:
            RuntimeError: it was not started.
        """
        if self._process is None:
            raise RuntimeError("the broker was not started")
        return self._process

    def start(self) -> None:
        """Format a new directory and start the broker; return before it is ready.

        Raises:
            EnvironmentFailure: the port is taken, or the directory can't be written.
        """
        require_free_port(_NAME, self._port)
        properties = self._write_properties()
        if not (self._directory / "data" / "meta.properties").is_file():
            self._format(properties)
        self._process = self._run(_NAME, "kafka.Kafka", [str(properties)])

    def wait_ready(self, timeout_seconds: float = 60.0) -> None:
        """Wait until the broker answers an admin client.

        Raises:
            EnvironmentFailure: it ended first, or did not answer in time.
        """
        self.process.wait_for_port(self._port, timeout_seconds)
        if not cluster_reachable(self.connection, timeout_seconds):
            raise self.process.failure(f"did not answer within {timeout_seconds:g} s")

    def stop(self, grace_seconds: float = 10.0) -> None:
        """Shut the broker down cleanly; kill it after `grace_seconds`."""
        if self._process is not None:
            self._process.terminate(grace_seconds)

    def __enter__(self) -> EmbeddedBroker:
        self.start()
        try:
            self.wait_ready()
        except BaseException:
            self.stop(grace_seconds=0)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _write_properties(self) -> Path:
        path = self._directory / "server.properties"
        settings = {
            **_server_settings(self._directory / "data", self._port, free_port()),
            **self._settings,
        }
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            path.write_text(format_properties(settings), encoding="ascii")
        except OSError as error:
            raise EnvironmentFailure(
                f"{_NAME}: directory {self._directory}: {error.strerror}"
            ) from error
        return path

    def _format(self, properties: Path) -> None:
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        arguments = ["format", f"--cluster-id={cluster}", "--config", str(properties)]
        process = self._run(
            "Kafka storage tool", "kafka.tools.StorageTool", arguments, _SHORT_LIVED
        )
        with process:
            code = process.wait(_FORMAT_TIMEOUT_SECONDS)
            if code is None:
                raise process.failure(f"did not end within {_FORMAT_TIMEOUT_SECONDS:g} s")
            if code != 0:
                raise process.failure(f"ended with exit code {code}")

    def _run(
        self, name: str, main_class: str, arguments: Sequence[str], flags: Sequence[str] = ()
    ) -> ManagedProcess:
        return start_jvm(
            name,
            self._java,
            self._jars,
            main_class,
            arguments,
            self._log_file,
            heap_mb=self._heap_mb,
            properties={"org.slf4j.simpleLogger.defaultLogLevel": "warn"},
            extra_flags=flags,
            outlives_parent=self._outlives_parent,
        )


def _server_settings(data: Path, port: int, controller_port: int) -> dict[str, str]:
    """Return the configuration of a node that is both broker and controller."""
    batch_bytes = str(MAX_MESSAGE_BYTES + _BATCH_OVERHEAD_BYTES)
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@{LOOPBACK}:{controller_port}",
        "listeners": f"PLAINTEXT://{LOOPBACK}:{port},CONTROLLER://{LOOPBACK}:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://{LOOPBACK}:{port}",
        "controller.listener.names": "CONTROLLER",
        "log.dirs": str(data),
        "auto.create.topics.enable": "false",
        "message.max.bytes": batch_bytes,
        "replica.fetch.max.bytes": batch_bytes,
        "group.initial.rebalance.delay.ms": "0",
        # A killed broker can register again only after its old session (default: nine seconds).
        "broker.session.timeout.ms": "3000",
        "broker.heartbeat.interval.ms": "500",
        # Internal topics: there is one replica, and fifty partitions slow down start and stop.
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "4",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "share.coordinator.state.topic.num.partitions": "1",
        # The default takes 128 MiB of the heap.
        "log.cleaner.dedupe.buffer.size": str(16 * 1024 * 1024),
    }
