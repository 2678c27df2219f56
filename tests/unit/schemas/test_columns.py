"""Decoded events become columns, and nothing that the schema allows is lost on the way."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import jsonschema_rs
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sample_records import commerce_contract, commerce_event, contract_of, kafka_record

from beam_pipeline.config import ValidationRules
from beam_pipeline.io.kafka import batch_of_records
from beam_pipeline.records import ErrorCode
from beam_pipeline.schemas import ColumnBuilder, Judge, build_column
from beam_pipeline.schemas.columns import ARROW_REFUSALS, parse_timestamps
from beam_pipeline.schemas.nodes import TIMESTAMP_TYPE, derive_node
from beam_pipeline.transforms.validate import RecordValidator

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class Shape:
    """A schema, values that it allows, and what must be in the cell for each of them."""

    schema: Any
    values: st.SearchStrategy[Any]
    expected: Callable[[Any], Any]


@dataclass(frozen=True)
class JsonText:
    """A cell that must be JSON text of this value."""

    value: Any


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
INT64 = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
MONEY = st.integers(-(10**18) + 1, 10**18 - 1).map(
    lambda cents: f"{'-' * (cents < 0)}{abs(cents) // 100}.{abs(cents) % 100:02d}"
)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOATS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@st.composite
def rfc3339_texts(draw: st.DrawFn) -> str:
    """Any way that RFC 3339 has to write a time, leap seconds aside."""
    moment = draw(st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29)))
    fraction = draw(st.just("") | st.text("0123456789", min_size=1, max_size=12))
    offset = draw(st.sampled_from(["Z", "z", "+00:00", "-00:00", "+05:45", "-23:59", "+23:59"]))
    separator = draw(st.sampled_from("Tt"))
    return (
        f"{moment.year:04d}-{moment:%m-%d}{separator}{moment:%H:%M:%S}"
        f"{'.' * bool(fraction)}{fraction}{offset}"
    )


def moment_of(text: str) -> int:
    """Microseconds since the epoch, by Python's parser."""
    day_and_time, fraction, offset = text[:19], "", text[19:].upper()
    if offset.startswith("."):
        digits = offset[1:].rstrip("Z").split("+")[0].split("-")[0]
        fraction, offset = digits, offset[1 + len(digits) :]
    zone = "+00:00" if offset == "Z" else offset
    whole = datetime.fromisoformat(day_and_time.upper() + zone)
    return (whole - EPOCH) // MICROSECOND + int(fraction[:6].ljust(6, "0"))


