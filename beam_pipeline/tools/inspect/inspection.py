"""What an output file, or a tree of them, says of itself: footers and statistics, no data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyroaring import BitMap64

from beam_pipeline.errors import UsageError
from beam_pipeline.files.contents import UnreadableFile, file_offsets
from beam_pipeline.files.footer import FileFooter, FooterError, footer_of
from beam_pipeline.files.names import JSON_LINES_SUFFIX, PARQUET_SUFFIX, OutputFile
from beam_pipeline.files.tree import json_lines, visible_files
from beam_pipeline.offset_sets import TopicPartition, from_ranges, offset_set

_EITHER = " or "


@dataclass(slots=True)
class ColumnStatistics:
    """One leaf column, from the statistics that Parquet keeps per row group.

    `nulls` is None where a row group does not say, and inside lists; `smallest` and `largest` where
    none says, and `is_range_partial` where not each one with values does, such as of texts beyond
    4 kB. `values` counts nulls, and for a list each of its items.
    """

    type: str
    values: int = 0
    nulls: int | None = 0
    smallest: Any = None
    largest: Any = None
    stored_bytes: int = 0
    is_range_partial: bool = False

    def add(self, other: ColumnStatistics) -> None:
        """Adds those of the same column elsewhere; a range whose types differ is given up."""
        self.values += other.values
        self.stored_bytes += other.stored_bytes
        self.is_range_partial |= other.is_range_partial
        self.nulls = None if self.nulls is None or other.nulls is None else self.nulls + other.nulls
        if other.type not in self.type.split(_EITHER):
            self.type += f"{_EITHER}{other.type}"
        if _EITHER in self.type:
            self.smallest = self.largest = None
        elif other.smallest is not None:
            known = self.smallest is not None
            self.smallest = min(self.smallest, other.smallest) if known else other.smallest
            self.largest = max(self.largest, other.largest) if known else other.largest


@dataclass(slots=True)
class FileInspection:
    """One file. `name` is None where no pipeline gave it, `footer` where a Parquet file has none
    and for dead letters, whose offsets are read from their lines."""

    path: Path
    name: OutputFile | None
    size_bytes: int
    rows: int
    footer: FileFooter | None = None
    offsets: dict[TopicPartition, BitMap64] = field(default_factory=dict)
    created_by: str | None = None
    codecs: tuple[str, ...] = ()
    row_groups: int = 0
    columns: dict[str, ColumnStatistics] = field(default_factory=dict)
    dead_by_code: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class TreeInspection:
    """All files below a directory; `damaged` are those that can't be read, with the reason."""

    root: Path
    files: int = 0
    rows: int = 0
    size_bytes: int = 0
    sizes: list[int] = field(default_factory=list)
    windows: dict[str, tuple[datetime, datetime]] = field(default_factory=dict)
    epochs: set[str] = field(default_factory=set)
    schemas: Counter[tuple[str | None, str]] = field(default_factory=Counter)
    offsets: dict[TopicPartition, BitMap64] = field(default_factory=dict)
    columns: dict[str, ColumnStatistics] = field(default_factory=dict)
    dead_by_code: Counter[str] = field(default_factory=Counter)
    damaged: list[tuple[Path, str]] = field(default_factory=list)

    def add(self, file: FileInspection) -> None:
        """Adds one file."""
        self.files += 1
        self.rows += file.rows
        self.size_bytes += file.size_bytes
        self.sizes.append(file.size_bytes)
        if file.name is not None:
            start, end = file.name.window_start, file.name.window_end
            first, last = self.windows.get(file.name.topic, (start, end))
            self.windows[file.name.topic] = (min(first, start), max(last, end))
            self.epochs.add(file.name.epoch)
        if file.footer is not None:
            self.schemas[file.footer.schema_id, file.footer.schema_sha256] += 1
        for partition, offsets in file.offsets.items():
            self.offsets.setdefault(partition, BitMap64()).update(offsets)
        for path, column in file.columns.items():
            known = self.columns.get(path)
            if known is None:
                self.columns[path] = column
            else:
                known.add(column)
        self.dead_by_code.update(file.dead_by_code)


def inspect_file(path: Path) -> FileInspection:
    """Reads what one file says of itself: a Parquet file's footer, or a dead-letter file's lines.

    Raises:
      UnreadableFile: it is neither, or is damaged.
    """
    try:
        if path.suffix == PARQUET_SUFFIX:
            return _parquet(path)
        if path.suffix == JSON_LINES_SUFFIX:
            return _letters(path)
    except (OSError, pa.ArrowException, ValueError) as error:
        raise UnreadableFile(" ".join(str(error).split())) from None
    raise UnreadableFile(f"is neither {PARQUET_SUFFIX} nor {JSON_LINES_SUFFIX}")


