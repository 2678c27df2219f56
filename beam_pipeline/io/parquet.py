"""`WriteToParquet` for streams, with the arguments of Beam's transform of that name."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyroaring import BitMap64

from beam_pipeline.config import PaneTiming, ReadGoal
from beam_pipeline.covered_offsets import CoveredOffsets, without_covered
from beam_pipeline.files.footer import (
    FOOTER_KEY,
    FileFooter,
    OffsetRange,
    merge_last_records,
)
from beam_pipeline.files.names import DEFAULT_PARTITION_KEYS, PARQUET_SUFFIX, OutputFile
from beam_pipeline.files.parts import PartRef
from beam_pipeline.files.row_groups import row_groups
from beam_pipeline.io.shards import cut_by_shard, distinct, offsets_of
from beam_pipeline.io.windowed_files import FileLayout, Piece, Shard, WriteWindowedFiles
from beam_pipeline.offset_sets import ranges
from beam_pipeline.records import ErrorCode, SchemaRef
from beam_pipeline.schemas.contract import RIDE_ALONG_SOURCES, check_partition_keys
from beam_pipeline.storage.config import StorageConfig
from beam_pipeline.transforms.batches import Refusal, apply_or_split, letters_of
from beam_pipeline.transforms.dead_letters import DeadLetters
from beam_pipeline.transforms.outputs import Outputs

STAGE = "write"

# The defaults of Beam's WriteToParquet (2.73).
_BEAM_RECORD_BATCH_SIZE = 1000
_BEAM_MIME_TYPE = "application/x-parquet"

_WITHOUT_MEANING = {
    "record_batch_size": "elements are batches already, and row_group_buffer_size sizes row groups",
    "shard_name_template": "file names are fixed",
    "mime_type": "files are known by their names, and keep no type",
    "triggering_frequency": "`timing` says when panes fire",
}


class WriteToParquet(beam.io.WriteToParquet):
    """PCollection of pa.RecordBatch (or of dicts) in fixed windows to `Outputs` of WrittenFile and
    DeadLetters.

    Takes the arguments of `beam.io.WriteToParquet` in their order. Beam's transform (2.73,
    `parquetio`) buffers rows across windows, shares one file handle among them, and lets a late
    pane overwrite the on-time file. This one writes each pane to a file of its own, as
    `WriteWindowedFiles` says.

    Writes the columns of `schema` and drops others. If batches lack `kafka_key`, `kafka_headers` or
    `kafka_value`, it is made of the ride-along column `_key`, `_headers` or `_value`. A row that
    can't be cast to `schema` becomes a dead letter. If it has no `_value` column, which a dead
    letter needs, the error is raised. The column `kafka_topic` names the file, and
    `kafka_partition` modulo `num_shards` picks the shard; rows without these columns go to
    `default_topic` and shard 0.

    A worker that runs it declines to split stateful bundles from then on (`whole_bundles`).

    Args:
      file_path_prefix: the output directory, or the URL of an object store.
      schema: the columns of the files.
      row_group_buffer_size: about how many bytes a row group has in memory.
      record_batch_size: must be the default; elements are batches already.
      codec: compression of the Parquet files.
      use_deprecated_int96_timestamps: as in pyarrow.
      use_compliant_nested_type: as in pyarrow.
      file_name_suffix: end of the file names.
      num_shards: how many files a window and topic has; 0 is 1.
      shard_name_template: must be None; file names are fixed.
      mime_type: must be the default; files keep no type.
      triggering_frequency: must be None; `timing` says when panes fire.
      epoch: identity of this submission of the job, part of every file name.
      watermark_delay_seconds: how far the windows are shifted (see `Windowing`). None takes what
        the windows say (`transforms.WindowBatches`), or else 0.
      schema_ref: the JSON Schema that judged the rows, for the footer.
      default_topic: first part of the file name for rows without a `kafka_topic`.
      timing: when panes fire besides the one at the window's end.
      partition_keys: the names of day and hour in the names of directories.
      storage_config: how the object store of a URL is reached.
      parts_dir: a directory that all workers share, for the parts of files (see `FileLayout`).
      goal: what the run reads; once it is read, the panes fire.
      store_arrow_schema: whether the files tell Arrow of dictionary columns. pyiceberg can't put
        files with such a column and files without the column into one Arrow table.

    Raises:
      UsageError: a column has the name of a partition key.
      ValueError: the input is in the global window, an argument has no meaning here, or the
        windows are shifted by another delay than `watermark_delay_seconds`.
    """

    def __init__(
        self,
        file_path_prefix: str,
        schema: pa.Schema,
        row_group_buffer_size: int = 64 * 1024 * 1024,
        record_batch_size: int = _BEAM_RECORD_BATCH_SIZE,
        codec: str = "zstd",
        use_deprecated_int96_timestamps: bool = False,
        use_compliant_nested_type: bool = True,
        file_name_suffix: str = PARQUET_SUFFIX,
        num_shards: int = 1,
        shard_name_template: str | None = None,
        mime_type: str = _BEAM_MIME_TYPE,
        triggering_frequency: int | None = None,
        *,
        epoch: str,
        watermark_delay_seconds: int | None = None,
        schema_ref: SchemaRef | None = None,
        default_topic: str = "rows",
        timing: PaneTiming | None = None,
        partition_keys: tuple[str, str] = DEFAULT_PARTITION_KEYS,
        storage_config: StorageConfig | None = None,
        parts_dir: str | None = None,
        goal: ReadGoal | None = None,
        store_arrow_schema: bool = True,
    ) -> None:
        without_meaning = {
            "record_batch_size": record_batch_size != _BEAM_RECORD_BATCH_SIZE,
            "shard_name_template": shard_name_template is not None,
            "mime_type": mime_type != _BEAM_MIME_TYPE,
            "triggering_frequency": triggering_frequency is not None,
        }
        for name, is_given in without_meaning.items():
            if is_given:
                raise ValueError(f"{name} has no meaning here: {_WITHOUT_MEANING[name]}")
        super().__init__(  # type: ignore[no-untyped-call]
            file_path_prefix,
            schema,
            row_group_buffer_size,
            record_batch_size,
            codec,
            use_deprecated_int96_timestamps,
            use_compliant_nested_type,
            file_name_suffix,
            num_shards,
            shard_name_template,
            mime_type,
            triggering_frequency,
        )
        check_partition_keys(schema.names, partition_keys)
        self._timing = timing
        self._goal = goal
        self._layout = FileLayout(
            file_path_prefix,
            epoch,
            watermark_delay_seconds,
            partition_keys=partition_keys,
            storage_config=storage_config or StorageConfig(),
            parts_dir=parts_dir,
        )
        self._format = ParquetFormat(
            schema=schema,
            num_shards=max(1, num_shards),
            schema_ref=schema_ref or SchemaRef(None, ""),
            default_topic=default_topic,
            row_group_bytes=row_group_buffer_size,
            suffix=file_name_suffix,
            writer_options={
                "compression": codec,
                "use_deprecated_int96_timestamps": use_deprecated_int96_timestamps,
                "use_compliant_nested_type": use_compliant_nested_type,
                "store_schema": store_arrow_schema,
            },
        )

    def expand(self, batches: beam.PCollection[Any]) -> Outputs:
        outputs: Outputs = batches | "WriteWindows" >> WriteWindowedFiles(
            self._layout, self._format, "parquet", self._timing, self._goal
        )
        return outputs


@dataclass(frozen=True)
class ParquetFormat:
    """Batches become Arrow IPC parts, parts become one Parquet file."""

    schema: pa.Schema
    num_shards: int
    schema_ref: SchemaRef
    default_topic: str = "rows"
    row_group_bytes: int = 64 * 1024 * 1024
    suffix: str = PARQUET_SUFFIX
    part_suffix: str = ".arrow"
    writer_options: Mapping[str, Any] = field(default_factory=lambda: {"compression": "zstd"})

    def shards_of(
        self, element: pa.RecordBatch | Mapping[str, Any]
    ) -> Iterator[Piece | DeadLetters]:
        """Yield the element's rows with the columns of the schema, cut by topic and shard."""
        if not isinstance(element, pa.RecordBatch):
            element = pa.RecordBatch.from_pylist([dict(element)], schema=self.schema)
        refusals = []
        for result in apply_or_split(element, self._to_schema):
            if isinstance(result, Refusal):
                refusals.append(result)
                continue
            for shard, rows in cut_by_shard(result, self.num_shards, self.default_topic):
                yield Piece(shard, rows, rows.nbytes)
        if refusals and "_value" not in element.schema.names:
            raise refusals[0].error
        if refusals:
            yield letters_of(refusals, element, ErrorCode.ENCODE_ERROR, STAGE, self.schema_ref)

    def write_part(self, path: str, shard: Shard, contents: Sequence[pa.RecordBatch]) -> PartRef:
        """Write one Arrow IPC file with all rows; lz4 makes it a third at little cost."""
        table = pa.Table.from_batches(contents, self.schema)
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with (
            pa.OSFile(path, "wb") as sink,
            pa.ipc.new_file(sink, self.schema, options=options) as writer,
        ):
            writer.write_table(table.combine_chunks())
        oldest_ms = None
        if "kafka_timestamp" in self.schema.names:
            oldest_ms = pc.min(table.column("kafka_timestamp").cast(pa.int64())).as_py()
        return PartRef(
            path,
            shard.topic,
            shard.number,
            table.num_rows,
            offsets_of(table),
            last_records=last_records_of(table),
            oldest_ms=oldest_ms,
        )

    def assemble(
        self, path: str, target: OutputFile, parts: Sequence[PartRef], known: CoveredOffsets
    ) -> int:
        """Write one Parquet file with its footer, a row group at a time; return its row count."""
        batches = _batches_of(parts)
        if not known.is_empty:
            batches = (without_covered(batch, known, target.topic) for batch in batches)
        rows = 0
        with pq.ParquetWriter(path, self.schema, **self.writer_options) as writer:
            for row_group in row_groups(batches, self.schema, self.row_group_bytes):
                rows += row_group.num_rows
                writer.write_table(row_group, row_group_size=row_group.num_rows)
            footer = FileFooter(
                topic=target.topic,
                window_start=target.window_start,
                window_end=target.window_end,
                shard=target.shard,
                epoch=target.epoch,
                pane=target.pane,
                rows=rows,
                schema_id=self.schema_ref.id or "",
                schema_sha256=self.schema_ref.sha256,
                offsets={target.topic: _ranges_outside(target.topic, merge_offsets(parts), known)},
                last_records=_last_records(target.topic, parts),
                nonce=uuid.uuid4().hex,
            )
            writer.add_key_value_metadata({FOOTER_KEY: footer.to_json()})
        return rows

    def _to_schema(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        if batch.schema.equals(self.schema):
            return batch
        names = self.schema.names
        columns = [
            _cast_column(batch, name, column.type)
            for name, column in zip(names, self.schema, strict=True)
        ]
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)


