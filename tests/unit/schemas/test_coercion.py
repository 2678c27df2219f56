"""Fields that `x-coerce` names take values of another type, exactly, before the verdict."""

from __future__ import annotations

import itertools
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_records import contract_of, kafka_record

from beam_pipeline.cli import main
from beam_pipeline.config import ValidationRules
from beam_pipeline.errors import UsageError
from beam_pipeline.io.kafka import batch_of_records
from beam_pipeline.records import ErrorCode
from beam_pipeline.schemas import Contract, load_contract, load_contracts
from beam_pipeline.schemas.coercion import coercion_of
from beam_pipeline.schemas.compatibility import reasons_against
from beam_pipeline.schemas.numbers import ExactFloat
from beam_pipeline.transforms.validate import RecordValidator

INTEGER = {"type": "integer", "x-coerce": ["number_from_text"]}
NUMBER = {"type": "number", "x-coerce": ["number_from_text"]}
MONEY = {**NUMBER, "x-decimal": {"precision": 18, "scale": 2}}
TEXT = {"type": "string", "x-coerce": ["text_from_number"]}
FLAG = {"type": "boolean", "x-coerce": ["boolean_from_text"]}
TIME: dict[str, Any] = {"type": "string", "format": "date-time"}
MS = {**TIME, "x-coerce": ["time_from_epoch_ms", "time_from_space"]}
SECONDS = {**TIME, "x-coerce": ["time_from_epoch_s"]}


def validated(contract: Contract, *values: str) -> tuple[list[Any], list[Any], dict[str, int]]:
    """The events as rows, the dead letters, and how many values were coerced by path."""
    validator = RecordValidator(contract, ValidationRules(None))
    batch = batch_of_records([kafka_record(value.encode()) for value in values])
    batches, letters = validator.validate(batch)
    names = contract.event_schema.names
    rows = [row for batch in batches for row in batch.select(names).to_pylist()]
    return rows, list(letters), dict(validator.take_coerced())


def coerced(schema: dict[str, Any], text: str) -> Any:
    """The one value that `schema` makes of the JSON text `text`, as text of its column."""
    contract = contract_of({"properties": {"f": schema}, "type": "object"})
    rows, letters, counts = validated(contract, f'{{"f": {text}}}')
    assert (letters, counts) == ([], {"f": 1})
    value = rows[0]["f"]
    return value.isoformat() if hasattr(value, "isoformat") else value


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        (INTEGER, '"12"', 12),
        (INTEGER, '"-0"', 0),
        (INTEGER, '"9007199254740993"', 9007199254740993),
        (INTEGER, '"9007199254740993.0"', 9007199254740993),
        (INTEGER, '"1e2"', 100),
        (NUMBER, '"1.5"', 1.5),
        (NUMBER, '"-2E-3"', -0.002),
        (MONEY, '"1234567890123456.78"', Decimal("1234567890123456.78")),
        (MONEY, '"2.675"', Decimal("2.68")),
        (TEXT, "12", "12"),
        (TEXT, "1.50", "1.50"),
        (TEXT, "1E2", "1E2"),
        (TEXT, "-0.0", "-0.0"),
        (TEXT, "123456789012345678901234567890", "123456789012345678901234567890"),
        (TEXT, "0.12345678901234567890", "0.12345678901234567890"),
        (FLAG, '"true"', True),
        (FLAG, '"false"', False),
        (MS, "0", "1970-01-01T00:00:00+00:00"),
        (MS, "1764169200123", "2025-11-26T15:00:00.123000+00:00"),
        (MS, "1764169200123.5", "2025-11-26T15:00:00.123500+00:00"),
        (MS, "1764169200123.000000", "2025-11-26T15:00:00.123000+00:00"),
        (MS, "-1", "1969-12-31T23:59:59.999000+00:00"),
        (MS, '"2026-11-24 15:00:00"', "2026-11-24T15:00:00+00:00"),
        (MS, '"2026-11-24 15:00:00.123456789"', "2026-11-24T15:00:00.123456+00:00"),
        (MS, '"2026-11-24 15:00:00+02:00"', "2026-11-24T13:00:00+00:00"),
        (MS, '"2026-11-24 15:00:00+0530"', "2026-11-24T09:30:00+00:00"),
        (MS, '"2026-11-24 15:00:00.5-02"', "2026-11-24T17:00:00.500000+00:00"),
        (SECONDS, "1764169200", "2025-11-26T15:00:00+00:00"),
        (SECONDS, "1764169200.123456", "2025-11-26T15:00:00.123456+00:00"),
    ],
)
def test_a_value_is_coerced_exactly(schema: dict[str, Any], text: str, value: Any) -> None:
    assert coerced(schema, text) == value


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        *((INTEGER, json.dumps(text)) for text in ("1.5", "1,000", "+1", "01", " 1", "1 ", "0x1")),
        *((NUMBER, json.dumps(text)) for text in ("NaN", "1.", ".5", "1e400", "\u0661", "", "1\n")),
        (NUMBER, '"' + "9" * 5_000 + '"'),
        (NUMBER, "true"),
        (TEXT, "true"),
        (TEXT, "null"),
        *((FLAG, text) for text in ('"True"', '"1"', "1", '" true"', '"yes"')),
        (MS, "1764169200.1234567890123"),
        (MS, "253402300800000"),
        (MS, "1e300"),
        (MS, "true"),
        *(
            (MS, json.dumps(text))
            for text in ("1764169200123", "2026-02-30 15:00:00", "2026-11-24")
        ),
        (MS, '"2026-11-24 15:00:00 CET"'),
        (SECONDS, '"2026-11-24 15:00:00"'),
    ],
)
def test_what_is_not_exactly_such_a_value_dies_as_it_is(schema: dict[str, Any], text: str) -> None:
    contract = contract_of({"type": "object", "properties": {"f": schema}})
    value = f'{{"f": {text}}}'
    rows, letters, counts = validated(contract, value)
    assert (rows, counts) == ([], {})
    assert letters[0].failure.code is ErrorCode.SCHEMA_VIOLATION
    assert letters[0].value == value.encode()


