"""The ledger: the Kafka offsets that the files of all earlier epochs cover.

The files are the only record of progress. A Parquet file's footer holds the offsets that the file
covers, each dead-letter line holds its own; this module adds them up. With the snapshot below
`<output_dir>/_ledger/`, the next start need not read older files again, and their offsets stay
covered after the files are deleted.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import orjson
from pyroaring import BitMap64

from beam_pipeline.covered_offsets import CoveredOffsets
from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.files.epochs import (
    EPOCHS,
    CountedFiles,
    begun_epochs,
    read_counted_files,
    remove_lists,
)
from beam_pipeline.files.footer import read_footer
from beam_pipeline.files.listing import TreeListing
from beam_pipeline.files.names import DEFAULT_PARTITION_KEYS, PARQUET_SUFFIX, OutputFile
from beam_pipeline.files.reading import read_each
from beam_pipeline.files.tree import visible_paths
from beam_pipeline.offset_sets import TopicPartition
from beam_pipeline.storage.paths import StoredPath
from beam_pipeline.storage.protocol import Storage, StorageAwayError
from beam_pipeline.storage.urls import storage_of
from beam_pipeline.times import ms_of_rfc3339

SNAPSHOT = Path("_ledger", "snapshot.json")
_SNAPSHOT_VERSION = 2


class LastRecord(NamedTuple):
    """The record at the highest offset of a partition; the timestamp is in ms since 1970."""

    offset: int
    timestamp_ms: int


@dataclass(frozen=True)
class FileContent:
    """The offsets that a file covers, and its record at the highest offset of each partition."""

    covered: CoveredOffsets
    last_records: Mapping[TopicPartition, LastRecord]


class Stray(NamedTuple):
    """A file that is not counted, since the records of its epoch are landed by a later one."""

    path: StoredPath
    epoch: str


class LedgerTakenError(EnvironmentFailure):
    """Another run has replaced the snapshot; this one must write nothing more."""


@dataclass
class Ledger:
    """The offsets covered by the files below an output and a dead-letter directory.

    A file in place is never changed, so each is read once.

    A stray is a file of an epoch that was over before the present one began, which the present one
    does not count: it lands these records itself, or another file has them. Strays are never
    counted; `remove_strays` removes them.

    Attributes:
        covered: the covered offsets, with the gaps.
        offset_gaps: the offsets that `add_offset_gaps` has added.
        left_out: the offsets that `--start` left out (`files.left_out`). The caller sets them; they
            are not in the snapshot. Some may be covered all the same.
        files: the names of the files that `covered` counts.
        topic_ids: the ids that the topics had when they were landed first.
        last_records: the landed record at the highest offset of each partition, as far as files
            tell it; those of older versions do not.
        partition_keys: the names of day and hour in the directories of new files.
        strays: the strays that `refresh` has found and that are not removed yet, by name.
        on_counted: called with each file that `refresh` counts, and what it covers.
    """

    output_dir: StoredPath
    dead_letter_dir: StoredPath
    covered: CoveredOffsets = field(default_factory=CoveredOffsets)
    files: set[str] = field(default_factory=set)
    topic_ids: dict[str, str] = field(default_factory=dict)
    offset_gaps: CoveredOffsets = field(default_factory=CoveredOffsets)
    left_out: CoveredOffsets = field(default_factory=CoveredOffsets)
    last_records: dict[TopicPartition, LastRecord] = field(default_factory=dict)
    partition_keys: tuple[str, str] = DEFAULT_PARTITION_KEYS
    strays: dict[str, Stray] = field(default_factory=dict)
    on_counted: Callable[[StoredPath, FileContent], None] = lambda path, content: None
    _foreign: set[str] = field(default_factory=set)
    _new: list[StoredPath] = field(default_factory=list)
    _counted: CountedFiles | None = None
    _covered_before: CoveredOffsets = field(default_factory=CoveredOffsets)
    _snapshot_version: str | None = None
    _listings: list[TreeListing] = field(init=False)

    def __post_init__(self) -> None:
        self._listings = [
            TreeListing(root, self.partition_keys)
            for root in (self.output_dir, self.dead_letter_dir)
        ]

    def refresh(self, *, whole: bool = True) -> list[StoredPath]:
        """Add new files; return their paths.

        Each name is parsed once, and each file is read once; objects by several threads.

        Args:
            whole: whether to list large trees of an object store whole, and not only the hours
                that get files (`files.listing`).

        Raises:
            EnvironmentFailure: a file or a directory can't be read. To go on without it would land
                its records twice.
            StorageAwayError: an object store does not answer.
        """
        for listing in self._listings:
            unknown: dict[StoredPath, str] = {}
            for path in listing.look(whole=whole):
                name = path.name
                if name in self.files or name in self.strays:
                    continue
                if (epoch := self._epoch_of(name)) is not None:
                    unknown[path] = epoch
            for path, content in _contents_of(list(unknown)):
                if self._is_stray(path, unknown[path], content):
                    self.strays[path.name] = Stray(path, unknown[path])
                else:
                    self._count(path.name, content)
                    self.on_counted(path, content)
                    listing.note_landed(path)
                    self._new.append(path)
        new, self._new = self._new, []
        return new

    def _present(self) -> set[str]:
        """Return the names of the counted files that are there now."""
        return {
            name for listing in self._listings for name in listing.present() if name in self.files
        }

    def _epoch_of(self, name: str) -> str | None:
        """Return the epoch of a file that a pipeline wrote; a foreign name is parsed once."""
        if name in self._foreign:
            return None
        if (file := OutputFile.parse(name)) is None:
            self._foreign.add(name)
            return None
        return file.epoch

    def _is_stray(self, path: StoredPath, epoch: str, content: FileContent) -> bool:
        """Whether the records of a file that is not counted are landed elsewhere too.

        A file that was counted once, and is back from where its user had moved it, is none: all of
        its offsets are covered, and no other file has any of them.
        """
        if self._counted is None or epoch not in self._counted.dead:
            return False
        if self.lands_again(path.name, epoch, content.covered):
            return True
        for other in visible_paths(path.parent):
            if other.name in self.files:
                with contextlib.suppress(FileNotFoundError):
                    if content_of(other).covered.overlaps(content.covered):
                        return True
        return False

    def lands_again(self, name: str, epoch: str, covered: CoveredOffsets) -> bool:
        """Whether the present epoch lands records of a file itself, because it does not count it.

        Args:
            name: the file's name.
            epoch: the epoch that wrote it.
            covered: what it covers.
        """
        return (
            self.is_over(epoch)
            and name not in self.files
            and not self._covered_before.includes(covered)
        )

    def landed_again(self, epoch: str, covered: CoveredOffsets) -> CoveredOffsets:
        """Return the offsets, of several files of an epoch together, that the present one lands.

        The epoch counts the offsets of each file that it counts, so no names are needed.
        """
        if not self.is_over(epoch):
            return CoveredOffsets()
        return covered.without(self._covered_before)

    def is_over(self, epoch: str) -> bool:
        """Whether an epoch was over before the present one began."""
        return self._counted is not None and epoch in self._counted.dead

    def _count(self, name: str, content: FileContent) -> None:
        self.covered.update(content.covered)
        for key, record in content.last_records.items():
            self.last_records[key] = max(self.last_records.get(key, record), record)
        self.files.add(name)

    def remove_strays(self) -> Counter[str]:
        """Remove the strays that were found; return how many were there, by epoch.

        The caller must hold the leases.

        Raises:
            OSError: one can't be removed; the rest stay known.
        """
        removed = Counter[str]()
        keys: dict[str, list[str]] = {}
        storages: dict[str, Storage] = {}
        for path, epoch in self.strays.values():
            storage, key = storage_of(path)
            storages[storage.url] = storage
            keys.setdefault(storage.url, []).append(key)
            removed[epoch] += 1
        for url, storage in storages.items():
            storage.delete(keys[url])
        self.strays.clear()
        return removed

    def over_epochs(self, but: str = "") -> set[str]:
        """Return the epochs that have begun here, but for one; older versions named none."""
        dead = self._counted.dead if self._counted else frozenset[str]()
        return (begun_epochs(self.output_dir) | dead) - {but}

    def add_offset_gaps(self, topic: str, partition: int, offsets: BitMap64) -> None:
        """Count offsets where there will never be a record as covered."""
        self.offset_gaps.add(topic, partition, offsets)
        self.covered.add(topic, partition, offsets)

    def uncovered(self, key: TopicPartition, first: int, end: int) -> BitMap64:
        """Return the offsets from `first` to before `end` that are in no file and not left out."""
        return self.covered.gaps(*key, first, end) - self.left_out.of(key)

    def missing(self, key: TopicPartition, first: int, end: int) -> int:
        """Return how many offsets `uncovered` returns."""
        left_out_first, left_out_end = self.left_out.bounds(*key) or (0, 0)
        if max(first, left_out_first) >= min(end, left_out_end):
            return self.covered.missing(*key, first, end)
        return len(self.uncovered(key, first, end))

    def passed_to(self, key: TopicPartition, start: int) -> int:
        """Return the first offset from `start` on that is in no file and not left out."""
        while True:
            passed = self.left_out.prefix_end(*key, self.covered.prefix_end(*key, start))
            if passed == start:
                return start
            start = passed

    def begin_epoch(self, epoch: str) -> None:
        """Note what a new epoch counts, before its job starts; all earlier ones must be over.

        First its list of files is written, then the snapshot that names it. A crash between them
        leaves the state before. The lists of earlier epochs are removed at the end.

        Raises:
            LedgerTakenError: another run has begun an epoch since this ledger was loaded.
            EnvironmentFailure, OSError: it can't be written.
        """
        begun = begun_epochs(self.output_dir)
        dead = (begun | self._dead_by_lists(begun)) - {epoch}
        present = self._present()
        counted = CountedFiles(epoch, frozenset(present), frozenset(dead))
        counted.write(self.output_dir)
        self._counted = counted
        self._covered_before = self.covered.copy()
        self._save(present)
        remove_lists(self.output_dir, dead & begun)

    def continue_epoch(self, epoch: str) -> None:
        """Go on with an epoch that is restored; raise where another one has begun since.

        Raises:
            EnvironmentFailure: the epoch is over.
        """
        if self._counted is not None and epoch in self._counted.dead:
            raise EnvironmentFailure(
                f"the job of epoch {epoch} can't be restored: epoch {self._counted.epoch} has "
                f"begun in {self.output_dir} since, and reads those records itself. Start without "
                "--from_savepoint: a start resumes from the files"
            )

    def _dead_by_lists(self, begun: Collection[str]) -> frozenset[str]:
        if self._counted is not None:
            return self._counted.dead
        dead = set[str]()
        for epoch in begun:  # somebody removed the snapshot: each list has those before it
            with contextlib.suppress(FileNotFoundError):
                dead |= read_counted_files(self.output_dir, epoch).dead
        return frozenset(dead)

    def save(self) -> None:
        """Replace the snapshot that was loaded, atomically and durably.

        Raises:
            LedgerTakenError: another run has replaced it.
            OSError: it can't be written.
        """
        self._save(self._present())

    def _save(self, present: set[str]) -> None:
        known = self._counted.files if self._counted else frozenset[str]()
        content = orjson.dumps(
            {
                "version": _SNAPSHOT_VERSION,
                "epoch": self._counted.epoch if self._counted else None,
                "files": sorted(present - known),
                "covered": self.covered.to_json(),
                "topic_ids": self.topic_ids,
                "last_records": [[*key, *record] for key, record in self.last_records.items()],
            }
        )
        storage, key = storage_of(self.output_dir / SNAPSHOT)
        version = storage.put_if_match(key, content, self._snapshot_version)
        if version is None:
            version = self._version_if(storage, key, content)
        self._snapshot_version = version

    def _version_if(self, storage: Storage, key: str, content: bytes) -> str:
        """Return the snapshot's version where it has this content: an answer was lost."""
        with contextlib.suppress(FileNotFoundError):
            there = storage.read(key)
            if there.data == content:
                return there.version
        raise LedgerTakenError(
            f"--output_dir={self.output_dir}: another pipeline took the lease over, because this "
            "one stood still; this one has stopped. Nothing is lost: the other one resumes from "
            "the files"
        )

    def load_snapshot(self) -> None:
        """Read the snapshot and the list of files that it names, where there are any.

        Raises:
            EnvironmentFailure: one can't be read.
            StorageAwayError: an object store does not answer.
        """
        path = self.output_dir / SNAPSHOT
        storage, key = storage_of(path)
        try:
            stored = storage.read(key)
            document = orjson.loads(stored.data)
            if document["version"] not in (1, _SNAPSHOT_VERSION):
                raise ValueError(f"version {document['version']}")
            self.covered = CoveredOffsets.from_json(document["covered"])
            self.files = set(document["files"])
            self.topic_ids = dict(document["topic_ids"])
            self.last_records = {
                TopicPartition(topic, partition): LastRecord(offset, timestamp_ms)
                for topic, partition, offset, timestamp_ms in document.get("last_records", [])
            }
            epoch: str | None = document["epoch"] if document["version"] > 1 else None
        except (FileNotFoundError, NotADirectoryError):
            return
        except StorageAwayError:
            raise
        except (OSError, ValueError, LookupError, TypeError, OverflowError) as error:
            raise EnvironmentFailure(
                f"ledger snapshot {path} can't be read ({error}); remove it to have the ledger "
                "made anew from the files that are there"
            ) from None
        self._snapshot_version = stored.version
        if epoch is not None:
            self._take_counted(epoch)

    def _take_counted(self, epoch: str) -> None:
        try:
            self._counted = read_counted_files(self.output_dir, epoch)
        except FileNotFoundError:
            storage, key = storage_of(self.output_dir / SNAPSHOT)
            if storage.read(key).version != self._snapshot_version:  # another run goes on just now
                self.load_snapshot()
                return
            raise EnvironmentFailure(
                f"ledger snapshot {self.output_dir / SNAPSHOT} names the epoch {epoch}, whose list "
                f"of files is not in {self.output_dir / EPOCHS}; remove the snapshot to have the "
                "ledger made anew from the files that are there"
            ) from None
        self.files |= self._counted.files
        self._covered_before = self.covered.copy()


