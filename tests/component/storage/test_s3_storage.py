"""S3 alone: uploads in parts, outages, and one line for each thing that a user has to mend."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import botocore.auth
import pytest
from stores import BUCKET, S3_ACCESS_KEY, S3_SECRET_KEY, Store, start_s3

from beam_pipeline.errors import EnvironmentFailure, PipelineError, UsageError
from beam_pipeline.runtime.processes import free_port
from beam_pipeline.storage import s3
from beam_pipeline.storage.config import StorageConfig
from beam_pipeline.storage.protocol import StorageAwayError
from beam_pipeline.storage.s3 import S3Storage

_SMALLEST_PART = 5 * 1024**2
_TWELVE_MB = 12 * 1024**2


@pytest.fixture
def in_parts(s3_url: str) -> S3Storage:
    """A storage that uploads what is larger than 5 MiB in parts."""
    return S3Storage(s3_url, StorageConfig(), largest_put_bytes=_SMALLEST_PART)


def file_of(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / f"file-{random.getrandbits(64):x}"
    path.write_bytes(content)
    return path


def test_a_large_file_is_uploaded_in_parts(in_parts: S3Storage, tmp_path: Path) -> None:
    content = random.Random(2).randbytes(_TWELVE_MB)
    assert in_parts.put_if_absent(file_of(tmp_path, content), "large")
    assert in_parts.requests == {"PUT": 5}  # begin, three parts, end
    assert in_parts.read("large").data == content
    assert not in_parts.put_if_absent(file_of(tmp_path, b"x" * _TWELVE_MB), "large")
    assert in_parts.read("large").data == content
    in_parts.put_file(file_of(tmp_path, b"y" * _TWELVE_MB), "large")
    assert in_parts.read("large").data == b"y" * _TWELVE_MB
    assert list(in_parts.uploads()) == []


def test_one_of_many_uploads_in_parts_takes_a_key(in_parts: S3Storage, tmp_path: Path) -> None:
    for turn in range(3):
        key = f"race/{turn}"
        files = [file_of(tmp_path, b"%d" % number * (_SMALLEST_PART + 1)) for number in range(8)]
        files[0].write_bytes(b"0")  # one request races with uploads in parts
        barrier = threading.Barrier(len(files))

        def contend(file: Path, key: str = key, barrier: threading.Barrier = barrier) -> bool:
            barrier.wait()
            return in_parts.put_if_absent(file, key)

        with ThreadPoolExecutor(len(files)) as pool:
            results = list(pool.map(contend, files))
        assert results.count(True) == 1
        assert in_parts.read(key).data == files[results.index(True)].read_bytes()
        assert list(in_parts.uploads()) == []


def test_uploads_that_have_not_ended_are_listed_and_aborted(
    in_parts: S3Storage, tmp_path: Path
) -> None:
    _, _, prefix = in_parts.url.split("/", 3)[1:]
    client = boto3.client("s3")
    for key in ("a/1", "a/2", "b/3"):
        client.create_multipart_upload(Bucket=BUCKET, Key=f"{prefix}/{key}")
    in_parts.put("a/other", b"")
    began = in_parts.stat("a/other").modified_s
    uploads = sorted(in_parts.uploads("a/"))
    assert [upload.key for upload in uploads] == ["a/1", "a/2"]
    assert all(abs(upload.started_s - began) < 60 for upload in uploads)
    for upload in [*uploads, uploads[0]]:
        in_parts.abort_upload(upload)
    assert [upload.key for upload in in_parts.uploads()] == ["b/3"]


def test_a_thousand_objects_are_deleted_with_one_request(s3_url: str) -> None:
    storage = S3Storage(s3_url, StorageConfig())
    storage.delete(f"no/{number}" for number in range(2001))
    assert storage.requests == {"DELETE": 3}


def test_an_upload_that_another_process_aborted_is_no_object(
    in_parts: S3Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = in_parts._client.client
    complete = client.complete_multipart_upload

    def abort_first(**arguments: object) -> object:
        for upload in in_parts.uploads():
            in_parts.abort_upload(upload)
        return complete(**arguments)

    monkeypatch.setattr(client, "complete_multipart_upload", abort_first)
    with pytest.raises(StorageAwayError, match="aborted"):
        in_parts.put_if_absent(file_of(tmp_path, b"x" * _TWELVE_MB), "large")
    assert list(in_parts.objects()) == []


@pytest.fixture
def few_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the storages of a test give up after two attempts."""
    monkeypatch.setattr(s3, "_ATTEMPTS", 2)


@pytest.fixture
def own_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, s3_url: str) -> Iterator[Store]:
    """A server that the test may kill."""
    store = start_s3(tmp_path / "own")
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    yield store
    store.service.process.kill()