def _last_records(topic: str, parts: Sequence[PartRef]) -> dict[str, dict[int, tuple[int, int]]]:
    last_records = merge_last_records(part.last_records for part in parts)
    return {topic: last_records} if last_records else {}


def _batches_of(parts: Sequence[PartRef]) -> Iterator[pa.RecordBatch]:
    for part in parts:
        with pa.OSFile(part.path, "rb") as source, pa.ipc.open_file(source) as reader:
            for position in range(reader.num_record_batches):
                yield reader.get_batch(position)


def _ranges_outside(
    topic: str, offsets: Mapping[int, list[OffsetRange]], known: CoveredOffsets
) -> dict[int, list[OffsetRange]]:
    if known.is_empty:
        return dict(offsets)
    outside = {
        partition: list(
            ranges(
                BitMap64().union(
                    *(known.gaps(topic, partition, first, last + 1) for first, last in spans)
                )
            )
        )
        for partition, spans in offsets.items()
    }
    return {partition: spans for partition, spans in outside.items() if spans}


def last_records_of(rows: pa.Table) -> dict[int, tuple[int, int]]:
    """Return the highest offset of each partition and its timestamp in milliseconds since 1970.

    Empty if the rows lack the Kafka columns; a record without a timestamp is left out.
    """
    columns = ["kafka_partition", "kafka_offset", "kafka_timestamp"]
    if not set(columns) <= set(rows.schema.names):
        return {}
    if not pa.types.is_timestamp(rows.schema.field("kafka_timestamp").type):
        return {}
    rows = rows.select(columns).drop_null()
    partitions = rows.column("kafka_partition").to_numpy()
    offsets = rows.column("kafka_offset").to_numpy()
    in_ms = pa.timestamp("ms", "UTC")
    timestamps = rows.column("kafka_timestamp").cast(in_ms, safe=False).cast(pa.int64()).to_numpy()
    last = {}
    for partition in distinct(partitions):
        (of_partition,) = np.nonzero(partitions == partition)
        row = of_partition[np.argmax(offsets[of_partition])]
        last[partition] = int(offsets[row]), int(timestamps[row])
    return last