def none_or(expected: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else expected(value)


def same(value: Any) -> Any:
    return value


LEAVES = [
    Shape({"type": "string"}, TEXTS, same),
    Shape({"type": "string", "format": "uuid"}, st.uuids().map(str), same),
    Shape({"type": "integer"}, INT64 | INT64.filter(lambda n: abs(n) < 2**53).map(float), int),
    Shape({"type": "number"}, st.integers(-(2**53), 2**53) | FLOATS, float),
    Shape({"type": "boolean"}, st.booleans(), same),
    Shape({"type": "string", "format": "date-time"}, rfc3339_texts(), moment_of),
    Shape({"type": "string", "format": "date"}, st.dates().map(date.isoformat), date.fromisoformat),
    Shape({"enum": ["a", "", "é"]}, st.sampled_from(["a", "", "é"]), same),
    Shape({"enum": [1, 2.5]}, st.sampled_from([1, 2.5]), float),
    Shape({"const": True}, st.just(True), same),
    Shape({"$ref": "#/$defs/id"}, INT64, same),
    Shape({}, JSON_VALUES, none_or(JsonText)),
    Shape({"type": ["string", "integer"]}, TEXTS | st.integers(), JsonText),
    Shape({"anyOf": [{"type": "string"}, {"type": "integer"}]}, TEXTS | st.integers(), JsonText),
    Shape({"type": "string", "x-decimal": {"precision": 18, "scale": 2}}, MONEY, Decimal),
    Shape({"type": "integer", "maximum": 10**30}, st.integers(-(10**30), 10**30), Decimal),
    Shape(
        {"type": "object", "additionalProperties": {"type": "integer"}},
        st.dictionaries(TEXTS, INT64, max_size=3),
        lambda value: list(value.items()),
    ),
    Shape({"allOf": [{"$ref": "#/$defs/id"}, {"minimum": 0}]}, st.integers(0, 2**63 - 1), same),
    Shape({"type": "object"}, st.dictionaries(TEXTS, JSON_VALUES, max_size=3), JsonText),
    Shape({"type": "array"}, st.lists(JSON_VALUES, max_size=3), JsonText),
]


def nullable(shape: Shape) -> st.SearchStrategy[Shape]:
    """`shape`, or one that also allows null, written in one of the ways there are."""
    ways = [
        {"anyOf": [shape.schema, {"type": "null"}]},
        {"oneOf": [{"type": "null"}, shape.schema]},
    ]
    if isinstance(shape.schema.get("type"), str):
        ways.append({**shape.schema, "type": [shape.schema["type"], "null"]})
    with_null = [
        Shape(way, st.none() | shape.values, none_or(shape.expected))
        for way in ways
        if shape.schema != {}  # allows null anyway
    ]
    return st.sampled_from([shape, *with_null])


def list_of(items: Shape) -> Shape:
    return Shape(
        {"type": "array", "items": items.schema},
        st.lists(items.values, max_size=3),
        lambda value: [items.expected(item) for item in value],
    )


@st.composite
def object_of(draw: st.DrawFn, fields: st.SearchStrategy[Shape]) -> Shape:
    shapes = draw(
        st.dictionaries(
            TEXTS | st.sampled_from(["extra", "_extra"]), fields, min_size=1, max_size=4
        )
    )
    required = draw(st.sets(st.sampled_from(sorted(shapes))))
    is_open = draw(st.booleans())
    schema = {
        "type": "object",
        "properties": {name: shape.schema for name, shape in shapes.items()},
        "required": sorted(required),
        **({} if is_open else {"additionalProperties": False}),
    }
    named = st.fixed_dictionaries(
        {name: shape.values for name, shape in shapes.items() if name in required},
        optional={name: shape.values for name, shape in shapes.items() if name not in required},
    )
    others = st.dictionaries(TEXTS.filter(lambda name: name not in shapes), JSON_VALUES, max_size=2)
    values = st.builds(lambda a, b: {**b, **a}, named, others) if is_open else named

    def expected(value: dict[str, Any]) -> dict[str, Any]:
        cells = {
            name: shape.expected(value[name]) if value.get(name) is not None else None
            for name, shape in shapes.items()
        }
        if is_open:
            rest = {name: part for name, part in value.items() if name not in shapes}
            extra = "extra"
            while extra in shapes:
                extra = f"_{extra}"
            cells[extra] = JsonText(rest) if rest else None
        return cells

    return Shape(schema, values, expected)


SHAPES = st.recursive(
    st.sampled_from(LEAVES).flatmap(nullable),
    lambda inner: (inner.map(list_of) | object_of(inner)).flatmap(nullable),
    max_leaves=6,
)


def assert_cell(cell: Any, expected: Any) -> None:
    """Compares a cell as `plain` gives it with what is expected there."""
    if isinstance(expected, JsonText):
        assert json.loads(cell) == expected.value
    elif isinstance(expected, dict):
        assert list(cell) == list(expected)
        for name, child in expected.items():
            assert_cell(cell[name], child)
    elif isinstance(expected, list):
        assert isinstance(cell, list)
        assert len(cell) == len(expected)
        for item, child in zip(cell, expected, strict=True):
            assert_cell(item, child)
    else:
        assert cell == expected
        assert type(cell) is type(expected)


def plain(array: pa.Array) -> list[Any]:
    """The cells as Python values; times as microseconds, which know no year 9999."""
    cells: list[Any] = pc.cast(array, without_times(array.type)).to_pylist()
    return cells


def without_times(data_type: pa.DataType) -> pa.DataType:
    if pa.types.is_timestamp(data_type):
        return pa.int64()
    if pa.types.is_list(data_type):
        return pa.list_(without_times(data_type.value_type))
    if pa.types.is_struct(data_type):
        return pa.struct([(field.name, without_times(field.type)) for field in data_type])
    if pa.types.is_map(data_type):
        return pa.map_(data_type.key_type, without_times(data_type.item_type))
    return data_type


DEFINITIONS = {"$defs": {"id": {"type": "integer"}}}


@given(SHAPES.flatmap(lambda shape: st.tuples(st.just(shape), st.lists(shape.values, max_size=5))))
def test_values_come_back_from_their_column(drawn: tuple[Shape, list[Any]]) -> None:
    shape, values = drawn
    document = {**DEFINITIONS, **shape.schema}
    validator = jsonschema_rs.validator_for(document, validate_formats=True)
    for value in values:
        assert validator.is_valid(value), "the strategy and the schema disagree"
    node = derive_node(document, document)
    column = build_column(values, node)
    column.validate(full=True)
    assert column.type == node.arrow_type
    assert len(column) == len(values)
    for cell, value in zip(plain(column), values, strict=True):
        assert_cell(cell, shape.expected(value) if value is not None else None)


@given(object_of(SHAPES).flatmap(lambda s: st.tuples(st.just(s), st.lists(s.values, max_size=5))))
def test_events_come_back_from_their_columns(drawn: tuple[Shape, list[Any]]) -> None:
    shape, values = drawn
    contract = contract_of({**DEFINITIONS, **shape.schema})
    judge = Judge(contract.document, max_value_bytes=1_000_000)
    events = []
    for value in values:
        event, failure = judge.judge(json.dumps(value).encode())
        assert failure is None
        events.append(event)
    columns = ColumnBuilder(contract).build(events)
    rows = pa.RecordBatch.from_arrays(columns, schema=contract.event_schema)
    rows.validate(full=True)
    cells = zip(*[plain(column) for column in rows.columns], strict=True)
    for row, value in zip(cells, values, strict=True):
        assert_cell(dict(zip(rows.schema.names, row, strict=True)), shape.expected(value))


def test_a_commerce_event_comes_back() -> None:
    contract = commerce_contract()
    event = commerce_event(utm_campaign="autumn", nested={"a": [1, None]})
    columns = ColumnBuilder(contract).build([event, commerce_event(purchase=..., referrer=...)])
    first, second = pa.RecordBatch.from_arrays(columns, schema=contract.event_schema).to_pylist()
    purchase = copy.deepcopy(event["purchase"])
    purchase["amount"] = Decimal(str(purchase["amount"]))
    for item in purchase["items"]:
        item["unit_price"] = Decimal(str(item["unit_price"]))
    assert first["purchase"] == purchase
    assert first["device"] == event["device"]
    assert first["event_time"] == datetime(2026, 11, 23, 12, tzinfo=timezone.utc)
    assert json.loads(first["extra"]) == {"utm_campaign": "autumn", "nested": {"a": [1, None]}}
    assert second["purchase"] is None
    assert second["referrer"] is None
    assert json.loads(second["extra"]) == {"utm_campaign": "autumn"}


@pytest.mark.parametrize(
    "document",
    [{"type": "integer"}, {"type": "array", "items": {"type": "integer"}}, {}],
)
def test_events_that_are_no_objects_are_one_column(document: Any) -> None:
    contract = contract_of(document)
    values = [[1], [], None] if document.get("type") == "array" else [1, 2]
    (column,) = ColumnBuilder(contract).build(values)
    assert pa.RecordBatch.from_arrays([column], schema=contract.event_schema).num_rows == len(
        values
    )


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "integer"}, 2**63),
        ({"type": "integer"}, -(2**63) - 1),
        ({"type": "integer"}, 10**30),
        ({"type": "integer"}, 1e19),
        ({"type": "number"}, 10**400),
        ({"type": "number"}, 2**53 + 1),
        ({"type": "array", "items": {"type": "integer"}}, [1, 10**30]),
        ({"properties": {"a": {"type": "integer"}}}, {"a": 10**30}),
        ({"properties": {"a": {"type": "integer"}}}, "valid, for the schema asks for no object"),
        ({"properties": {"a": {"type": "integer"}}}, [1]),
        ({"properties": {"a": {"type": "integer"}}}, 5),
        ({"type": "string", "format": "date-time"}, "not a time"),
        ({"type": "string", "format": "date"}, "not a date"),
    ],
    ids=str,
)
def test_what_arrow_refuses(schema: Any, value: Any) -> None:
    with pytest.raises(ARROW_REFUSALS):
        build_column([value], derive_node(schema, schema))
    contract = contract_of({"properties": {"field": schema}})
    with pytest.raises(ARROW_REFUSALS):
        ColumnBuilder(contract).build([{"field": value}])


