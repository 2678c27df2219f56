"""Numbers keep the digits that were sent where a column can hold them."""

from __future__ import annotations

import json
from decimal import ROUND_HALF_EVEN, Context, Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_records import contract_of, kafka_record

from beam_pipeline.cli import main
from beam_pipeline.config import ValidationRules
from beam_pipeline.io.kafka import batch_of_records
from beam_pipeline.records import ErrorCode
from beam_pipeline.schemas import Contract, load_contracts
from beam_pipeline.schemas.dataset import incompatible_columns
from beam_pipeline.schemas.numbers import ExactFloat, decimals_of, number_of
from beam_pipeline.transforms.event_times import event_times
from beam_pipeline.transforms.normalize import NormalizeBatch, rules_of
from beam_pipeline.transforms.validate import RecordValidator

LONG = "1234567890123456.78"
MONEY = {"type": "number", "x-decimal": {"precision": 18, "scale": 2}}
WIDE = {"type": "number", "x-decimal": {"precision": 38, "scale": 6}}
UINT64 = {"type": "integer", "minimum": 0, "maximum": 2**64 - 1}


def rows_and_letters(contract: Contract, *values: str) -> tuple[list[Any], list[Any]]:
    """The events as rows after normalization, and the dead letters."""
    batch = batch_of_records([kafka_record(value.encode()) for value in values])
    batches, letters = RecordValidator(contract, ValidationRules(None)).validate(batch)
    normalize = NormalizeBatch(rules_of(contract))
    names = contract.event_schema.names
    rows = [row for batch in batches for row in normalize(batch).select(names).to_pylist()]
    return rows, list(letters)


def landed(schema: Any, text: str) -> Any:
    """The one row's value of a field with `schema` for the JSON text `text`."""
    contract = contract_of({"type": "object", "properties": {"f": schema}})
    (row,), letters = rows_and_letters(contract, f'{{"f": {text}}}')
    assert letters == []
    return row["f"]


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        (MONEY, LONG, Decimal(LONG)),
        (MONEY, "9007199254740993", Decimal("9007199254740993.00")),
        (MONEY, "4503599627370497.51", Decimal("4503599627370497.51")),
        (MONEY, "0.285", Decimal("0.28")),
        (MONEY, "1.115", Decimal("1.12")),
        (MONEY, "2.675", Decimal("2.68")),
        (MONEY, "1e2", Decimal("100.00")),
        (MONEY, "12345678901234567.8E-1", Decimal("1234567890123456.78")),
        (MONEY, "-0.0", Decimal("0.00")),
        (MONEY, "0.005", Decimal("0.00")),
        (MONEY, "0.0050000000000000000001", Decimal("0.01")),
        (MONEY, "1e-1000000000", Decimal("0.00")),
        (MONEY, "1e-99999999999999999999", Decimal("0.00")),
        (MONEY, "0e99999999999999999999", Decimal("0.00")),
        (WIDE, "12345678901234567890.123456", Decimal("12345678901234567890.123456")),
        (WIDE, "0.1234565", Decimal("0.123456")),
        ({"type": "integer"}, "9007199254740993.0", 9007199254740993),
        ({"type": "integer"}, "9.007199254740993e15", 9007199254740993),
        ({"type": "integer"}, "9223372036854775000.0", 9223372036854775000),
        ({"type": "integer"}, "1e2", 100),
        ({"type": "integer"}, "-0.0", 0),
        ({"type": "integer"}, "0e99999999999999999999", 0),
        (UINT64, "18446744073709551615.0", Decimal(2**64 - 1)),
        (UINT64, "1e19", Decimal(10**19)),
        ({"type": "integer", "maximum": 10**30}, "1e23", Decimal(10**23)),
        ({"type": "number"}, LONG, float(LONG)),
        ({"type": "number"}, "9007199254740993.0", 9007199254740992.0),
        (True, f'{{"n": {LONG}}}', f'{{"n":{LONG}}}'),
    ],
)
def test_a_column_has_the_number_that_was_sent(schema: Any, text: str, value: Any) -> None:
    assert landed(schema, text) == value
    inner = {"type": "object", "properties": {"x": schema}, "additionalProperties": False}
    assert landed(inner, f'{{"x": {text}}}') == {"x": value}
    assert (
        landed({"type": "array", "items": schema}, f"[{text}]")
        == (f"[{text}]" if schema is True else [value])
        or schema is True
    )
    if schema is not True:
        a_map = {"type": "object", "additionalProperties": schema}
        assert landed(a_map, f'{{"x": {text}}}') == [("x", value)]
        (row,), _ = rows_and_letters(contract_of(schema), text)
        assert row == {"value": value}


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        (MONEY, "10000000000000000.00"),
        (MONEY, "9999999999999999.995"),
        (MONEY, "10000000000000000"),
        (MONEY, "1e300"),
        (MONEY, "-123456789012345678901234567890"),
        ({"type": "integer"}, "9007199254740993.5"),
        ({"type": "integer"}, "9223372036854775808.0"),
        ({"type": "integer", "maximum": 2**70}, "9007199254740992.0000000000000000000001"),
    ],
)
def test_what_does_not_fit_exactly_is_a_dead_letter(schema: Any, text: str) -> None:
    contract = contract_of({"type": "object", "properties": {"f": schema}})
    rows, letters = rows_and_letters(contract, f'{{"f": {text}}}', '{"f": 1}')
    assert len(rows) == 1
    assert [letter.failure.code for letter in letters] == [ErrorCode.ENCODE_ERROR]


