"""Annotated fields come out in one form, on any slice of any batch."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_records import commerce_contract, commerce_event, contract_of, kafka_record

from beam_pipeline.config import ValidationRules
from beam_pipeline.errors import UsageError
from beam_pipeline.io.kafka import batch_of_records
from beam_pipeline.schemas import ColumnBuilder, Contract
from beam_pipeline.transforms import Normalize
from beam_pipeline.transforms.batches import Refusal, apply_or_split
from beam_pipeline.transforms.nested import LIST_STEP, leaf_at, map_leaf
from beam_pipeline.transforms.normalize import NormalizeBatch, rules_of
from beam_pipeline.transforms.validate import RecordValidator

TRIM_UPPER = {"type": "string", "x-normalize": ["trim", "upper"]}
MONEY = {"type": "number", "x-decimal": {"precision": 6, "scale": 2}}
LINES = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"price": MONEY, "tag": TRIM_UPPER},
        "additionalProperties": False,
    },
}
DOCUMENT: dict[str, Any] = {
    "type": "object",
    "properties": {
        "code": {"type": ["string", "null"], "x-normalize": ["trim", "upper"]},
        "opted": {"type": "boolean", "default": False, "x-normalize": ["default"]},
        "tags": {"type": "array", "items": TRIM_UPPER},
        "order": {
            "type": "object",
            "properties": {"total": MONEY, "lines": LINES},
            "additionalProperties": False,
        },
        "note": {"type": "string"},
    },
    "additionalProperties": False,
}
CONTRACT = contract_of(DOCUMENT)
EVENTS: list[dict[str, Any]] = [
    {
        "code": " de ",
        "opted": True,
        "tags": [" a", "b ", None],
        "order": {"total": 1.25, "lines": [{"price": 0.5, "tag": "x "}, {"price": 2, "tag": "y"}]},
        "note": " as it is ",
    },
    {"code": None},
    {"tags": [], "order": {"lines": []}},
    {"order": {"total": 9999.99}},
    {"code": "\u2003ß\u00a0", "tags": ["c"], "order": {"lines": [{"tag": " z"}]}},
]
EXPECTED: list[dict[str, Any]] = [
    {
        "code": "DE",
        "opted": True,
        "tags": ["A", "B", None],
        "order": {
            "total": Decimal("1.25"),
            "lines": [
                {"price": Decimal("0.50"), "tag": "X"},
                {"price": Decimal("2.00"), "tag": "Y"},
            ],
        },
        "note": " as it is ",
    },
    {"code": None, "opted": False, "tags": None, "order": None, "note": None},
    {
        "code": None,
        "opted": False,
        "tags": [],
        "order": {"total": None, "lines": []},
        "note": None,
    },
    {
        "code": None,
        "opted": False,
        "tags": None,
        "order": {"total": Decimal("9999.99"), "lines": None},
        "note": None,
    },
    {
        "code": "ẞ",
        "opted": False,
        "tags": ["C"],
        "order": {"total": None, "lines": [{"price": None, "tag": "Z"}]},
        "note": None,
    },
]


def batch_of(events: list[Any], contract: Contract = CONTRACT) -> pa.RecordBatch:
    columns = ColumnBuilder(contract).build(events)
    return pa.RecordBatch.from_arrays(columns, schema=contract.event_schema)


NORMALIZE = NormalizeBatch(rules_of(CONTRACT))


def test_every_rule_at_every_depth() -> None:
    rows = NORMALIZE(batch_of(EVENTS))
    rows.validate(full=True)
    assert rows.to_pylist() == EXPECTED
    assert rows.schema.field("order").type.field("total").type == pa.decimal128(6, 2)


def test_only_an_integer_with_a_decimal_changes_its_type() -> None:
    contract = commerce_contract()
    assert Normalize(contract).output_schema(contract.batch_schema) == contract.batch_schema
    whole = contract_of({"type": "object", "properties": {"n": {**MONEY, "type": "integer"}}})
    assert whole.batch_schema.field("n").type == pa.int64()
    after = Normalize(whole).output_schema(whole.batch_schema)
    assert after.field("n").type == pa.decimal128(6, 2)


@given(st.data())
def test_a_slice_gives_what_its_rows_give(data: st.DataObject) -> None:
    picked = data.draw(st.lists(st.integers(0, len(EVENTS) - 1), max_size=12))
    start = data.draw(st.integers(0, len(picked)))
    length = data.draw(st.integers(0, len(picked) - start))
    rows = NORMALIZE(batch_of([EVENTS[i] for i in picked]).slice(start, length))
    rows.validate(full=True)
    assert rows.to_pylist() == [EXPECTED[i] for i in picked[start : start + length]]


@given(st.lists(st.booleans(), min_size=1, max_size=10))
def test_only_the_row_at_fault_is_refused(faults: list[bool]) -> None:
    """A price beyond the decimal's precision, in a list of structs: the neighbours go on."""
    line = {"type": "object", "properties": {"price": {**MONEY, "type": "integer"}}}
    properties = {"code": {"type": "string"}, "lines": {"type": "array", "items": line}}
    contract = contract_of({"type": "object", "properties": properties})
    events = [
        {"code": str(index), "lines": [{"price": 1_000_000 if fault else 1}]}
        for index, fault in enumerate(faults)
    ]
    kept: list[str] = []
    refused: list[str] = []
    batch = batch_of(events, contract)
    for result in apply_or_split(batch, NormalizeBatch(rules_of(contract))):
        if isinstance(result, Refusal):
            refused.append(str(result.row))
        else:
            kept.extend(result.column("code").to_pylist())
    assert kept == [str(index) for index, fault in enumerate(faults) if not fault]
    assert refused == [str(index) for index, fault in enumerate(faults) if fault]


