"""Packs of records, as Java lays them out, are the records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_records import NOON_MS, kafka_record

from beam_pipeline.covered_offsets import CoveredOffsets, without_covered
from beam_pipeline.io.kafka import _CollectRecords, batch_of_pack, batch_of_records
from beam_pipeline.records import MAX_BATCH_RECORDS, KafkaRecord
from beam_pipeline.schemas.contract import RECORD_SCHEMA


class Pack(NamedTuple):
    """A row of Pack.java."""

    topic: str
    partition: int
    timestamp_type: int
    records: int
    lengths: list[int]
    data: bytes
    file: str


def int32(numbers: Sequence[int]) -> bytes:
    return b"".join(number.to_bytes(4, "little", signed=True) for number in numbers)


def int64(numbers: Sequence[int]) -> bytes:
    return b"".join(number.to_bytes(8, "little", signed=True) for number in numbers)


def binaries(values: Sequence[bytes | None]) -> list[bytes]:
    """Return ends, a bitmap, which is empty where nothing is null, and the values' bytes."""
    ends = [0]
    for value in values:
        ends.append(ends[-1] + len(value or b""))
    bits = sum(1 << row for row, value in enumerate(values) if value is not None)
    valid = bits.to_bytes((len(values) + 7) // 8, "little") if None in values else b""
    return [int32(ends), valid, b"".join(value or b"" for value in values)]


def pack_of(records: Sequence[KafkaRecord]) -> Pack:
    headers = [header for record in records for header in record.headers or ()]
    ends = [0]
    for record in records:
        ends.append(ends[-1] + len(record.headers or ()))
    first = records[0]
    sections = [
        int64([record.offset for record in records]),
        int64([record.timestamp for record in records]),
        *binaries([record.key for record in records]),
        *binaries([record.value for record in records]),
        int32(ends),
        *binaries([header.key.encode() for header in headers]),
        *binaries([header.value for header in headers]),
    ]
    data = b"".join(section + bytes(-len(section) % 8) for section in sections)
    lengths = [len(section) for section in sections]
    return Pack(
        *(first.topic, first.partition, first.timestampTypeId, len(records)),
        *(lengths, data, ""),
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
    data: Any = pa.py_buffer(pack.data)
    batch = batch_of_pack(pack)
    for name, content in (("_key", b"key"), ("_value", b"value")):
        buffers: list[Any] = batch.column(name).buffers()
        assert buffers[2].address == data.address + pack.data.index(content)


def test_a_file_has_the_data_of_a_pack_and_is_removed(tmp_path: Path) -> None:
    records = [kafka_record(b"value", key=b"key"), kafka_record(None, key=None, offset=1)]
    pack = pack_of(records)
    file = tmp_path / f"a.{len(pack.data)}.pack"
    file.write_bytes(pack.data)
    reference = pack._replace(data=b"", file=str(file))
    batch = batch_of_pack(reference)
    assert list(tmp_path.iterdir()) == []
    batch.validate(full=True)
    assert batch.equals(batch_of_records(records))
    with pytest.raises(FileNotFoundError, match=file.name):
        batch_of_pack(reference)


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