@pytest.mark.parametrize("event", [5, "text", [1], True, None])
def test_events_that_are_no_objects_are_refused_where_fields_are_named(event: Any) -> None:
    contract = contract_of({"properties": {"a": {"type": "integer"}}})
    with pytest.raises(TypeError, match=r"the value is not an object, but the schema names fields"):
        ColumnBuilder(contract).build([{}, event])


@given(st.integers(-(10**30), 10**30))
def test_integers_fit_or_are_refused(value: int) -> None:
    node = derive_node({"type": "integer"}, {})
    if -(2**63) <= value < 2**63:
        assert build_column([value], node).to_pylist() == [value]
    else:
        with pytest.raises(ARROW_REFUSALS):
            build_column([value], node)


@given(st.lists(st.none() | rfc3339_texts(), max_size=4))
def test_every_rfc3339_time_is_parsed(texts: list[str | None]) -> None:
    found = parse_timestamps(texts)
    assert found.type == TIMESTAMP_TYPE
    assert plain(found) == [None if text is None else moment_of(text) for text in texts]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-23t20:28:34z", "2026-11-23T20:28:34Z"),
        ("2026-11-23T20:28:34.1Z", "2026-11-23T20:28:34.100000Z"),
        ("2026-11-23T20:28:34.123456789Z", "2026-11-23T20:28:34.123456Z"),
        ("2026-11-23T20:28:34.999999999z", "2026-11-23T20:28:34.999999Z"),
        ("2026-11-23T21:28:34.5+01:00", "2026-11-23T20:28:34.500000Z"),
        ("2026-11-24T20:27:34-00:01", "2026-11-24T20:28:34Z"),
        ("2016-12-31T23:59:60Z", "2016-12-31T23:59:59.999999Z"),
        ("2016-12-31T23:59:60.25Z", "2016-12-31T23:59:59.999999Z"),
        ("2017-01-01T00:59:60+01:00", "2016-12-31T23:59:59.999999Z"),
        ("1969-12-31T23:59:59.999999Z", "1969-12-31T23:59:59.999999Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
        ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999Z"),
    ],
)
def test_oddities_of_rfc3339(text: str, expected: str) -> None:
    moment = datetime.fromisoformat(expected.replace("Z", "+00:00"))
    assert parse_timestamps([text]).to_pylist() == [moment]
    assert parse_timestamps([None, "2026-01-01T00:00:00Z", text])[2].as_py() == moment


