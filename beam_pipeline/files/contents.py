"""Reads the Kafka offsets of one file from its rows or lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beam_pipeline.files.footer import FileFooter, FooterError, footer_of, read_metadata
from beam_pipeline.files.names import PARQUET_SUFFIX
from beam_pipeline.files.tree import json_lines
from beam_pipeline.offset_sets import OffsetArray, TopicPartition
from beam_pipeline.storage.paths import StoredPath, open_for_arrow
from beam_pipeline.storage.protocol import StorageAwayError
from beam_pipeline.times import ms_of, ms_of_rfc3339

PieceOfFile = tuple[TopicPartition, OffsetArray]
"""Offsets of one partition, in the order of the file and with repeats."""


class OriginColumns(NamedTuple):
    """The names of the columns that tell which record a row is of."""

    topic: str
    partition: str
    offset: str


ROW_COLUMNS = OriginColumns("kafka_topic", "kafka_partition", "kafka_offset")
LETTER_COLUMNS = OriginColumns("topic", "partition", "offset")
"""Those of the table of dead letters."""

_TIMESTAMP = "kafka_timestamp"

_REMOVED = "was removed while the tree was read; is a pipeline running?"
_ROWS_AT_A_TIME = 262_144
_LINES_AT_A_TIME = 16_384


class UnreadableFile(ValueError):
    """The file can't be read to its end as a file of the pipeline; the message says why."""


def file_offsets(path: StoredPath) -> Iterator[PieceOfFile]:
    """Yield the offsets in a Parquet file's Kafka columns, or in the lines of dead letters.

    Memory holds one piece: about 262,144 rows of three columns, or 16,384 lines' offsets.

    Raises:
        StorageAwayError: the object store does not answer.
        UnreadableFile: the file is damaged, was removed meanwhile, or is not the pipeline's.
    """
    if path.suffix == PARQUET_SUFFIX:
        yield from _whole(_parquet_offsets(path, ROW_COLUMNS), _REMOVED)
    else:
        yield from _whole(_dead_letter_offsets(path), _REMOVED)


def table_file_offsets(path: StoredPath, columns: OriginColumns) -> Iterator[PieceOfFile]:
    """Yield the offsets in a Parquet file that a table references; as `file_offsets`.

    Raises:
        StorageAwayError: the object store does not answer.
        UnreadableFile: the file is damaged, is gone, or is not the pipeline's.
    """
    yield from _whole(_parquet_offsets(path, columns), "is gone")


def _whole(pieces: Iterator[PieceOfFile], when_gone: str) -> Iterator[PieceOfFile]:
    """Yield the pieces of a file; what keeps it from being read is an `UnreadableFile`."""
    try:
        yield from pieces
    except FileNotFoundError as error:
        raise UnreadableFile(when_gone) from error
    except StorageAwayError:
        raise
    except (OSError, pa.ArrowException, ValueError) as error:
        raise UnreadableFile(" ".join(str(error).split())) from error


def timestamps_in(
    path: StoredPath, offsets: Mapping[TopicPartition, int]
) -> dict[TopicPartition, int]:
    """Return the Kafka timestamps of some records of a file, in milliseconds since 1970.

    Records that the file does not have, or without a timestamp, are left out. So are the rows of
    files whose footer has no `last_records`: they need not have Kafka's timestamps.

    Args:
        path: a Parquet file, or one of dead letters.
        offsets: one offset of each partition.

    Raises:
        StorageAwayError: the object store does not answer.
        UnreadableFile: the file can't be read.
    """
    try:
        if path.suffix == PARQUET_SUFFIX:
            return _timestamps_of_rows(path, offsets)
        return _timestamps_of_letters(path, offsets)
    except StorageAwayError:
        raise
    except (OSError, pa.ArrowException, ValueError, TypeError) as error:
        raise UnreadableFile(" ".join(str(error).split())) from error


def _timestamps_of_rows(
    path: StoredPath, offsets: Mapping[TopicPartition, int]
) -> dict[TopicPartition, int]:
    columns = [*ROW_COLUMNS, _TIMESTAMP]
    metadata = read_metadata(path)
    claimed = footer_of(metadata.metadata or {})
    if not claimed.last_records or not set(columns) <= set(metadata.schema.names):
        return {}
    timestamps = {}
    for key, offset in offsets.items():
        is_record = (
            (pc.field(ROW_COLUMNS.topic) == key.topic)
            & (pc.field(ROW_COLUMNS.partition) == key.partition)
            & (pc.field(ROW_COLUMNS.offset) == offset)
        )
        table = pq.read_table(
            open_for_arrow(path), columns=columns, filters=is_record, partitioning=None
        )
        for moment in table.column(_TIMESTAMP).drop_null().to_pylist()[:1]:
            timestamps[key] = ms_of(moment)
    return timestamps


