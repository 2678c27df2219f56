"""A store that ignores conditions is refused; here, a proxy before a real server drops them."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from stores import S3_ACCESS_KEY, S3_SECRET_KEY, Store

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.storage.config import StorageConfig
from beam_pipeline.storage.probe import probe
from beam_pipeline.storage.urls import open_storage

_RACE_SECONDS = 0.05


class _Proxy(ThreadingHTTPServer):
    """Passes requests on to an S3 server without some headers, signed anew.

    Args:
        upstream: host and port of the server.
        dropped: the headers that it drops, in lower case.
        checks_first: whether it looks for an object before it drops If-None-Match, and refuses the
            request when there is one. Between look and write another writer may come.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, upstream: str, dropped: set[str], *, checks_first: bool) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = upstream
        self.dropped = dropped
        self.checks_first = checks_first


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def forward(self) -> None:
        proxy = self.server
        assert isinstance(proxy, _Proxy)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if proxy.checks_first and "If-None-Match" in self.headers:
            status, _, _ = self.ask("HEAD", b"", {})
            time.sleep(_RACE_SECONDS)
            if status == 200:
                content = b"<Error><Code>PreconditionFailed</Code></Error>"
                self.answer(412, content, {})
                return
        kept = {
            name: value
            for name, value in self.headers.items()
            if name.lower().startswith(("if-", "range", "x-amz-checksum-"))
            and name.lower() not in proxy.dropped
        }
        self.answer(*self.ask(self.command, body, kept))

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = forward

    def ask(
        self, method: str, body: bytes, headers: dict[str, str]
    ) -> tuple[int, bytes, dict[str, str]]:
        proxy = self.server
        assert isinstance(proxy, _Proxy)
        request = AWSRequest(method, f"http://{proxy.upstream}{self.path}", headers, body)
        credentials = Credentials(S3_ACCESS_KEY, S3_SECRET_KEY)
        S3SigV4Auth(credentials, "s3", "us-east-1").add_auth(request)
        connection = http.client.HTTPConnection(proxy.upstream)
        connection.request(method, self.path, body, dict(request.headers))
        response = connection.getresponse()
        content = response.read()
        connection.close()
        return response.status, content, dict(response.getheaders())

    def answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name in ("ETag", "Last-Modified", "Content-Type"):
            if name in headers:
                self.send_header(name, headers[name])
        self.send_header("Content-Length", headers.get("Content-Length", str(len(content))))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


def proxied(store: Store, dropped: set[str], *, checks_first: bool) -> Iterator[str]:
    proxy = _Proxy(store.service.endpoint, dropped, checks_first=checks_first)
    thread = threading.Thread(target=proxy.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{proxy.server_port}"
    proxy.shutdown()
    thread.join()
    proxy.server_close()


@pytest.mark.parametrize("kind", ["directory", "s3", "gcs", "azure"])
def test_a_store_that_honours_conditions_passes(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = str(tmp_path) if kind == "directory" else request.getfixturevalue(f"{kind}_url")
    storage = open_storage(url, StorageConfig())
    probe(storage)
    probe(storage)
    assert list(storage.objects()) == []


def test_the_proxy_alone_changes_nothing(s3_url: str, s3_server: Store) -> None:
    for endpoint in proxied(s3_server, set(), checks_first=False):
        probe(open_storage(s3_url, StorageConfig(endpoint=endpoint)))


@pytest.mark.parametrize(
    ("dropped", "checks_first", "expected"),
    [
        ({"if-none-match"}, False, "writers made the same new object"),
        ({"if-none-match"}, True, "writers made the same new object"),
        ({"if-match"}, False, "another version"),
    ],
)
def test_a_store_that_ignores_conditions_is_refused(
    s3_url: str, s3_server: Store, dropped: set[str], checks_first: bool, expected: str
) -> None:
    for endpoint in proxied(s3_server, dropped, checks_first=checks_first):
        storage = open_storage(s3_url, StorageConfig(endpoint=endpoint))
        with pytest.raises(EnvironmentFailure, match=expected) as raised:
            probe(storage)
        assert "\n" not in str(raised.value)
        assert str(raised.value).startswith(s3_url)
        assert list(storage.objects()) == []
