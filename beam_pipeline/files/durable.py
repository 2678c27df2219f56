"""File system changes that are atomic and survive a power cut, and files private to their user.

Dead letters and logs hold whole events, so they are private (modes 0600 and 0700).
"""

from __future__ import annotations

import ctypes
import os
import tempfile
from pathlib import Path
from typing import IO, Any

PRIVATE_FILE_MODE = 0o600
PRIVATE_DIRECTORY_MODE = 0o700

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


def make_directory(directory: Path, *, private: bool) -> None:
    """Makes a directory where it is missing; one that is there keeps its mode.

    Args:
        directory: the directory; those above it are made by the umask.
        private: whether it gets mode 0700, or that of the umask.

    Raises:
        OSError: it can't be made.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    directory.mkdir(mode=PRIVATE_DIRECTORY_MODE if private else 0o777, exist_ok=True)


def make_directories(root: Path, below: Path, *, private: bool) -> None:
    """Makes `root` and each directory on the way down to `below`, as `make_directory` does.

    Raises:
        OSError: one can't be made.
        ValueError: `below` is not below `root`.
    """
    directory = root
    make_directory(directory, private=private)
    for name in below.relative_to(root).parts:
        directory /= name
        make_directory(directory, private=private)


def open_private(path: str | Path, mode: str, **how: Any) -> IO[Any]:
    """Opens a file as `open` does; one that is made gets mode 0600.

    Args:
        path, mode: as for `open`.
        how: further arguments of `open`.

    Raises:
        OSError: it can't be opened.
    """
    # Path.open has no opener.
    return open(path, mode, opener=_private_opener, **how)


def _private_opener(path: str, flags: int) -> int:
    return os.open(path, flags, PRIVATE_FILE_MODE)
