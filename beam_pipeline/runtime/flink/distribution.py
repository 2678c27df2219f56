"""Find Apache Flink in the cache, or fetch it: PyPI has it in apache-flink-libraries' sdist."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.resources import requirements_path
from beam_pipeline.runtime.programs.cache import cache_directory, move_into_cache, scratch_directory
from beam_pipeline.runtime.programs.pip_tool import pip_download_source
from beam_pipeline.runtime.programs.progress import SetupProgress

_ARCHIVE_BYTES = 230_366_372
_WANTED = (
    "deps/lib/flink-dist-*.jar",
    "deps/lib/log4j-*.jar",
    "deps/bin/bash-java-utils.jar",
    "deps/plugins/metrics-prometheus/*.jar",
)
"""What a cluster needs of the archive; tables, SQL and PyFlink are left out."""


@dataclass(frozen=True)
class FlinkDistribution:
    """An unpacked Flink, laid out as a release is: `lib`, `bin`, `plugins`."""

    directory: Path

    @property
    def jars(self) -> list[Path]:
        """Return the class path of Flink's processes."""
        return sorted((self.directory / "lib").glob("*.jar"))

    @property
    def parameter_jars(self) -> list[Path]:
        """Return the class path of BashJavaUtils, which computes JVM parameters."""
        return [self.directory / "bin" / "bash-java-utils.jar", *self._dist_jars]

    @property
    def version(self) -> str:
        """Return Flink's version, such as "1.19.3"; "" where its main jar is missing."""
        names = [jar.stem.removeprefix("flink-dist-") for jar in self._dist_jars]
        return next(iter(names), "")

    @property
    def plugins(self) -> Path:
        """Return the directory in which Flink finds its metrics reporters."""
        return self.directory / "plugins"

    @property
    def _dist_jars(self) -> list[Path]:
        return sorted((self.directory / "lib").glob("flink-dist-*.jar"))


def look_for_flink() -> FlinkDistribution | None:
    """Return Flink as locked in requirements/flink.txt if it is in the cache; fetch nothing.

    Raises:
        EnvironmentFailure: it is not whole.
    """
    found = FlinkDistribution(_cache_place())
    if not found.directory.is_dir():
        return None
    if not found.version:
        raise EnvironmentFailure(
            f"{found.directory} is not whole; remove it, and it is fetched again"
        )
    return found


def find_flink(progress: SetupProgress) -> FlinkDistribution:
    """Return Flink as locked in requirements/flink.txt; fetch it into the cache the first time.

    Raises:
        EnvironmentFailure: it can't be downloaded, is not what was locked, or is not whole.
    """
    if found := look_for_flink():
        return found
    directory = _cache_place()
    with scratch_directory() as scratch:
        archive = _download(scratch, progress)
        with progress.step("Unpacking Flink"):
            unpack(archive, scratch / "flink")
        move_into_cache(scratch / "flink", directory)
    return FlinkDistribution(directory)


def _cache_place() -> Path:
    locked = requirements_path("flink").read_bytes()
    return cache_directory() / f"flink-{hashlib.sha256(locked).hexdigest()[:12]}"


def unpack(archive: Path, target: Path) -> None:
    """Unpack what a cluster needs into `lib`, `bin` and `plugins` of `target`.

    Raises:
        EnvironmentFailure: a file that is needed is not in it.
    """
    found = set()
    with tarfile.open(archive) as packed:
        for member in packed:
            path = PurePosixPath(*PurePosixPath(member.name).parts[1:])
            wanted = next((pattern for pattern in _WANTED if path.match(pattern)), None)
            if wanted is None or not member.isfile():
                continue
            found.add(wanted)
            place = target.joinpath(*path.parts[1:])
            place.parent.mkdir(parents=True, exist_ok=True)
            content = packed.extractfile(member)
            assert content is not None
            with content, place.open("wb") as copy:
                while block := content.read(1 << 20):
                    copy.write(block)
    if missing := sorted(set(_WANTED) - found):
        raise EnvironmentFailure(f"{archive.name} has no {missing[0]}")


def _download(scratch: Path, progress: SetupProgress) -> Path:
    target, temporary = scratch / "archive", scratch / "pip"
    temporary.mkdir()
    try:
        with progress.step("Fetching Flink (230 MB)", _ARCHIVE_BYTES) as advance:
            shown = 0

            def show() -> None:
                nonlocal shown
                fetched = sum(_sizes(temporary))
                advance(max(0, fetched - shown))
                shown = max(shown, fetched)

            pip_download_source(
                "flink", target, scratch / "pip.log", temporary=temporary, on_tick=show
            )
    except EnvironmentFailure as error:
        raise EnvironmentFailure(
            f"Flink can't be fetched: {error}; check the network (pip's proxy and index settings "
            "apply), or name a cluster of your own with --flink_master"
        ) from error
    (archive,) = target.glob("*.tar.gz")
    return archive


def _sizes(directory: Path) -> Iterator[int]:
    """Yield the sizes of the archives below `directory`; pip may remove one at any moment."""
    for parent, _, names in os.walk(directory):
        for name in names:
            if name.endswith(".tar.gz"):
                with contextlib.suppress(OSError):
                    yield Path(parent, name).stat().st_size
