"""Reads what one topic has in the output directories."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.files.footer import read_metadata
from beam_pipeline.files.names import PARQUET_SUFFIX, OutputFile
from beam_pipeline.files.reading import read_each
from beam_pipeline.files.tree import visible_files
from beam_pipeline.storage.paths import StoredPath, open_for_arrow
from beam_pipeline.tools.dlq.letters import Letter, letter_files, read_letters

SAMPLE_ROWS = 5


@dataclass(frozen=True, slots=True)
class FileSummary:
    """One Parquet file. Its window, shard and pane are in `name`."""

    path: StoredPath
    name: OutputFile
    rows: int
    size_bytes: int


@dataclass(slots=True)
class Summary:
    """The files of one topic.

    Attributes:
        files: the Parquet files, in the order of their windows.
        sample: the first rows of the last file with rows, as column name to value.
        dead_by_code: how many dead letters there are, by error code.
        examples: the first dead letter of each code.
    """

    files: list[FileSummary] = field(default_factory=list)
    sample: list[dict[str, Any]] = field(default_factory=list)
    dead_by_code: Counter[str] = field(default_factory=Counter)
    examples: dict[str, Letter] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """How many rows the Parquet files hold."""
        return sum(file.rows for file in self.files)

    @property
    def dead_letters(self) -> int:
        """How many dead letters there are."""
        return self.dead_by_code.total()


def summarise(output_dir: StoredPath, dead_letter_dir: StoredPath, topic: str) -> Summary:
    """Read the footers of a topic's Parquet files, a few rows, and its dead letters.

    Raises:
        UsageError: a directory is missing.
        EnvironmentFailure: a file can't be read.
    """
    summary = Summary()
    names = {
        path: name
        for path in visible_files(output_dir, PARQUET_SUFFIX, "--output_dir")
        if (name := OutputFile.parse(path)) is not None and name.topic == topic
    }
    for path, row_count in read_each(names, _row_count):
        size_bytes = path.stat().st_size
        summary.files.append(FileSummary(path, names[path], row_count(), size_bytes))
    summary.files.sort(key=lambda file: file.name)
    with_rows = [file for file in summary.files if file.rows]
    if with_rows:
        summary.sample = _first_rows(with_rows[-1].path)
    for letter in read_letters(_letter_files_of(dead_letter_dir, topic)):
        if letter.topic == topic:
            summary.dead_by_code[letter.code] += 1
            summary.examples.setdefault(letter.code, letter)
    return summary


def _letter_files_of(dead_letter_dir: StoredPath, topic: str) -> list[StoredPath]:
    named = [(path, OutputFile.parse(path)) for path in letter_files(dead_letter_dir)]
    return [path for path, name in named if name is not None and name.topic == topic]


def _row_count(path: StoredPath) -> int:
    try:
        rows: int = read_metadata(path).num_rows
    except (OSError, pa.ArrowException) as error:
        raise EnvironmentFailure(f"Parquet file {path} can't be read: {error}") from error
    return rows


def _first_rows(path: StoredPath) -> list[dict[str, Any]]:
    with pq.ParquetFile(open_for_arrow(path)) as file:
        for batch in file.iter_batches(SAMPLE_ROWS):
            rows: list[dict[str, Any]] = batch.slice(0, SAMPLE_ROWS).to_pylist()
            return rows
    return []
