"""The marker of an hour that is complete: `_COMPLETE.json` beside the hour's Parquet files.

A reader of the dataset does not see it, since its name begins with `_`. It says what the hour holds
and up to which offset each partition was landed. A late file raises its revision.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from beam_pipeline.covered_offsets import CoveredOffsets
from beam_pipeline.files.names import HIDDEN_PREFIXES, OutputFile
from beam_pipeline.offset_sets import TopicPartition
from beam_pipeline.storage.documents import write_document
from beam_pipeline.storage.paths import ObjectPath, StoredPath
from beam_pipeline.times import parse_rfc3339, rfc3339, rfc3339_of_ms

MARKER_NAME = "_COMPLETE.json"
HOUR = timedelta(hours=1)
_VERSION = 1
_HOUR_DIRECTORY = re.compile(
    r"[A-Za-z]\w*=(?P<day>\d{4}-\d\d-\d\d)/[A-Za-z]\w*=(?P<hour>\d\d)", re.ASCII
)


class MarkerError(ValueError):
    """The file is no marker that this version can read."""


class OffsetSpan(NamedTuple):
    """The offsets of one partition in some files: the first, the last, and how many there are."""

    first: int
    last: int
    size: int

    def with_span(self, other: OffsetSpan) -> OffsetSpan:
        """Return the span of two disjoint sets of offsets."""
        return OffsetSpan(
            min(self.first, other.first), max(self.last, other.last), self.size + other.size
        )


Spans = Mapping[TopicPartition, OffsetSpan]


def spans_of(covered: CoveredOffsets) -> dict[TopicPartition, OffsetSpan]:
    """Return the span of each partition.

    >>> covered = CoveredOffsets()
    >>> covered.add_range("orders", 0, 5, 7)
    >>> spans_of(covered)[TopicPartition("orders", 0)]
    OffsetSpan(first=5, last=7, size=3)
    """
    spans = {}
    for key in covered.partitions():
        if offsets := covered.of(key):
            spans[key] = OffsetSpan(offsets.min(), offsets.max(), len(offsets))
    return spans


@dataclass(frozen=True)
class HourContent:
    """What an hour holds.

    Attributes:
        sizes: the size in bytes of each Parquet file, by its name.
        rows: the offsets of the rows.
        dead_letters: the offsets of the dead letters whose records Kafka stamped in the hour.
    """

    sizes: Mapping[str, int] = field(default_factory=dict)
    rows: Spans = field(default_factory=dict)
    dead_letters: Spans = field(default_factory=dict)


@dataclass(frozen=True)
class Marker:
    """What a marker says.

    Attributes:
        hour: the start of the hour, in UTC.
        revision: 1 for the first marker of the hour.
        watermark_ms: every event before it that Kafka got in time was in a file, in milliseconds
            since 1970.
        written_at: when it was written, by the clock of the writer.
        files, size_bytes: how many Parquet files the hour has, and their size.
        sha256: `digest_of` them.
        rows, dead_letters: as in `HourContent`.
        landed_to: of each partition that the run reads, the first offset that may be in no file.
        excluded: the inclusive ranges before that which `--start` left out, and no file has.
        lacking: the partitions of which records are left out that may be of the hour.
    """

    hour: datetime
    revision: int
    watermark_ms: int
    written_at: datetime
    files: int
    size_bytes: int
    sha256: str
    rows: Spans
    dead_letters: Spans
    landed_to: Mapping[TopicPartition, int]
    excluded: Mapping[TopicPartition, tuple[tuple[int, int], ...]] = field(default_factory=dict)
    lacking: frozenset[TopicPartition] = frozenset()

    def has(self, content: HourContent) -> bool:
        """Return whether the hour still holds what the marker says."""
        return (
            self.sha256 == digest_of(content.sizes)
            and dict(self.rows) == dict(content.rows)
            and dict(self.dead_letters) == dict(content.dead_letters)
        )

    def to_json(self) -> bytes:
        """Return the content of the file."""
        partitions = {*self.rows, *self.dead_letters, *self.landed_to}
        topics: dict[str, Any] = {}
        for key in sorted(partitions):
            rows, letters = self.rows.get(key), self.dead_letters.get(key)
            topic = topics.setdefault(key.topic, {"rows": 0, "dead_letters": 0, "partitions": {}})
            topic["rows"] += rows.size if rows else 0
            topic["dead_letters"] += letters.size if letters else 0
            topic["partitions"][str(key.partition)] = {
                "landed_to": self.landed_to.get(key),
                "rows": _span_json(rows),
                "dead_letters": _span_json(letters),
                **({"excluded": self.excluded[key]} if key in self.excluded else {}),
            }
        return orjson.dumps(
            {
                "version": _VERSION,
                "hour": rfc3339(self.hour),
                "revision": self.revision,
                "watermark": rfc3339_of_ms(self.watermark_ms),
                "watermark_ms": self.watermark_ms,
                "written_at": rfc3339(self.written_at, timespec="milliseconds"),
                "files": self.files,
                "bytes": self.size_bytes,
                "sha256": self.sha256,
                "rows": sum(topic["rows"] for topic in topics.values()),
                "dead_letters": sum(topic["dead_letters"] for topic in topics.values()),
                "excluded": [list(key) for key in sorted(self.lacking)],
                "topics": topics,
            },
            option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE,
        )

    @staticmethod
    def from_json(text: bytes) -> Marker:
        """Return the marker that `to_json` wrote; unknown keys are ignored.

        Raises:
            MarkerError: `text` is not such JSON, or its version is later.
        """
        try:
            document: dict[str, Any] = orjson.loads(text)
            if document["version"] != _VERSION:
                raise MarkerError(f"version {document['version']}, this reads {_VERSION}")
            partitions = {
                TopicPartition(topic, int(partition)): facts
                for topic, about in document["topics"].items()
                for partition, facts in about["partitions"].items()
            }
            return Marker(
                hour=parse_rfc3339(document["hour"]),
                revision=int(document["revision"]),
                watermark_ms=int(document["watermark_ms"]),
                written_at=parse_rfc3339(document["written_at"]),
                files=int(document["files"]),
                size_bytes=int(document["bytes"]),
                sha256=document["sha256"],
                rows=_spans_of_json(partitions, "rows"),
                dead_letters=_spans_of_json(partitions, "dead_letters"),
                landed_to={
                    key: int(facts["landed_to"])
                    for key, facts in partitions.items()
                    if facts["landed_to"] is not None
                },
                excluded={
                    key: tuple((int(first), int(last)) for first, last in facts["excluded"])
                    for key, facts in partitions.items()
                    if facts.get("excluded")
                },
                lacking=frozenset(
                    TopicPartition(topic, int(partition))
                    for topic, partition in document.get("excluded", ())
                ),
            )
        except MarkerError:
            raise
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise MarkerError(f"marker can't be read: {error!r}") from error


def digest_of(sizes: Mapping[str, int]) -> str:
    """Return the sha256 over the names and sizes of files, sorted by name.

    >>> digest_of({}) == hashlib.sha256(b"").hexdigest()
    True
    """
    lines = "".join(f"{name} {sizes[name]}\n" for name in sorted(sizes))
    return hashlib.sha256(lines.encode()).hexdigest()


def hour_of(directory: str) -> datetime | None:
    """Return the start of the hour that a directory below the root is for; None for any other.

    >>> hour_of("dt=2026-11-24/hour=14")
    datetime.datetime(2026, 11, 24, 14, 0, tzinfo=datetime.timezone.utc)
    >>> hour_of("dt=2026-11-24") is None
    True
    """
    match = _HOUR_DIRECTORY.fullmatch(directory)
    if match is None:
        return None
    with contextlib.suppress(ValueError):
        hour = datetime.strptime(f"{match['day']} {match['hour']}", "%Y-%m-%d %H")
        return hour.replace(tzinfo=timezone.utc)
    return None


def sizes_in(directory: StoredPath, suffix: str) -> dict[str, int]:
    """Return the sizes of the pipeline's files of a suffix right in a directory, by name.

    Raises:
        OSError: the directory can't be listed. A missing one has no files.
    """
    sizes = {}
    with contextlib.suppress(FileNotFoundError):
        for path in directory.iterdir():
            name = path.name
            if not name.endswith(suffix) or name.startswith(HIDDEN_PREFIXES):
                continue
            if OutputFile.parse(name) is not None:
                with contextlib.suppress(FileNotFoundError):  # removed since it was listed
                    sizes[name] = path.stat().st_size
    return sizes


class StoredMarker(NamedTuple):
    """A marker in place, None where there is none that can be read, and what to replace it by."""

    marker: Marker | None
    version: str | None


def read_marker(directory: StoredPath) -> StoredMarker:
    """Return the marker of a directory.

    Raises:
        OSError: it can't be read.
    """
    path = directory / MARKER_NAME
    try:
        if isinstance(path, ObjectPath):
            stored = path.storage.read(path.key)
            data, version = stored.data, stored.version
        else:
            data, version = path.read_bytes(), ""
    except FileNotFoundError:
        return StoredMarker(None, None)
    try:
        return StoredMarker(Marker.from_json(data), version)
    except MarkerError:
        return StoredMarker(None, version)


def write_marker(directory: StoredPath, marker: Marker, version: str | None) -> bool:
    """Put a marker in place of the one of that version, in one step.

    The caller holds the lease of the tree. In a directory it is the only writer. In an object store
    one that has lost its lease could write late, so the version is compared.

    Returns:
        whether the marker is in place; False if another process has written one since.

    Raises:
        OSError: it can't be written.
    """
    path, content = directory / MARKER_NAME, marker.to_json()
    if isinstance(path, Path):
        write_document(path, content)
        return True
    if path.storage.put_if_match(path.key, content, version) is not None:
        return True
    with contextlib.suppress(FileNotFoundError):  # the first answer may have been lost
        return path.storage.read(path.key).data == content
    return False


def with_files(marker: Marker, sizes: Mapping[str, int], now: datetime) -> Marker:
    """Return the marker of an hour whose rows are the same, in other files."""
    return Marker(
        hour=marker.hour,
        revision=marker.revision + 1,
        watermark_ms=marker.watermark_ms,
        written_at=now,
        files=len(sizes),
        size_bytes=sum(sizes.values()),
        sha256=digest_of(sizes),
        rows=marker.rows,
        dead_letters=marker.dead_letters,
        landed_to=marker.landed_to,
        excluded=marker.excluded,
        lacking=marker.lacking,
    )


def united(spans: Iterable[Spans]) -> dict[TopicPartition, OffsetSpan]:
    """Return the spans of several files, which share no offset, by partition."""
    total: dict[TopicPartition, OffsetSpan] = {}
    for of_file in spans:
        for key, span in of_file.items():
            total[key] = total[key].with_span(span) if key in total else span
    return total


def _span_json(span: OffsetSpan | None) -> dict[str, int]:
    if span is None:
        return {"count": 0}
    return {"count": span.size, "first_offset": span.first, "last_offset": span.last}


def _spans_of_json(
    partitions: Mapping[TopicPartition, Mapping[str, Any]], kind: str
) -> dict[TopicPartition, OffsetSpan]:
    return {
        key: OffsetSpan(
            int(facts[kind]["first_offset"]),
            int(facts[kind]["last_offset"]),
            int(facts[kind]["count"]),
        )
        for key, facts in partitions.items()
        if facts[kind]["count"]
    }
