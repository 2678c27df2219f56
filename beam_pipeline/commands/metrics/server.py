"""Serves metrics to Prometheus, in threads that never wait for what is measured.

`/metrics` has the metrics, `/healthz` says whether the command goes on, and `/readyz` whether what
it watches is well. A request reads what the command left at its last step.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Iterator
from socketserver import TCPServer, ThreadingMixIn
from threading import Thread
from types import TracebackType
from typing import Any, Protocol, TypeVar
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from beam_pipeline.commands.metrics.catalogue import COUNTER, METRICS, Metric, Sample
from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.settings.config import MetricsSettings

STUCK_SECONDS = 300.0
"""How long a command may take for one step before it counts as stuck; a start takes long."""

_REQUEST_SECONDS = 10.0

_Family = CounterMetricFamily | GaugeMetricFamily
_StartResponse = Callable[[str, list[tuple[str, str]]], Any]
_Server_ = TypeVar("_Server_", bound="MetricsServer")


class Shown(Protocol):
    """What a command shows of a moment; it never changes."""

    @property
    def taken_at(self) -> float:
        """When it was taken, by a monotonic clock."""

    @property
    def unready(self) -> str:
        """Why what is watched is not well; empty if it is."""

    def samples(self, now_s: float) -> Iterator[Sample]:
        """Yield the values at a time, in seconds since 1970."""


class MetricsServer(Collector):
    """Serves what a command shows; a context manager."""

    def __init__(self, settings: MetricsSettings, shown: Shown) -> None:
        """Args:
        settings: where to listen.
        shown: what is known at the start.
        """
        self._settings = settings
        # Replaced as a whole, so that a request never waits.
        self._shown = shown
        self._server: _Server | None = None

    @property
    def port(self) -> int:
        """The port on which the metrics are served."""
        assert self._server is not None, "not served yet"
        return self._server.server_port

    @property
    def url(self) -> str:
        """The address of the metrics."""
        host = self._settings.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/metrics"

    def show(self, shown: Shown) -> None:
        """Serve this from now on."""
        self._shown = shown

    def collect(self) -> Iterator[_Family]:
        """Yield the metrics for one scrape."""
        families = {metric: _family(metric) for metric in METRICS}
        for sample in self._samples():
            families[sample.metric].add_metric(list(sample.labels), sample.value)
        for family in families.values():
            if family.samples:
                yield family

    def _samples(self) -> Iterator[Sample]:
        yield from self._shown.samples(time.time())

    def answer(self, environ: dict[str, Any], start_response: _StartResponse) -> Iterable[bytes]:
        """Answer a request: a WSGI application."""
        path = environ.get("PATH_INFO")
        if path == "/metrics":
            body: Iterable[bytes] = self._metrics(environ, start_response)
            return body
        shown = self._shown
        age = time.monotonic() - shown.taken_at
        stuck = "" if age < STUCK_SECONDS else f"the command has not moved for {age:.0f} s"
        if path == "/healthz":
            reason = stuck
        elif path == "/readyz":
            reason = shown.unready or stuck
        else:
            return _respond(start_response, "404 Not Found", "/metrics, /healthz or /readyz")
        if not reason:
            return _respond(start_response, "200 OK", "ok")
        return _respond(start_response, "503 Service Unavailable", reason)

    def __enter__(self: _Server_) -> _Server_:
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
