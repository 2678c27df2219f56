"""The cache directory: jars, a Java runtime, the Prism binary, Flink."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from beam_pipeline.errors import EnvironmentFailure

_SWEEP_AGE_SECONDS = 60.0


def cache_directory() -> Path:
    """Return the cache directory; make it when missing.

    `$BEAM_PIPELINE_CACHE`, else `$XDG_CACHE_HOME/beam-pipeline`, else `~/.cache/beam-pipeline`.

    Raises:
        EnvironmentFailure: it can't be made.
    """
    if own := os.environ.get("BEAM_PIPELINE_CACHE"):
        directory = Path(own).expanduser().absolute()
    else:
        home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        directory = Path(home).expanduser().absolute() / "beam-pipeline"
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentFailure(
            f"cache directory {directory}: {error.strerror}; "
            "set BEAM_PIPELINE_CACHE to a directory that can be written"
        ) from error
    return directory


@contextlib.contextmanager
def scratch_directory() -> Iterator[Path]:
    """Yield a temporary directory on the cache's file system, and remove it at the end.

    What is made there is moved into the cache by one rename. The owner holds a lock on the
    directory, so that those of killed processes are recognised and removed.

    Raises:
        EnvironmentFailure: the cache can't be written.
    """
    parent = cache_directory() / "tmp"
    try:
        parent.mkdir(exist_ok=True)
        _sweep(parent)
        directory = Path(tempfile.mkdtemp(dir=parent))
    except OSError as error:
        raise EnvironmentFailure(
            f"cache directory {parent}: {error.strerror}; "
            "set BEAM_PIPELINE_CACHE to a directory that can be written"
        ) from error
    lock = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(lock)


def move_into_cache(made: Path, target: Path) -> None:
    """Rename a directory into the cache, unless another process has put one there first."""
    try:
        made.rename(target)
    except OSError:
        if not target.is_dir():
            raise


def _sweep(parent: Path) -> None:
    """Remove scratch directories that no living process holds."""
    for directory in parent.iterdir():
        with contextlib.suppress(OSError):
            # A younger one may have been made and not locked yet.
            if time.time() - directory.stat().st_mtime < _SWEEP_AGE_SECONDS:
                continue
            lock = os.open(directory, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(directory, ignore_errors=True)
            finally:
                os.close(lock)