@pytest.mark.parametrize("text", ["1e400", "-1E400", "1e1000000000", "1e99999999999999999999"])
@pytest.mark.parametrize("schema", [MONEY, {"type": "integer"}, True])
def test_a_number_beyond_float64_is_no_event(schema: Any, text: str) -> None:
    contract = contract_of({"type": "object", "properties": {"f": schema}})
    rows, letters = rows_and_letters(contract, f'{{"f": {text}}}')
    assert rows == []
    assert letters[0].failure.code is ErrorCode.MALFORMED_JSON


def test_the_verdict_on_a_whole_number_is_that_on_the_integer() -> None:
    contract = contract_of({"properties": {"n": {"type": "integer", "maximum": 2**53}}})
    _, letters = rows_and_letters(contract, '{"n": 9007199254740993.0}')
    assert letters[0].failure.violations[0].keyword == "maximum"
    draft_4 = {"$schema": "http://json-schema.org/draft-04/schema#", **contract.document}
    _, letters = rows_and_letters(contract_of(draft_4), '{"n": 9007199254740991.0000000000}')
    assert letters[0].failure.violations[0].keyword == "type"


NUMBERS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.decimals(
        allow_nan=False, allow_infinity=False, places=3, min_value=-1e12, max_value=1e12
    ).map("{:f}".format),
    st.builds("{}.{}5".format, st.integers(-(10**17), 10**17), st.integers(0, 9999)),
    st.builds("{}e{}".format, st.integers(-(10**20), 10**20), st.integers(-40, 20)),
    st.integers(-(10**20), 10**20).map(str),
)


@given(st.lists(NUMBERS, max_size=20), st.integers(1, 38), st.data())
def test_decimals_are_those_of_exact_arithmetic(
    texts: list[str], precision: int, data: st.DataObject
) -> None:
    scale = data.draw(st.integers(0, precision))
    kind = pa.decimal128(precision, scale)
    context = Context(prec=400, rounding=ROUND_HALF_EVEN)
    exact = [Decimal(text).quantize(Decimal(1).scaleb(-scale), context=context) for text in texts]
    fits = [abs(number) < Decimal(10) ** (precision - scale) for number in exact]
    values = [number_of(text) if set(text) & set(".eE") else int(text) for text in texts]
    kept = [value for value, fit in zip(values, fits, strict=True) if fit]
    expected = [number for number, fit in zip(exact, fits, strict=True) if fit]
    assert decimals_of([*kept, None], kind).to_pylist() == [*expected, None]
    for value, fit in zip(values, fits, strict=True):
        if not fit:
            with pytest.raises(ValueError, match="needs more than"):
                decimals_of([value], kind)


