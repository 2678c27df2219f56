"""Schemas in the manner of well-known ones: what is valid goes through and comes back from Parquet.

`tests/schemas` has the schemas, values made from each by a library, and `columns.json`, the columns
that the table in the README gives it, looked over by eye. The way back from a row follows that file
and the README, and nothing of the code under test.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml  # type: ignore[import-untyped]
from sample_records import NOON_MS, kafka_record

from beam_pipeline.config import ValidationRules
from beam_pipeline.covered_offsets import CoveredOffsets
from beam_pipeline.files.names import OutputFile
from beam_pipeline.io.kafka import batch_of_records
from beam_pipeline.io.parquet import ParquetFormat
from beam_pipeline.io.windowed_files import Piece
from beam_pipeline.records import DeadLetter, ErrorCode
from beam_pipeline.schemas import load_contract
from beam_pipeline.schemas.contract import row_schema
from beam_pipeline.transforms.validate import RecordValidator

SCHEMAS = Path(__file__).parents[2] / "schemas"
NAMES = sorted(path.name.removesuffix(".schema.yaml") for path in SCHEMAS.glob("*.schema.yaml"))
COLUMNS: dict[str, Any] = json.loads((SCHEMAS / "columns.json").read_text(encoding="utf-8"))
KAFKA = ("kafka_topic", "kafka_partition", "kafka_offset", "kafka_timestamp")
EPOCH = "20261124T133350Zx3f9a"

Column = str | list[Any] | dict[str, Any]
"""A word, `[items]` of a list, `{"*": values}` of a map, or else the fields of a struct."""

ARROW = {
    "text": pa.string(),
    "rest": pa.string(),  # the JSON text of unnamed fields
    "json": pa.string(),
    "digits": pa.string(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "timestamp": pa.timestamp("us", "UTC"),
    "date": pa.date32(),
    "null": pa.null(),
    "decimal(38,0)": pa.decimal128(38, 0),
    "decimal(24,4)": pa.decimal128(24, 4),
    "decimal(18,2)": pa.decimal128(18, 2),
    "decimal(10,2)": pa.decimal128(10, 2),
    "dictionary": pa.dictionary(pa.int32(), pa.string()),
}


def arrow_type(column: Column) -> pa.DataType:
    if isinstance(column, str):
        return ARROW[column]
    if isinstance(column, list):
        return pa.list_(arrow_type(column[0]))
    if set(column) == {"*"}:
        return pa.map_(pa.string(), arrow_type(column["*"]))
    return pa.struct([(name, arrow_type(part)) for name, part in column.items()])


def document_of(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(
        (SCHEMAS / f"{name}.schema.yaml").read_text(encoding="utf-8")
    )
    return document


def values_of(name: str) -> list[Any]:
    """The library's values, and those that the schema itself gives as examples."""
    made = (SCHEMAS / "records" / f"{name}.jsonl").read_text(encoding="utf-8")
    examples = document_of(name)
    listed: list[Any] = examples.get("examples", [])
    return [json.loads(line) for line in made.split("\n") if line] + listed


def landed(name: str, values: list[Any], directory: Path) -> tuple[pa.Table, Sequence[DeadLetter]]:
    """The values as a topic's records, through the validator and the sink: what a file of several
    row groups has of them, and the dead letters."""
    contract = load_contract(SCHEMAS / f"{name}.schema.yaml")
    validator = RecordValidator(contract, ValidationRules(event_time_field=None))
    records = [
        kafka_record(json.dumps(value, ensure_ascii=False).encode(), offset=offset)
        for offset, value in enumerate(values)
    ]
    batches, dead = validator.validate(batch_of_records(records))
    sink = ParquetFormat(row_schema(contract.batch_schema), 1, contract.ref, row_group_bytes=1)
    cut = [piece for batch in batches for piece in sink.shards_of(batch)]
    pieces_in_place = [piece for piece in cut if isinstance(piece, Piece)]
    assert len(pieces_in_place) == len(cut)
    shard = pieces_in_place[0].shard
    pieces = [
        piece.content.slice(at, 10)
        for piece in pieces_in_place
        for at in range(0, piece.content.num_rows, 10)
    ]
    parts = [
        sink.write_part(str(directory / f"{name}-{number}.arrow"), shard, [piece])
        for number, piece in enumerate(pieces)
    ]
    path = directory / f"{name}.parquet"
    start = datetime.fromtimestamp(NOON_MS / 1000, timezone.utc)
    target = OutputFile("orders", start, start + timedelta(minutes=1), 0, EPOCH, 0, ".parquet")
    assert sink.assemble(str(path), target, parts, CoveredOffsets()) == len(values) - len(dead)
    return pq.ParquetFile(path).read(), dead


MISSING = object()


def told_by(cell: Any, column: Column) -> Any:
    """The JSON value that a cell says, `MISSING` for null: fields of a struct that are null are
    left out, for missing and null are not told apart."""
    if cell is None:
        return MISSING
    if isinstance(column, list):
        return [None if (item := told_by(one, column[0])) is MISSING else item for one in cell]
    if isinstance(column, dict) and set(column) == {"*"}:
        values = {key: told_by(one, column["*"]) for key, one in cell}
        return {key: None if one is MISSING else one for key, one in values.items()}
    if isinstance(column, dict):
        return struct_told_by(cell, column)
    if column == "json":
        return json.loads(cell)
    if column == "digits":
        return int(cell)
    if column == "decimal(38,0)":
        return int(cell)
    return cell