def test_a_server_that_is_killed_and_back_is_waited_for(own_server: Store, tmp_path: Path) -> None:
    storage = S3Storage(own_server.url("a"), StorageConfig())
    storage.put("before", b"1")
    port = int(own_server.service.endpoint.rpartition(":")[2])
    for turn in range(3):
        file = file_of(tmp_path, b"%d" % turn)
        own_server.service.process.kill()
        with ThreadPoolExecutor(4) as pool:
            put = pool.submit(storage.put_if_absent, file, f"slot-{turn}")
            read = pool.submit(storage.read, "before")
            listing = pool.submit(lambda: [entry.key for entry in storage.objects("before")])
            replaced = pool.submit(storage.put_if_match, f"lease-{turn}", b"1", None)
            own_server = start_s3(own_server.directory, port=port)
            try:
                assert put.result()
                assert read.result().data == b"1"
                assert listing.result() == ["before"]
                assert replaced.result() is not None
            finally:
                if turn == 2:
                    own_server.service.process.kill()


def test_a_server_that_stays_away_is_told_with_its_address(
    s3_url: str, tmp_path: Path, few_attempts: None
) -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    storage = S3Storage(s3_url, StorageConfig(endpoint=endpoint))
    calls = (
        lambda: storage.put_if_absent(file_of(tmp_path, b"1"), "a"),
        lambda: storage.put("a", b"1"),
        lambda: storage.put_if_match("a", b"1", None),
        lambda: storage.read("a"),
        lambda: storage.stat("a"),
        lambda: list(storage.objects()),
        lambda: storage.delete_if_match("a", "1"),
        lambda: storage.delete(["a", "b"]),
    )
    with ThreadPoolExecutor(len(calls)) as pool:
        for result in [pool.submit(call) for call in calls]:
            with pytest.raises(StorageAwayError) as raised:
                result.result()
            text = str(raised.value)
            assert s3_url in text
            assert endpoint in text
            assert isinstance(raised.value, OSError)


