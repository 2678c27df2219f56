"""Statistics of Parquet columns, from the footers of files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_EITHER = " or "


@dataclass(slots=True)
class ColumnStatistics:
    """The statistics of one leaf column, summed over row groups.

    Attributes:
        type: the Arrow type; several, joined by "or", if files differ.
        values: how many values there are; nulls count, and each item of a list.
        nulls: how many are null; None if a row group does not say, and inside lists.
        smallest, largest: the range; None if no row group has one.
        stored_bytes: the compressed size.
        is_range_partial: whether a row group with values has no range, such as one of texts beyond
            4 kB.
    """

    type: str
    values: int = 0
    nulls: int | None = 0
    smallest: Any = None
    largest: Any = None
    stored_bytes: int = 0
    is_range_partial: bool = False

    def add(self, other: ColumnStatistics) -> None:
        """Add the statistics of the same column in another file; differing types have no range."""
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


def chunks_of(metadata: pq.FileMetaData) -> list[pq.ColumnChunkMetaData]:
    """Return the column chunks of all row groups."""
    return [
        metadata.row_group(group).column(column)
        for group in range(metadata.num_row_groups)
        for column in range(metadata.num_columns)
    ]


def column_statistics(metadata: pq.FileMetaData) -> dict[str, ColumnStatistics]:
    """Return the statistics of each leaf column, by its path, in the file's order.

    Paths look like `purchase.items[].sku` and `labels{value}`.
    """
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
    for chunk in chunks_of(metadata):
        column = columns[_readable(chunk.path_in_schema)]
        statistics = chunk.statistics
        nulls = statistics.null_count if statistics and statistics.has_null_count else None
        smallest, largest = _range(statistics)
        column.add(
            ColumnStatistics(
                column.type,
                chunk.num_values,
                # Arrow 23 counts missing lists as nulls of the texts in them, but not of numbers.
                None if chunk.path_in_schema in in_lists else nulls,
                smallest,
                largest,
                chunk.total_compressed_size,
                smallest is None and _has_unstated_range(chunk),
            )
        )
    return columns


def _has_unstated_range(chunk: pq.ColumnChunkMetaData) -> bool:
    """Return whether a chunk without a range has values other than null."""
    statistics = chunk.statistics
    if statistics is None or statistics.has_min_max:
        return True
    # Only values of variable length can be too long for the statistics.
    return chunk.physical_type == "BYTE_ARRAY" and not (
        statistics.has_null_count and statistics.null_count == chunk.num_values
    )


def _range(statistics: pq.Statistics | None) -> tuple[Any, Any]:
    if statistics is None or not statistics.has_min_max:
        return None, None
    try:
        return statistics.min, statistics.max
    except (NotImplementedError, OverflowError, ValueError):  # a year that Python does not have
        return None, None


def _leaves(data_type: pa.DataType) -> Iterator[pa.DataType]:
    """Yield the leaf types of a column, in the order in which Parquet stores them."""
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