def inspect_tree(root: Path) -> TreeInspection:
    """Reads what all files below `root` say of themselves.

    Raises:
      UsageError: there is no such directory, or no file in it.
    """
    tree = TreeInspection(root)
    paths = [
        path
        for suffix in (PARQUET_SUFFIX, JSON_LINES_SUFFIX)
        for path in visible_files(root, suffix, "PATH")
    ]
    if not paths:
        raise UsageError(f"PATH={root} holds no {PARQUET_SUFFIX} and no {JSON_LINES_SUFFIX} file")
    for path in paths:
        try:
            tree.add(inspect_file(path))
        except UnreadableFile as error:
            tree.damaged.append((path, str(error)))
    return tree


def _parquet(path: Path) -> FileInspection:
    metadata = pq.read_metadata(path)
    try:
        footer = footer_of(metadata.metadata or {})
    except FooterError:
        footer = None
    chunks = [
        metadata.row_group(group).column(column)
        for group in range(metadata.num_row_groups)
        for column in range(metadata.num_columns)
    ]
    offsets = {
        TopicPartition(topic, partition): from_ranges(listed)
        for topic, partitions in (footer.offsets if footer else {}).items()
        for partition, listed in partitions.items()
    }
    return FileInspection(
        path=path,
        name=OutputFile.parse(path),
        size_bytes=path.stat().st_size,
        rows=metadata.num_rows,
        footer=footer,
        offsets=offsets,
        created_by=metadata.created_by,
        codecs=tuple(sorted({chunk.compression.lower() for chunk in chunks})),
        row_groups=metadata.num_row_groups,
        columns=_columns(metadata, chunks),
    )


def _columns(
    metadata: pq.FileMetaData, chunks: Iterable[pq.ColumnChunkMetaData]
) -> dict[str, ColumnStatistics]:
    """Statistics by leaf path, in the file's order: `purchase.items[].sku`, `labels{value}`."""
    types = [
        f"dictionary of {leaf.value_type}" if pa.types.is_dictionary(leaf) else str(leaf)
        for column in metadata.schema.to_arrow_schema()
        for leaf in _leaves(column.type)
    ]
    columns = {
        _readable(metadata.schema.column(position).path): ColumnStatistics(leaf)
        for position, leaf in enumerate(types)
    }
    in_lists = {
        column.path
        for position in range(metadata.num_columns)
        if (column := metadata.schema.column(position)).max_repetition_level
    }
    for chunk in chunks:
        column = columns[_readable(chunk.path_in_schema)]
        found = chunk.statistics
        nulls = found.null_count if found is not None and found.has_null_count else None
        smallest, largest = _range(found)
        column.add(
            ColumnStatistics(
                column.type,
                chunk.num_values,
                # Arrow 23 counts missing lists as nulls of a text in them, but not of a number.
                None if chunk.path_in_schema in in_lists else nulls,
                smallest,
                largest,
                chunk.total_compressed_size,
                smallest is None and _has_unstated_range(chunk),
            )
        )
    return columns


def _has_unstated_range(chunk: pq.ColumnChunkMetaData) -> bool:
    """Whether there are values in a chunk without a range, not only nulls."""
    found = chunk.statistics
    if found is None or found.has_min_max:
        return True
    # Only what is as long as it likes can be too long for the statistics.
    return chunk.physical_type == "BYTE_ARRAY" and not (
        found.has_null_count and found.null_count == chunk.num_values
    )


def _range(statistics: pq.Statistics | None) -> tuple[Any, Any]:
    if statistics is None or not statistics.has_min_max:
        return None, None
    try:
        return statistics.min, statistics.max
    except (NotImplementedError, OverflowError, ValueError):  # a time that Python has no year for
        return None, None


def _leaves(data_type: pa.DataType) -> Iterator[pa.DataType]:
    """The leaf types below a column, in the order in which Parquet stores them."""
    if pa.types.is_struct(data_type):
        for child in data_type:
            yield from _leaves(child.type)
    elif pa.types.is_map(data_type):
        yield from _leaves(data_type.key_type)
        yield from _leaves(data_type.item_type)
    elif pa.types.is_list(data_type) or pa.types.is_large_list(data_type):
        yield from _leaves(data_type.value_type)
    else:
        yield data_type


def _readable(path: str) -> str:
    for written, shown in (
        (".list.element", "[]"),
        (".key_value.key", "{key}"),
        (".key_value.value", "{value}"),
    ):
        path = path.replace(written, shown)
    return path


def _letters(path: Path) -> FileInspection:
    found = FileInspection(path, OutputFile.parse(path), path.stat().st_size, 0)
    for partition, offsets in file_offsets(path):
        found.offsets.setdefault(partition, BitMap64()).update(offset_set(offsets))
    for letter in json_lines(path):
        found.rows += 1
        error = letter.get("error")
        found.dead_by_code[str(error.get("code") if isinstance(error, dict) else None)] += 1
    return found