@given(st.integers(0, 10**9 - 1), st.booleans())
def test_an_amount_of_two_digits_is_exact(cents: int, negative: bool) -> None:
    amount = Decimal(cents if not negative else -cents) / 100
    rule = {"type": "number", "x-decimal": {"precision": 18, "scale": 2}}
    contract = contract_of({"type": "object", "properties": {"amount": rule}})
    rows = NormalizeBatch(rules_of(contract))(batch_of([{"amount": float(amount)}], contract))
    assert rows.column("amount").to_pylist() == [amount]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0.125, "0.12"),
        (0.375, "0.38"),
        (-0.125, "-0.12"),
        (2.5, "2.50"),
        (0.004, "0.00"),
        (0.006, "0.01"),
        (1234.5678, "1234.57"),
    ],
)
def test_decimals_are_rounded_half_to_even(number: float, text: str) -> None:
    rows = NORMALIZE(batch_of([{"order": {"total": number}}]))
    assert rows.column("order").to_pylist()[0]["total"] == Decimal(text)


@given(st.floats(-9_000, 9_000))
def test_decimals_are_the_nearest(number: float) -> None:
    rows = NORMALIZE(batch_of([{"order": {"total": number}}]))
    total = rows.column("order").to_pylist()[0]["total"]
    assert abs(Decimal(number) - total) <= Decimal("0.005") + Decimal(math.ulp(number)) * 2


def test_an_integer_can_be_a_decimal() -> None:
    rule = {"type": "integer", "x-decimal": {"precision": 5, "scale": 2}}
    contract = contract_of(
        {"type": "object", "properties": {"n": rule}, "additionalProperties": False}
    )
    events = [{"n": -999}, {}, {"n": 7}]
    rows = NormalizeBatch(rules_of(contract))(batch_of(events, contract))
    assert rows.to_pylist() == [{"n": Decimal(-999)}, {"n": None}, {"n": Decimal(7)}]
    with pytest.raises(pa.ArrowInvalid):
        NormalizeBatch(rules_of(contract))(batch_of([{"n": 1000}], contract))


