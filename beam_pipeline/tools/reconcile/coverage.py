"""The offsets that a tree of files holds, read from rows and lines, not from footers.

Offsets are bitmaps and files are read piece by piece, so memory hardly grows with the rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from functools import partial

from pyroaring import BitMap64

from beam_pipeline.files.contents import PieceOfFile, UnreadableFile, claimed_by, file_offsets
from beam_pipeline.files.footer import FileFooter
from beam_pipeline.files.names import PARQUET_SUFFIX, OutputFile
from beam_pipeline.files.reading import read_each
from beam_pipeline.offset_sets import (
    OffsetArray,
    OffsetSets,
    TopicPartition,
    offset_set,
    repeated,
)
from beam_pipeline.storage.paths import StoredPath

Progress = Callable[[int], object]
"""Called with how many more files were read."""

ReadOffsets = Callable[[StoredPath], Iterable[PieceOfFile]]
"""Yields the offsets that a file holds; raises `UnreadableFile` where it can't be read."""


@dataclass(slots=True)
class Coverage:
    """The offsets that some files hold, by partition.

    Attributes:
        offsets: each offset once.
        doubled: the offsets that occur more than once.
        records: how many rows or lines there are, including repeats.
        last_offsets: the highest offset of a partition in each file, with the file.
    """

    offsets: dict[TopicPartition, BitMap64] = field(default_factory=dict)
    doubled: dict[TopicPartition, BitMap64] = field(default_factory=dict)
    records: Counter[TopicPartition] = field(default_factory=Counter)
    last_offsets: dict[TopicPartition, list[tuple[int, StoredPath]]] = field(
        default_factory=dict, compare=False
    )

    def add(self, partition: TopicPartition, offsets: OffsetArray) -> None:
        """Add the offsets of a file, in any order and with repeats."""
        distinct = offset_set(offsets)
        twice = offset_set(repeated(offsets)) if len(distinct) < offsets.size else BitMap64()
        self._unite(partition, distinct, twice, offsets.size)

    def merge(self, other: Coverage) -> None:
        """Add the offsets of other files."""
        for partition, offsets in other.offsets.items():
            twice = other.doubled.get(partition, BitMap64())
            self._unite(partition, offsets, twice, other.records[partition])

    def _unite(
        self, partition: TopicPartition, offsets: BitMap64, twice: BitMap64, records: int
    ) -> None:
        seen = self.offsets.setdefault(partition, BitMap64())
        twice = twice | (offsets & seen)
        if twice:
            self.doubled.setdefault(partition, BitMap64()).update(twice)
        seen |= offsets
        self.records[partition] += records


@dataclass(frozen=True, slots=True)
class FileProblem:
    """A file that can't be read, or that contradicts its own footer or name."""

    path: StoredPath
    reason: str


@dataclass(frozen=True, slots=True)
class FileOverlap:
    """The offsets of one partition, out of those asked for, that one file holds."""

    path: StoredPath
    partition: TopicPartition
    offsets: BitMap64


def read_coverage(
    paths: Iterable[StoredPath],
    topics: Collection[str],
    progress: Progress = lambda files: None,
    on_file: Callable[[StoredPath, Coverage], object] = lambda path, held: None,
    *,
    offsets_of: ReadOffsets = file_offsets,
    mistake_of: Callable[[StoredPath, Coverage], str | None] | None = None,
) -> tuple[Coverage, list[FileProblem]]:
    """Reads which offsets of some topics the files hold; holds Parquet footers to the rows.

    Args:
        paths: Parquet files and JSON lines files of dead letters.
        topics: the topics to count; rows and lines of others are passed over.
        progress: is told of each file.
        on_file: is given each file and what it holds, of all topics.
        offsets_of: reads a file.
        mistake_of: says what is wrong with a file that holds these offsets; None for nothing. It
            may raise `UnreadableFile`. By default it looks at footer and name.
    """
    total, problems = Coverage(), []
    read_file = partial(_read_file, offsets_of, mistake_of or _directory_mistake)
    for path, read in read_each(paths, read_file):
        own, reason = read()
        if reason is not None:
            problems.append(FileProblem(path, reason))
        on_file(path, own)
        others = [partition for partition in own.offsets if partition.topic not in topics]
        for partition in others:
            del own.offsets[partition]
        for partition, covered in own.offsets.items():
            total.last_offsets.setdefault(partition, []).append((covered.max(), path))
        total.merge(own)
        progress(1)
    return total, problems


def _read_file(
    offsets_of: ReadOffsets,
    mistake_of: Callable[[StoredPath, Coverage], str | None],
    path: StoredPath,
) -> tuple[Coverage, str | None]:
    """Return what a file holds, and its problem: why it can't be read, or what is wrong with it.

    Of a file that can't be read to its end, what was read counts.
    """
    own = Coverage()
    try:
        for partition, offsets in offsets_of(path):
            own.add(partition, offsets)
        return own, mistake_of(path, own)
    except UnreadableFile as error:
        return own, str(error)


def find_overlaps(
    paths: Iterable[StoredPath],
    wanted: OffsetSets,
    progress: Progress = lambda files: None,
    offsets_of: ReadOffsets = file_offsets,
) -> list[FileOverlap]:
    """Read all files again, and return those that hold any of the wanted offsets.

    Files that can't be read are left out; `read_coverage` reports them.
    """
    overlaps: list[FileOverlap] = []
    for path, read in read_each(paths, partial(_held_in, offsets_of, wanted)):
        held = read()
        overlaps.extend(
            FileOverlap(path, partition, offsets)
            for partition, offsets in sorted(held.items())
            if offsets
        )
        progress(1)
    return overlaps


def _held_in(
    offsets_of: ReadOffsets, wanted: OffsetSets, path: StoredPath
) -> dict[TopicPartition, BitMap64]:
    held: dict[TopicPartition, BitMap64] = {}
    try:
        for partition, offsets in offsets_of(path):
            if partition in wanted:
                common = offset_set(offsets) & wanted[partition]
                held.setdefault(partition, BitMap64()).update(common)
    except UnreadableFile:
        return {}
    return held


def _directory_mistake(path: StoredPath, held: Coverage) -> str | None:
    """Return how a Parquet file's footer or name differs from its rows; None if they agree."""
    if path.suffix != PARQUET_SUFFIX:
        return None
    footer = claimed_by(path)
    if mistake := footer_mistake(footer, held):
        return mistake
    named = OutputFile.parse(path)
    if named is None or _identity(named) != _identity(footer):
        return "the file's name does not agree with its footer"
    return None


def footer_mistake(footer: FileFooter, rows: Coverage) -> str | None:
    """Return how a footer differs from the rows of its file; None if they agree."""
    if footer.rows != rows.records.total():
        return f"footer says {footer.rows} rows, the file has {rows.records.total()}"
    claimed = footer.offset_sets()
    for partition in sorted(claimed.keys() | rows.offsets.keys()):
        wrong = claimed.get(partition, BitMap64()) ^ rows.offsets.get(partition, BitMap64())
        if wrong:
            return (
                f"footer and rows differ in {len(wrong)} offsets of {partition}, first {wrong[0]}"
            )
    return None


def _identity(file: OutputFile | FileFooter) -> tuple[object, ...]:
    return (
        file.topic,
        file.window_start,
        file.window_end,
        file.shard,
        file.epoch,
        file.pane,
    )
