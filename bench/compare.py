"""Compares two outputs: every row and every dead letter must be in both, exactly once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beam_pipeline.files.names import OutputFile

WINDOW_COLUMN = "window_start"
"""Start of a row's window in seconds since 1970: from the file's name, or a column of the file."""

_PLACE_COLUMNS = ["kafka_partition", "kafka_offset"]

MAX_TOLD = 3
"""How many offsets or values a difference names."""


class LetterContent(NamedTuple):
    """The fields of a dead letter that must be equal in both outputs."""

    code: str
    value_b64: str | None


Letters = Mapping[int, list[LetterContent]]
"""Dead letters by offset; more than one for an offset is a repeat."""


@dataclass(frozen=True, slots=True)
class PartitionOutput:
    """The content of one partition in an output: rows sorted by offset, and dead letters."""

    rows: pa.Table
    letters: Letters


@dataclass(frozen=True, slots=True)
class OutputReader:
    """Reads an output one partition at a time, so only a partition must fit in memory.

    Rows are cast to `schema`. Further columns, the order of columns and struct fields, dictionary
    encoding, and types that a safe cast converts are not differences.
    """

    schema: pa.Schema
    output_dir: Path
    dead_letter_dir: Path

    def read(self, partition: int) -> PartitionOutput:
        """Return the rows and dead letters of a partition.

        Raises:
            KeyError: a file lacks a column.
            pa.ArrowInvalid: a column can't be cast.
        """
        tables = [
            self._read_file(path, partition) for path in visible_files(self.output_dir, ".parquet")
        ]
        if not tables:
            nothing = self.schema.append(pa.field(WINDOW_COLUMN, pa.int64())).empty_table()
            return PartitionOutput(nothing, self._letters(partition))
        rows = pa.concat_tables(tables)
        order = pc.sort_indices(rows, sort_keys=[("kafka_offset", "ascending")])
        return PartitionOutput(rows.take(order), self._letters(partition))

    def _read_file(self, path: Path, partition: int) -> pa.Table:
        with pq.ParquetFile(path) as file:
            table = file.read()
        table = table.filter(pc.equal(table.column("kafka_partition"), partition))
        columns = {
            column.name: conform(table, column.with_type(without_dictionaries(column.type)))
            for column in self.schema
        }
        named = OutputFile.parse(path)
        if named is None:
            columns[WINDOW_COLUMN] = conform(table, pa.field(WINDOW_COLUMN, pa.int64()))
        else:
            start = int(named.window_start.timestamp())
            columns[WINDOW_COLUMN] = pa.array([start] * table.num_rows, pa.int64())
        return pa.table(columns)

    def _letters(self, partition: int) -> Letters:
        letters: dict[int, list[LetterContent]] = {}
        for path in visible_files(self.dead_letter_dir, ".jsonl"):
            with path.open("rb") as lines:
                for its_partition, offset, letter in letters_of(lines):
                    if its_partition == partition:
                        letters.setdefault(offset, []).append(letter)
        return letters


def letters_of(lines: Iterable[bytes]) -> Iterator[tuple[int, int, LetterContent]]:
    """Yield (partition, offset, letter) of each line. Quix Streams nests it in `_value`."""
    for line in lines:
        letter = json.loads(line)
        letter = letter.get("_value", letter)
        content = LetterContent(letter["error"]["code"], letter["value_b64"])
        yield letter["source"]["partition"], letter["source"]["offset"], content


def visible_files(root: Path, suffix: str) -> list[Path]:
    """Return the finished files below `root`, without hidden names and directories."""
    return sorted(
        path
        for path in root.rglob(f"*{suffix}")
        if not any(part.startswith(("_", ".")) for part in path.relative_to(root).parts)
    )


def without_dictionaries(target: pa.DataType) -> pa.DataType:
    """Return `target` without dictionary encoding.

    Arrow does not treat equal values with different indices as equal.
    """
    if pa.types.is_dictionary(target):
        return target.value_type
    if pa.types.is_list(target):
        return pa.list_(target.value_field.with_type(without_dictionaries(target.value_type)))
    if pa.types.is_struct(target):
        return pa.struct([child.with_type(without_dictionaries(child.type)) for child in target])
    return target


def conform(table: pa.Table, target: pa.Field) -> pa.Array:
    """Return the column `target.name` of `table` in `target`'s type; struct fields go by name.

    Raises:
        KeyError: the column is missing.
        pa.ArrowInvalid: the column can't be cast.
    """
    if target.name not in table.schema.names:
        raise KeyError(f"no column {target.name}")
    column = table.column(target.name).combine_chunks()
    if isinstance(column, pa.ChunkedArray):  # for no chunk, or too large ones
        column = pa.concat_arrays(column.chunks) if column.chunks else pa.array([], column.type)
    return _conform(column, target.type)


def _conform(array: pa.Array, target: pa.DataType) -> pa.Array:
    if array.type.equals(target) or not pa.types.is_nested(target):
        return pc.cast(array, target)
    if pa.types.is_null(array.type):
        return pa.nulls(len(array), target)
    if pa.types.is_list(target):
        items = _conform(array.values, target.value_type)
        return pa.ListArray.from_arrays(array.offsets, items, type=target, mask=array.is_null())
    names = {array.type.field(position).name for position in range(array.type.num_fields)}
    children = [
        _conform(pc.struct_field(array, [child.name]), child.type)
        if child.name in names
        else pa.nulls(len(array), child.type)
        for child in target
    ]
    return pa.StructArray.from_arrays(children, fields=list(target), mask=array.is_null())


class Coverage:
    """Counts how often each offset of a topic is in an output, in two bytes per offset.

    Args:
        ends: the end offset of each partition; the first offset is 0.

    Attributes:
        letters: how many dead letters there are.
    """

    def __init__(self, ends: Mapping[int, int]) -> None:
        self.letters = 0
        self._counts = {partition: np.zeros(end, np.uint16) for partition, end in ends.items()}
        self._beyond: dict[int, list[int]] = {}

    def read(self, output_dir: Path, dead_letter_dir: Path) -> None:
        """Count the rows and dead letters of an output."""
        for path in visible_files(output_dir, ".parquet"):
            with pq.ParquetFile(path) as file:
                for group in range(file.num_row_groups):
                    self._count_rows(file.read_row_group(group, _PLACE_COLUMNS))
        for path in visible_files(dead_letter_dir, ".jsonl"):
            with path.open("rb") as lines:
                for partition, offset, _ in letters_of(lines):
                    self.letters += 1
                    self._count(partition, np.array([offset]))

    def faults(self) -> list[str]:
        """Return in words why the output does not hold each offset once."""
        faults = []
        for partition in sorted({*self._counts, *self._beyond}):
            counts = self._counts.get(partition, np.zeros(0, np.uint16))
            wrong = [
                *_told("nowhere", np.flatnonzero(counts == 0).tolist()),
                *_told("in more than one place", np.flatnonzero(counts > 1).tolist()),
                *_told("not in the topic", sorted(self._beyond.get(partition, []))),
            ]
            if wrong:
                faults.append(f"partition {partition}: {', '.join(wrong)}")
        return faults

    def _count_rows(self, rows: pa.Table) -> None:
        partitions, offsets = (rows.column(name).to_numpy() for name in _PLACE_COLUMNS)
        for partition in np.unique(partitions).tolist():
            self._count(partition, offsets[partitions == partition])

    def _count(self, partition: int, offsets: np.ndarray) -> None:
        counts = self._counts.get(partition, np.zeros(0, np.uint16))
        known = (offsets >= 0) & (offsets < counts.size)
        np.add.at(counts, offsets[known], 1)
        if not known.all():
            self._beyond.setdefault(partition, []).extend(offsets[~known].tolist())


def differences(ours: PartitionOutput, theirs: PartitionOutput) -> list[str]:
    """Return the differences in words; empty if both have the same rows and dead letters."""
    return [*_row_differences(ours.rows, theirs.rows), *_letter_differences(ours, theirs)]


def _row_differences(ours: pa.Table, theirs: pa.Table) -> list[str]:
    our_offsets, their_offsets = (
        table.column("kafka_offset").to_numpy() for table in (ours, theirs)
    )
    found, counts = np.unique(their_offsets, return_counts=True)
    wrong = [
        *_told("rows lost:", np.setdiff1d(our_offsets, found).tolist()),
        *_told("rows that ours has not:", np.setdiff1d(found, our_offsets).tolist()),
        *_told("rows doubled:", found[counts > 1].tolist()),
    ]
    if wrong:
        return wrong
    for name in ours.schema.names:
        row = _first_difference(ours.column(name), theirs.column(name))
        if row is not None:
            values = [table.column(name)[row].as_py() for table in (ours, theirs)]
            wrong.append(
                f"{name} differs first at offset {our_offsets[row]}: "
                f"{values[0]!r} in ours, {values[1]!r} in theirs"
            )
    return wrong


def _first_difference(ours: pa.ChunkedArray, theirs: pa.ChunkedArray) -> int | None:
    """Return the first row where two columns of the same length and type differ."""
    if ours.equals(theirs):
        return None
    start, length = 0, len(ours)
    while length > 1:  # the first difference is among the `length` rows from `start`
        half = length // 2
        if ours.slice(start, half).equals(theirs.slice(start, half)):
            start, length = start + half, length - half
        else:
            length = half
    return start


def _letter_differences(ours: PartitionOutput, theirs: PartitionOutput) -> list[str]:
    lost = sorted(offset for offset in ours.letters if offset not in theirs.letters)
    more = sorted(offset for offset in theirs.letters if offset not in ours.letters)
    doubled = sorted(offset for offset, letters in theirs.letters.items() if len(letters) > 1)
    wrong = [
        *_told("dead letters lost:", lost),
        *_told("dead letters that ours has not:", more),
        *_told("dead letters doubled:", doubled),
    ]
    for field in LetterContent._fields:
        changed = [
            offset
            for offset, letters in ours.letters.items()
            if offset in theirs.letters
            and getattr(letters[0], field) != getattr(theirs.letters[offset][0], field)
        ]
        wrong += _told(f"dead letters with another {field}:", sorted(changed))
    return wrong


def _told(what: str, offsets: list[Any]) -> list[str]:
    if not offsets:
        return []
    named = ", ".join(map(str, offsets[:MAX_TOLD])) + (", …" if len(offsets) > MAX_TOLD else "")
    return [f"{what} {len(offsets)} (offset {named})"]
