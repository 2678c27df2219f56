"""Atomic and durable changes of the file system, and files that only their user can read.

Dead letters and logs hold whole events, so they are private (modes 0600 and 0700).
"""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
from pathlib import Path
from typing import IO, Any

PRIVATE_FILE_MODE = 0o600
PRIVATE_DIRECTORY_MODE = 0o700

_AT_FDCWD = -100
_RENAME_NOREPLACE, _RENAME_EXCHANGE = 1, 2  # linux/fs.h; see renameat2(2)


def sync(path: str | Path) -> None:
    """Make a file's content, or the names in a directory, survive a power cut (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def exchange(first: Path, second: Path) -> None:
    """Exchange two directories in one step: a reader of either path sees one state or the other.

    Raises:
        OSError: the file system or the kernel can't do it (EINVAL, ENOSYS), or a path is missing.
    """
    _renameat2(first, second, _RENAME_EXCHANGE)


def place_if_absent(temporary: Path, path: Path) -> bool:
    """Give a finished file its name in one step, durably, unless the name is taken.

    The file at a taken name stays as it is, and so does `temporary`.

    Returns:
        whether the file has the name now.

    Raises:
        OSError: the file system can't do it, or a directory is missing.
    """
    sync(temporary)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        try:
            _renameat2(temporary, path, _RENAME_NOREPLACE)
        except FileExistsError:
            return False
    temporary.unlink(missing_ok=True)
    sync(path.parent)
    return True


_NO_HARD_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})


def _renameat2(first: Path, second: Path, how: int) -> None:
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:  # glibc before 2.28, or not Linux
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    paths = _AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second)
    if rename(*paths, how) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(first), None, str(second))


def write_atomically(path: Path, content: bytes, *, durable: bool, private: bool) -> None:
    """Replace a file in one step: a reader sees the old content or the new one, never a part.

    If it fails, the old file stays.

    Args:
        path: the file, in a directory that exists.
        content: the whole new content.
        durable: whether the new content survives a power cut from the return on (fsync). Without
            it, a power cut may leave an empty file.
        private: whether the file gets mode 0600, or that of the umask.

    Raises:
        OSError: the file can't be written.
    """
    temporary = path.with_name(f".{path.name[:100]}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        with open_private(temporary, "xb") if private else temporary.open("xb") as file:
            file.write(content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync(path.parent)


def make_directory(directory: Path, *, private: bool) -> None:
    """Make a directory if it is missing. An existing directory keeps its mode.

    Args:
        directory: the directory; missing parents get the mode of the umask.
        private: whether it gets mode 0700, or that of the umask.

    Raises:
        OSError: the directory can't be made.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    directory.mkdir(mode=PRIVATE_DIRECTORY_MODE if private else 0o777, exist_ok=True)


def make_directories(root: Path, below: Path, *, private: bool) -> None:
    """Make `root` and each directory on the path down to `below`, as `make_directory` does.

    Raises:
        OSError: a directory can't be made.
        ValueError: `below` is not below `root`.
    """
    directory = root
    make_directory(directory, private=private)
    for name in below.relative_to(root).parts:
        directory /= name
        make_directory(directory, private=private)


def open_private(path: str | Path, mode: str, **how: Any) -> IO[Any]:
    """Open a file as `open` does; a new file gets mode 0600.

    Args:
        path, mode: as for `open`.
        how: further arguments of `open`.

    Raises:
        OSError: the file can't be opened.
    """
    # Path.open has no opener.
    return open(path, mode, opener=_private_opener, **how)


def _private_opener(path: str, flags: int) -> int:
    return os.open(path, flags, PRIVATE_FILE_MODE)
