"""A server that gives the answers of a Flink cluster that this machine can't be."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from beam_pipeline.runtime.flink.rest import FlinkRest

Answers = dict[tuple[str, str], tuple[int, Any]]
"""Status and document by method and path."""


class _Server(ThreadingHTTPServer):
    answers: Answers


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, _Server)
        status, answer = self.server.answers[self.command, self.path]
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    do_PATCH = do_POST = do_GET

    def log_message(self, *args: Any) -> None:
        """Silent."""


@contextmanager
def answering(answers: Answers) -> Iterator[FlinkRest]:
    """A client of a server that gives `answers`, for the time of the block."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.answers = answers
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield FlinkRest(f"127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()
            thread.join()
