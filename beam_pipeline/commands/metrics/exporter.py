"""Serves the metrics of a run to Prometheus, in threads that never wait for the run.

`/metrics` has the metrics, `/healthz` says whether the supervisor goes on, and `/readyz` whether
records are landed now. A request reads what the supervisor left at its last tick.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from socketserver import TCPServer, ThreadingMixIn
from threading import Lock, Thread
from types import TracebackType
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from beam_pipeline.commands.metrics import catalogue
from beam_pipeline.commands.metrics.catalogue import COUNTER, METRICS, Metric
from beam_pipeline.commands.metrics.snapshot import (
    Sample,
    Snapshot,
    free_bytes_of,
    resident_bytes,
    snapshot_of,
)
from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.runtime.supervisor import RunStatus
from beam_pipeline.settings.config import MetricsSettings
from beam_pipeline.storage.paths import StoredPath

UPDATE_SECONDS = 1.0
DISK_SECONDS = 10.0
STUCK_SECONDS = 300.0
"""How long the supervisor may take for one tick before it counts as stuck; a start takes long."""

_MEMORY_SECONDS = 5.0
_REQUEST_SECONDS = 10.0

_Family = CounterMetricFamily | GaugeMetricFamily
_StartResponse = Callable[[str, list[tuple[str, str]]], Any]


class RunMetrics(Collector):
    """The metrics of one run; a context manager that serves them.

    Args:
      settings: where to listen.
      directories: the directories whose free space is told, by name.
    """

    def __init__(self, settings: MetricsSettings, directories: Mapping[str, StoredPath]) -> None:
        self._settings = settings
        self._directories = directories
        self._started_s = time.time()
        # Replaced as a whole by the supervisor, so that a request never waits.
        self._snapshot = Snapshot(time.monotonic())
        self._next_update = self._next_disk = 0.0
        self._free_bytes: dict[str, int] = {}
        self._memory: dict[str, int] = {}
        self._memory_at = 0.0
        self._memory_lock = Lock()
        self._server: _Server | None = None

    @property
    def port(self) -> int:
        """The port on which the metrics are served."""
        assert self._server is not None, "not served yet"
        return self._server.server_port

    def update(self, status: RunStatus) -> None:
        """Take what the supervisor knows now; it is called several times a second."""
        now = time.monotonic()
        if now < self._next_update and status.state != "ended":
            return
        self._next_update = now + UPDATE_SECONDS
        if now >= self._next_disk:
            self._next_disk = now + DISK_SECONDS
            self._free_bytes = free_bytes_of(self._directories)
        self._snapshot = snapshot_of(status, self._free_bytes)

    def collect(self) -> Iterator[_Family]:
        """Yield the metrics for one scrape."""
        families = {metric: _family(metric) for metric in METRICS}
        for sample in self._samples():
            families[sample.metric].add_metric(list(sample.labels), sample.value)
        for family in families.values():
            if family.samples:
                yield family

    def _samples(self) -> Iterator[Sample]:
        yield from self._snapshot.samples(time.time())
        yield Sample(catalogue.STARTED, (), self._started_s)
        for processes, resident in self._resident().items():
            yield Sample(catalogue.MEMORY, (processes,), resident)

    def _resident(self) -> dict[str, int]:
        with self._memory_lock:
            now = time.monotonic()
            if now - self._memory_at > _MEMORY_SECONDS:
                self._memory_at, self._memory = now, resident_bytes()
            return self._memory

    def answer(self, environ: dict[str, Any], start_response: _StartResponse) -> Iterable[bytes]:
        """Answer a request: a WSGI application."""
        path = environ.get("PATH_INFO")
        if path == "/metrics":
            body: Iterable[bytes] = self._metrics(environ, start_response)
            return body
        snapshot = self._snapshot
        age = time.monotonic() - snapshot.taken_at
        if path == "/healthz":
            is_well, reason = age < STUCK_SECONDS, f"the supervisor has not moved for {age:.0f} s"
        elif path == "/readyz":
            down = [component for component, is_up in snapshot.up.items() if not is_up]
            is_well = snapshot.is_ready and age < STUCK_SECONDS
            reason = ", ".join([f"state: {snapshot.state}", *(f"{name} is down" for name in down)])
        else:
            return _respond(start_response, "404 Not Found", "/metrics, /healthz or /readyz")
        if is_well:
            return _respond(start_response, "200 OK", "ok")
        return _respond(start_response, "503 Service Unavailable", reason)

    def __enter__(self) -> RunMetrics:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        self._metrics = make_wsgi_app(registry)
        host, port = self._settings
        try:
            self._server = _Server(host, port)
        except OSError as error:
            raise EnvironmentFailure(
                f"--metrics_port={port}: can't listen on {host} ({error.strerror}); give another "
                "port, or --metrics_host an address of this machine"
            ) from None
        self._server.set_app(self.answer)
        Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()


def _family(metric: Metric) -> _Family:
    family = CounterMetricFamily if metric.kind == COUNTER else GaugeMetricFamily
    return family(f"beam_pipeline_{metric.name}", metric.help, labels=list(metric.labels))


def _respond(start_response: _StartResponse, status: str, text: str) -> Iterable[bytes]:
    start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
    return [f"{text}\n".encode()]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, host: str, port: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        # That of HTTPServer asks a name server for the name of the host.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()


class _Handler(WSGIRequestHandler):
    timeout = _REQUEST_SECONDS

    def address_string(self) -> str:
        return str(self.client_address[0])

    def log_message(self, format: str, *args: Any) -> None:
        """Log no request."""
