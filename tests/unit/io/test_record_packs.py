"""Packs of records, as Java lays them out, are the records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st
from sample_records import NOON_MS, kafka_record

from beam_pipeline.covered_offsets import CoveredOffsets, without_covered
from beam_pipeline.io.kafka import _CollectRecords, batch_of_pack, batch_of_records
from beam_pipeline.records import MAX_BATCH_RECORDS, KafkaRecord
from beam_pipeline.schemas.contract import RECORD_SCHEMA


class Binaries(NamedTuple):
    """Of Pack.java: ends, data and a bitmap, which is empty where nothing is null."""

    ends: bytes
    data: bytes
    valid: bytes


class Pack(NamedTuple):
    """A row of Pack.java."""

    topic: str
    partition: int
    timestamp_type: int
    offsets: bytes
    timestamps: bytes
    keys: Binaries
    values: Binaries
    header_ends: bytes
    header_keys: Binaries
    header_values: Binaries


def int32(numbers: Sequence[int]) -> bytes:
    return b"".join(number.to_bytes(4, "little", signed=True) for number in numbers)


def int64(numbers: Sequence[int]) -> bytes:
    return b"".join(number.to_bytes(8, "little", signed=True) for number in numbers)


def binaries(values: Sequence[bytes | None]) -> Binaries:
    ends = [0]
    for value in values:
        ends.append(ends[-1] + len(value or b""))
    bits = sum(1 << row for row, value in enumerate(values) if value is not None)
    valid = bits.to_bytes((len(values) + 7) // 8, "little") if None in values else b""
    return Binaries(int32(ends), b"".join(value or b"" for value in values), valid)


def pack_of(records: Sequence[KafkaRecord]) -> Pack:
    headers = [header for record in records for header in record.headers or ()]
    ends = [0]
    for record in records:
        ends.append(ends[-1] + len(record.headers or ()))
    first = records[0]
    return Pack(
        first.topic,
        first.partition,
        first.timestampTypeId,
        int64([record.offset for record in records]),
        int64([record.timestamp for record in records]),
        binaries([record.key for record in records]),
        binaries([record.value for record in records]),
        int32(ends),
        binaries([header.key.encode() for header in headers]),
        binaries([header.value for header in headers]),
    )


BYTES = st.none() | st.binary(max_size=12)
INT64 = st.integers(-(2**63), 2**63 - 1)
HEADERS = st.lists(st.tuples(st.text(max_size=5), BYTES), max_size=3)
RECORDS = st.tuples(
    st.text(min_size=1, max_size=8),
    st.integers(0, 2**31 - 1),
    st.sampled_from([-1, 0, 1, 7]),
    st.lists(st.tuples(BYTES, BYTES, st.integers(0, 2**63 - 1), INT64, HEADERS), min_size=1),
).map(
    lambda drawn: [
        kafka_record(
            value,
            key=key,
            topic=drawn[0],
            partition=drawn[1],
            timestamp_type=drawn[2],
            offset=offset,
            timestamp=timestamp,
            headers=headers,
        )
        for key, value, offset, timestamp, headers in drawn[3]
    ]
)


@given(RECORDS)
def test_a_pack_is_the_batch_of_its_records(records: list[KafkaRecord]) -> None:
    batch = batch_of_pack(pack_of(records))
    batch.validate(full=True)
    assert batch.schema == RECORD_SCHEMA
    assert batch.equals(batch_of_records(records))


@given(st.lists(RECORDS, min_size=1, max_size=3))
def test_packs_are_put_together(packs: list[list[KafkaRecord]]) -> None:
    whole = pa.concat_batches([batch_of_pack(pack_of(records)) for records in packs])
    whole.validate(full=True)
    assert whole.equals(batch_of_records([record for records in packs for record in records]))


def test_nothing_is_copied_of_keys_and_values() -> None:
    pack = pack_of([kafka_record(b"value", key=b"key"), kafka_record(None, key=None, offset=1)])
    batch = batch_of_pack(pack)
    for name, part in (("_key", pack.keys), ("_value", pack.values)):
        buffers: list[Any] = batch.column(name).buffers()
        assert buffers[2].address == pa.py_buffer(part.data).address


def test_a_batch_of_which_all_is_fresh_stays_as_it_is() -> None:
    batch = batch_of_records([kafka_record(b"", offset=offset) for offset in range(3)])
    covered = CoveredOffsets()
    assert without_covered(batch, covered) is batch
    covered.add_range("orders", 0, 3, 9)
    covered.add_range("clicks", 0, 0, 9)
    covered.add_range("orders", 1, 0, 9)
    assert without_covered(batch, covered) is batch
    covered.add_range("orders", 0, 1, 1)
    assert without_covered(batch, covered).column("kafka_offset").to_pylist() == [0, 2]


def test_records_of_a_bundle_are_collected_up_to_a_limit() -> None:
    collect = _CollectRecords()
    records = [
        kafka_record(b"%d" % number, offset=number, timestamp=NOON_MS - number)
        for number in range(MAX_BATCH_RECORDS + 2)
    ]
    collect.start_bundle()
    (whole,) = [batch for record in records for batch in collect.process(record)]
    assert whole.equals(batch_of_records(records[:MAX_BATCH_RECORDS]))
    (rest,) = collect.finish_bundle()
    assert rest.value.equals(batch_of_records(records[MAX_BATCH_RECORDS:]))
    assert rest.timestamp == (NOON_MS - MAX_BATCH_RECORDS - 1) / 1000
    collect.start_bundle()
    assert list(collect.finish_bundle()) == []