def struct_told_by(cell: dict[str, Any], column: dict[str, Any]) -> dict[str, Any]:
    rest = next((name for name, part in column.items() if part == "rest"), None)
    fields = {name: told_by(cell[name], part) for name, part in column.items() if name != rest}
    found = {name: value for name, value in fields.items() if value is not MISSING}
    if rest is not None and cell[rest] is not None:
        others = json.loads(cell[rest])
        assert not set(others) & set(column) - {rest}
        found |= others
    return found


def expected(value: Any, column: Column, *, field: bool = True) -> Any:
    """What a value is to come back as: the differences that the README names, and no others."""
    if value is None:
        return MISSING if field else None
    if isinstance(column, list):
        return [expected(one, column[0], field=False) for one in value]
    if isinstance(column, dict) and set(column) == {"*"}:
        return {key: expected(one, column["*"], field=False) for key, one in value.items()}
    if isinstance(column, dict):
        parts = {
            key: expected(one, column[key]) if named(key, column) else one
            for key, one in value.items()
        }
        return {key: one for key, one in parts.items() if one is not MISSING}
    if column == "timestamp":
        text = value.upper().replace("Z", "+00:00")
        head, _, tail = text.partition(".")
        digits = tail.split("+")[0].split("-")[0]
        zone = tail[len(digits) :]
        whole = f"{head}.{digits[:6].ljust(6, '0')}{zone}" if tail else head
        return datetime.fromisoformat(whole).astimezone(timezone.utc)
    if column == "date":
        return date.fromisoformat(value)
    if column in ("int64", "decimal(38,0)", "digits"):
        assert value == int(value)
        return int(value)
    if column == "float64":
        return float(value)
    if column.startswith("decimal"):
        return Decimal(value)
    return value


def cannot_hold(value: Any, column: Column) -> bool:
    """Whether a valid value is one of those that the README makes dead letters: an integer beyond
    64 bits, or one that a double does not hold exactly."""
    if value is None:
        return False
    if isinstance(column, list):
        return any(cannot_hold(one, column[0]) for one in value)
    if isinstance(column, dict) and set(column) == {"*"}:
        return any(cannot_hold(one, column["*"]) for one in value.values())
    if isinstance(column, dict):
        return any(
            cannot_hold(one, column[key]) for key, one in value.items() if named(key, column)
        )
    if column == "int64":
        return not -(2**63) <= value < 2**63
    return column == "float64" and type(value) is int and not holds_exactly(value)


def holds_exactly(value: int) -> bool:
    try:
        return int(float(value)) == value
    except OverflowError:
        return False


def named(key: str, column: dict[str, Any]) -> bool:
    return key in column and column[key] != "rest"


def exactly(one: Any, other: Any) -> bool:
    """Equality that tells `1`, `1.0` and `true` apart, and the order of an array."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return set(one) == set(other) and all(exactly(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(exactly, one, other))
    return bool(one == other)


@pytest.mark.parametrize("name", NAMES)
def test_what_goes_in_comes_back(name: str, tmp_path: Path) -> None:
    document = document_of(name)
    judge_type = jsonschema.validators.validator_for(document)
    judge = judge_type(document, format_checker=judge_type.FORMAT_CHECKER)
    values = [value for value in values_of(name) if value is not None]
    assert [value for value in values if not judge.is_valid(value)] == []

    columns = COLUMNS[name]

    table, dead = landed(name, values, tmp_path)

    whole = set(columns) == {"value"} and "value" not in document.get("properties", {})
    own = {column.name: column.type for column in table.schema if column.name not in KAFKA}
    assert own == {key: arrow_type(part) for key, part in columns.items()}
    rows = {row["kafka_offset"]: row for row in table.to_pylist()}
    events = [{"value": value} if whole else value for value in values]
    beyond = {offset for offset, event in enumerate(events) if cannot_hold(event, columns)}
    assert {letter.offset for letter in dead} == beyond
    assert {letter.failure.code for letter in dead} <= {ErrorCode.ENCODE_ERROR}
    assert set(rows) == set(range(len(values))) - beyond
    for offset, row in rows.items():
        back = struct_told_by(row, columns)
        assert exactly(back, expected(events[offset], columns)), (events[offset], back)


def test_there_are_as_many_schemas_and_values_as_are_promised() -> None:
    assert len(NAMES) >= 40
    assert set(COLUMNS) == set(NAMES)
    assert all(values_of(name) for name in NAMES)
    assert sum(len(values_of(name)) for name in NAMES) >= 1000


def test_the_way_back_tells_differences() -> None:
    """The comparison above can fail."""
    column = {"i": "int64", "f": "float64", "j": "json", "l": ["int64"], "extra": "rest"}
    cell = {"i": 1, "f": 1.0, "j": '{"a":[1,true]}', "l": [1, None], "extra": '{"z":1}'}
    value = {"i": 1, "f": 1, "j": {"a": [1, True]}, "l": [1, None], "z": 1}
    assert exactly(struct_told_by(cell, column), expected(value, column))
    for change in (
        {"i": 2},
        {"i": None},
        {"j": {"a": [1, 1]}},
        {"j": {"a": [1.0, True]}},
        {"l": [1]},
        {"l": [None, 1]},
        {"z": 1.0},
        {"more": None},
    ):
        changed = expected({**value, **change}, column)
        assert not exactly(struct_told_by(cell, column), changed)
    assert cannot_hold({"l": [2**63]}, column)
    assert cannot_hold({"f": 2**53 + 1}, column)
    assert not cannot_hold({"z": 2**80, "j": 2**80, "i": -(2**63)}, column)