def test_the_verdict_is_on_the_text_that_is_no_integer() -> None:
    contract = contract_of({"type": "object", "properties": {"f": INTEGER}})
    for text in ("1.5", "9007199254740993.5", "1e-400"):
        _, (letter,), _ = validated(contract, f'{{"f": "{text}"}}')
        assert letter.failure.message == f"'{text}' is not of type 'integer'"


def test_a_valid_value_is_not_touched() -> None:
    schema = {"type": "object", "properties": {"i": INTEGER, "t": TEXT, "at": MS, "f": FLAG}}
    value = '{"i": 1, "t": "1", "at": "2026-11-24T15:00:00Z", "f": true}'
    rows, letters, counts = validated(contract_of(schema), value)
    assert (len(rows), letters, counts) == (1, [], {})


def test_places_at_any_depth_are_counted_by_path() -> None:
    line = {"type": "object", "properties": {"price": MONEY, "sku": {"type": "string"}}}
    document = {
        "type": "object",
        "properties": {
            "order": {"$ref": "#/$defs/order"},
            "tags": {"type": "object", "additionalProperties": INTEGER},
            "either": {"anyOf": [INTEGER, {"type": "null"}]},
        },
        "$defs": {
            "order": {
                "type": "object",
                "allOf": [{"properties": {"lines": {"type": "array", "items": line}}}],
            }
        },
    }
    value = {
        "order": {"lines": [{"price": "1.5"}, {"price": 2}, {"price": "3", "sku": "4"}]},
        "tags": {"a": "1", "b": 2, "c": "3"},
        "either": "7",
    }
    rows, letters, counts = validated(contract_of(document), json.dumps(value), '{"either": null}')
    assert letters == []
    assert counts == {"order.lines[].price": 2, "tags{}": 2, "either": 1}
    assert [line["price"] for line in rows[0]["order"]["lines"]] == [Decimal("1.50"), 2, 3]
    assert rows[0]["tags"] == [("a", 1), ("b", 2), ("c", 3)]
    assert [row["either"] for row in rows] == [7, None]


def test_a_recursive_schema_is_coerced_at_every_level() -> None:
    node = {"n": INTEGER, "below": {"type": "array", "items": {"$ref": "#/$defs/node"}}}
    document = {
        "$ref": "#/$defs/node",
        "$defs": {"node": {"type": "object", "properties": node}},
    }
    value: dict[str, Any] = {"n": "1"}
    for _ in range(50):
        value = {"n": "1", "below": [value]}
    rows, letters, counts = validated(contract_of(document), json.dumps(value))
    assert (len(rows), letters) == (1, [])
    assert sum(counts.values()) == 51


@pytest.mark.parametrize(
    ("schema", "value"), [(INTEGER, '"5"'), ({"type": "array", "items": INTEGER}, '["5"]')]
)
def test_an_event_that_is_no_object_is_coerced(schema: dict[str, Any], value: str) -> None:
    rows, letters, counts = validated(contract_of(schema), value)
    assert letters == []
    assert rows[0]["value"] in (5, [5])
    assert sum(counts.values()) == 1


