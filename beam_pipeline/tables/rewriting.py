"""Writes files of a table anew: several as one, or one without some of its rows.

Rows, their order and their types stay. A column that one of several files lacks is null there.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyiceberg.io import FileIO

from beam_pipeline.covered_offsets import CoveredOffsets
from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.files.footer import (
    FOOTER_KEY,
    FileFooter,
    FooterError,
    LastRecords,
    footer_of,
    merge_last_records,
)
from beam_pipeline.files.names import PARQUET_SUFFIX, OutputFile
from beam_pipeline.files.row_groups import row_groups
from beam_pipeline.offset_sets import TopicPartition, offset_set, ranges
from beam_pipeline.tables.plan import LandedFile

ROW_GROUP_BYTES = 64 * 1024 * 1024
_ROWS_AT_A_TIME = 65_536
_NAME_LENGTH = 200

T = TypeVar("T")


class OriginColumns(NamedTuple):
    """The columns that tell where the rows of a table are from."""

    topic: str
    partition: str
    offset: str


ORIGIN_OF_ROWS = OriginColumns("kafka_topic", "kafka_partition", "kafka_offset")
ORIGIN_OF_LETTERS = OriginColumns("topic", "partition", "offset")


class RewriteError(EnvironmentFailure):
    """Files can't be written anew; the table has them as they are."""


@dataclass(frozen=True)
class Rewrite:
    """What is written.

    Attributes:
        sources: the URIs of the files, in the order of their rows.
        target: the name, with the window of all sources.
        keep: the offsets whose rows are written.
        directory: the URI of the directory of the new file.
        origin: the columns that tell where rows are from.
    """

    sources: Sequence[str]
    target: OutputFile
    keep: CoveredOffsets
    directory: str
    origin: OriginColumns


def rewrite(work: Rewrite, files: FileIO) -> Generator[None, None, LandedFile]:
    """Write the file durably, and return it; yield after each file that was opened or row group.

    Memory holds one row group. Closing the generator early removes what was written.

    Raises:
        RewriteError: a file can't be read, or its rows are not those that its footer tells.
        OSError: the new file can't be written.
    """
    sources = _Sources()
    try:
        for uri in work.sources:
            sources.add(uri, files)
            yield
        schema = sources.schema()
        target = work.target
        stem = target.name.removesuffix(target.suffix)[:_NAME_LENGTH]
        name = f"{stem}-{uuid.uuid4().hex}{PARQUET_SUFFIX}"
        uri = f"{work.directory}/{target.window_start:%Y-%m-%d}/{name}"
        is_done = False
        try:
            yield from _write(work, sources, schema, uri, files)
            is_done = True
        finally:
            if not is_done:
                with contextlib.suppress(OSError):
                    files.delete(uri)
    except (pa.ArrowException, FooterError) as error:
        reason = " ".join(str(error).split())
        raise RewriteError(f"{work.sources[0]} and others can't be merged: {reason}") from None
    window = target.window_start, target.window_end
    rows = work.keep.count
    return LandedFile(uri, target.name, target.epoch, work.keep, window, rows, is_rewritten=True)


