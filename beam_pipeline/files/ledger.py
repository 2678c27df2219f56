"""The ledger: which Kafka offsets the files of all earlier epochs cover.

The files are the ledger. A Parquet file's footer holds the offsets it covers, a dead-letter line
its own; this module adds them up. A snapshot below ``<output_dir>/_ledger/`` spares the next start
from reading the files of the past again, and outlives them when they are deleted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import orjson
from pyroaring import BitMap64

from beam_pipeline.covered_offsets import CoveredOffsets
from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.files.footer import read_footer
from beam_pipeline.files.names import HIDDEN_PREFIXES, PARQUET_SUFFIX, OutputFile

SNAPSHOT = Path("_ledger", "snapshot.json")
_SNAPSHOT_VERSION = 1


@dataclass(frozen=True)
class _LiveFile:
    """A file that may be superseded: inode and modification time, and what it covers."""

    identity: tuple[int, int]
    covered: CoveredOffsets


@dataclass
class Ledger:
    """Coverage of the files below an output and a dead-letter directory.

    `files` are the names of the files that are counted in `covered`; `topic_ids` the ids that the
    topics had when they were landed first.

    Files of `live_epoch` may be superseded: a runner that restored a checkpoint writes them again,
    with other records in them. `refresh` notices, and forgets what the old ones covered.
    """

    output_dir: Path
    dead_letter_dir: Path
    live_epoch: str = ""
    covered: CoveredOffsets = field(default_factory=CoveredOffsets)
    files: set[str] = field(default_factory=set)
    topic_ids: dict[str, str] = field(default_factory=dict)
    _settled: CoveredOffsets = field(default_factory=CoveredOffsets)
    _live: dict[str, _LiveFile] = field(default_factory=dict)

    def refresh(self) -> list[str]:
        """Adds the files that have appeared since, and drops those superseded; the new names.

        Raises:
          EnvironmentFailure: a file can't be read.
        """
        new = []
        live = {}
        for root in (self.output_dir, self.dead_letter_dir):
            for path in output_files(root):
                name = path.name
                is_live = bool(self.live_epoch) and f"-e{self.live_epoch}-" in name
                if name in self.files and not is_live:
                    continue
                try:
                    if is_live:
                        live[name] = self._live_file(path)
                    else:
                        add_coverage(self._settled, path)
                        add_coverage(self.covered, path)
                except FileNotFoundError:  # superseded or deleted since it was listed
                    continue
                if name not in self.files:
                    self.files.add(name)
                    new.append(name)
        self._take_live(live)
        return new

    def add_holes(self, topic: str, partition: int, offsets: BitMap64) -> None:
        """Counts offsets at which there will never be a record as covered."""
        self._settled.add(topic, partition, offsets)
        self.covered.add(topic, partition, offsets)

    def _live_file(self, path: Path) -> _LiveFile:
        """What a file of the live epoch covers; read again when it is another one by that name."""
        status = path.stat()
        identity = (status.st_ino, status.st_mtime_ns)
        known = self._live.get(path.name)
        if known is not None and known.identity == identity:
            return known
        covered = CoveredOffsets()
        add_coverage(covered, path)
        return _LiveFile(identity, covered)

    def _take_live(self, live: dict[str, _LiveFile]) -> None:
        before, self._live = self._live, live
        gone = before.keys() - live.keys()
        self.files -= gone
        if gone or any(live[name] is not file for name, file in before.items()):
            self.covered = CoveredOffsets()
            self.covered.update(self._settled)
            added = list(live.values())
        else:
            added = [file for name, file in live.items() if name not in before]
        for file in added:
            self.covered.update(file.covered)

    def save(self) -> None:
        """Writes the snapshot, atomically. Only for files of epochs that are over."""
        present = {
            path.name
            for root in (self.output_dir, self.dead_letter_dir)
            for path in output_files(root)
        }
        path = self.output_dir / SNAPSHOT
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        with temporary.open("w", encoding="utf-8") as sink:
            json.dump(
                {
                    "version": _SNAPSHOT_VERSION,
                    "covered": self.covered.to_json(),
                    "files": sorted(self.files & present),
                    "topic_ids": self.topic_ids,
                },
                sink,
            )
            sink.flush()
            os.fsync(sink.fileno())
        temporary.replace(path)


def load_ledger(
    output_dir: str | Path, dead_letter_dir: str | Path, live_epoch: str = ""
) -> Ledger:
    """The ledger of everything that is in files now: the snapshot, then what came after it.

    `live_epoch` is the one whose job runs, or is about to.

    Raises:
      EnvironmentFailure: the snapshot or a file can't be read.
    """
    ledger = Ledger(Path(output_dir), Path(dead_letter_dir), live_epoch)
    path = ledger.output_dir / SNAPSHOT
    if path.exists():
        try:
            found = json.loads(path.read_bytes())
            if found["version"] != _SNAPSHOT_VERSION:
                raise ValueError(f"version {found['version']}")
            ledger.covered = CoveredOffsets.from_json(found["covered"])
            ledger._settled = CoveredOffsets.from_json(found["covered"])
            ledger.files = set(found["files"])
            ledger.topic_ids = dict(found["topic_ids"])
        except (OSError, ValueError, LookupError, TypeError, OverflowError) as error:
            raise EnvironmentFailure(
                f"ledger snapshot {path} can't be read ({error}); remove it to have the ledger "
                "made anew from the files that are there"
            ) from None
    ledger.refresh()
    return ledger


def output_files(root: str | Path) -> Iterator[Path]:
    """Every file in place below `root`: Parquet or dead letters, nothing temporary.

    Raises:
      EnvironmentFailure: a directory can't be listed; what is in it would be landed twice.
    """

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise EnvironmentFailure(f"{error.filename} can't be listed: {error.strerror}")

    for directory, children, names in os.walk(root, onerror=refuse):
        children[:] = [child for child in children if not child.startswith(HIDDEN_PREFIXES)]
        for name in names:
            if not name.startswith(HIDDEN_PREFIXES) and OutputFile.parse(name) is not None:
                yield Path(directory, name)


def add_coverage(covered: CoveredOffsets, path: Path) -> None:
    """Adds the offsets that one file covers.

    Raises:
      FileNotFoundError: it is gone.
      EnvironmentFailure: the file can't be read.
    """
    try:
        ranges = _parquet_ranges(path) if path.suffix == PARQUET_SUFFIX else _letter_ranges(path)
        for topic, partition, first, last in ranges:
            covered.add_range(topic, partition, first, last)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, LookupError, TypeError, OverflowError) as error:
        raise EnvironmentFailure(
            f"{path}: what it covers can't be read ({error}); a damaged file must be moved away, "
            "its records are then read again"
        ) from None


def _parquet_ranges(path: Path) -> Iterable[tuple[str, int, int, int]]:
    for topic, partitions in read_footer(path).offsets.items():
        for partition, ranges in partitions.items():
            for first, last in ranges:
                yield topic, partition, first, last


def _letter_ranges(path: Path) -> Iterable[tuple[str, int, int, int]]:
    with path.open("rb") as lines:
        for line in lines:
            source = orjson.loads(line)["source"]
            yield source["topic"], source["partition"], source["offset"], source["offset"]
