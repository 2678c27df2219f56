"""The ledger: the Kafka offsets that the files of all earlier epochs cover.

The files are the only record of progress. A Parquet file's footer holds the offsets that the file
covers, each dead-letter line holds its own; this module adds them up. With the snapshot below
`<output_dir>/_ledger/`, the next start need not read older files again, and their offsets stay
covered after the files are deleted.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import orjson
from pyroaring import BitMap64

from beam_pipeline.covered_offsets import CoveredOffsets
from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.files.footer import read_footer
from beam_pipeline.files.names import PARQUET_SUFFIX, OutputFile
from beam_pipeline.files.tree import visible_paths
from beam_pipeline.offset_sets import TopicPartition
from beam_pipeline.storage.durable import write_atomically
from beam_pipeline.storage.paths import StoredPath
from beam_pipeline.times import ms_of_rfc3339

SNAPSHOT = Path("_ledger", "snapshot.json")
_SNAPSHOT_VERSION = 1


class LastRecord(NamedTuple):
    """The record at the highest offset of a partition; the timestamp is in ms since 1970."""

    offset: int
    timestamp_ms: int


@dataclass(frozen=True)
class FileContent:
    """The offsets that a file covers, and its record at the highest offset of each partition."""

    covered: CoveredOffsets
    last_records: Mapping[TopicPartition, LastRecord]


@dataclass
class Ledger:
    """The offsets covered by the files below an output and a dead-letter directory.

    A file in place is never changed, so each is read once.

    Attributes:
        covered: the covered offsets, with the gaps.
        offset_gaps: the offsets that `add_offset_gaps` has added.
        files: the names of the files that `covered` counts.
        topic_ids: the ids that the topics had when they were landed first.
        last_records: the landed record at the highest offset of each partition, as far as files
            tell it; those of older versions do not.
    """

    output_dir: Path
    dead_letter_dir: Path
    covered: CoveredOffsets = field(default_factory=CoveredOffsets)
    files: set[str] = field(default_factory=set)
    topic_ids: dict[str, str] = field(default_factory=dict)
    offset_gaps: CoveredOffsets = field(default_factory=CoveredOffsets)
    last_records: dict[TopicPartition, LastRecord] = field(default_factory=dict)
    _foreign: set[str] = field(default_factory=set)

    def refresh(self) -> list[Path]:
        """Add new files; return their paths.

        Each name is parsed once, and each file is read once.

        Raises:
            EnvironmentFailure: a file or a directory can't be read. To go on without it would land
                its records twice.
        """
        new = []
        for path in self._visible_paths():
            name = path.name
            if name in self.files or not self._is_output(name):
                continue
            with contextlib.suppress(FileNotFoundError):  # deleted since it was listed
                content = content_of(path)
                self.covered.update(content.covered)
                self._take_last_records(content)
                self.files.add(name)
                new.append(path)
        return new

    def _visible_paths(self) -> Iterator[Path]:
        return chain(visible_paths(self.output_dir), visible_paths(self.dead_letter_dir))

    def _is_output(self, name: str) -> bool:
        """Whether a pipeline wrote a file of this name; parses a name that is not known yet."""
        if name in self._foreign:
            return False
        if OutputFile.parse(name) is None:
            self._foreign.add(name)
            return False
        return True

    def add_offset_gaps(self, topic: str, partition: int, offsets: BitMap64) -> None:
        """Count offsets where there will never be a record as covered."""
        self.offset_gaps.add(topic, partition, offsets)
        self.covered.add(topic, partition, offsets)

    def _take_last_records(self, content: FileContent) -> None:
        for key, record in content.last_records.items():
            self.last_records[key] = max(self.last_records.get(key, record), record)

    def save(self) -> None:
        """Write the snapshot, atomically and durably. All counted epochs must be over."""
        present = {path.name for path in self._visible_paths()}
        document = {
            "version": _SNAPSHOT_VERSION,
            "covered": self.covered.to_json(),
            "files": sorted(self.files & present),
            "topic_ids": self.topic_ids,
            "last_records": [[*key, *record] for key, record in self.last_records.items()],
        }
        path = self.output_dir / SNAPSHOT
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(document).encode(), durable=True, private=False)


def load_ledger(output_dir: str | Path, dead_letter_dir: str | Path) -> Ledger:
    """Return the ledger of all files: the snapshot, and the files that it does not know.

    Args:
        output_dir, dead_letter_dir: the roots of the files.

    Raises:
        EnvironmentFailure: the snapshot or a file can't be read.
    """
    ledger = Ledger(Path(output_dir), Path(dead_letter_dir))
    path = ledger.output_dir / SNAPSHOT
    if path.exists():
        try:
            document = json.loads(path.read_bytes())
            if document["version"] != _SNAPSHOT_VERSION:
                raise ValueError(f"version {document['version']}")
            ledger.covered = CoveredOffsets.from_json(document["covered"])
            ledger.files = set(document["files"])
            ledger.topic_ids = dict(document["topic_ids"])
            ledger.last_records = {
                TopicPartition(topic, partition): LastRecord(offset, timestamp_ms)
                for topic, partition, offset, timestamp_ms in document.get("last_records", [])
            }
        except (OSError, ValueError, LookupError, TypeError, OverflowError) as error:
            raise EnvironmentFailure(
                f"ledger snapshot {path} can't be read ({error}); remove it to have the ledger "
                "made anew from the files that are there"
            ) from None
    ledger.refresh()
    return ledger


def content_of(path: StoredPath) -> FileContent:
    """Return what one file covers: a footer's ranges, or each dead letter's own offset.

    Raises:
        FileNotFoundError: the file does not exist any more.
        EnvironmentFailure: the file can't be read.
    """
    try:
        if path.suffix == PARQUET_SUFFIX:
            return _of_footer(path)
        return _of_letters(path)
    except FileNotFoundError:
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