def one_line(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text
    assert S3_ACCESS_KEY not in text
    assert S3_SECRET_KEY not in text
    return text


def failures(storage: S3Storage) -> Iterator[str]:
    """Yield the message of each kind of call; all must be the same kind of failure."""
    for call in (
        lambda: storage.put("a", b"1"),
        lambda: storage.put_if_match("a", b"1", None),
        lambda: storage.read("a"),
        lambda: storage.read_range("a", 0, 1),
        lambda: storage.stat("a"),
        lambda: list(storage.objects()),
        lambda: storage.children(),
        lambda: storage.delete(["a"]),
        lambda: storage.delete(["a", "b"]),
        lambda: storage.delete_if_match("a", "1"),
        lambda: list(storage.uploads()),
    ):
        with pytest.raises(PipelineError) as raised:
            call()
        assert isinstance(raised.value, EnvironmentFailure)
        yield one_line(raised.value)


def test_a_bucket_that_is_missing_is_named(s3_url: str) -> None:
    for text in failures(S3Storage("s3://no-such-bucket/a", StorageConfig())):
        assert "no bucket 'no-such-bucket'" in text
        assert "create it" in text


def test_credentials_that_are_refused(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    for text in failures(S3Storage(s3_url, StorageConfig())):
        assert "SignatureDoesNotMatch" in text
        assert "wrong-secret" not in text
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "unknown-key-id")
    for text in failures(S3Storage(s3_url, StorageConfig())):
        assert "AWS_ACCESS_KEY_ID" in text
        assert "unknown-key-id" not in text


def test_a_clock_that_is_wrong(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    now = botocore.auth.get_current_datetime
    monkeypatch.setattr(
        botocore.auth, "get_current_datetime", lambda: now() - timedelta(minutes=20)
    )
    for text in failures(S3Storage(s3_url, StorageConfig())):
        assert "correct the clock" in text


def test_no_credentials(s3_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-credentials"))
    for text in failures(S3Storage(s3_url, StorageConfig())):
        assert text.startswith(f"{s3_url}: no credentials")


def test_a_profile_that_is_not_there(s3_url: str) -> None:
    with pytest.raises(UsageError, match=r"no-such-profile.*--storage_config"):
        S3Storage(s3_url, StorageConfig(profile="no-such-profile")).read("a")


@pytest.mark.parametrize("endpoint", ["127.0.0.1:1", "ftp//x", "http://"])
def test_an_endpoint_that_is_no_url(s3_url: str, endpoint: str) -> None:
    with pytest.raises(UsageError) as raised:
        S3Storage(s3_url, StorageConfig(endpoint=endpoint)).read("a")
    assert s3_url in one_line(raised.value)


@pytest.mark.parametrize("url", ["s3://no", "s3://Not_A_Bucket!/a", "s3://a..b/c"])
def test_a_bucket_that_can_not_be(s3_url: str, url: str) -> None:
    with pytest.raises(PipelineError) as raised:
        S3Storage(url, StorageConfig()).read("a")
    assert url in one_line(raised.value)


@pytest.mark.parametrize(
    "url", ["s3://", "s3:///a", "s3://bucket//a", "s3://bucket/a/../b", "s3://key:secret@bucket/a"]
)
def test_a_url_that_can_not_be(url: str) -> None:
    with pytest.raises(UsageError) as raised:
        S3Storage(url, StorageConfig())
    assert "secret" not in one_line(raised.value)


class _Canned(BaseHTTPRequestHandler):
    """Answers each request as `status` and `body` of its server say."""

    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        server = self.server
        assert isinstance(server, _CannedServer)
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(server.status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(server.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(server.body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer

    def log_message(self, format: str, *args: object) -> None:
        pass


class _CannedServer(ThreadingHTTPServer):
    daemon_threads = True
    status = 200
    body = b""


@pytest.fixture
def canned(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[_CannedServer]:
    """A server for answers that versitygw never gives."""
    server = _CannedServer(("127.0.0.1", 0), _Canned)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "error", "expected"),
    [
        (403, "<Code>AccessDenied</Code><Message>No rights.</Message>", "s3:PutObject"),
        (400, "<Code>ExpiredToken</Code><Message>old</Message>", "expired"),
        (
            400,
            "<Code>AuthorizationHeaderMalformed</Code><Message>wrong</Message>"
            "<Region>eu-north-1</Region>",
            "region, eu-north-1; set `region`",
        ),
        (400, "<Code>Odd</Code><Message>because of tests-access-key</Message>", "of ***"),
    ],
)
def test_what_a_user_has_to_mend(
    s3_url: str, canned: _CannedServer, status: int, error: str, expected: str
) -> None:
    canned.status = status
    canned.body = f'<?xml version="1.0"?><Error>{error}</Error>'.encode()
    for text in failures(S3Storage(s3_url, StorageConfig())):
        assert s3_url in text
        assert expected in text


@pytest.mark.parametrize("status", [200, 404])
def test_an_endpoint_that_is_no_s3_server(s3_url: str, canned: _CannedServer, status: int) -> None:
    canned.status = status
    canned.body = b"<html><body>Welcome</body></html>"
    with pytest.raises(EnvironmentFailure) as raised:
        list(S3Storage(s3_url, StorageConfig()).objects())
    assert "--storage_config" in one_line(raised.value)


@pytest.mark.parametrize("status", [500, 503])
def test_a_server_that_can_not_serve_now_is_away(
    s3_url: str, canned: _CannedServer, few_attempts: None, status: int
) -> None:
    canned.status = status
    canned.body = b"<Error><Code>SlowDown</Code><Message>wait</Message></Error>"
    storage = S3Storage(s3_url, StorageConfig())
    with pytest.raises(StorageAwayError, match="SlowDown"):
        storage.put("a", b"1")
    assert storage.requests == {"PUT": 2}


def test_a_body_that_breaks_off_is_asked_for_again(s3_url: str, canned: _CannedServer) -> None:
    class Broken(_Canned):
        def answer(self) -> None:
            self.send_response(200)
            self.send_header("ETag", '"1"')
            self.send_header("Content-Length", "10")
            self.end_headers()
            server = self.server
            assert isinstance(server, _CannedServer)
            server.status += 1
            self.wfile.write(b"0123456789" if server.status == 203 else b"01234")
            self.close_connection = True

        do_GET = answer

    canned.RequestHandlerClass = Broken
    assert S3Storage(s3_url, StorageConfig()).read("a") == (b"0123456789", '"1"')


def test_a_conflict_with_another_request_is_tried_again(
    s3_url: str, canned: _CannedServer, tmp_path: Path
) -> None:
    class Conflicting(_Canned):
        def answer(self) -> None:
            server = self.server
            assert isinstance(server, _CannedServer)
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            server.status += 1
            body = b"" if server.status == 203 else server.body
            self.send_response(409 if body else 200)
            self.send_header("ETag", '"1"')
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_PUT = answer

    canned.RequestHandlerClass = Conflicting
    canned.body = b"<Error><Code>ConditionalRequestConflict</Code></Error>"
    storage = S3Storage(s3_url, StorageConfig())
    assert storage.put_if_absent(file_of(tmp_path, b"1"), "a")
    assert storage.requests == {"PUT": 3}
    canned.status = 200
    assert storage.put_if_match("a", b"2", '"0"') == '"1"'
