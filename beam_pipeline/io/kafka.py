"""Reading Kafka records, and making Arrow batches of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.io.kafka import ReadFromKafka
from apache_beam.transforms.external import JavaExternalTransform
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from beam_pipeline.config import CreateTimeTopics, ReadGoal, Turns
from beam_pipeline.errors import UsageError
from beam_pipeline.io.read_goal import note_read
from beam_pipeline.records import (
    MAX_BATCH_RECORDS,
    TIMESTAMP_TYPES,
    KafkaRecord,
    nearest_time_ms,
)
from beam_pipeline.schemas.contract import RECORD_SCHEMA
from beam_pipeline.transforms.batch_coder import returning_batches

MAX_PACK_BYTES = 4 * 1024 * 1024
"""How large a pack may be, the element between Java and Python; see also `MAX_BATCH_RECORDS`. The
record that reaches the limit is part of the pack. A poll of the consumer has the same limit."""

_HEADERS_TYPE = RECORD_SCHEMA.field("_headers").type


class ReadRecords(beam.PTransform[Any, Any]):
    """PBegin to PCollection[pa.RecordBatch]: batches of `RECORD_SCHEMA`, each of one partition.

    Reads from the group's committed offsets on, and commits nothing. The elements are in the
    global window.

    Args:
      client_properties: properties of the Java consumer, such as bootstrap.servers.
      topics: what to read.
      consumer_group: the group whose committed offsets are the start.
      expansion_service: host:port of an expansion service with java/src on its class path, whose
        `ReadRecords` limits the bytes of a poll and packs records before they leave Java. None
        starts Beam's own, and records are collected in Python (`CollectRecords`).
      follow_append_time: whether timestamps and watermark follow Kafka's timestamps, or the clock.
      create_time: the topics whose timestamps are the producers'.
      plain_source: whether to use no class of this project's in the source, for a Flink cluster
        that lacks its jar. Then the bytes of a poll have no limit.
      goal: what the run reads, for the sinks (`read_goal`).
      turns: how long the reader on Prism takes at one partition.
      packs_dir: where packs have their data in files, if Java and Python run on one machine and no
        bundle is tried again. None sends it through the runner.

    Raises:
      UsageError: there are topics with producers' timestamps, and Beam's own expansion service or
        a plain source, which allow no disorder.
    """

    def __init__(
        self,
        client_properties: Mapping[str, str],
        topics: Sequence[str],
        consumer_group: str,
        expansion_service: str | None,
        follow_append_time: bool = True,
        create_time: CreateTimeTopics | None = None,
        plain_source: bool = False,
        goal: ReadGoal | None = None,
        turns: Turns | None = None,
        packs_dir: str | None = None,
    ) -> None:
        super().__init__()
        self._packs_dir = packs_dir
        self._turns = turns or Turns()
        self._create_time = create_time or CreateTimeTopics()
        self._plain_source = plain_source
        self._goal = goal
        is_plain = plain_source or expansion_service is None
        if follow_append_time and self._create_time.topics and is_plain:
            remedy = (
                "the project's jar on the Flink cluster; run `flink jars` again and restart it"
                if plain_source
                else "--expansion_service with the project's classes, as `run` starts it"
            )
            raise UsageError(
                f"--input_topics={self._create_time.topics[0]}: timestamps are the producers' "
                f"(message.timestamp.type=CreateTime), which needs {remedy}"
            )
        self._consumer_config = {
            "auto.offset.reset": "earliest",
            **client_properties,
            "group.id": consumer_group,
            "enable.auto.commit": "false",
        }
        self._topics = list(topics)
        self._follow_append_time = follow_append_time
        self._expansion_service = expansion_service

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection[Any]:
        if self._expansion_service is None:
            return self._read_with_beams_own(begin)
        read = JavaExternalTransform("beam_pipeline.ReadRecords", self._expansion_service)
        batches: beam.PCollection[Any] = (
            begin
            | "ReadRecords" >> read(json.dumps(self._java_settings()))
            | "ToBatches" >> returning_batches(beam.ParDo(_ToBatches(self._goal)))
        )
        return batches

    def _java_settings(self) -> dict[str, Any]:
        """Return the fields of `Settings` in java/src/beam_pipeline/ReadRecords.java."""
        return {
            "consumerConfig": self._consumer_config,
            "topics": self._topics,
            "followTimestamps": self._follow_append_time,
            "createTimeTopics": self._create_time.topics,
            "plainSource": self._plain_source,
            "maxOutOfOrderMs": self._create_time.max_out_of_order_seconds * 1000,
            "maxPackRecords": MAX_BATCH_RECORDS,
            "maxPackBytes": MAX_PACK_BYTES,
            "packsDirectory": self._packs_dir,
            "maxWaitMs": self._turns.wait_ms,
            "maxTurnMs": self._turns.read_ms,
        }

    def _read_with_beams_own(self, begin: beam.pvalue.PBegin) -> beam.PCollection[Any]:
        rows: beam.PCollection[Any] = begin | "ReadFromKafka" >> ReadFromKafka(
            consumer_config=self._consumer_config,
            topics=self._topics,
            timestamp_policy=(
                ReadFromKafka.log_append_time
                if self._follow_append_time
                else ReadFromKafka.processing_time_policy
            ),
            with_metadata=True,
        )
        batches: beam.PCollection[Any] = rows | CollectRecords()
        return batches


class _ToBatches(beam.DoFn):
    """Element of packs to a pa.RecordBatch of `RECORD_SCHEMA` for each pack.

    Notes how far the bundles that ended have read.
    """

    def __init__(self, goal: ReadGoal | None) -> None:
        self._goal = goal

    def start_bundle(self) -> None:
        self._read_ends: dict[tuple[str, int], int] = {}

    def process(self, element: Any) -> Iterator[pa.RecordBatch]:
        for pack in element.packs:
            batch = batch_of_pack(pack)
            if self._goal:
                end = batch.column("kafka_offset")[-1].as_py() + 1
                self._read_ends[pack.topic, pack.partition] = end
            yield batch

    def finish_bundle(self) -> None:
        if self._goal:
            for (topic, partition), end in self._read_ends.items():
                note_read(self._goal, topic, partition, end)


class CollectRecords(beam.PTransform[Any, Any]):
    """PCollection[KafkaRecord] to PCollection[pa.RecordBatch]: batches of `RECORD_SCHEMA`.

    Collects the records of a bundle, up to `MAX_BATCH_RECORDS`. The input is in the global window.
    A batch at the end of a bundle has the timestamp of its earliest record. Rows of Beam's Kafka
    source are such records.
    """

    def expand(self, records: beam.PCollection[Any]) -> beam.PCollection[Any]:
        batches: beam.PCollection[Any] = records | "CollectRecords" >> returning_batches(
            beam.ParDo(_CollectRecords())
        )
        return batches


class _CollectRecords(beam.DoFn):
    def __init__(self) -> None:
        self._records: list[KafkaRecord] = []

    def start_bundle(self) -> None:
        self._records = []

    def process(self, record: KafkaRecord) -> list[pa.RecordBatch]:
        self._records.append(record)
        if len(self._records) < MAX_BATCH_RECORDS:
            return []
        batch = batch_of_records(self._records)
        self.start_bundle()
        return [batch]

    def finish_bundle(self) -> Iterator[WindowedValue]:
        if self._records:
            earliest_ms = nearest_time_ms(min(record.timestamp for record in self._records))
            timestamp = Timestamp(micros=earliest_ms * 1000)
            yield WindowedValue(batch_of_records(self._records), timestamp, (GlobalWindow(),))


def batch_of_records(records: Sequence[KafkaRecord]) -> pa.RecordBatch:
    """Return a batch of `RECORD_SCHEMA` with one row for each record.

    >>> record = KafkaRecord("orders", 0, 7, 1_000, 1, "LogAppendTime", None, None, b"{}")
    >>> batch_of_records([record]).select(["kafka_offset", "_value"]).to_pylist()
    [{'kafka_offset': 7, '_value': b'{}'}]
    """
    columns: list[list[Any]] = [
        [record.topic for record in records],
        [record.partition for record in records],
        [record.offset for record in records],
        [record.timestamp for record in records],
        [_timestamp_type(record.timestampTypeId) for record in records],
        [record.key for record in records],
        [record.value for record in records],
        [
            [{"key": header.key, "value": header.value} for header in record.headers]
            if record.headers
            else None
            for record in records
        ],
    ]
    return pa.RecordBatch.from_arrays(
        [
            pa.array(column, field.type)
            for column, field in zip(columns, RECORD_SCHEMA, strict=True)
        ],
        schema=RECORD_SCHEMA,
    )


def batch_of_pack(pack: Any) -> pa.RecordBatch:
    """Return a batch of `RECORD_SCHEMA` for a pack: what Pack.java writes, this reads.

    The pack's fields are named in java/src/beam_pipeline/Pack.java, and its data is laid out as
    Arrow's buffers, so it is not copied. Data in a file is mapped, and the file is removed.

    Raises:
      FileNotFoundError: the file is gone, since the pack was read before.

    >>> from types import SimpleNamespace as Row
    >>> pack = Row(
    ...     topic="orders", partition=0, timestamp_type=1, records=1, file="",
    ...     lengths=[8, 8, 8, 1, 0, 8, 0, 2, 8, 4, 0, 0, 4, 0, 0],
    ...     data=(7).to_bytes(8, "little") + (1_000).to_bytes(8, "little") + bytes(8 + 8)
    ...     + bytes(4) + (2).to_bytes(4, "little") + b"{}".ljust(8) + bytes(8 + 8 + 8),
    ... )
    >>> batch_of_pack(pack).select(["kafka_offset", "_key", "_value"]).to_pylist()
    [{'kafka_offset': 7, '_key': None, '_value': b'{}'}]
    """
    count = pack.records
    offsets, timestamps, *rest = _sections(pack)
    keys, values, header_ends, header_keys, header_values = (
        rest[0:3],
        rest[3:6],
        rest[6],
        rest[7:10],
        rest[10:13],
    )
    topic_type, partition_type, offset_type, timestamp_type, *_ = RECORD_SCHEMA.types
    columns = [
        pa.repeat(pa.scalar(pack.topic, topic_type), count),
        pa.repeat(pa.scalar(pack.partition, partition_type), count),
        pa.Array.from_buffers(offset_type, count, [None, offsets]),
        pa.Array.from_buffers(timestamp_type, count, [None, timestamps]),
        pa.repeat(_timestamp_type(pack.timestamp_type), count),
        _binaries(keys, count, pa.binary()),
        _binaries(values, count, pa.binary()),
        _headers(header_ends, header_keys, header_values, count),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=RECORD_SCHEMA)


def _sections(pack: Any) -> Iterator[pa.Buffer]:
    """Yield the parts of a pack's data. Each begins at a multiple of 8 bytes."""
    if pack.file:
        data = pa.memory_map(pack.file).read_buffer()
        Path(pack.file).unlink()
    else:
        data = pa.py_buffer(pack.data)
    start = 0
    for length in pack.lengths:
        yield data.slice(start, length)
        start += (length + 7) & -8


def _timestamp_type(type_id: int) -> str:
    return TIMESTAMP_TYPES.get(type_id, TIMESTAMP_TYPES[-1])


def _binaries(sections: Sequence[pa.Buffer], count: int, data_type: pa.DataType) -> pa.Array:
    ends, valid, data = sections
    return pa.Array.from_buffers(data_type, count, [valid if valid.size else None, ends, data])


def _headers(
    ends_section: pa.Buffer, keys: Sequence[pa.Buffer], values: Sequence[pa.Buffer], count: int
) -> pa.Array:
    ends = np.frombuffer(ends_section, np.int32)
    if not ends[-1]:
        return pa.nulls(count, _HEADERS_TYPE)
    items = pa.StructArray.from_arrays(
        [
            _binaries(keys, int(ends[-1]), pa.string()),
            _binaries(values, int(ends[-1]), pa.binary()),
        ],
        fields=list(_HEADERS_TYPE.value_type),
    )
    return pa.ListArray.from_arrays(
        pa.array(ends), items, type=_HEADERS_TYPE, mask=pa.array(np.diff(ends) == 0)
    )