@given(NUMBERS)
def test_a_number_is_held_or_has_its_text(text: str) -> None:
    number = number_of(text)
    if isinstance(number, ExactFloat):
        assert number.text == text
        assert number.exact == Decimal(text)
        whole = int(number.exact)
        assert number.whole == (whole if whole == number.exact else None)
    else:
        assert Decimal(repr(number)) == Decimal(text)
        assert abs(number) < 2**53 or Decimal(number) == Decimal(text)


CLOSED = {
    "type": "object",
    "properties": {"n": {"type": "integer"}, "x": {"type": "number"}},
    "additionalProperties": False,
}


@given(NUMBERS)
def test_a_closed_schema_of_integers_decides_as_an_open_one(text: str) -> None:
    """Only the open one has JSON text, and decodes each number by a function."""
    results = []
    for schema in (CLOSED, {**CLOSED, "additionalProperties": True}):
        rows, letters = rows_and_letters(contract_of(schema), f'{{"n":{text}}}')
        results.append(([row["n"] for row in rows], [letter.failure.code for letter in letters]))
    assert results[0] == results[1]


@pytest.mark.parametrize(
    "text",
    ["1.00000000000000000001", "999999999999999.01", "4503599627370497.9", "99999.9999999999999"],
)
def test_a_fraction_that_a_double_loses_is_no_integer(text: str) -> None:
    rows, letters = rows_and_letters(contract_of(CLOSED), f'{{"n":{text}}}')
    assert rows == []
    assert letters[0].failure.code is ErrorCode.ENCODE_ERROR


@pytest.mark.parametrize("schema_id", [b"\0\0\0\x07", b"\0\x80\xff1", b"abcd"])
def test_a_number_behind_the_prefix_of_the_wire_format_is_exact(schema_id: bytes) -> None:
    values = [b"9.007199254740993e15", b'"9007199254740993.0"', b"9007199254740993.0"]
    batch = batch_of_records([kafka_record(b"\0" + schema_id + value) for value in values])
    contract = contract_of({"type": "integer"})
    (rows,), _ = RecordValidator(contract, ValidationRules(None)).validate(batch)
    assert rows["value"].to_pylist() == [9007199254740993, 9007199254740993]


def test_numbers_with_and_without_decimal_of_a_union_are_decimals() -> None:
    union = {"anyOf": [MONEY, {"type": "number", "minimum": 1}, {"type": "null"}]}
    assert landed(union, LONG) == Decimal(LONG)


@pytest.mark.parametrize(
    ("first", "second"), [(MONEY, {"type": "number"}), ({"type": "number"}, MONEY)]
)
def test_the_last_version_says_whether_a_number_is_a_decimal(
    tmp_path: Path, first: Any, second: Any
) -> None:
    paths = [tmp_path / "1.json", tmp_path / "2.json"]
    for number, (path, schema) in enumerate(zip(paths, (first, second), strict=True), start=1):
        lines = {"type": "array", "items": {"type": "object", "properties": {"f": schema}}}
        document = {"type": "object", "properties": {"v": {"type": "integer"}, "lines": lines}}
        path.write_text(json.dumps({**document, "x-version": number}))
    contract = load_contracts(paths, "v")
    values = [f'{{"v": {v}, "lines": [{{"f": {LONG}}}]}}' for v in (1, 2)]
    rows, letters = rows_and_letters(contract, *values)
    expected = float(LONG) if second is not MONEY else Decimal(LONG)
    assert letters == []
    assert [row["lines"][0]["f"] for row in rows] == [expected, expected]


def test_a_later_version_keeps_digits_though_the_first_needs_none(tmp_path: Path) -> None:
    closed = {"type": "object", "additionalProperties": False}
    versions: list[dict[str, Any]] = [{"f": {"type": "number"}}, {"g": True}]
    paths = [tmp_path / "1.json", tmp_path / "2.json"]
    for number, (path, properties) in enumerate(zip(paths, versions, strict=True), start=1):
        properties = {"v": {"type": "string"}, **properties}
        document = {**closed, "properties": properties, "x-version": str(number)}
        path.write_text(json.dumps(document))
    rows, letters = rows_and_letters(load_contracts(paths, "v"), f'{{"v": "2", "g": [{LONG}]}}')
    assert (letters, rows[0]["g"]) == ([], f"[{LONG}]")


