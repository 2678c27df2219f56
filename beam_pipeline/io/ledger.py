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

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.io.file_names import HIDDEN_PREFIXES, PARQUET_SUFFIX, OutputFile
from beam_pipeline.io.footer import read_footer
from beam_pipeline.offsets import CoveredOffsets

SNAPSHOT = Path("_ledger", "snapshot.json")
_SNAPSHOT_VERSION = 1


@dataclass
class Ledger:
    """Coverage of the files below an output and a dead-letter directory.

    `files` are the names of the files that are counted in `covered`; `topic_ids` the ids that the
    topics had when they were landed first.
    """

    output_dir: Path
    dead_letter_dir: Path
    covered: CoveredOffsets = field(default_factory=CoveredOffsets)
    files: set[str] = field(default_factory=set)
    topic_ids: dict[str, str] = field(default_factory=dict)

    def refresh(self) -> list[str]:
        """Adds the files that have appeared since; their names.

        Raises:
          EnvironmentFailure: a file can't be read.
        """
        new = []
        for root in (self.output_dir, self.dead_letter_dir):
            for path in output_files(root):
                name = path.name
                if name in self.files:
                    continue
                try:
                    add_coverage(self.covered, path)
                except FileNotFoundError:  # superseded or deleted since it was listed
                    continue
                self.files.add(name)
                new.append(name)
        return new

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


def load_ledger(output_dir: str | Path, dead_letter_dir: str | Path) -> Ledger:
    """The ledger of everything that is in files now: the snapshot, then what came after it.

    Raises:
      EnvironmentFailure: the snapshot or a file can't be read.
    """
    ledger = Ledger(Path(output_dir), Path(dead_letter_dir))
    path = ledger.output_dir / SNAPSHOT
    if path.exists():
        try:
            found = json.loads(path.read_bytes())
            if found["version"] != _SNAPSHOT_VERSION:
                raise ValueError(f"version {found['version']}")
            ledger.covered = CoveredOffsets.from_json(found["covered"])
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
