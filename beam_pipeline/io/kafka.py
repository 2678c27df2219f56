"""Beam's Kafka source, as this pipeline uses it, and records as Arrow batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.io.kafka import ReadFromKafka
from apache_beam.transforms.external import JavaExternalTransform
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from beam_pipeline.records import (
    MAX_BATCH_RECORDS,
    TIMESTAMP_TYPES,
    KafkaRecord,
    nearest_time_ms,
)
from beam_pipeline.schemas.contract import RECORD_SCHEMA
from beam_pipeline.transforms.batch_coder import returning_batches

MAX_PACK_BYTES = 4 * 1024 * 1024
"""What becomes one element between Java and Python, beside `MAX_BATCH_RECORDS`."""


_HEADERS_TYPE = RECORD_SCHEMA.field("_headers").type


class ReadRecords(beam.PTransform[Any, Any]):
    """PBegin to PCollection[pa.RecordBatch] of `RECORD_SCHEMA`, a batch of one partition each.

    Nothing is ever committed for having been read: auto-commit is off, and where reading starts is
    the group's committed offset, which the ledger sets. Timestamps and the watermark follow
    Kafka's append time, or with `follow_append_time` off the clock; the elements are in the global
    window.

    `expansion_service` is one with java/src on its class path, whose `PackRecords` packs the
    records before they leave Java; with None, Beam's own, they are packed in Python.
    """

    def __init__(
        self,
        client_properties: Mapping[str, str],
        topics: Sequence[str],
        consumer_group: str,
        expansion_service: str | None,
        follow_append_time: bool = True,
    ) -> None:
        super().__init__()
        self._consumer_config = {
            "auto.offset.reset": "earliest",
            **client_properties,
            "group.id": consumer_group,
            "enable.auto.commit": "false",
        }
        self._topics = list(topics)
        self._timestamp_policy = (
            ReadFromKafka.log_append_time
            if follow_append_time
            else ReadFromKafka.processing_time_policy
        )
        self._expansion_service = expansion_service

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection[Any]:
        rows: beam.PCollection[Any] = begin | "ReadFromKafka" >> ReadFromKafka(
            consumer_config=self._consumer_config,
            topics=self._topics,
            timestamp_policy=self._timestamp_policy,
            with_metadata=True,
            expansion_service=self._expansion_service,
        )
        batches: beam.PCollection[Any]
        if self._expansion_service is None:  # Beam's own, which does not know our Java
            batches = rows | CollectRecords()
            return batches
        pack = JavaExternalTransform("beam_pipeline.PackRecords", self._expansion_service)
        batches = (
            rows
            | "PackRecords" >> pack(MAX_BATCH_RECORDS, MAX_PACK_BYTES)
            | "ToBatches" >> returning_batches(beam.Map(batch_of_pack))
        )
        return batches


class CollectRecords(beam.PTransform[Any, Any]):
    """PCollection[KafkaRecord] to PCollection[pa.RecordBatch] of `RECORD_SCHEMA`.

    For records that do not come from Java in packs: those of a bundle go together, with the
    timestamp of the earliest. In the global window; rows of Beam's Kafka source are records too.
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
    """A batch of `RECORD_SCHEMA` of single records."""
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
    """A batch of `RECORD_SCHEMA` out of a row of `PackRecords`, whose buffers are Arrow's.

    `pack` has the fields that java/src/beam_pipeline/PackRecords.java names. Nothing is copied but
    what all of its records have in common.
    """
    count = len(pack.offsets) // 8
    names = RECORD_SCHEMA.names
    columns = [
        pa.repeat(pa.scalar(pack.topic, RECORD_SCHEMA.field(names[0]).type), count),
        pa.repeat(pa.scalar(pack.partition, RECORD_SCHEMA.field(names[1]).type), count),
        _numbers(pack.offsets, count, RECORD_SCHEMA.field(names[2]).type),
        _numbers(pack.timestamps, count, RECORD_SCHEMA.field(names[3]).type),
        pa.repeat(_timestamp_type(pack.timestamp_type), count),
        _binaries(pack.keys, count, pa.binary()),
        _binaries(pack.values, count, pa.binary()),
        _headers(pack, count),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=RECORD_SCHEMA)


def _timestamp_type(type_id: int) -> str:
    return TIMESTAMP_TYPES.get(type_id, TIMESTAMP_TYPES[-1])


def _numbers(data: bytes, count: int, data_type: pa.DataType) -> pa.Array:
    return pa.Array.from_buffers(data_type, count, [None, pa.py_buffer(data)])


def _binaries(part: Any, count: int, data_type: pa.DataType) -> pa.Array:
    buffers = [pa.py_buffer(piece) for piece in (part.ends, part.data)]
    valid = pa.py_buffer(part.valid) if part.valid else None
    return pa.Array.from_buffers(data_type, count, [valid, *buffers])


def _headers(pack: Any, count: int) -> pa.Array:
    ends = np.frombuffer(pack.header_ends, np.int32)
    if not ends[-1]:
        return pa.nulls(count, _HEADERS_TYPE)
    items = pa.StructArray.from_arrays(
        [
            _binaries(pack.header_keys, int(ends[-1]), pa.string()),
            _binaries(pack.header_values, int(ends[-1]), pa.binary()),
        ],
        fields=list(_HEADERS_TYPE.value_type),
    )
    return pa.ListArray.from_arrays(
        pa.array(ends), items, type=_HEADERS_TYPE, mask=pa.array(np.diff(ends) == 0)
    )
