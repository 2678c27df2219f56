"""A proxy before an S3 server that fails at random: busy, slow, cut, or without an answer."""

from __future__ import annotations

import http.client
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random

from stores import Store

BUSY, SLOW, CUT, LOST = "busy", "slow", "cut", "lost"
FAULTS = (BUSY, SLOW, CUT, LOST)
_SLOW_SECONDS = 1.5
_BUSY_ANSWER = b"<Error><Code>SlowDown</Code></Error>"


class UnreliableProxy(ThreadingHTTPServer):
    """Passes requests on as they are, so their signatures hold.

    - busy: it answers 503 and passes nothing on.
    - slow: it answers late.
    - cut: it closes the connection in the middle of the body.
    - lost: it passes the request on, and closes the connection instead of the answer.

    Args:
        upstream: host and port of the server.
        seed: decides which request meets which fault.
        share: how many of the requests meet one, 0 to 1.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, upstream: str, seed: int, share: float) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = upstream
        self.share = share
        self.faults = Counter[str]()
        self._random = Random(seed)
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client may close its connection at any time."""

    def next_fault(self) -> str | None:
        with self._lock:
            if self._random.random() >= self.share:
                return None
            fault = self._random.choice(FAULTS)
            self.faults[fault] += 1
            return fault


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def forward(self) -> None:
        proxy = self.server
        assert isinstance(proxy, UnreliableProxy)
        fault = proxy.next_fault()
        length = int(self.headers.get("Content-Length", 0))
        if fault == CUT:
            self.rfile.read(length // 2)
            self.close_connection = True
            return
        body = self.rfile.read(length)
        if fault == BUSY:
            self.answer(503, {"Content-Type": "application/xml"}, _BUSY_ANSWER)
            return
        if fault == SLOW:
            time.sleep(_SLOW_SECONDS)
        try:
            connection = http.client.HTTPConnection(proxy.upstream)
            connection.request(self.command, self.path, body, dict(self.headers.items()))
            response = connection.getresponse()
            content = response.read()
            connection.close()
        except OSError:  # the server itself is away
            self.close_connection = True
            return
        if fault == LOST:
            self.close_connection = True
            return
        self.answer(response.status, dict(response.getheaders()), content)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = forward

    def answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        self.send_header("Content-Length", headers.get("Content-Length", str(len(content))))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def unreliable(store: Store, seed: int, share: float) -> Iterator[tuple[Store, UnreliableProxy]]:
    """The store, reached through a proxy that fails, and the proxy."""
    proxy = UnreliableProxy(store.service.endpoint, seed, share)
    thread = threading.Thread(target=proxy.serve_forever)
    thread.start()
    try:
        environment = {**store.environment, "AWS_ENDPOINT_URL_S3": proxy.url}
        yield store._replace(environment=environment), proxy
    finally:
        proxy.shutdown()
        thread.join()
        proxy.server_close()