@given(st.text("0123456789-:TtZz.+ ", max_size=30) | rfc3339_texts())
def test_what_the_format_allows_is_parsed(text: str) -> None:
    """A time that the deciding library takes is never refused by Arrow."""
    validator = jsonschema_rs.validator_for({"format": "date-time"}, validate_formats=True)
    assume(validator.is_valid(text))
    assert parse_timestamps([text]).null_count == 0


@pytest.mark.parametrize(
    "text", ["", "2026-11-23", "2026-11-23T20:28:34", "2026-13-01T00:00:00Z", "now", "T"]
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(pa.ArrowInvalid):
        parse_timestamps([text])


@pytest.mark.parametrize(
    ("schema", "text", "message"),
    [
        (
            {"type": "integer"},
            "9223372036854775808",
            "f: 9223372036854775808 does not fit the type int64",
        ),
        (
            {"type": "integer"},
            "9007199254740993.5",
            "f: 9007199254740993.5 does not fit the type int64",
        ),
        (
            {"type": "number"},
            "9007199254740993",
            "f: 9007199254740993 does not fit the type double",
        ),
        (
            {"type": "array", "items": {"type": "integer"}},
            "[1, 2, 1e19]",
            "f[2]: 1e+19 does not fit",
        ),
        (
            {"type": "object", "additionalProperties": {"type": "integer"}},
            '{"a\\u001b": 1e19}',
            "f{'a\\x1b'}: 1e+19 does not fit",
        ),
        (
            {
                "type": "object",
                "properties": {"m": {"type": "string", "x-decimal": {"precision": 18, "scale": 2}}},
            },
            '{"m": "1\\u001b[0m"}',
            "f.m: '1\\x1b[0m' does not fit the type decimal128(18, 2)",
        ),
        ({"properties": {"a": {"type": "integer"}}}, "[1]", "f: [1] does not fit the type object"),
        (
            {"type": "string", "x-decimal": {"precision": 18, "scale": 2}},
            '"%s"' % ("x" * 9_000),
            f"f: '{'x' * 99}… does not",
        ),
    ],
)
def test_a_value_that_does_not_fit_is_named(schema: Any, text: str, message: str) -> None:
    contract = contract_of({"type": "object", "properties": {"f": schema}})
    records = [kafka_record(value.encode()) for value in ("{}", f'{{"f": {text}}}', "{}")]
    batches, (letter,) = RecordValidator(contract, ValidationRules(None)).validate(
        batch_of_records(records)
    )
    assert sum(batch.num_rows for batch in batches) == 2
    assert letter.failure.code is ErrorCode.ENCODE_ERROR
    assert letter.failure.message.startswith(message)
    assert len(letter.failure.message) <= 500
    assert letter.failure.message.isprintable()


def test_an_event_without_an_object_is_named() -> None:
    contract = contract_of({"properties": {"a": {"type": "integer"}}})
    batch = batch_of_records([kafka_record(b"[1]")])
    _, (letter,) = RecordValidator(contract, ValidationRules(None)).validate(batch)
    assert letter.failure.message.startswith("the event: [1] does not fit the type object: the val")