def test_a_dynamic_reference_is_followed() -> None:
    node = {"n": INTEGER, "below": {"$dynamicRef": "#node"}}
    document = {"$dynamicAnchor": "node", "type": "object", "properties": node}
    _, letters, counts = validated(contract_of(document), '{"n": "1", "below": {"n": "2"}}')
    assert (letters, sum(counts.values())) == ([], 2)


def test_refused_events_are_not_counted() -> None:
    document = {"type": "object", "properties": {"n": {**INTEGER, "minimum": 5}}}
    rows, letters, counts = validated(contract_of(document), '{"n": "4"}', '{"n": "6"}')
    assert [row["n"] for row in rows] == [6]
    assert letters[0].failure.violations[0].keyword == "minimum"
    assert letters[0].value == b'{"n": "4"}'
    assert counts == {"n": 1}


def test_each_version_has_its_own(tmp_path: Path) -> None:
    paths = [tmp_path / "1.json", tmp_path / "2.json"]
    for number, (path, schema) in enumerate(
        zip(paths, ({"type": "integer"}, INTEGER), strict=True)
    ):
        properties = {"v": {"type": "integer"}, "n": schema, "t": {"type": "string"}}
        path.write_text(
            json.dumps({"type": "object", "properties": properties, "x-version": number})
        )
    values = ['{"v": 0, "n": "1"}', '{"v": 1, "n": "1"}']
    rows, letters, counts = validated(load_contracts(paths, "v"), *values)
    assert ([row["n"] for row in rows], len(letters), counts) == ([1], 1, {"n": 1})


def test_a_text_of_a_later_version_is_as_it_was_sent(tmp_path: Path) -> None:
    paths = [tmp_path / "1.json", tmp_path / "2.json"]
    for number, (path, schema) in enumerate(zip(paths, ({"type": "string"}, TEXT), strict=True)):
        properties = {"v": {"type": "integer"}, "n": schema}
        document = {"type": "object", "properties": properties, "additionalProperties": False}
        path.write_text(json.dumps({**document, "x-version": number}))
    rows, _, _ = validated(load_contracts(paths, "v"), '{"v": 1, "n": 1.50}')
    assert rows[0]["n"] == "1.50"


DRAFT_7 = "http://json-schema.org/draft-07/schema#"


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (
            {"type": "integer", "x-coerce": ["to_number"]},
            "f: x-coerce has 'to_number'; it may have number_from_text",
        ),
        ({"type": "integer", "x-coerce": [["a"]]}, "f: x-coerce has ['a']; it may have"),
        (
            {"type": "integer", "x-coerce": "number_from_text"},
            "f: x-coerce must be a list of number",
        ),
        ({"type": "string", "x-coerce": ["number_from_text"]}, "the field's type is string"),
        ({"type": ["null"], "x-coerce": ["number_from_text"]}, "the field's type is null"),
        ({"x-coerce": ["number_from_text"]}, "the field's type is not named"),
        (
            {"type": ["integer", "string"], "x-coerce": ["number_from_text"]},
            "takes values of type string as they are",
        ),
        ({"anyOf": [INTEGER, {"type": "string"}]}, "takes values of type string as they are"),
        ({"type": "object", "x-coerce": ["boolean_from_text"]}, "the field's type is object"),
        ({"type": "string", "x-coerce": ["time_from_space"]}, "needs the format date-time"),
        ({**TIME, "x-coerce": ["time_from_epoch_ms", "time_from_epoch_s"]}, "name one of them"),
        ({"if": INTEGER}, "has no effect in if"),
        (
            {"type": "object", "patternProperties": {"^a": INTEGER}},
            "has no effect in patternProperties",
        ),
        ({"type": "array", "prefixItems": [INTEGER]}, "has no effect in prefixItems"),
        ({"type": "array", "prefixItems": [{}], "items": INTEGER}, "has no effect in items"),
        (
            {"type": "object", "patternProperties": {"^a": {}}, "additionalProperties": INTEGER},
            "has no effect in additionalProperties",
        ),
    ],
)
def test_what_makes_no_sense_is_one_line(tmp_path: Path, schema: Any, message: str) -> None:
    path = tmp_path / "schema.json"
    path.write_text(json.dumps({"type": "object", "properties": {"f": schema}}))
    with pytest.raises(UsageError) as error:
        load_contract(path)
    assert str(error.value).startswith(f"--schema={path}: f: x-coerce")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_beside_a_reference_of_draft_7_it_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "schema.json"
    document = {
        "$schema": DRAFT_7,
        "properties": {"f": {"$ref": "#/definitions/n", "x-coerce": ["number_from_text"]}},
        "definitions": {"n": {"type": "integer"}},
    }
    path.write_text(json.dumps(document))
    with pytest.raises(UsageError, match=r"f: x-coerce has no effect beside \$ref"):
        load_contract(path)
    document["properties"] = {"f": {"items": [INTEGER]}}
    path.write_text(json.dumps(document))
    with pytest.raises(UsageError, match="f: x-coerce has no effect in items"):
        load_contract(path)
    document["properties"] = {"f": {"allOf": [{"$ref": "#/definitions/n"}, INTEGER]}}
    path.write_text(json.dumps(document))
    assert load_contract(path).coercion is not None