def finished(steps: Generator[None, None, T]) -> T:
    """Run a generator to its end; return what it returns."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            value: T = end.value
            return value


@dataclass
class _Sources:
    """What the footers of the sources tell."""

    uris: list[str] = field(default_factory=list)
    schemas: list[pa.Schema] = field(default_factory=list)
    footers: list[FileFooter] = field(default_factory=list)
    codec: str = "zstd"

    def add(self, uri: str, files: FileIO) -> None:
        with files.new_input(uri).open() as stream:
            metadata = pq.read_metadata(stream)
        if not self.uris and metadata.num_row_groups and metadata.num_columns:
            codec = metadata.row_group(0).column(0).compression.lower()
            self.codec = "none" if codec == "uncompressed" else codec
        self.footers.append(footer_of(metadata.metadata or {}))
        self.schemas.append(_plain_schema(metadata.schema.to_arrow_schema()))
        self.uris.append(uri)

    def schema(self) -> pa.Schema:
        """Return the columns of all sources, in the order in which they come up."""
        return pa.unify_schemas(self.schemas, promote_options="permissive")

    def batches(self, schema: pa.Schema, files: FileIO) -> Iterator[pa.RecordBatch]:
        for uri in self.uris:
            with files.new_input(uri).open() as stream, pq.ParquetFile(stream) as file:
                for batch in file.iter_batches(_ROWS_AT_A_TIME, use_threads=False):
                    yield _to_schema(batch, schema)

    def last_records(self) -> LastRecords:
        topics = sorted({topic for footer in self.footers for topic in footer.last_records})
        return {
            topic: merge_last_records(footer.last_records.get(topic, {}) for footer in self.footers)
            for topic in topics
        }


def _write(
    work: Rewrite, sources: _Sources, schema: pa.Schema, uri: str, files: FileIO
) -> Iterator[None]:
    together = CoveredOffsets()
    for footer in sources.footers:
        for key, offsets in footer.offset_sets().items():
            together.add(*key, offsets)
    is_cut = not work.keep.includes(together)
    seen = _Seen(work.origin)
    batches = sources.batches(schema, files)
    if is_cut:
        batches = (_kept_rows(batch, work) for batch in batches)
    with (
        files.new_output(uri).create() as stream,
        pq.ParquetWriter(stream, schema, compression=sources.codec, store_schema=False) as writer,
    ):
        for table in row_groups(batches, schema, ROW_GROUP_BYTES):
            for batch in table.to_batches():
                seen.add(batch)
            writer.write_table(table, row_group_size=max(1, table.num_rows))
            yield
        last_records = {} if is_cut else sources.last_records()
        footer = _footer(work, sources.footers[-1], last_records)
        writer.add_key_value_metadata({FOOTER_KEY: footer.to_json()})
    if not seen.are(work.keep):
        raise RewriteError(
            f"{work.sources[0]} and others: footers and rows differ in what they hold; see "
            "reconcile"
        )


def _footer(work: Rewrite, newest: FileFooter, last_records: LastRecords) -> FileFooter:
    target = work.target
    offsets: dict[str, dict[int, list[tuple[int, int]]]] = {}
    for key in work.keep.partitions():
        offsets.setdefault(key.topic, {})[key.partition] = list(ranges(work.keep.of(key)))
    return FileFooter(
        topic=target.topic,
        window_start=target.window_start,
        window_end=target.window_end,
        shard=target.shard,
        epoch=target.epoch,
        pane=target.pane,
        rows=work.keep.count,
        schema_id=newest.schema_id,
        schema_sha256=newest.schema_sha256,
        offsets=offsets,
        last_records=last_records,
        nonce=uuid.uuid4().hex,
        is_rewritten=True,
    )


@dataclass
class _Seen:
    """The offsets of rows, and how many rows there were."""

    origin: OriginColumns
    offsets: CoveredOffsets = field(default_factory=CoveredOffsets)
    rows: int = 0

    def add(self, batch: pa.RecordBatch) -> None:
        self.rows += batch.num_rows
        for key, rows in _rows_by_partition(batch, self.origin):
            self.offsets.add(*key, offset_set(_integers(batch, self.origin.offset)[rows]))

    def are(self, expected: CoveredOffsets) -> bool:
        """Return whether there was one row of each expected offset, and no other."""
        return self.rows == expected.count == self.offsets.count and self.offsets.includes(expected)


def _rows_by_partition(
    batch: pa.RecordBatch, origin: OriginColumns
) -> Iterator[tuple[TopicPartition, npt.NDArray[np.bool_]]]:
    """Yield each partition that rows of a batch are from, and a mask of its rows."""
    partitions = _integers(batch, origin.partition)
    topics = batch.column(origin.topic)
    for topic in pc.unique(topics).to_pylist():
        is_of_topic = np.asarray(pc.equal(topics, topic).to_numpy(zero_copy_only=False), bool)
        for partition in np.unique(partitions[is_of_topic]).tolist():
            yield TopicPartition(topic, partition), is_of_topic & (partitions == partition)


def _kept_rows(batch: pa.RecordBatch, work: Rewrite) -> pa.RecordBatch:
    offsets = _integers(batch, work.origin.offset)
    keep = np.zeros(batch.num_rows, bool)
    for key, rows in _rows_by_partition(batch, work.origin):
        kept = work.keep.of(key)
        keep[rows] = [offset in kept for offset in offsets[rows].tolist()]
    return batch.filter(pa.array(keep))


def _integers(batch: pa.RecordBatch, name: str) -> npt.NDArray[np.int64]:
    return np.asarray(batch.column(name).to_numpy(zero_copy_only=False), np.int64)


def _to_schema(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    names = set(batch.schema.names)
    columns = [
        _cast(batch.column(column.name), column.type)
        if column.name in names
        else pa.nulls(batch.num_rows, column.type)
        for column in schema
    ]
    return pa.record_batch(columns, schema=schema)


def _cast(values: pa.Array, wanted: pa.DataType) -> pa.Array:
    return values if values.type == wanted else values.cast(wanted)


def _plain_schema(schema: pa.Schema) -> pa.Schema:
    """Return a schema as files without an Arrow schema inside have it: without dictionaries."""
    metadata: Mapping[Any, Any] | None = None
    return pa.schema([column.with_type(_plain(column.type)) for column in schema], metadata)


def _plain(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_struct(kind):
        return pa.struct([child.with_type(_plain(child.type)) for child in kind])
    if pa.types.is_map(kind):
        return pa.map_(
            kind.key_field.with_type(_plain(kind.key_type)),
            kind.item_field.with_type(_plain(kind.item_type)),
        )
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_plain(kind.value_type)))
    return kind
