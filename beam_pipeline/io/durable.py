"""Changes to a file system that are there in one step, and outlast a power cut."""

from __future__ import annotations

import ctypes
import os
import tempfile
from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # linux/fs.h; see renameat2(2)


def sync(path: str | Path) -> None:
    """Makes a file, or the names in a directory, outlast a power cut (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def exchange(one: Path, other: Path) -> None:
    """Lets two directories change places in one step: whoever opens a path sees either state.

    Raises:
      OSError: the file system or the system can't do it (EINVAL, ENOSYS), or a path is missing.
    """
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:  # glibc before 2.28, or not Linux
        raise OSError(38, os.strerror(38))
    if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(one), None, str(other))


def write_atomically(path: Path, content: bytes) -> None:
    """Puts a file in place in one step, readable by its owner only; what was there before stays
    until then, and for good where it fails.

    Raises:
      OSError: it can't be written.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync(path.parent)