def merge_offsets(parts: Sequence[PartRef]) -> dict[int, list[OffsetRange]]:
    """Return the offset ranges of all parts by partition, rising; adjacent ranges are joined.

    >>> first = PartRef("a.arrow", "orders", 0, 2, {0: [(5, 6)]})
    >>> merge_offsets([first, PartRef("b.arrow", "orders", 0, 1, {0: [(7, 7)]})])
    {0: [(5, 7)]}
    """
    merged: dict[int, list[OffsetRange]] = {}
    for partition in sorted({partition for part in parts for partition in part.offsets}):
        ranges = sorted(span for part in parts for span in part.offsets.get(partition, ()))
        joined = [ranges[0]]
        for first, last in ranges[1:]:
            if first <= joined[-1][1] + 1:
                joined[-1] = joined[-1][0], max(last, joined[-1][1])
            else:
                joined.append((first, last))
        merged[partition] = joined
    return merged


def _cast_column(batch: pa.RecordBatch, name: str, kind: pa.DataType) -> pa.Array:
    """Return a column of a batch as `kind`.

    Raises:
      pa.ArrowInvalid: a value does not fit; the message names the column and, of a single row, the
        value.
      KeyError, pa.ArrowException: there is no such column, or no such cast.
    """
    is_riding = name not in batch.schema.names
    column = batch.column(RIDE_ALONG_SOURCES.get(name, name) if is_riding else name)
    if column.type == kind:
        return column
    try:
        return pc.cast(column, kind)
    except pa.ArrowInvalid as error:
        shown = f" {str(column[0].as_py())[:100]!r}" if batch.num_rows == 1 else ""
        raise pa.ArrowInvalid(f"column {name!r}:{shown} does not fit {kind}: {error}") from error