def test_references_are_followed_to_their_annotations() -> None:
    document = {
        "type": "object",
        "$defs": {
            "code": {"$ref": "#/$defs/text", "x-normalize": ["upper"]},
            "text": {"type": "string"},
            "alias": {"$ref": "#/$defs/code"},
        },
        "properties": {
            "direct": {"$ref": "#/$defs/code"},
            "through": {"$ref": "#/$defs/alias"},
            "own": {"$ref": "#/$defs/alias", "x-normalize": ["lower"]},
        },
        "additionalProperties": False,
    }
    contract = contract_of(document)
    rows = NormalizeBatch(rules_of(contract))(
        batch_of([{"direct": "aB", "through": "aB", "own": "aB"}], contract)
    )
    assert rows.to_pylist() == [{"direct": "AB", "through": "AB", "own": "ab"}]


@pytest.mark.parametrize("union", ["anyOf", "oneOf"])
def test_the_annotation_of_a_branch_counts(union: str) -> None:
    document = {
        "type": "object",
        "properties": {"code": {union: [TRIM_UPPER, {"type": "null"}]}},
        "additionalProperties": False,
    }
    contract = contract_of(document)
    rows = NormalizeBatch(rules_of(contract))(
        batch_of([{"code": " a"}, {"code": None}, {}], contract)
    )
    assert rows.to_pylist() == [{"code": "A"}, {"code": None}, {"code": None}]


def test_a_recursive_schema_is_normalised_down_to_its_json_text() -> None:
    comment = {
        "type": "object",
        "properties": {
            "text": TRIM_UPPER,
            "left": {"$ref": "#/$defs/comment"},
            "right": {"$ref": "#/$defs/comment"},
            "replies": {"type": "array", "items": {"$ref": "#/$defs/comment"}},
        },
        "additionalProperties": False,
    }
    contract = contract_of({"$ref": "#/$defs/comment", "$defs": {"comment": comment}})
    event = {"text": " a", "replies": [{"text": " b"}]}
    rows = NormalizeBatch(rules_of(contract))(batch_of([event], contract))
    assert rows.to_pylist() == [
        {"text": "A", "left": None, "right": None, "replies": ['{"text":" b"}']}
    ]


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (
            {"type": "string", "x-normalize": ["trimm"]},
            "x-normalize has 'trimm'; it may have trim,",
        ),
        ({"type": "string", "x-normalize": "trim"}, "x-normalize must be a list"),
        ({"type": "string", "x-normalize": [["trim"]]}, "x-normalize has ['trim']"),
        ({"type": "string", "x-normalize": ["default"]}, "has default, but the field has no"),
        ({"type": "integer", "x-normalize": ["upper"]}, "does not fit the type"),
        ({"type": "string", "format": "date-time", "x-normalize": ["trim"]}, "does not fit"),
        ({"x-normalize": ["upper"]}, "does not fit the type"),
        ({"type": ["string", "integer"], "x-normalize": ["upper"]}, "does not fit the type"),
        (
            {"type": "boolean", "default": "no", "x-normalize": ["default"]},
            "does not fit the type",
        ),
        ({"type": "string", "x-decimal": {"precision": 9}}, "x-decimal must be"),
        ({"type": "number", "x-decimal": {"precision": "9", "scale": 2}}, "x-decimal must be"),
        ({"type": "number", "x-decimal": 9}, "x-decimal must be"),
        ({"type": "number", "x-decimal": {"precision": 99, "scale": 2}}, "does not fit the type"),
        ({"type": "object", "x-normalize": ["trim"]}, "does not fit the type"),
        (
            {"type": "object", "properties": {"a": {}}, "x-normalize": ["trim"]},
            "does not fit the type",
        ),
    ],
    ids=str,
)
def test_a_wrong_annotation_is_one_line(field: Any, message: str) -> None:
    document = {
        "type": "object",
        "properties": {"list": {"type": "array", "items": field}},
    }
    with pytest.raises(UsageError) as refused:
        Normalize(contract_of(document))
    assert str(refused.value).startswith("--schema=events.schema.json: list.[]: ")
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"type": "object", "properties": {"a": {}}, "x-normalize": ["trim"]}, "the whole event: "),
        ({"type": "object", "x-normalize": ["trim"]}, "value: "),
        (
            {"type": "array", "items": {"properties": {"a": {}}, "x-normalize": ["trim"]}},
            "value.[]: ",
        ),
    ],
)
def test_an_annotation_that_can_not_be_followed_is_not_passed_over(
    document: Any, message: str
) -> None:
    with pytest.raises(UsageError, match=f"^--schema=events.schema.json: {re.escape(message)}"):
        Normalize(contract_of(document))


