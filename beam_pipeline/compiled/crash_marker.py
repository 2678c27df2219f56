"""A file that says which records a process has in the kernel, for what starts after its death."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import time
from pathlib import Path

CRASH_SECONDS = 3600.0
"""How long a death in the kernel keeps workers of the machine from using it."""

_MAX_MARK_BYTES = 2_000


def marker_directory() -> Path:
    """Return where the markers of this user are on this machine."""
    return Path(tempfile.gettempdir()) / f"beam-pipeline-kernel-{os.getuid()}"


class CrashMarker:
    """The marker of one worker thread. The process holds a lock on the file as long as it lives.

    Args:
      directory: where the markers are; made when missing.
      digest: that of the kernel's library.

    Raises:
      OSError: the directory can't be written.
    """

    def __init__(self, directory: Path, digest: str) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file, name = tempfile.mkstemp(prefix=f"{digest}-", suffix=".mark", dir=directory)
        self.path = Path(name)
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def enter(self, records: str) -> None:
        """Write which records are going into the kernel."""
        os.pwrite(self._file, records.encode()[:_MAX_MARK_BYTES], 0)

    def leave(self) -> None:
        """Say that the kernel is left."""
        os.ftruncate(self._file, 0)

    def close(self) -> None:
        """Remove the marker."""
        with contextlib.suppress(OSError):
            self.path.unlink()
        os.close(self._file)


def crashes(directory: Path, digest: str) -> list[str]:
    """Return what processes had in the kernel when they died, within the last `CRASH_SECONDS`.

    Markers of processes that died elsewhere, and old ones, are removed.
    """
    found = []
    for path in sorted(directory.glob("*.mark")):
        with contextlib.suppress(OSError):
            file = os.open(path, os.O_RDWR)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while its owner lives
                records = os.read(file, _MAX_MARK_BYTES).decode(errors="replace")
                age = time.time() - os.fstat(file).st_mtime
                if records and age < CRASH_SECONDS:
                    if path.name.startswith(f"{digest}-"):
                        found.append(records)
                elif records or age > 1:  # a younger one may not be locked yet
                    path.unlink()
            finally:
                os.close(file)
    return found