def _timestamps_of_letters(
    path: StoredPath, offsets: Mapping[TopicPartition, int]
) -> dict[TopicPartition, int]:
    timestamps = {}
    for letter in json_lines(path):
        key, offset = _source(letter)
        timestamp = letter["source"].get("timestamp")
        if timestamp is not None and offsets.get(key) == offset:
            timestamps[key] = ms_of_rfc3339(timestamp)
    return timestamps


def claimed_by(path: StoredPath) -> FileFooter:
    """Return the footer of a Parquet file.

    Raises:
        StorageAwayError: the object store does not answer.
        UnreadableFile: there is no footer of this pipeline, or the file can't be read.
    """
    try:
        return footer_of(read_metadata(path).metadata or {})
    except StorageAwayError:
        raise
    except (OSError, pa.ArrowException, FooterError) as error:
        raise UnreadableFile(" ".join(str(error).split())) from error


def _parquet_offsets(path: StoredPath, columns: OriginColumns) -> Iterator[PieceOfFile]:
    metadata = read_metadata(path)
    missing = [name for name in columns if name not in metadata.schema.names]
    if missing:
        raise UnreadableFile(f"no column {', '.join(missing)}")
    with pq.ParquetFile(
        open_for_arrow(path), metadata=metadata, read_dictionary=[columns.topic]
    ) as file:
        for batch in file.iter_batches(_ROWS_AT_A_TIME, columns=list(columns), use_threads=False):
            yield from _split(batch, columns)


def _split(batch: pa.RecordBatch, columns: OriginColumns) -> Iterator[PieceOfFile]:
    """Yield the offsets of a batch of three columns, by topic and partition."""
    for name in batch.schema.names:
        if batch[name].null_count:
            raise UnreadableFile(f"column {name} holds null")
    for name in (columns.partition, columns.offset):
        if not pa.types.is_integer(batch[name].type):
            raise UnreadableFile(f"column {name} holds {batch[name].type}, not whole numbers")
    topics = batch[columns.topic]
    if not pa.types.is_dictionary(topics.type):
        topics = topics.dictionary_encode()
    names = topics.dictionary.to_pylist()
    codes = topics.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    partitions = batch[columns.partition].to_numpy(zero_copy_only=False).astype(np.int64)
    offsets = batch[columns.offset].to_numpy(zero_copy_only=False).astype(np.int64)
    if offsets.size == 0:
        return
    if int(offsets.min()) < 0 or int(partitions.min()) < 0:
        raise UnreadableFile("a partition or an offset is negative")

    owners = (codes << 32) | partitions
    first_owner = int(owners[0])
    if bool((owners == first_owner).all()):
        yield _owner(first_owner, names), offsets
        return
    order = np.argsort(owners)
    starts = np.flatnonzero(np.diff(owners[order])) + 1
    for piece in np.split(order, starts):
        yield _owner(int(owners[piece[0]]), names), offsets[piece]


def _owner(owner: int, names: list[str]) -> TopicPartition:
    return TopicPartition(names[owner >> 32], owner & 0xFFFF_FFFF)


def _dead_letter_offsets(path: StoredPath) -> Iterator[PieceOfFile]:
    gathered: dict[TopicPartition, list[int]] = {}
    for lines, letter in enumerate(json_lines(path), start=1):
        partition, offset = _source(letter)
        gathered.setdefault(partition, []).append(offset)
        if lines % _LINES_AT_A_TIME == 0:
            yield from _pieces(gathered)
            gathered.clear()
    yield from _pieces(gathered)


def _source(letter: dict[str, Any]) -> tuple[TopicPartition, int]:
    try:
        source = letter["source"]
        topic, partition, offset = source["topic"], source["partition"], source["offset"]
    except (KeyError, TypeError) as error:
        raise UnreadableFile(f"a line has no source: {error!r}") from error
    if not (isinstance(topic, str) and _is_natural(partition) and _is_natural(offset)):
        raise UnreadableFile(f"a line has an invalid source: {source}")
    return TopicPartition(topic, partition), offset


def _is_natural(value: object) -> bool:
    return isinstance(value, int) and 0 <= value < 2**63


def _pieces(gathered: dict[TopicPartition, list[int]]) -> Iterator[PieceOfFile]:
    for partition, offsets in gathered.items():
        yield partition, np.array(offsets, dtype=np.int64)