@pytest.mark.parametrize(
    ("document", "event", "expected"),
    [
        ({"type": "string", "x-normalize": ["trim"]}, " a ", "a"),
        ({"type": "array", "items": {"type": "string", "x-normalize": ["trim"]}}, [" a "], ["a"]),
    ],
)
def test_an_event_that_is_no_object_is_normalised(document: Any, event: Any, expected: Any) -> None:
    contract = contract_of(document)
    rows = NormalizeBatch(rules_of(contract))(batch_of([event], contract))
    assert rows.to_pylist() == [{"value": expected}]


def test_the_commerce_event_is_normalised() -> None:
    contract = commerce_contract()
    event = commerce_event(
        event_id="0B9C1F5E-58F0-4B5C-9A57-6A0F2D3E7C11",
        country="de",
        experiment=" Checkout-B ",
        consent=...,
    )
    (batch,), _ = RecordValidator(contract, ValidationRules(contract.event_time_field)).validate(
        batch_of_records([kafka_record(event)])
    )
    (row,) = NormalizeBatch(rules_of(contract))(batch).to_pylist()
    assert row["event_id"] == "0b9c1f5e-58f0-4b5c-9a57-6a0f2d3e7c11"
    assert row["country"] == "DE"
    assert row["experiment"] == "checkout-b"
    assert row["consent"] is False
    assert row["device"]["os"] == "android"
    assert row["purchase"]["amount"] == Decimal("59.97")
    assert row["purchase"]["items"][0]["unit_price"] == Decimal("19.99")
    assert row["_value"] == batch.column("_value")[0].as_py()


NESTED = pa.array(
    [{"a": [{"b": 1}, {"b": None}]}, None, {"a": None}, {"a": []}, {"a": [None, {"b": 5}]}],
    pa.struct([("a", pa.list_(pa.struct([("b", pa.int64())])))]),
)


@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5))
def test_a_leaf_is_mapped_on_slices_of_slices(first: int, second: int, length: int) -> None:
    """What lies outside the slice is never seen."""
    sliced = NESTED.slice(first).slice(min(second, len(NESTED) - first), length)
    seen: list[int] = []

    def add_one(leaf: pa.Array) -> pa.Array:
        seen.extend(value for value in leaf.to_pylist() if value is not None)
        return pa.array([None if v is None else v + 1 for v in leaf.to_pylist()], pa.int64())

    mapped = map_leaf(sliced, ("a", LIST_STEP, "b"), add_one)
    mapped.validate(full=True)
    assert mapped.type == sliced.type

    def plus_one(row: Any) -> Any:
        if row is None or row["a"] is None:
            return row
        return {
            "a": [
                item if item is None or item["b"] is None else {"b": item["b"] + 1}
                for item in row["a"]
            ]
        }

    assert mapped.to_pylist() == [plus_one(row) for row in sliced.to_pylist()]
    inside = [
        item["b"]
        for row in sliced.to_pylist()
        if row and row["a"]
        for item in row["a"]
        if item and item["b"] is not None
    ]
    assert seen == inside


def test_a_leaf_is_found_by_its_path() -> None:
    batch = pa.RecordBatch.from_pylist(
        [{"a": {"b": {"c": 1}}, "a.b": 2}, {"a": None, "a.b": None}],
        schema=pa.schema(
            [("a", pa.struct([("b", pa.struct([("c", pa.int64())]))])), ("a.b", pa.int64())]
        ),
    )
    assert leaf_at(batch, "a.b.c").to_pylist() == [1, None]
    assert leaf_at(batch, "a.b").to_pylist() == [2, None]
    assert leaf_at(batch.slice(1), "a.b.c").to_pylist() == [None]
    with pytest.raises(KeyError):
        leaf_at(batch, "b")
