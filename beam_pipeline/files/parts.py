"""Part files: rows are on disk before the shuffle, so only the names of parts are shuffled.

A window need not fit in memory. Each bundle writes its rows of a window as a part below
`<root>/_tmp/<epoch>/`, the shuffle groups the parts' names, and a pane's file is assembled from the
parts when the pane fires. A part that is in a file moves to `done/`. There, a runner that restored
an older checkpoint still finds it until `sweep_parts` removes it.
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

from beam_pipeline.covered_offsets import CoveredOffsets
from beam_pipeline.files.footer import OffsetRange
from beam_pipeline.storage.durable import make_directories

TEMPORARY_DIR = "_tmp"
_DONE_DIR = "done"


class PartRef(NamedTuple):
    """One part.

    Attributes:
        path: where the part was written; see `find_part`.
        topic, shard: those of the file that it goes into.
        rows: how many rows it holds.
        offsets: the inclusive ranges of offsets of each partition.
        window: start and end of the (shifted) window, in seconds since 1970.
        last_records: the highest offset of each partition, and its timestamp in milliseconds.
        oldest_ms: the oldest Kafka timestamp of its rows, in milliseconds since 1970; None if they
            have none.
    """

    path: str
    topic: str
    shard: int
    rows: int
    offsets: Mapping[int, list[OffsetRange]]
    window: tuple[int, int] = (0, 0)
    last_records: Mapping[int, tuple[int, int]] = {}
    oldest_ms: int | None = None

    @property
    def names_each_row(self) -> bool:
        """Whether each row has an offset of its own, so that rows can be told apart by offset."""
        spans = (span for ranges in self.offsets.values() for span in ranges)
        return self.rows == sum(last - first + 1 for first, last in spans)

    def has_rows_outside(self, covered: CoveredOffsets) -> bool:
        """Return whether `covered` lacks the offset of a row."""
        return any(
            covered.missing(self.topic, partition, first, last + 1)
            for partition, ranges in self.offsets.items()
            for first, last in ranges
        )


class PartMissingError(RuntimeError):
    """A part that a checkpoint refers to does not exist; its rows must be read again."""


def new_part_path(root: str, epoch: str, suffix: str, *, private: bool = False) -> str:
    """Return a path for a new part, and make the directories above it.

    Args:
        root: the output or dead-letter directory.
        epoch: the epoch that the part belongs to.
        suffix: the end of the part's name.
        private: whether missing directories get mode 0700.
    """
    directory = Path(root, TEMPORARY_DIR, epoch)
    make_directories(Path(root), directory, private=private)
    return str(directory / f"{uuid.uuid4().hex}{suffix}")


def find_part(part: PartRef) -> str:
    """Return where a part is now, whether it is in a file already or not.

    Raises:
        PartMissingError: the part does not exist.
    """
    for path in (Path(part.path), _done_path(part.path)):
        if path.exists():
            return str(path)
    raise PartMissingError(
        f"part {part.path} is gone: a restore asked for rows older than "
        "--part_retention_seconds keeps them; start the job afresh, it resumes from its files"
    )


def retire_parts(parts: Iterable[PartRef]) -> None:
    """Move parts that are in a committed file to `done/`."""
    for part in parts:
        done = _done_path(part.path)
        try:
            above = done.parent.parent.stat()
            done.parent.mkdir(mode=stat.S_IMODE(above.st_mode), exist_ok=True)
            os.utime(part.path)  # first: sweep_parts goes by the time of this move
            Path(part.path).rename(done)
        except FileNotFoundError:  # retired before, by a pane that a restore fires again
            continue


def sweep_parts(root: str | Path, epoch: str, retention_seconds: float) -> int:
    """Remove parts of `epoch` retired longer ago than the retention; return how many."""
    oldest = time.time() - retention_seconds
    swept = 0
    for part in Path(root, TEMPORARY_DIR, epoch, _DONE_DIR).glob("*"):
        if part.stat().st_mtime <= oldest:
            part.unlink()
            swept += 1
    return swept


def sweep_dead_epochs(root: str | Path, live_epoch: str) -> list[str]:
    """Remove the parts of all other epochs below `_tmp`; return these epochs."""
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