def test_a_double_and_a_decimal_are_not_one_dataset() -> None:
    contracts = [
        contract_of({"type": "object", "properties": {"f": schema}})
        for schema in (MONEY, {"type": "number"})
    ]
    assert incompatible_columns(*contracts) == ["column 'f' is decimal128(18, 2) and double"]


def test_a_default_fills_in_a_decimal() -> None:
    schema = {**MONEY, "type": ["number", "null"], "default": 0.1, "x-normalize": ["default"]}
    assert landed(schema, "null") == Decimal("0.10")


@pytest.mark.parametrize("scale", [-2, 19])
def test_a_scale_that_parquet_lacks_is_refused_at_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], scale: int
) -> None:
    schema = {"type": "number", "x-decimal": {"precision": 18, "scale": scale}}
    path = tmp_path / "schema.json"
    path.write_text(json.dumps({"type": "object", "properties": {"f": schema}}))
    assert main(["schema", "show", str(path)]) == 2
    assert "with S from 0 to P" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("values", "kind", "unit", "times"),
    [
        ([1764169200123.9, None], pa.float64(), "ms", ["2025-11-26 15:00:00.123000", None]),
        ([Decimal("1764169200123.9")], pa.decimal128(18, 2), "ms", ["2025-11-26 15:00:00.123000"]),
        (
            [Decimal("9" * 38), Decimal(0)],
            pa.decimal128(38, 0),
            "ms",
            [None, "1970-01-01 00:00:00"],
        ),
        ([Decimal("-0.1")], pa.decimal128(38, 1), "ms", ["1969-12-31 23:59:59.999000"]),
        ([Decimal("0.5")], pa.decimal128(38, 38), "ms", ["1970-01-01 00:00:00"]),
        ([1764169200, None], pa.int64(), "s", ["2025-11-26 15:00:00", None]),
        ([-62104060800, -62104060801], pa.int64(), "s", ["0002-01-01 00:00:00", None]),
        ([253370764799, 253370764800], pa.int64(), "s", ["9998-12-31 23:59:59", None]),
        ([2**62, -(2**63)], pa.int64(), "s", [None, None]),
        ([1764169200.123456, 1e300], pa.float64(), "s", ["2025-11-26 15:00:00.123456", None]),
        ([-0.5, None], pa.float64(), "s", ["1969-12-31 23:59:59.500000", None]),
        (
            [Decimal("1764169200.1234567")],
            pa.decimal128(18, 7),
            "s",
            ["2025-11-26 15:00:00.123456"],
        ),
        ([1764169200123456], pa.int64(), "us", ["2025-11-26 15:00:00.123456"]),
        (
            [253370764799999999, 253370764800000000],
            pa.int64(),
            "us",
            ["9998-12-31 23:59:59.999999", None],
        ),
    ],
)
def test_event_times_of_numbers(
    values: list[Any], kind: pa.DataType, unit: str, times: list[str | None]
) -> None:
    rows = pa.RecordBatch.from_arrays([pa.array(values, kind)], names=["at"])
    found = event_times(rows, "at", unit).to_pylist()
    assert [time and str(time.replace(tzinfo=None)) for time in found] == times


@given(st.integers(0, 4 * 10**15))
def test_a_double_of_seconds_with_microseconds_is_exact(micros: int) -> None:
    text = f"{micros // 10**6}.{micros % 10**6:06d}"
    rows = pa.RecordBatch.from_arrays([pa.array([float(text)])], names=["at"])
    assert event_times(rows, "at", "s").cast(pa.int64()).to_pylist() == [micros]


@pytest.mark.parametrize("text_bytes", [0, 10_000])
def test_small_and_large_events_are_alike(text_bytes: int) -> None:
    """In small ones a regular expression finds the numbers, in large ones a function."""
    value = f'{{"x": 1.5, "n": 9007199254740993.0, "t": "{"x" * text_bytes}"}}'
    properties = {"n": {"type": "integer"}, "x": {"type": "number"}, "t": {"type": "string"}}
    contract = contract_of({**CLOSED, "properties": properties})
    (row,), letters = rows_and_letters(contract, value)
    assert (row["n"], row["x"], letters) == (9007199254740993, 1.5, [])
