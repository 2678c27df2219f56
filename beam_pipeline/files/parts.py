"""Parts: rows leave the worker before the shuffle, so only references to parts are shuffled.

A window need not fit in memory. Each bundle writes its rows of a window as a part, the shuffle
groups the references, and a pane's file is assembled from the parts when the pane fires.

`LocalParts` are files below `<root>/_tmp/<epoch>/` in a directory that all workers share. A part
that is in a file moves to `done/`. There, a runner that restored an older checkpoint still finds it
until `sweep` removes it.

`StoredParts` need no shared directory. Small parts travel in their references, and larger ones are
objects below `_tmp/<epoch>/`. An object can't be renamed, so each bundle writes the keys of the
parts that are in files now to one object below `_tmp/<epoch>/done/`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import orjson

from beam_pipeline.covered_offsets import CoveredOffsets
from beam_pipeline.files.footer import OffsetRange
from beam_pipeline.storage.config import StorageConfig
from beam_pipeline.storage.durable import make_directories, open_private
from beam_pipeline.storage.patience import PatientStorage
from beam_pipeline.storage.protocol import Storage
from beam_pipeline.storage.urls import is_url, open_storage

TEMPORARY_DIR = "_tmp"
_DONE_DIR = "done"

MAX_INLINE_BYTES = 256 * 1024
"""The largest part that travels in its reference; a request for each would cost more."""

SCRATCH_PREFIX = "beam-pipeline-"
"""Begins the names of files in a worker's temporary directory."""


class PartRef(NamedTuple):
    """One part.

    Attributes:
        path: where the part was written, or its key where parts are stored. It names the part, also
            one whose content is in `inline`.
        topic, shard: those of the file that it goes into.
        rows: how many rows it holds.
        offsets: the inclusive ranges of offsets of each partition.
        window: start and end of the (shifted) window, in seconds since 1970.
        last_records: the highest offset of each partition, and its timestamp in milliseconds.
        oldest_ms: the oldest Kafka timestamp of its rows, in milliseconds since 1970; None if they
            have none.
        inline: the content of a small part that travels in its reference.
    """

    path: str
    topic: str
    shard: int
    rows: int
    offsets: Mapping[int, list[OffsetRange]]
    window: tuple[int, int] = (0, 0)
    last_records: Mapping[int, tuple[int, int]] = {}
    oldest_ms: int | None = None
    inline: bytes | None = None

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


class Parts(Protocol):
    """The parts of one epoch."""

    def new_path(self, suffix: str) -> str:
        """Return a local path for a new file, and make the directories above it."""

    def keep(self, part: PartRef) -> PartRef:
        """Put a part that was written to its path where every worker finds it."""

    def fetch(self, part: PartRef) -> str:
        """Return a local path with the content of a part, whether it is in a file already or not.

        Raises:
            PartMissingError: the part does not exist.
        """

    def release(self, paths: Iterable[str]) -> None:
        """Remove what `fetch` has copied."""

    def retire(self, parts: Iterable[PartRef]) -> None:
        """Say that parts are in a committed file."""

    def end_bundle(self) -> None:
        """Write down what `retire` was told since the last call."""

    def sweep(self, retention_seconds: float) -> int:
        """Remove the parts retired longer ago than the retention; return how many."""

    def sweep_other_epochs(self) -> list[str]:
        """Remove the parts of all other epochs; return these epochs."""


@dataclass(frozen=True)
class LocalParts:
    """Parts in a directory that all workers share.

    Args:
        root: the directory above `_tmp`.
        epoch: the epoch that the parts belong to.
        private: whether missing directories get mode 0700.
    """

    root: Path
    epoch: str
    private: bool = False

    def new_path(self, suffix: str) -> str:
        directory = self.root / TEMPORARY_DIR / self.epoch
        make_directories(self.root, directory, private=self.private)
        return str(directory / f"{uuid.uuid4().hex}{suffix}")

    def keep(self, part: PartRef) -> PartRef:
        return part

    def fetch(self, part: PartRef) -> str:
        for path in (Path(part.path), _done_path(part.path)):
            if path.exists():
                return str(path)
        raise _missing(part)

    def release(self, paths: Iterable[str]) -> None:
        pass

    def retire(self, parts: Iterable[PartRef]) -> None:
        """Move parts to `done/`."""
        for part in parts:
            done = _done_path(part.path)
            try:
                above = done.parent.parent.stat()
                done.parent.mkdir(mode=stat.S_IMODE(above.st_mode), exist_ok=True)
                os.utime(part.path)  # first: sweep goes by the time of this move
                Path(part.path).rename(done)
            except FileNotFoundError:  # retired before, by a pane that a restore fires again
                continue

    def end_bundle(self) -> None:
        pass

    def sweep(self, retention_seconds: float) -> int:
        oldest = time.time() - retention_seconds
        swept = 0
        for part in (self.root / TEMPORARY_DIR / self.epoch / _DONE_DIR).glob("*"):
            if part.stat().st_mtime <= oldest:
                part.unlink()
                swept += 1
        return swept

    def sweep_other_epochs(self) -> list[str]:
        directory = self.root / TEMPORARY_DIR
        if not directory.is_dir():
            return []
        dead = sorted(child.name for child in directory.iterdir() if child.name != self.epoch)
        for epoch in dead:
            shutil.rmtree(directory / epoch, ignore_errors=True)
        return dead