def test_a_schema_without_it_has_no_coercion() -> None:
    assert coercion_of({"properties": {"x-coerce": {"type": "integer"}}}, "") is None
    assert coercion_of({"const": {"x-coerce": ["number_from_text"]}}, "") is None


def test_schema_show_names_what_is_coerced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "schema.json"
    line = {"type": "object", "properties": {"price": NUMBER}}
    properties = {"at": MS, "lines": {"type": "array", "items": line}}
    path.write_text(json.dumps({"type": "object", "properties": properties, "x-event-time": "at"}))
    assert main(["schema", "show", str(path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["coerced"] == {
        "at": ["time_from_epoch_ms", "time_from_space"],
        "lines[].price": ["number_from_text"],
    }
    assert main(["schema", "show", str(path)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "coerced: number_from_text" in shown


def documents(*schemas: Any) -> list[dict[str, Any]]:
    return [{"type": "object", "properties": {"f": schema}} for schema in schemas]


def test_a_coercion_that_is_gone_is_incompatible() -> None:
    old, new = documents(INTEGER, {"type": "integer"})
    assert [str(reason) for reason in reasons_against(old, new)] == [
        "f: x-coerce number_from_text is gone"
    ]
    assert reasons_against(new, old) == []
    assert reasons_against(old, old) == []
    deep_old, deep_new = ({"type": "array", "items": side} for side in (old, new))
    assert [reason.path for reason in reasons_against(deep_old, deep_new)] == ["value[].f"]


def test_a_new_coercion_in_a_union_is_incompatible() -> None:
    branches = [{"type": "object", "properties": {"f": {"type": "string", "pattern": "^0"}}}]
    old = {"anyOf": [*branches, *documents({"type": "integer", "minimum": 10})]}
    new = {"anyOf": [*branches, *documents({**INTEGER, "minimum": 10})]}
    with pytest.raises(UsageError, match="takes values of type string"):
        coercion_of(new, "")
    open_branch = {"type": "object", "required": ["g"]}
    old, new = ({"anyOf": [open_branch, side]} for side in documents({"type": "integer"}, INTEGER))
    assert "x-coerce number_from_text is new in a union" in str(reasons_against(old, new)[-1])


FIELDS: list[Any] = [
    INTEGER,
    {"type": "integer"},
    {**INTEGER, "minimum": 10},
    {"type": "integer", "minimum": 10},
    NUMBER,
    {"type": "number"},
    TEXT,
    {"type": "string"},
    {"type": "string", "maxLength": 2},
    FLAG,
    {"type": "boolean"},
    {"type": ["boolean", "integer"], "x-coerce": ["boolean_from_text", "number_from_text"]},
    TIME,
    MS,
    {"anyOf": [INTEGER, {"type": "null"}]},
    True,
]
VALUES = ['"7"', '"70"', "7", "70", "7.5", '"7.5"', '"true"', "true", "null", '"x"']
VALUES += ['"2026-11-24 15:00:00"', '"2026-11-24T15:00:00Z"', "1764169200123"]


def test_a_yes_of_schema_check_holds_for_values_to_be_coerced() -> None:
    proofs = 0
    for old_field, new_field, names_it in itertools.product(FIELDS, FIELDS, (True, False)):
        (new,) = documents(new_field)
        old = {"type": "object", "additionalProperties": old_field}
        if names_it:
            (old,) = documents(old_field)
        if reasons_against(old, new):
            continue
        proofs += 1
        judges = [contract_of(document).judge(1_000) for document in (old, new)]
        for value in VALUES:
            old_failure, new_failure = (
                judge.judge(f'{{"f": {value}}}'.encode())[1] for judge in judges
            )
            assert new_failure is None or old_failure is not None, (old, new, value)
    assert proofs > 50


@given(st.text(max_size=12) | st.floats().map(repr) | st.integers().map(str))
def test_a_number_is_what_json_takes_for_one(text: str) -> None:
    coercion = coercion_of(NUMBER, "")
    assert coercion is not None
    value, changed = coercion.apply(text)
    try:
        number = json.loads(text)
    except ValueError:
        number = None
    is_number = text == text.strip() and type(number) in (int, float) and abs(number) < float("inf")
    assert bool(changed) == is_number
    if changed:
        assert value == number
        assert not isinstance(value, ExactFloat) or value.text == text
