"""Inspects output files: names, footers and statistics of Parquet, lines of dead letters."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime

import pyarrow as pa
from pyroaring import BitMap64

from beam_pipeline.errors import UsageError
from beam_pipeline.files.contents import UnreadableFile, file_offsets
from beam_pipeline.files.footer import FileFooter, FooterError, footer_of, read_metadata
from beam_pipeline.files.left_out import LeftOutRange, load_left_out
from beam_pipeline.files.names import JSON_LINES_SUFFIX, PARQUET_SUFFIX, OutputFile
from beam_pipeline.files.reading import read_each
from beam_pipeline.files.tree import json_lines, visible_files
from beam_pipeline.offset_sets import TopicPartition, offset_set
from beam_pipeline.storage.paths import StoredPath
from beam_pipeline.storage.protocol import StorageAwayError
from beam_pipeline.tools.inspect.statistics import (
    ColumnStatistics,
    chunks_of,
    column_statistics,
)


@dataclass(slots=True)
class FileInspection:
    """One file.

    Attributes:
        name: the parsed name; None if no pipeline wrote a file of this name.
        footer: the footer; None if there is none, and for dead letters.
        offsets: the offsets from the footer, or from the lines of dead letters.
    """

    path: StoredPath
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
    """The sums over all files below a directory.

    `damaged` are the unreadable ones, with why; `left_out` is what runs have left out on purpose.
    """

    root: StoredPath
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
    damaged: list[tuple[StoredPath, str]] = field(default_factory=list)
    left_out: tuple[LeftOutRange, ...] = ()

    def add(self, file: FileInspection) -> None:
        """Add one file."""
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


def inspect_file(path: StoredPath) -> FileInspection:
    """Return what a Parquet file's footer or a dead-letter file's lines contain.

    Raises:
        UnreadableFile: the file is neither, or is damaged.
        StorageAwayError: the object store does not answer.
    """
    try:
        if path.suffix == PARQUET_SUFFIX:
            return _parquet(path)
        if path.suffix == JSON_LINES_SUFFIX:
            return _letters(path)
    except StorageAwayError:
        raise
    except (OSError, pa.ArrowException, ValueError) as error:
        raise UnreadableFile(" ".join(str(error).split())) from None
    raise UnreadableFile(f"is neither {PARQUET_SUFFIX} nor {JSON_LINES_SUFFIX}")


def inspect_tree(root: StoredPath) -> TreeInspection:
    """Inspect all files below `root`, and return the sums.

    Raises:
        UsageError: the directory does not exist, or has no such file.
        EnvironmentFailure: the note of what is left out can't be read.
    """
    tree = TreeInspection(root, left_out=load_left_out(root).note.ranges)
    paths = [
        path
        for suffix in (PARQUET_SUFFIX, JSON_LINES_SUFFIX)
        for path in visible_files(root, suffix, "PATH")
    ]
    if not paths:
        raise UsageError(f"PATH={root} holds no {PARQUET_SUFFIX} and no {JSON_LINES_SUFFIX} file")
    for path, inspect in read_each(paths, inspect_file):
        try:
            tree.add(inspect())
        except UnreadableFile as error:
            tree.damaged.append((path, str(error)))
    return tree


def _parquet(path: StoredPath) -> FileInspection:
    metadata = read_metadata(path)
    try:
        footer = footer_of(metadata.metadata or {})
    except FooterError:
        footer = None
    return FileInspection(
        path=path,
        name=OutputFile.parse(path),
        size_bytes=path.stat().st_size,
        rows=metadata.num_rows,
        footer=footer,
        offsets=footer.offset_sets() if footer else {},
        created_by=metadata.created_by,
        codecs=tuple(sorted({chunk.compression.lower() for chunk in chunks_of(metadata)})),
        row_groups=metadata.num_row_groups,
        columns=column_statistics(metadata),
    )


def _letters(path: StoredPath) -> FileInspection:
    inspection = FileInspection(path, OutputFile.parse(path), path.stat().st_size, 0)
    for partition, offsets in file_offsets(path):
        inspection.offsets.setdefault(partition, BitMap64()).update(offset_set(offsets))
    for letter in json_lines(path):
        inspection.rows += 1
        error = letter.get("error")
        code = error.get("code") if isinstance(error, dict) else None
        inspection.dead_by_code[str(code)] += 1
    return inspection
