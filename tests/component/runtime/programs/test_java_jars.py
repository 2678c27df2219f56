"""Locked jars: only what has the locked checksum ever enters the cache."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from rich.console import Console

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.runtime.programs.java import fetch_jars, look_for_jars
from beam_pipeline.runtime.programs.progress import SetupProgress

LOCKED = {
    "com.example:plain:1.0": b"plain jar",
    "com.example.deep:other:2.5:linux-x86_64": b"other jar",
    "org.example:plain:1.0": b"another plain jar",
}


class Repository:
    """A Maven repository on a loopback port, over files in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.requests: list[str] = []
        served = self.requests

        class Handler(SimpleHTTPRequestHandler):
            def log_message(self, format: str, *arguments: object) -> None:
                served.append(self.path)

        self.server = ThreadingHTTPServer(
            ("127.0.0.1", 0), partial(Handler, directory=str(directory))
        )
        self.address = f"http://127.0.0.1:{self.server.server_port}"

    def put(self, coordinates: str, content: bytes) -> None:
        group, artifact, version, *classifier = coordinates.split(":")
        folder = self.directory / group.replace(".", "/") / artifact / version
        folder.mkdir(parents=True, exist_ok=True)
        name = "-".join([artifact, version, *classifier])
        (folder / f"{name}.jar").write_bytes(content)


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    repository = Repository(tmp_path / "repository")
    for coordinates, content in LOCKED.items():
        repository.put(coordinates, content)
    thread = threading.Thread(target=repository.server.serve_forever, args=(0.05,))
    thread.start()
    yield repository
    repository.server.shutdown()
    repository.server.server_close()
    thread.join()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "cache"
    monkeypatch.setenv("BEAM_PIPELINE_CACHE", str(directory))
    return directory


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    path = tmp_path / "example.lock"
    lines = [f"{name} {hashlib.sha256(data).hexdigest()}\n" for name, data in LOCKED.items()]
    path.write_text("# made for a test\n\n" + "".join(lines), encoding="utf-8")
    return path


@pytest.fixture
def progress() -> SetupProgress:
    return SetupProgress(Console(quiet=True))


def files_below(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def test_jars_come_in_the_order_of_the_lock(
    repository: Repository,
    cache: Path,
    lock: Path,
    progress: SetupProgress,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        jars = fetch_jars(lock, progress, repository=repository.address)
    assert [jar.read_bytes() for jar in jars] == list(LOCKED.values())
    assert caplog.records == []
    assert files_below(cache) == {
        "jars/com.example/plain-1.0.jar",
        "jars/com.example.deep/other-2.5-linux-x86_64.jar",
        "jars/org.example/plain-1.0.jar",
        "jars/example.json",
    }


def test_what_is_cached_is_not_asked_for_again(
    repository: Repository, cache: Path, lock: Path, progress: SetupProgress
) -> None:
    first = fetch_jars(lock, progress, repository=repository.address)
    asked = len(repository.requests)
    assert asked == len(LOCKED)
    assert fetch_jars(lock, progress, repository=repository.address) == first
    assert len(repository.requests) == asked


def test_a_damaged_jar_is_fetched_again(
    repository: Repository, cache: Path, lock: Path, progress: SetupProgress
) -> None:
    jars = fetch_jars(lock, progress, repository=repository.address)
    jars[0].write_bytes(b"damaged!!")
    jars[1].unlink()
    # Touched, but still what was locked: looked at, and kept.
    os.utime(jars[2], (1, 1))
    repository.requests.clear()
    assert fetch_jars(lock, progress, repository=repository.address) == jars
    assert [jar.read_bytes() for jar in jars] == list(LOCKED.values())
    assert len(repository.requests) == 2


def test_jars_are_looked_for_without_fetching_them(
    repository: Repository, cache: Path, lock: Path, progress: SetupProgress
) -> None:
    found = look_for_jars(lock)
    assert [jar.coordinates for jar in found.missing] == list(LOCKED)
    assert found.altered == []
    assert files_below(cache) == set()
    jars = fetch_jars(lock, progress, repository=repository.address)
    found = look_for_jars(lock, verify=True)
    assert (found.paths, found.missing, found.altered) == (jars, [], [])
    jars[0].unlink()
    status = jars[1].stat()
    jars[1].write_bytes(b"OTHER jar")
    os.utime(jars[1], ns=(status.st_atime_ns, status.st_mtime_ns))
    repository.requests.clear()
    found = look_for_jars(lock)
    assert [jar.cache_name for jar in found.missing] == ["com.example/plain-1.0.jar"]
    assert found.altered == [], "size and time are those of the jar that was checked"
    (altered,) = look_for_jars(lock, verify=True).altered
    assert found.directory / altered.cache_name == jars[1]
    assert repository.requests == []


def test_a_new_checksum_in_the_lock_is_noticed(
    repository: Repository, cache: Path, lock: Path, progress: SetupProgress
) -> None:
    fetch_jars(lock, progress, repository=repository.address)
    old = hashlib.sha256(LOCKED["com.example:plain:1.0"]).hexdigest()
    new = hashlib.sha256(b"rebuilt jar").hexdigest()
    lock.write_text(lock.read_text().replace(old, new))
    repository.put("com.example:plain:1.0", b"rebuilt jar")
    assert (
        fetch_jars(lock, progress, repository=repository.address)[0].read_bytes() == b"rebuilt jar"
    )


def test_a_wrong_checksum_names_the_artifact_and_leaves_nothing(
    repository: Repository, cache: Path, lock: Path, progress: SetupProgress
) -> None:
    repository.put("com.example.deep:other:2.5:linux-x86_64", b"something else")
    with pytest.raises(EnvironmentFailure) as caught:
        fetch_jars(lock, progress, repository=repository.address)
    message = str(caught.value)
    assert "com.example.deep:other:2.5:linux-x86_64" in message
    assert hashlib.sha256(b"something else").hexdigest() in message
    assert "jars/com.example.deep/other-2.5-linux-x86_64.jar" not in files_below(cache)
    assert not any(name.startswith("tmp/") or name.endswith(".json") for name in files_below(cache))

    repository.put("com.example.deep:other:2.5:linux-x86_64", b"other jar")
    assert len(fetch_jars(lock, progress, repository=repository.address)) == len(LOCKED)


def test_a_missing_artifact_is_one_clear_line(
    repository: Repository, cache: Path, lock: Path, progress: SetupProgress
) -> None:
    (repository.directory / "com/example/plain/1.0/plain-1.0.jar").unlink()
    with pytest.raises(
        EnvironmentFailure, match=r"com\.example:plain:1\.0 .*HTTP Error 404"
    ) as caught:
        fetch_jars(lock, progress, repository=repository.address)
    assert "\n" not in str(caught.value)
    assert not any(name.startswith("tmp/") for name in files_below(cache))


def test_no_network_is_one_clear_line(cache: Path, lock: Path, progress: SetupProgress) -> None:
    with pytest.raises(EnvironmentFailure, match="check the network"):
        fetch_jars(lock, progress, repository="http://127.0.0.1:1")
    assert files_below(cache) == set()
