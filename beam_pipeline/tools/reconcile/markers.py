"""Compares the markers of complete hours, `_COMPLETE.json`, with a count of their own.

The counts are those of rows and lines, not of footers. What a marker says of the log, up to where a
partition was landed, is compared with the log.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pyroaring import BitMap64

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.files.names import HIDDEN_PREFIXES, PARQUET_SUFFIX, OutputFile
from beam_pipeline.files.reading import read_each
from beam_pipeline.offset_sets import OffsetSets, TopicPartition, from_ranges
from beam_pipeline.storage.paths import ObjectPath, StoredPath
from beam_pipeline.storage.protocol import StorageAwayError
from beam_pipeline.tools.reconcile.coverage import Coverage, FileProblem

_MARKER = "_COMPLETE.json"
_VERSION = 1


class Span(NamedTuple):
    """Some offsets of a partition: how many, the first and the last."""

    number: int
    first: int
    last: int

    def includes(self, other: Span) -> bool:
        """Whether there may be all offsets of the other here."""
        return self.number >= other.number and self.first <= other.first and self.last >= other.last


@dataclass(frozen=True)
class HourMarker:
    """A marker in place.

    Attributes:
        path: the file.
        files, sha256: the number of Parquet files, and the digest of their names and sizes.
        rows, dead_letters: the offsets of the hour.
        landed_to: the offsets before which every record was in a file, or excluded.
        excluded: the offsets that the marker says were left out.
    """

    path: StoredPath
    files: int
    sha256: str
    rows: Mapping[TopicPartition, Span]
    dead_letters: Mapping[TopicPartition, Span]
    landed_to: Mapping[TopicPartition, int]
    excluded: OffsetSets = field(default_factory=dict)


@dataclass
class HourCount:
    """What the files of one hour hold."""

    sizes: dict[str, int] = field(default_factory=dict)
    rows: dict[TopicPartition, Span] = field(default_factory=dict)
    dead_letters: dict[TopicPartition, Span] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """The digest of the names and sizes of the Parquet files."""
        digest = hashlib.sha256()
        for name, size in sorted(self.sizes.items()):
            digest.update(f"{name} {size}\n".encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class MarkerReport:
    """The markers, compared.

    Attributes:
        hours: how many hours have a marker.
        behind: the markers of hours that have more than they say: files that came late.
        problems: the markers that can't be read, or claim what is not there.
    """

    hours: int = 0
    behind: list[StoredPath] = field(default_factory=list)
    problems: list[FileProblem] = field(default_factory=list)


class HourCounts:
    """Counts the files of the hours that have markers, by directory below the root."""

    def __init__(self, roots: Iterable[StoredPath], markers: Iterable[HourMarker]) -> None:
        self._roots = list(roots)
        self.hours: dict[str, HourCount] = {
            f"{marker.path.parent.parent.name}/{marker.path.parent.name}": HourCount()
            for marker in markers
        }

    def add(self, path: StoredPath, held: Coverage) -> None:
        """Count a file, with what was read of it."""
        hour = self.hours.get(f"{path.parent.parent.name}/{path.parent.name}")
        if hour is None or path.parent.parent.parent not in self._roots:
            return
        if OutputFile.parse(path) is None:
            return
        is_parquet = path.suffix == PARQUET_SUFFIX
        if is_parquet:
            hour.sizes[path.name] = path.stat().st_size
        spans = hour.rows if is_parquet else hour.dead_letters
        for key, offsets in held.offsets.items():
            if not offsets:
                continue
            first, last = offsets.min(), offsets.max()
            earlier = spans.get(key, Span(0, first, last))
            spans[key] = Span(
                earlier.number + held.records[key],
                min(earlier.first, first),
                max(earlier.last, last),
            )


def read_markers(output_dir: StoredPath) -> tuple[list[HourMarker], list[FileProblem]]:
    """Return the markers of a tree, and those that can't be read.

    Raises:
        EnvironmentFailure: a directory can't be listed.
        StorageAwayError: the object store does not answer.
    """
    markers, problems = [], []
    paths = [hour / _MARKER for day in _keyed(output_dir) for hour in _keyed(day)]
    for path, read in read_each(paths, _read):
        try:
            markers.append(read())
        except FileNotFoundError:
            continue
        except StorageAwayError:
            raise
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            problems.append(FileProblem(path, f"the marker can't be read: {error!r}"))
    return markers, problems


def claimed_ends(markers: Iterable[HourMarker]) -> dict[TopicPartition, int]:
    """Return the furthest offset before which some marker says that all is landed."""
    ends: dict[TopicPartition, int] = defaultdict(int)
    for marker in markers:
        for key, end in marker.landed_to.items():
            ends[key] = max(ends[key], end)
    return dict(ends)


def compare_markers(
    markers: Iterable[HourMarker],
    counts: Mapping[str, HourCount],
    missing: OffsetSets,
    unreadable: Iterable[FileProblem] = (),
) -> MarkerReport:
    """Compare markers with what was counted after they had been read.

    Args:
        markers: the markers.
        counts: of each hour, by its directory below the root.
        missing: offsets of records that are in no file, as far as markers say that all are.
        unreadable: the markers that can't be read.
    """
    listed = list(markers)
    behind, problems = [], list(unreadable)
    for marker in listed:
        hour = counts[f"{marker.path.parent.parent.name}/{marker.path.parent.name}"]
        if reason := _mistake(marker, hour, missing):
            problems.append(FileProblem(marker.path, reason))
        elif (marker.sha256, marker.rows, marker.dead_letters) != (
            hour.sha256,
            hour.rows,
            hour.dead_letters,
        ):
            behind.append(marker.path)
    return MarkerReport(len(listed), behind, problems)


def _mistake(marker: HourMarker, hour: HourCount, missing: OffsetSets) -> str | None:
    """Return what a marker claims that is not there; None if all is."""
    for key, end in sorted(marker.landed_to.items()):
        unlanded = missing.get(key, BitMap64()) - marker.excluded.get(key, BitMap64())
        if unlanded and unlanded.min() < end:
            return (
                f"the marker says that {key} is landed up to offset {end}; the record at "
                f"{unlanded.min()} is in no file"
            )
    nothing = Span(0, 0, 0)
    kinds = (("rows", marker.rows, hour.rows), ("letters", marker.dead_letters, hour.dead_letters))
    for kind, claimed, counted in kinds:
        for key, span in sorted(claimed.items()):
            there = counted.get(key, nothing)
            if not there.includes(span):
                return f"the marker says {_text(span, kind)} of {key}, there are {_text(there)}"
    if len(hour.sizes) < marker.files:
        return f"the marker says {marker.files} files, there are {len(hour.sizes)}"
    if len(hour.sizes) == marker.files and hour.sha256 != marker.sha256:
        return "the marker's sha256 is not that of the names and sizes of the files"
    return None


def _text(span: Span, kind: str = "") -> str:
    if not span.number:
        return "none"
    return f"{span.number}{' ' if kind else ''}{kind} (offsets {span.first} to {span.last})"


def _keyed(directory: StoredPath) -> Iterator[StoredPath]:
    """Yield the directories right below one that are named as those of days and hours."""
    try:
        children: list[StoredPath] = list(directory.iterdir())
    except FileNotFoundError:
        return
    except StorageAwayError:
        raise
    except OSError as error:
        raise EnvironmentFailure(f"{error.filename} can't be listed: {error.strerror}") from None
    for child in sorted(children, key=str):
        is_directory = child.listed is None if isinstance(child, ObjectPath) else child.is_dir()
        if is_directory and "=" in child.name and not child.name.startswith(HIDDEN_PREFIXES):
            yield child


def _read(path: StoredPath) -> HourMarker:
    document: dict[str, Any] = json.loads(path.read_bytes())
    if document["version"] != _VERSION:
        raise ValueError(f"version {document['version']}, this reads {_VERSION}")
    partitions = {
        TopicPartition(topic, int(partition)): about
        for topic, facts in document["topics"].items()
        for partition, about in facts["partitions"].items()
    }
    rows, dead_letters = (
        {
            key: Span(
                int(about[kind]["count"]),
                int(about[kind]["first_offset"]),
                int(about[kind]["last_offset"]),
            )
            for key, about in partitions.items()
            if about[kind]["count"]
        }
        for kind in ("rows", "dead_letters")
    )
    for kind, spans in (("rows", rows), ("dead_letters", dead_letters)):
        if document[kind] != sum(span.number for span in spans.values()):
            raise ValueError(f"{kind} is not the sum of its partitions")
    return HourMarker(
        path,
        int(document["files"]),
        document["sha256"],
        rows,
        dead_letters,
        {
            key: int(about["landed_to"])
            for key, about in partitions.items()
            if about["landed_to"] is not None
        },
        {
            key: from_ranges((int(first), int(last)) for first, last in about["excluded"])
            for key, about in partitions.items()
            if about.get("excluded")
        },
    )
