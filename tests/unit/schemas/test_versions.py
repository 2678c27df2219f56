"""Several versions of a contract at once, told apart by a field, a header or the wire format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_records import kafka_record

from beam_pipeline.cli import main
from beam_pipeline.config import ValidationRules
from beam_pipeline.errors import UsageError
from beam_pipeline.io.kafka import batch_of_records
from beam_pipeline.records import ErrorCode
from beam_pipeline.schemas import Contract, Judge, build_column, load_contracts
from beam_pipeline.schemas.contract import row_schema
from beam_pipeline.schemas.judge import unwrap
from beam_pipeline.schemas.nodes import derive_node
from beam_pipeline.schemas.versions import align, unify, version_of
from beam_pipeline.transforms.validate import RecordValidator

V1: dict[str, Any] = {
    "$id": "urn:order:1",
    "x-version": 1,
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "kind": {"enum": ["new", "paid"]},
        "buyer": {"type": "object", "properties": {"name": {"type": "string"}}},
        "items": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"sku": {"type": "string"}},
                "additionalProperties": False,
            },
        },
    },
    "required": ["id"],
}
V2: dict[str, Any] = {
    "$id": "urn:order:2",
    "x-version": "2",
    "type": "object",
    "properties": {
        "kind": {"enum": ["paid", "returned"]},
        "id": {"type": "string"},
        "buyer": {
            "type": "object",
            "properties": {"email": {"type": "string"}, "name": {"type": "string"}},
        },
        "items": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"sku": {"type": "string"}, "count": {"type": "integer"}},
                "additionalProperties": False,
            },
        },
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
    },
    "required": ["id", "kind"],
    "additionalProperties": False,
}
RULES = ValidationRules(event_time_field=None)


def schema_files(directory: Path, *documents: dict[str, Any]) -> list[Path]:
    paths = []
    for number, document in enumerate(documents, start=1):
        path = directory / f"order.v{number}.json"
        path.write_text(json.dumps(document))
        paths.append(path)
    return paths


@pytest.fixture
def contract(tmp_path: Path) -> Contract:
    return load_contracts(schema_files(tmp_path, V1, V2), "header:v")


def rows_of(contract: Contract, *values: Any, **extra: Any) -> tuple[list[Any], list[Any]]:
    records = [
        kafka_record(value, offset=offset, headers=[("v", version)] if version else [])
        for offset, (version, value) in enumerate(values)
    ]
    batches, dead = RecordValidator(contract, RULES).validate(batch_of_records(records))
    assert all(batch.schema == contract.batch_schema for batch in batches)
    table = pa.Table.from_batches(batches, contract.batch_schema)
    return sorted(table.to_pylist(), key=lambda row: row["kafka_offset"]), list(dead)


OLD = {
    "id": "a",
    "kind": "new",
    "buyer": {"name": "Ann", "email": 5},
    "items": [{"sku": "x"}],
    "labels": [1],
}
NEW = {
    "id": "b",
    "kind": "returned",
    "buyer": {"name": "Bo", "email": "b@example.com"},
    "items": [{"sku": "y", "count": 2}],
    "labels": {"k": "v"},
}


def test_each_record_is_judged_by_its_version_and_all_have_one_schema(contract: Contract) -> None:
    rows, dead = rows_of(
        contract, (b"1", OLD), (b"2", NEW), (None, OLD), (b"2", OLD), (b"1", NEW), (b"7", NEW)
    )
    assert [row["kafka_offset"] for row in rows] == [0, 1, 2]
    assert rows[0]["id"] == rows[2]["id"] == "a"
    assert rows[0]["buyer"] == {"name": "Ann", "email": None, "extra": '{"email":5}'}
    assert json.loads(rows[0]["extra"]) == {"labels": [1]}
    assert rows[0]["items"] == [{"sku": "x", "count": None}]
    assert rows[0]["labels"] is None
    assert rows[1]["buyer"] == {"name": "Bo", "email": "b@example.com", "extra": None}
    assert rows[1]["labels"] == [("k", "v")]
    assert [row["kind"] for row in rows] == ["new", "returned", "new"]
    told = {letter.offset: letter for letter in dead}
    assert {letter.failure.code for letter in dead} == {ErrorCode.SCHEMA_VIOLATION}
    assert told[3].schema.id == "urn:order:2"
    assert told[4].schema.id == "urn:order:1"
    assert told[5].failure.message == "version '7' (header:v) is unknown; the versions are 1, 2"


def test_files_of_two_versions_are_one_dataset(tmp_path: Path, contract: Contract) -> None:
    """A window's files from a run that knew one version, and from one that knows both."""
    root = tmp_path / "output" / "dt=2026-11-24" / "hour=00"
    root.mkdir(parents=True)
    alone = load_contracts(schema_files(tmp_path, V1))
    runs: list[tuple[Contract, list[dict[str, Any]]]] = [
        (alone, [OLD]),
        (contract, [OLD]),
        (contract, [NEW, {**NEW, "kind": "paid"}]),
    ]
    for number, (known, values) in enumerate(runs):
        version = b"2" if values[0] is NEW else b"1"
        records = [
            kafka_record(value, offset=10 * number + offset, headers=[("v", version)])
            for offset, value in enumerate(values)
        ]
        batches, dead = RecordValidator(known, RULES).validate(batch_of_records(records))
        assert dead == []
        table = pa.Table.from_batches(batches).select(row_schema(known.batch_schema).names)
        pq.write_table(table, root / f"orders-{number}.parquet")

    schemas = [pq.read_schema(path) for path in sorted(root.iterdir())]
    assert schemas[1].equals(schemas[2])
    whole = pa.unify_schemas(schemas, promote_options="permissive")
    rows = ds.dataset(tmp_path / "output", schema=whole, partitioning="hive").to_table().to_pylist()
    assert sorted(row["kafka_offset"] for row in rows) == [0, 10, 20, 21]
    assert {row["kind"] for row in rows} == {"new", "returned", "paid"}

    files = f"read_parquet('{tmp_path}/output/dt=*/hour=*/*.parquet', union_by_name = true)"
    with duckdb.connect() as connection:
        found = connection.sql(
            f"SELECT kind, count(*), count(labels), count(buyer.email) FROM {files} "
            "GROUP BY 1 ORDER BY 1"
        ).fetchall()
    assert found == [("new", 2, 0, 0), ("paid", 1, 1, 1), ("returned", 1, 1, 1)]


