"""Rows keep what came with the record: its key, headers and bytes, and a null value if asked to."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sample_records import NOON_MS, contract_of, kafka_record

from beam_pipeline.config import ValidationRules
from beam_pipeline.covered_offsets import CoveredOffsets
from beam_pipeline.files.names import OutputFile
from beam_pipeline.io.kafka import batch_of_records
from beam_pipeline.io.parquet import ParquetFormat
from beam_pipeline.io.windowed_files import Piece
from beam_pipeline.records import (
    DEFAULT_KAFKA_COLUMNS,
    KAFKA_COLUMNS,
    PROVENANCE_COLUMNS,
    ErrorCode,
    KafkaRecord,
)
from beam_pipeline.schemas.contract import file_schema
from beam_pipeline.testing import run_events
from beam_pipeline.transforms.validate import RecordValidator

NOON = datetime(2026, 11, 23, 12, tzinfo=timezone.utc)
TARGET = OutputFile("orders", NOON, NOON + timedelta(seconds=10), 0, "e1", 0, ".parquet")
OPTED = {"type": "boolean", "default": False, "x-normalize": ["default"]}
PLACE = {"type": "object", "properties": {"city": {"type": "string"}}}
CONTRACT = contract_of(
    {
        "type": "object",
        "properties": {
            "n": {"type": "integer"},
            "opted": OPTED,
            "tags": {"type": "array", "items": {"type": "string"}},
            "place": PLACE,
            "kind": {"enum": ["a", "b"]},
        },
    }
)
AS_ROWS = ValidationRules(None, keeps_null_values=True)

BYTES = st.none() | st.binary(max_size=12)
HEADERS = st.lists(st.tuples(st.text(max_size=5), BYTES), max_size=4)
VALUES = st.none() | st.integers(0, 9).map(lambda n: b'{"n":%d}' % n)
RECORDS = st.lists(st.tuples(VALUES, BYTES, HEADERS), min_size=1, max_size=12).map(
    lambda drawn: [
        kafka_record(value, key=key, headers=headers, offset=offset)
        for offset, (value, key, headers) in enumerate(drawn)
    ]
)


def land(
    records: Sequence[KafkaRecord], path: Path, kafka_columns: Sequence[str] = KAFKA_COLUMNS
) -> pa.Table:
    """The file of these records, sorted by offset."""
    sink = ParquetFormat(file_schema(CONTRACT.batch_schema, kafka_columns), 1, CONTRACT.ref)
    batches, dead = RecordValidator(CONTRACT, AS_ROWS).validate(batch_of_records(records))
    assert not len(dead)
    pieces = [piece for batch in batches for piece in sink.shards_of(batch)]
    parts = []
    for number, piece in enumerate(pieces):
        assert isinstance(piece, Piece)
        assert isinstance(piece.content, pa.RecordBatch)
        piece.content.validate(full=True)
        part_path = str(path.with_suffix(f".{number}"))
        parts.append(sink.write_part(part_path, piece.shard, [piece.content]))
    assert sink.assemble(str(path), TARGET, parts, CoveredOffsets()) == len(records)
    return pq.read_table(path, partitioning=None).sort_by("kafka_offset")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(RECORDS)
def test_key_headers_and_value_come_back_as_they_were(
    tmp_path: Path, records: list[KafkaRecord]
) -> None:
    rows = land(records, tmp_path / "a.parquet").to_pylist()
    assert [row["kafka_key"] for row in rows] == [record.key for record in records]
    assert [row["kafka_value"] for row in rows] == [record.value for record in records]
    wanted = [[tuple(header) for header in record.headers or ()] for record in records]
    found = [
        [(header["key"], header["value"]) for header in row["kafka_headers"] or ()] for row in rows
    ]
    assert found == wanted
    assert [row["kafka_headers"] is None for row in rows] == [not headers for headers in wanted]
    for row, record in zip(rows, records, strict=True):
        own = {name: row[name] for name in row if not name.startswith("kafka_")}
        if record.value is None:
            assert own == dict.fromkeys(CONTRACT.event_schema.names)
        else:
            assert own["n"] == int(record.value[5:-1])


@pytest.mark.parametrize("kafka_columns", [PROVENANCE_COLUMNS, DEFAULT_KAFKA_COLUMNS])
def test_a_file_has_the_columns_that_are_asked_for(
    tmp_path: Path, kafka_columns: tuple[str, ...]
) -> None:
    table = land([kafka_record({"n": 1})], tmp_path / "a.parquet", kafka_columns)
    kafka = [name for name in table.schema.names if name.startswith("kafka_")]
    assert kafka == [f"kafka_{name}" for name in kafka_columns]


def test_files_from_before_and_new_ones_are_one_dataset(tmp_path: Path) -> None:
    """The newest file, which names the columns for neither reader, is not the first by name."""
    before, now = tmp_path / "before.parquet", tmp_path / "now.parquet"
    header = ("trace", b"\xff\x00")
    land([kafka_record({"n": 1}, offset=0)], before, PROVENANCE_COLUMNS)
    land([kafka_record({"n": 2}, offset=1, key=b"\xff", headers=[header, header])], now)
    files = [str(before), str(now)]
    schema = pa.unify_schemas([pq.read_schema(file).remove_metadata() for file in files])
    table = pyarrow.dataset.dataset(files, schema=schema).to_table().sort_by("kafka_offset")
    assert table.column("kafka_key").to_pylist() == [None, b"\xff"]
    pair = {"key": "trace", "value": b"\xff\x00"}
    assert table.column("kafka_headers").to_pylist() == [None, [pair, pair]]
    relation = duckdb.sql(
        "SELECT n, kafka_key, kafka_headers, kafka_value FROM read_parquet("
        f"{files}, union_by_name = true) ORDER BY kafka_offset"
    )
    assert relation is not None
    assert relation.fetchall() == [
        (1, None, None, None),
        (2, b"\xff", [pair, pair], b'{"n":2}'),
    ]


def test_a_reader_that_takes_the_columns_of_the_first_file_reads_all_files(tmp_path: Path) -> None:
    land([kafka_record({"n": 1}, offset=0)], tmp_path / "before.parquet", PROVENANCE_COLUMNS)
    land([kafka_record({"n": 2}, offset=1)], tmp_path / "now.parquet")
    files = [str(tmp_path / name) for name in ("before.parquet", "now.parquet")]
    assert pyarrow.dataset.dataset(files).to_table().column("n").to_pylist() == [1, 2]
    relation = duckdb.sql(f"SELECT n FROM read_parquet({files}) ORDER BY n")
    assert relation is not None
    assert relation.fetchall() == [(1,), (2,)]


def test_a_null_value_is_a_dead_letter_unless_rows_are_asked_for() -> None:
    events: list[Any] = [None, {"n": 1}]
    results = run_events(events, CONTRACT)
    assert [row["n"] for row in results.rows] == [1]
    assert [letter.failure.code for letter in results.dead] == [ErrorCode.NULL_VALUE]
    results = run_events(events, CONTRACT, rules=AS_ROWS)
    assert results.dead == []
    null, row = sorted(results.rows, key=lambda row: int(row["kafka_offset"]))
    assert (row["n"], row["opted"]) == (1, False), "the default is for events"
    assert {name for name, value in null.items() if value is not None} == {
        f"kafka_{name}" for name in PROVENANCE_COLUMNS
    }


def test_the_row_of_a_null_value_is_at_its_kafka_timestamp() -> None:
    contract = contract_of({"properties": {"at": {"type": "integer"}}, "x-event-time": "at"})
    rules = ValidationRules("at", 60, 60, keeps_null_values=True)
    (batch,), dead = RecordValidator(contract, rules).validate(
        batch_of_records([kafka_record(None)])
    )
    assert not len(dead)
    assert batch.column("_event_time").cast(pa.int64()).to_pylist() == [NOON_MS * 1_000]
    beyond = batch_of_records([kafka_record(None, timestamp=2**62)])
    batches, dead = RecordValidator(contract, rules).validate(beyond)
    assert not batches
    (letter,) = dead
    assert (letter.failure.code, letter.value) == (ErrorCode.BAD_EVENT_TIME, None)


def test_a_transform_that_refuses_a_null_value_makes_a_letter_of_it() -> None:
    def refuse(batch: pa.RecordBatch) -> pa.RecordBatch:
        if batch.column("n").null_count:
            raise ValueError("no n")
        return batch

    events: list[Any] = [None, {"n": 1}]
    results = run_events(events, CONTRACT, rules=AS_ROWS, transforms=[refuse])
    (letter,) = results.dead
    assert (letter.offset, letter.value, letter.failure.message) == (0, None, "no n")
