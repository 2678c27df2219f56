"""Google Cloud Storage and Azure alone: large uploads, outages, what a user has to mend."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from beam_pipeline.errors import EnvironmentFailure, PipelineError
from beam_pipeline.runtime.processes import free_port
from beam_pipeline.storage import azure, gcs
from beam_pipeline.storage.config import StorageConfig
from beam_pipeline.storage.protocol import Storage, StorageAwayError
from beam_pipeline.storage.urls import open_storage

_LARGE = 33 * 1024**2  # three blocks of Azure's, more than one request of Google's


@pytest.fixture(params=["gcs", "azure"])
def url(request: pytest.FixtureRequest) -> str:
    address: str = request.getfixturevalue(f"{request.param}_url")
    return address


def reads_and_writes(storage: Storage, file: Path) -> list[Callable[[], object]]:
    return [
        lambda: storage.put_if_absent(file, "a"),
        lambda: storage.put("a", b"1"),
        lambda: storage.put_if_match("a", b"1", None),
        lambda: storage.read("a"),
        lambda: storage.read_range("a", 0, 1),
        lambda: storage.stat("a"),
        lambda: list(storage.objects()),
        lambda: storage.children(),
        lambda: storage.delete_if_match("a", "1"),
        lambda: storage.delete(["a", "b"]),
    ]


def test_one_of_many_large_uploads_takes_a_key(url: str, tmp_path: Path) -> None:
    storage = open_storage(url, StorageConfig())
    files = [tmp_path / f"file-{number}" for number in range(4)]
    for number, file in enumerate(files):
        file.write_bytes(b"%d" % number * _LARGE)
    barrier = threading.Barrier(len(files))

    def contend(file: Path) -> bool:
        barrier.wait()
        return storage.put_if_absent(file, "large")

    with ThreadPoolExecutor(len(files)) as pool:
        results = list(pool.map(contend, files))
    assert results.count(True) == 1
    assert storage.read("large").data == files[results.index(True)].read_bytes()
    storage.put_file(files[0], "large")
    assert storage.read_range("large", 20 * 1024**2, 3) == b"000"


def test_a_server_that_stays_away_is_told_with_its_address(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
    connection = f"AccountName=tests;AccountKey=c2VjcmV0;BlobEndpoint={address}/tests"
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", connection)
    monkeypatch.setattr(gcs, "_PATIENCE", {"retry": gcs._RETRY.with_timeout(0.5), "timeout": 5})
    monkeypatch.setattr(azure, "_RETRIES", 1)
    file = tmp_path / "file"
    file.write_bytes(b"1")
    calls = reads_and_writes(open_storage(url, StorageConfig()), file)
    with ThreadPoolExecutor(len(calls)) as pool:
        for result in [pool.submit(call) for call in calls]:
            with pytest.raises(StorageAwayError) as raised:
                result.result()
            text = str(raised.value)
            assert url in text
            assert address in text
            assert "\n" not in text


def test_a_bucket_that_is_missing_is_named(url: str, tmp_path: Path) -> None:
    missing = f"{url[:2]}://no-such-bucket/a"
    file = tmp_path / "file"
    file.write_bytes(b"1")
    storage = open_storage(missing, StorageConfig())
    for call in reads_and_writes(storage, file):
        with pytest.raises(EnvironmentFailure, match="'no-such-bucket'") as raised:
            call()
        assert "\n" not in str(raised.value)


def test_credentials_that_azure_refuses(azure_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = os.environ["AZURE_STORAGE_CONNECTION_STRING"]
    right = connection.partition("AccountKey=")[2].partition(";")[0]
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", connection.replace(right, "c2VjcmV0"))
    with pytest.raises(EnvironmentFailure, match="refuses the credentials") as raised:
        open_storage(azure_url, StorageConfig()).read("a")
    assert "c2VjcmV0" not in str(raised.value)


def test_no_account_or_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_ACCOUNT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(PipelineError, match=r"no storage account.*--storage_config"):
        open_storage("az://container/a", StorageConfig()).read("a")
    for name in ("STORAGE_EMULATOR_HOST", "GOOGLE_CLOUD_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "no-such.json"))
    with pytest.raises(EnvironmentFailure, match="no credentials for Google Cloud"):
        open_storage("gs://bucket/a", StorageConfig()).read("a")