@pytest.mark.parametrize(
    ("field", "event", "headers", "wire", "version"),
    [
        ("v", {"v": 2}, [], None, "2"),
        ("v", {"v": 2.0}, [], None, "2"),
        ("v", {"v": "2"}, [], None, "2"),
        ("v", {"v": None}, [], None, None),
        ("v", {}, [], None, None),
        ("v", [1], [], None, None),
        ("meta.v", {"meta": {"v": 2}}, [], None, "2"),
        ("meta.v", {"meta": 2}, [], None, None),
        ("header:v", {"v": 1}, [("v", b"2")], None, "2"),
        ("header:v", {"v": 1}, [("v", b"1"), ("v", b"2"), ("w", b"3")], None, "2"),
        ("header:v", {"v": 1}, [("v", None)], None, None),
        ("header:v", {"v": 1}, [("v", b"\xff")], None, "\ufffd"),
        ("wire", {"v": 1}, [], 7, "7"),
        ("wire", {"v": 1}, [], None, None),
    ],
)
def test_where_the_version_is(
    field: str, event: Any, headers: Any, wire: int | None, version: str | None
) -> None:
    assert version_of(field, event, headers, wire) == version


def test_the_wire_format_picks_the_version(tmp_path: Path) -> None:
    contract = load_contracts(
        schema_files(tmp_path, {**V1, "x-version": 41}, {**V2, "x-version": 42}), "wire"
    )
    values = [
        b"\0" + (42).to_bytes(4, "big") + json.dumps(NEW).encode(),
        b"\0" + (41).to_bytes(4, "big") + json.dumps(OLD).encode(),
        b"\0" + (40).to_bytes(4, "big") + json.dumps(OLD).encode(),
        json.dumps(OLD).encode(),
    ]
    records = [kafka_record(value, offset=offset) for offset, value in enumerate(values)]
    batches, dead = RecordValidator(contract, RULES).validate(batch_of_records(records))
    rows = pa.Table.from_batches(batches).to_pylist()
    assert {row["kafka_offset"]: row["id"] for row in rows} == {0: "b", 1: "a", 3: "a"}
    assert {row["_value"] for row in rows} == {values[0], values[1], values[3]}
    assert [letter.failure.message for letter in dead] == [
        "version '40' (wire) is unknown; the versions are 41, 42"
    ]
    assert dead[0].value == values[2]


PREFIX = b"\0\0\0\1\2"


