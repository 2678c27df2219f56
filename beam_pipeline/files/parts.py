"""Part files: rows on disk before the shuffle, so that only their names go through it.

A window never has to fit in memory: each bundle writes what it has for a window as a part below
``<root>/_tmp/<epoch>/``, the shuffle groups the parts' names, and the window's file is put together
from the parts when its pane fires. A part that went into a file moves to ``done/``, where a runner
that was set back to an older checkpoint still finds it, until the sweeper takes it.
"""

from __future__ import annotations

import os
import shutil
import stat
import time
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from beam_pipeline.files.durable import make_directories
from beam_pipeline.files.footer import OffsetRange

TEMPORARY_DIR = "_tmp"
_DONE_DIR = "done"


class PartRef(NamedTuple):
    """One part: where it is, and what it holds.

    `offsets` is partition to inclusive ranges; `window` start and end of the (shifted) window, in
    seconds since the epoch.
    """

    path: str
    topic: str
    shard: int
    rows: int
    offsets: Mapping[int, list[OffsetRange]]
    window: tuple[int, int] = (0, 0)


class PartMissingError(RuntimeError):
    """A part that a checkpoint asks for is gone; the rows in it must be read again."""


def new_part_path(root: str, epoch: str, suffix: str, *, private: bool = False) -> str:
    """A path for a new part; the directories above it exist afterwards, `private` ones with mode
    0700 where they were missing."""
    directory = Path(root, TEMPORARY_DIR, epoch)
    make_directories(Path(root), directory, private=private)
    return str(directory / f"{uuid.uuid4().hex}{suffix}")


def find_part(part: PartRef) -> str:
    """Where a part is now, used or not.

    Raises:
      PartMissingError: it is in neither place.
    """
    for path in (Path(part.path), _done_path(part.path)):
        if path.exists():
            return str(path)
    raise PartMissingError(
        f"part {part.path} is gone: a restore asked for rows older than "
        "--part_retention_seconds keeps them; start the job afresh, it resumes from its files"
    )


def retire_parts(parts: Iterable[PartRef]) -> None:
    """Moves parts whose file is in place to where the sweeper looks."""
    for part in parts:
        done = _done_path(part.path)
        try:
            above = done.parent.parent.stat()
            done.parent.mkdir(mode=stat.S_IMODE(above.st_mode), exist_ok=True)
            os.utime(part.path)  # before it moves: the sweeper takes the time of writing otherwise
            Path(part.path).rename(done)
        except FileNotFoundError:  # retired before, by a pane that a restore fires again
            continue


def sweep_parts(root: str | Path, epoch: str, retention_seconds: float) -> int:
    """Removes parts of `epoch` retired longer ago than the retention; how many they were."""
    oldest = time.time() - retention_seconds
    swept = 0
    for part in Path(root, TEMPORARY_DIR, epoch, _DONE_DIR).glob("*"):
        if part.stat().st_mtime <= oldest:
            part.unlink()
            swept += 1
    return swept


def sweep_dead_epochs(root: str | Path, live_epoch: str) -> list[str]:
    """Removes what all other epochs left below ``_tmp``; the epochs whose parts went."""
    directory = Path(root, TEMPORARY_DIR)
    if not directory.is_dir():
        return []
    dead = sorted(child.name for child in directory.iterdir() if child.name != live_epoch)
    for epoch in dead:
        shutil.rmtree(directory / epoch, ignore_errors=True)
    return dead


def _done_path(path: str) -> Path:
    part = Path(path)
    return part.parent / _DONE_DIR / part.name
