"""Files and directories that only their user may read: dead letters and logs hold whole events."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, Any

PRIVATE_FILE_MODE = 0o600
PRIVATE_DIRECTORY_MODE = 0o700


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