@pytest.mark.parametrize(
    ("value", "code", "message"),
    [
        (PREFIX + b'{"id":"a"}', None, ""),
        (PREFIX + b"{", ErrorCode.MALFORMED_JSON, "behind Confluent's wire format (schema id 258)"),
        (PREFIX, ErrorCode.MALFORMED_JSON, "behind Confluent's wire format (schema id 258)"),
        (PREFIX + b"\xff", ErrorCode.NOT_UTF8, "behind Confluent's wire format (schema id 258)"),
        (PREFIX + b"[" * 300, ErrorCode.TOO_DEEP, "behind Confluent's wire format"),
        (PREFIX + PREFIX + b"{}", ErrorCode.MALFORMED_JSON, "behind Confluent's wire format"),
        (b"\0", ErrorCode.MALFORMED_JSON, "a zero byte without JSON behind it"),
        (b"\0{}", ErrorCode.MALFORMED_JSON, "a zero byte without JSON behind it"),
        (PREFIX + b"{}", ErrorCode.SCHEMA_VIOLATION, "'id' is a required property"),
    ],
)
def test_the_wire_format_is_recognised(value: bytes, code: ErrorCode | None, message: str) -> None:
    event, failure = Judge(V1, 1000).judge(value)
    if code is None:
        assert (event, failure) == ({"id": "a"}, None)
    else:
        assert failure is not None
        assert failure.code is code
        assert failure.message.startswith(message)


@given(st.binary(max_size=12))
def test_unwrapping_is_undone_by_wrapping(value: bytes) -> None:
    behind, schema_id = unwrap(value)
    wrapped = behind if schema_id is None else b"\0" + schema_id.to_bytes(4, "big") + behind
    assert wrapped == value
    assert (schema_id is not None) == (len(value) >= 5 and value[0] == 0)


@pytest.mark.parametrize(
    ("documents", "field", "reason"),
    [
        ([V1, V2], None, "names 2 files: set --schema_version_field"),
        ([V1, {**V2, "x-version": 1}], "v", "has x-version '1', as "),
        ([V1, {**V2, "x-version": 1.0}], "v", "has x-version '1', as "),
        ([V1, {"type": "object"}], "v", "has no x-version"),
        ([{"type": "object"}], "v", "has no x-version"),
        ([V1, {**V2, "x-version": True}], "v", "has no x-version"),
        (
            [V1, {**V2, "properties": {"buyer": {"properties": {"name": {"type": "integer"}}}}}],
            "v",
            "buyer.name is string and int64 in its versions; files of both can't be one dataset",
        ),
        (
            [V1, {**V2, "properties": {"items": {"type": "array", "items": {"type": "string"}}}}],
            "v",
            "items[] is struct<sku: string> and string in its versions",
        ),
    ],
)
def test_versions_that_do_not_serve_are_one_line(
    tmp_path: Path, documents: list[Any], field: str | None, reason: str
) -> None:
    with pytest.raises(UsageError) as refused:
        load_contracts(schema_files(tmp_path, *documents), field)
    assert reason in str(refused.value)
    assert str(refused.value).startswith("--schema")
    assert "\n" not in str(refused.value)


def test_the_command_line_names_versions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ",".join(str(path) for path in schema_files(tmp_path, V1, V2))
    words = ["run", "--kafka_bootstrap_servers=localhost:1", "--input_topics=t"]
    assert main([*words, f"--schema={files}", f"--log_dir={tmp_path}"]) == 2
    assert "set --schema_version_field" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "values"),
    [
        ({"enum": ["a"]}, {"enum": ["b", "a"]}, ["a", None]),
        ({"enum": ["a"]}, {"type": "string"}, ["a", None]),
        ({"type": "string"}, {"enum": ["a"]}, ["z", None]),
        (
            {"type": "object", "additionalProperties": {"enum": ["a"]}},
            {"type": "object", "additionalProperties": {"type": "string"}},
            [{"k": "a"}, {}, None],
        ),
        (
            {"type": "array", "items": V1["properties"]["buyer"]},
            {"type": "array", "items": V2["properties"]["buyer"]},
            [[{"name": "x"}, None], None, []],
        ),
        (
            {"type": "object", "additionalProperties": V1["properties"]["items"]},
            {"type": "object", "additionalProperties": V2["properties"]["items"]},
            [{"k": [{"sku": "x"}], "l": []}, None],
        ),
    ],
    ids=str,
)
def test_columns_are_aligned_without_loss(old: Any, new: Any, values: list[Any]) -> None:
    own = derive_node(old, old)
    for unified in (unify(own, derive_node(new, new)), unify(derive_node(new, new), own)):
        column = build_column(values, own)
        aligned = align(column, own, unified)
        aligned.validate(full=True)
        assert aligned.type == unified.arrow_type
        assert without_nulls(aligned.to_pylist()) == without_nulls(column.to_pylist())


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_nulls(part) for name, part in value.items() if part is not None}
    if isinstance(value, list | tuple):
        return [without_nulls(part) for part in value]
    return value