class StoredParts:
    """Parts for workers that share nothing but the storage of the files.

    Args:
        storage: where larger parts go.
        epoch: the epoch that the parts belong to.
    """

    def __init__(self, storage: Storage, epoch: str) -> None:
        self._storage = storage
        self._epoch = epoch
        self._retired: list[str] = []

    def new_path(self, suffix: str) -> str:
        name = f"{SCRATCH_PREFIX}{self._epoch}-{uuid.uuid4().hex}{suffix}"
        return str(Path(tempfile.gettempdir(), name))

    def keep(self, part: PartRef) -> PartRef:
        source = Path(part.path)
        name = source.name.removeprefix(f"{SCRATCH_PREFIX}{self._epoch}-")
        kept = part._replace(path=f"{TEMPORARY_DIR}/{self._epoch}/{name}")
        try:
            if source.stat().st_size <= MAX_INLINE_BYTES:
                return kept._replace(inline=source.read_bytes())
            self._storage.put_file(source, kept.path)
            return kept
        finally:
            source.unlink(missing_ok=True)

    def fetch(self, part: PartRef) -> str:
        content = part.inline
        if content is None:
            try:
                content = self._storage.read(part.path).data
            except FileNotFoundError:
                raise _missing(part) from None
        path = self.new_path(".part")
        with open_private(path, "xb") as file:
            file.write(content)
        return path

    def release(self, paths: Iterable[str]) -> None:
        for path in paths:
            Path(path).unlink(missing_ok=True)

    def retire(self, parts: Iterable[PartRef]) -> None:
        self._retired += [part.path for part in parts if part.inline is None]

    def end_bundle(self) -> None:
        if self._retired:
            key = f"{self._done_prefix}{uuid.uuid4().hex}.json"
            self._storage.put(key, orjson.dumps(self._retired))
            self._retired = []

    def sweep(self, retention_seconds: float) -> int:
        oldest = time.time() - retention_seconds
        swept: list[str] = []
        markers = []
        for marker in self._storage.objects(self._done_prefix):
            if marker.modified_s <= oldest:
                with contextlib.suppress(FileNotFoundError):
                    swept += orjson.loads(self._storage.read(marker.key).data)
                    markers.append(marker.key)
        self._storage.delete(swept)
        self._storage.delete(markers)  # last: they name what is left
        return len(swept)

    def sweep_other_epochs(self) -> list[str]:
        dead: dict[str, list[str]] = {}
        for entry in self._storage.objects(f"{TEMPORARY_DIR}/"):
            epoch = entry.key.split("/")[1]
            if epoch != self._epoch:
                dead.setdefault(epoch, []).append(entry.key)
        self._storage.delete(key for keys in dead.values() for key in keys)
        return sorted(dead)

    @property
    def _done_prefix(self) -> str:
        return f"{TEMPORARY_DIR}/{self._epoch}/{_DONE_DIR}/"


def parts_below(
    root: str,
    epoch: str,
    config: StorageConfig,
    parts_dir: str | None = None,
    *,
    private: bool = False,
    patience_seconds: float = 0.0,
) -> Parts:
    """Return the parts of an epoch's files.

    Args:
        root: the directory of the files, or the URL of an object store.
        epoch: the epoch.
        config: how the object store is reached.
        parts_dir: a directory for parts that all workers share. None takes `root` where that is a
            directory; where it is an object store, parts travel in their references or are objects.
        private: whether directories that are made below `root` have mode 0700.
        patience_seconds: how long to wait for an object store that is away.
    """
    if parts_dir:
        # Several roots may have one directory for parts, and each sweeps what is not its own.
        name = hashlib.sha256(root.encode()).hexdigest()[:12]
        return LocalParts(Path(parts_dir, name), epoch, private=True)
    if is_url(root):
        return StoredParts(PatientStorage(open_storage(root, config), patience_seconds), epoch)
    return LocalParts(Path(root), epoch, private)


def _missing(part: PartRef) -> PartMissingError:
    return PartMissingError(
        f"part {part.path} is gone: a restore asked for rows older than "
        "--part_retention_seconds keeps them; start the job afresh, it resumes from its files"
    )


def _done_path(path: str) -> Path:
    part = Path(path)
    return part.parent / _DONE_DIR / part.name
