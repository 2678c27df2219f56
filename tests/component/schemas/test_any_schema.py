"""Any schema of the documented subset, any record: what it allows is a row that says the same, and
the rest a dead letter. The verdict asked is that of the `jsonschema` library; the way back from a
row is written out here from its Arrow type alone."""

from __future__ import annotations

import io
import json
from datetime import date, datetime, timezone
from decimal import Decimal
from typing import Any

import jsonschema
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import event, given, settings
from random_schemas import topics
from sample_records import contract_of, kafka_record

from beam_pipeline.config import ValidationRules
from beam_pipeline.io.kafka import batch_of_records
from beam_pipeline.records import ErrorCode
from beam_pipeline.schemas.nodes import Struct
from beam_pipeline.transforms.validate import RecordValidator


def says_the_same(cell: Any, value: Any, kind: pa.DataType) -> bool:
    """Whether a cell of an Arrow type holds what the JSON value says, as the README has it."""
    if cell is None or value is None:
        return cell is None and value is None
    if pa.types.is_struct(kind):
        return isinstance(value, dict) and fields_say_the_same(cell, value, kind)
    if pa.types.is_list(kind):
        return len(cell) == len(value) and all(
            says_the_same(one, other, kind.value_type)
            for one, other in zip(cell, value, strict=True)
        )
    if pa.types.is_map(kind):
        return [name for name, _ in cell] == list(value) and all(
            says_the_same(item, value[name], kind.item_type) for name, item in cell
        )
    if pa.types.is_timestamp(kind):
        return bool(cell == datetime.fromisoformat(value.removesuffix("Z") + "+00:00"))
    if pa.types.is_date(kind):
        return bool(cell == date.fromisoformat(value))
    if pa.types.is_decimal(kind):
        return bool(cell == Decimal(value))
    if pa.types.is_string(kind) or pa.types.is_dictionary(kind):
        return cell == value or same_json(json.loads(cell), value)
    if type(cell) is int and type(value) is float:  # a column of integers has what was sent
        return cell == Decimal(repr(value))
    return type(cell) is bool and cell is value if type(value) is bool else bool(cell == value)


def has_whole_number_beyond_64_bits(value: Any) -> bool:
    """Whether a value has a number such as 1e300: an integer for JSON Schema, and for no column."""
    if isinstance(value, dict | list):
        parts = value.values() if isinstance(value, dict) else value
        return any(map(has_whole_number_beyond_64_bits, parts))
    return isinstance(value, float) and abs(value) >= 2**63


def fields_say_the_same(cell: dict[str, Any], value: dict[str, Any], kind: Any) -> bool:
    named = [field for field in kind if field.name != "extra"]
    rest = {name: part for name, part in value.items() if name not in {f.name for f in named}}
    text = cell.get("extra")
    return (json.loads(text) if text else {}) == rest and all(
        says_the_same(cell[field.name], value.get(field.name), field.type) for field in named
    )


def same_json(one: Any, other: Any) -> bool:
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def written_and_read(batch: pa.RecordBatch) -> pa.Table:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_batches([batch]), sink)
    return pq.read_table(io.BytesIO(sink.getvalue()))


@settings(max_examples=300)
@given(topics())
def test_what_is_valid_is_a_row_that_says_the_same_and_the_rest_a_letter(
    drawn: tuple[dict[str, Any], list[Any]],
) -> None:
    document, values = drawn
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    judge = jsonschema.Draft202012Validator(document, format_checker=checker)
    contract = contract_of(document)
    validator = RecordValidator(contract, ValidationRules(event_time_field=None))
    records = [
        kafka_record(json.dumps(value).encode(), offset=offset)
        for offset, value in enumerate(values)
    ]

    batches, dead = validator.validate(batch_of_records(records))

    letters = {letter.offset: letter for letter in dead}
    rows: dict[int, dict[str, Any]] = {}
    for batch in batches:
        table = written_and_read(batch)
        assert table.schema.remove_metadata() == batch.schema
        for row in table.to_pylist():
            rows[row["kafka_offset"]] = row
    columns = pa.struct(list(contract.event_schema))
    is_one_column = not isinstance(contract.node, Struct)
    for offset, value in enumerate(values):
        assert (offset in rows) != (offset in letters)
        if has_whole_number_beyond_64_bits(value) and offset in letters:
            event("beyond 64 bits")
            codes = {ErrorCode.SCHEMA_VIOLATION, ErrorCode.ENCODE_ERROR}
            assert letters[offset].failure.code in codes
        elif judge.is_valid(value):
            event("valid")
            assert offset in rows, letters[offset].failure
            event_row = {name: rows[offset][name] for name in contract.event_schema.names}
            whole = {"value": value} if is_one_column else value
            assert says_the_same(event_row, whole, columns)
        else:
            event("invalid")
            assert letters[offset].failure.code is ErrorCode.SCHEMA_VIOLATION
            assert letters[offset].value == records[offset].value


def test_the_way_back_tells_differences() -> None:
    """The comparison above can fail."""
    noon = datetime(2026, 11, 23, 12, tzinfo=timezone.utc)
    kind = pa.struct(
        [
            ("n", pa.int64()),
            ("at", pa.timestamp("us", "UTC")),
            ("j", pa.string()),
            ("extra", "string"),
        ]
    )
    cell = {"n": 1, "at": noon, "j": '{"a":[1,true]}', "extra": '{"z":1}'}
    value = {"n": 1, "at": "2026-11-23T12:00:00Z", "j": {"a": [1, True]}, "z": 1}
    assert says_the_same(cell, value, kind)
    for change in (
        {"n": 2},
        {"n": None},
        {"at": "2026-11-23T12:00:00.000001Z"},
        {"j": {"a": [1, 1]}},
        {"z": 2},
        {"more": None},
    ):
        assert not says_the_same(cell, {**value, **change}, kind)
