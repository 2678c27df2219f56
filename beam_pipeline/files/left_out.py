"""The note of offsets that are left out on purpose: `<output_dir>/_ledger/left_out.json`.

A run with `--start` or `--end` lands only a part of the log. The note says which offsets the other
part has, so that they are not missing. Offsets of it that are in files all the same are landed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from pyroaring import BitMap64

from beam_pipeline.covered_offsets import CoveredOffsets
from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.offset_sets import TopicPartition, interval, ranges
from beam_pipeline.storage.paths import StoredPath
from beam_pipeline.storage.protocol import StorageAwayError
from beam_pipeline.storage.urls import storage_of

NOTE = Path("_ledger", "left_out.json")
_VERSION = 1


class LeftOutRange(NamedTuple):
    """Some offsets of a partition that are left out.

    Attributes:
        key: the partition.
        first: the first offset.
        end: the offset after the last one; None for all that the log will ever have.
        by: the flag and its value, such as `--start=latest`.
        before_ms: a time before which Kafka stamped each of the records, in milliseconds since
            1970; None if no such time is known.
    """

    key: TopicPartition
    first: int
    end: int | None
    by: str
    before_ms: int | None = None

    @property
    def offsets(self) -> BitMap64:
        """The offsets; none for a range without an end."""
        return BitMap64() if self.end is None else interval(self.first, self.end)


@dataclass(frozen=True)
class LeftOutNote:
    """The note of one output directory.

    Attributes:
        ranges: what is left out. Those with an end were left out by `--start`, and the others by
            `--end`.
        topics: the topics of which `--start` has decided where they begin.
    """

    ranges: tuple[LeftOutRange, ...] = ()
    topics: frozenset[str] = frozenset()

    @property
    def before_start(self) -> list[LeftOutRange]:
        """What `--start` left out."""
        return [left_out for left_out in self.ranges if left_out.end is not None]

    def offsets(self) -> CoveredOffsets:
        """Return the offsets that `--start` left out."""
        offsets = CoveredOffsets()
        for left_out in self.before_start:
            offsets.add(*left_out.key, left_out.offsets)
        return offsets

    def with_start(self, topics: Iterable[str], left_out: Iterable[LeftOutRange]) -> LeftOutNote:
        """Return the note with what `--start` leaves out of topics, but for empty ranges."""
        more = tuple(span for span in left_out if span.end is None or span.first < span.end)
        return LeftOutNote((*self.ranges, *more), self.topics | frozenset(topics))

    def with_end(self, topics: Collection[str], ends: Iterable[LeftOutRange]) -> LeftOutNote:
        """Return the note with other ranges without an end for some topics."""
        kept = [
            span for span in self.ranges if span.end is not None or span.key.topic not in topics
        ]
        return replace(self, ranges=(*kept, *ends))

    def without(self, landed: Mapping[TopicPartition, BitMap64]) -> LeftOutNote:
        """Return the note without some offsets that `--start` left out.

        >>> key = TopicPartition("orders", 0)
        >>> note = LeftOutNote((LeftOutRange(key, 0, 10, "--start=latest"),))
        >>> [span[1:3] for span in note.without({key: BitMap64([3, 4, 9])}).ranges]
        [(0, 3), (5, 9)]
        """
        return replace(self, ranges=tuple(self._without(landed)))

    def _without(self, landed: Mapping[TopicPartition, BitMap64]) -> Iterator[LeftOutRange]:
        for span in self.ranges:
            if span.end is None or not landed.get(span.key):
                yield span
                continue
            for first, last in ranges(span.offsets - landed[span.key]):
                yield span._replace(first=first, end=last + 1)

    def to_json(self) -> bytes:
        """Return the content of the file."""
        return orjson.dumps(
            {
                "version": _VERSION,
                "topics": sorted(self.topics),
                "ranges": [
                    {
                        "topic": span.key.topic,
                        "partition": span.key.partition,
                        "first": span.first,
                        "end": span.end,
                        "by": span.by,
                        "before_ms": span.before_ms,
                    }
                    for span in sorted(self.ranges, key=lambda span: (span.key, span.first))
                ],
            },
            option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE,
        )

    @staticmethod
    def from_json(text: bytes) -> LeftOutNote:
        """Return the note that `to_json` wrote.

        Raises:
            ValueError, LookupError, TypeError: `text` is not such a note.
        """
        document: dict[str, Any] = orjson.loads(text)
        if document["version"] != _VERSION:
            raise ValueError(f"version {document['version']}")
        return LeftOutNote(
            tuple(
                LeftOutRange(
                    TopicPartition(span["topic"], int(span["partition"])),
                    int(span["first"]),
                    None if span["end"] is None else int(span["end"]),
                    str(span["by"]),
                    None if span["before_ms"] is None else int(span["before_ms"]),
                )
                for span in document["ranges"]
            ),
            frozenset(document["topics"]),
        )


class StoredNote(NamedTuple):
    """A note, and the version of it that is in place; None where there is none."""

    note: LeftOutNote
    version: str | None

    def replaced_by(self, note: LeftOutNote, output_dir: StoredPath) -> StoredNote:
        """Put another note in place of this one, atomically and durably; return it.

        Raises:
            EnvironmentFailure: another run has replaced it.
            OSError: it can't be written.
        """
        if note == self.note:
            return self
        storage, key = storage_of(output_dir / NOTE)
        content = note.to_json()
        version = storage.put_if_match(key, content, self.version)
        if version is None:  # the first answer may have been lost
            with contextlib.suppress(FileNotFoundError):
                there = storage.read(key)
                version = there.version if there.data == content else None
        if version is None:
            raise EnvironmentFailure(
                f"{output_dir / NOTE} was replaced by another run; this one has stopped. Nothing "
                "is lost: the next start resumes from the files"
            )
        return StoredNote(note, version)


def load_left_out(output_dir: StoredPath) -> StoredNote:
    """Return the note of an output directory; an empty one where there is none.

    Raises:
        EnvironmentFailure: the note can't be read.
        StorageAwayError: the object store does not answer.
    """
    path = output_dir / NOTE
    storage, key = storage_of(path)
    try:
        stored = storage.read(key)
        return StoredNote(LeftOutNote.from_json(stored.data), stored.version)
    except (FileNotFoundError, NotADirectoryError):
        return StoredNote(LeftOutNote(), None)
    except StorageAwayError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise EnvironmentFailure(
            f"{path} can't be read ({error}); remove it, and the next run reads what was left out"
        ) from None


def left_out_text(spans: Iterable[LeftOutRange]) -> str:
    """Return how many offsets are left out by which flag, and where.

    >>> key = TopicPartition("orders", 0)
    >>> left_out_text([LeftOutRange(key, 0, 9, "--start=latest"), LeftOutRange(key, 20, None, "x")])
    '9 by --start=latest (orders/0: 0-8); by x (orders/0: from 20 on)'
    """
    by_flag: dict[str, list[LeftOutRange]] = {}
    for span in sorted(spans, key=lambda span: (span.key, span.first)):
        by_flag.setdefault(span.by, []).append(span)
    return "; ".join(_flag_text(flag, of_flag) for flag, of_flag in by_flag.items())


_RANGES_TOLD = 5


def _flag_text(flag: str, spans: list[LeftOutRange]) -> str:
    count = sum(span.end - span.first for span in spans if span.end is not None)
    places = [
        f"{span.key}: "
        + (f"from {span.first} on" if span.end is None else f"{span.first}-{span.end - 1}")
        for span in spans[:_RANGES_TOLD]
    ]
    if len(spans) > _RANGES_TOLD:
        places.append(f"{len(spans) - _RANGES_TOLD:,} more")
    return f"{f'{count:,} ' if count else ''}by {flag} ({', '.join(places)})"