def load_ledger(
    output_dir: str | StoredPath,
    dead_letter_dir: str | StoredPath,
    partition_keys: tuple[str, str] = DEFAULT_PARTITION_KEYS,
) -> Ledger:
    """Return the ledger of all files: the snapshot, and the files that it does not know.

    Args:
        output_dir, dead_letter_dir: the roots of the files.
        partition_keys: the names of day and hour in the directories of new files.

    Raises:
        EnvironmentFailure: the snapshot or a file can't be read.
        StorageAwayError: an object store does not answer.
    """
    output_dir, dead_letter_dir = (
        Path(root) if isinstance(root, str) else root for root in (output_dir, dead_letter_dir)
    )
    ledger = Ledger(output_dir, dead_letter_dir, partition_keys=partition_keys)
    ledger.load_snapshot()
    ledger.refresh()
    return ledger


def _contents_of(paths: Sequence[StoredPath]) -> Iterator[tuple[StoredPath, FileContent]]:
    """Yield each file that is still there, with what it covers."""
    for path, read in read_each(paths, content_of):
        try:
            content = read()
        except FileNotFoundError:  # deleted since it was listed
            continue
        yield path, content


def content_of(path: StoredPath) -> FileContent:
    """Return what one file covers: a footer's ranges, or each dead letter's own offset.

    Raises:
        FileNotFoundError: the file does not exist any more.
        StorageAwayError: its object store does not answer.
        EnvironmentFailure: the file can't be read.
    """
    try:
        if path.suffix == PARQUET_SUFFIX:
            return _of_footer(path)
        return _of_letters(path)
    except (FileNotFoundError, StorageAwayError):
        raise
    except (OSError, ValueError, LookupError, TypeError, OverflowError) as error:
        raise EnvironmentFailure(
            f"{path}: what it covers can't be read ({error}); a damaged file must be moved away, "
            "its records are then read again"
        ) from None


def _of_footer(path: StoredPath) -> FileContent:
    footer = read_footer(path)
    covered = CoveredOffsets()
    for (topic, partition), offsets in footer.offset_sets().items():
        covered.add(topic, partition, offsets)
    last_records = {
        TopicPartition(topic, partition): LastRecord(*record)
        for topic, partitions in footer.last_records.items()
        for partition, record in partitions.items()
    }
    return FileContent(covered, last_records)


def _of_letters(path: StoredPath) -> FileContent:
    covered = CoveredOffsets()
    last_letters: dict[TopicPartition, tuple[int, str | None]] = {}
    with path.open("rb") as lines:
        for line in lines:
            source = orjson.loads(line)["source"]
            key, offset = TopicPartition(source["topic"], source["partition"]), source["offset"]
            covered.add_range(*key, offset, offset)
            if offset >= last_letters.get(key, (offset, None))[0]:
                last_letters[key] = offset, source.get("timestamp")
    last_records = {}
    for key, (offset, timestamp) in last_letters.items():
        if timestamp is not None:
            last_records[key] = LastRecord(offset, ms_of_rfc3339(timestamp))
    return FileContent(covered, last_records)
