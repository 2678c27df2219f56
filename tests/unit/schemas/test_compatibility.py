"""Whether one schema may follow another: the rules one by one, and the verdict held to events."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from random_changes import DRAFTS
from sample_records import contract_of

from beam_pipeline.cli import main
from beam_pipeline.schemas.compatibility import Reason, reasons_against
from beam_pipeline.schemas.dataset import incompatible_columns
from beam_pipeline.schemas.judge import compile_validator

NAME = {"type": "string"}


def obj(closed: bool = False, required: tuple[str, ...] = (), **fields: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": fields,
        **({"required": list(required)} if required else {}),
        **({"additionalProperties": False} if closed else {}),
    }


MONEY = {"$ref": "#/$defs/money"}


def with_money(kind: str) -> dict[str, Any]:
    return {**obj(m=MONEY), "$defs": {"money": obj(amount={"type": kind})}}


@pytest.mark.parametrize(
    ("old", "new", "reasons"),
    [
        (obj(a=NAME), obj(a=NAME), []),
        (obj(a=NAME), {**obj(a={**NAME, "title": "A", "default": ""}), "$id": "urn:2"}, []),
        (obj(a=NAME), obj(a={"type": ["string", "null"]}), []),
        (obj(a={"type": ["string", "null"]}), obj(a=NAME), ["a: null is no longer allowed"]),
        (obj(a={"type": "integer"}), obj(a={"type": "number"}), []),
        (obj(a={"type": "number"}), obj(a={"type": "integer"}), ["a: number is no longer allowed"]),
        (obj(a=NAME), obj(a=NAME, required=("a",)), ["a: is required now"]),
        (obj(a=NAME, required=("a",)), obj(a=NAME), []),
        (obj(True, a=NAME), obj(True, a=NAME, b=NAME), []),
        (
            obj(a=NAME),
            obj(a=NAME, b=NAME),
            [
                f"b: is named now, and {kind} is no longer allowed"
                for kind in ("array", "boolean", "null", "number", "object")
            ],
        ),
        (
            obj(a=NAME),
            obj(a=NAME, b={"properties": {"c": {"maxLength": 3}}}),
            ["b.c: is named now, and maxLength is 3 now"],
        ),
        (obj(a=NAME), obj(a=NAME, b={}), []),
        (obj(True, a=NAME, b=NAME), obj(True, a=NAME), ["b: nothing is allowed here now"]),
        (obj(a=NAME), obj(True, a=NAME), ["*: nothing is allowed here now"]),
        (obj(True, a=NAME), obj(a=NAME), []),
        (obj(a={"enum": ["x"]}), obj(a={"enum": ["x", "y"]}), []),
        (obj(a={"enum": ["x", "y"]}), obj(a={"enum": ["x"]}), ['a: "y" is no longer allowed']),
        (obj(a={"enum": ["x", "y"]}), obj(a=NAME), []),
        (obj(a={"enum": ["x", 1]}), obj(a=NAME), ["a: 1 is no longer allowed"]),
        (obj(a=NAME), obj(a={"enum": ["x"]}), ['a: only "x" are allowed now']),
        (obj(a={"minimum": 1}), obj(a={"minimum": 0}), []),
        (obj(a={"minimum": 0}), obj(a={"minimum": 1}), ["a: minimum is 1 now"]),
        (
            obj(a={"minimum": 0}),
            obj(a={"exclusiveMinimum": 0}),
            ["a: exclusiveMinimum is 0 now"],
        ),
        (obj(a={"exclusiveMaximum": 5}), obj(a={"maximum": 5}), []),
        (obj(a={"maxLength": 5}), obj(a={"maxLength": 4}), ["a: maxLength is 4 now"]),
        (obj(a={"maxLength": 4}), obj(a={"maxLength": 5}), []),
        (obj(a=NAME), obj(a={**NAME, "format": "date"}), ['a: format must be "date" now']),
        (obj(a={**NAME, "format": "date"}), obj(a=NAME), []),
        (obj(a={"multipleOf": 6}), obj(a={"multipleOf": 3}), []),
        (obj(a={"multipleOf": 3}), obj(a={"multipleOf": 6}), ["a: multipleOf is 6 now"]),
        (
            obj(a={"type": "array", "items": {"type": "integer"}}),
            obj(a={"type": "array", "items": NAME}),
            ["a[]: integer is no longer allowed"],
        ),
        (
            obj(a={"type": "array", "prefixItems": [NAME], "items": NAME}),
            obj(a={"type": "array", "items": NAME}),
            [],
        ),
        (with_money("integer"), with_money("number"), []),
        (with_money("number"), with_money("integer"), ["m.amount: number is no longer allowed"]),
        (obj(a=NAME), {"allOf": [obj(a=NAME), obj(a={"maxLength": 3})]}, ["a: maxLength is 3 now"]),
        ({"allOf": [obj(a=NAME), obj(a={"maxLength": 3})]}, obj(a=NAME), []),
        (obj(a=NAME), obj(a={"anyOf": [NAME, {"type": "null"}]}), []),
        (
            obj(a={"anyOf": [NAME, {"type": "null"}]}),
            obj(a=NAME),
            ["a: null is no longer allowed"],
        ),
        (
            obj(a={"type": "boolean"}),
            obj(a={"oneOf": [NAME, {"type": "null"}]}),
            ["a: no branch of oneOf allows all that was allowed (boolean)"],
        ),
        (obj(a=NAME), obj(a={"oneOf": [NAME, {"type": "null"}]}), []),
        (
            obj(a=NAME),
            obj(a={"oneOf": [NAME, {"maxLength": 3}]}),
            ["a: it is unknown whether exactly one branch of oneOf allows it"],
        ),
        (
            obj(a={"oneOf": [NAME, {"maxLength": 3}]}),
            obj(a={"oneOf": [NAME, {"maxLength": 3}]}),
            [],
        ),
        (obj(a={"not": NAME}), obj(a={"not": NAME}), []),
        (obj(a={}), obj(a={"not": NAME}), ["a: not has changed; what it refuses now is unknown"]),
        (
            {"type": "object", "additionalProperties": {"type": "integer"}},
            {"type": "object", "additionalProperties": NAME},
            ["*: integer is no longer allowed"],
        ),
    ],
)
def test_each_rule(old: dict[str, Any], new: dict[str, Any], reasons: list[str]) -> None:
    found = [str(reason) for reason in reasons_against(old, new)]
    assert len(found) >= len(reasons)
    for expected in reasons:
        assert any(text.startswith(expected) for text in found), found
    assert bool(found) == bool(reasons)


CASES = sorted((Path(__file__).parents[2] / "data" / "schema_check").glob("*.old.json"))


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.name.split(".")[0])
def test_a_yes_that_an_event_refuted_is_a_no(path: Path) -> None:
    old, new = (
        json.loads(path.with_name(path.name.replace(".old.", f".{side}.")).read_text())
        for side in ("old", "new")
    )
    assert [reason for reason in reasons_against(old, new) if not reason.unless_unused]


DRAFT = {number: {"$schema": uri} for number, uri in DRAFTS.items()}
WHEN_A = {"if": {"required": ["a"]}, "then": {"required": ["b"]}}
WHEN_C = {"if": {"required": ["c"]}, "then": {"required": ["d"]}}
ANY: dict[str, Any] = {}


@pytest.mark.parametrize(
    ("old", "new", "event"),
    [
        ({"type": "integer"}, {"oneOf": [{"type": "integer"}, {"minLength": 3}]}, 1),
        (
            {"required": ["k"], "properties": {"k": {"const": 1}}, "minimum": 1},
            {
                "oneOf": [
                    {"required": ["k"], "properties": {"k": {"const": 1}}},
                    {"required": ["k"], "properties": {"k": {"const": 1.0}}},
                ]
            },
            {"k": 1},
        ),
        (
            {"required": ["k"], "properties": {"k": {"const": 1}}},
            {
                "oneOf": [
                    {"required": ["k"], "properties": {"k": {"const": 1}}},
                    {"required": ["k"], "properties": {"k": {"const": 2}}},
                ]
            },
            "neither is for objects only",
        ),
        ({**DRAFT[7], "format": "duration"}, {**DRAFT[2019], "format": "duration"}, "x"),
        (
            {**DRAFT[7], "definitions": {"a": ANY}, "$ref": "#/definitions/a", "minimum": 1},
            {**DRAFT[2020], "definitions": {"a": ANY}, "$ref": "#/definitions/a", "minimum": 1},
            0,
        ),
        (
            {**DRAFT[7], "dependentRequired": {"a": ["b"]}},
            {**DRAFT[2019], "dependentRequired": {"a": ["b"]}},
            {"a": 1},
        ),
        ({**DRAFT[6], "type": "integer"}, {**DRAFT[4], "type": "integer"}, 1.0),
        ({**DRAFT[6], "enum": [1]}, {**DRAFT[4], "type": "integer"}, 1.0),
        ({**DRAFT[6], "const": 2**53}, {**DRAFT[4], "type": "integer"}, 2.0**53),
        ({**DRAFT[6], "enum": [1.0]}, {**DRAFT[4], "not": {"type": "integer"}}, 1),
        ({**DRAFT[6], "if": ANY, "then": {"type": "null"}},
         {**DRAFT[7], "if": ANY, "then": {"type": "null"}}, 1),
        (
            {"properties": {"a": {"$dynamicRef": "#x"}}, "$defs": {"x": {"$dynamicAnchor": "x"}}},
            {
                "properties": {"a": {"$dynamicRef": "#x"}},
                "$defs": {"x": {"$dynamicAnchor": "x", "type": "string"}},
            },
            {"a": 1},
        ),
        (
            {"$ref": "#/x-parts/a", "x-parts": {"a": ANY}},
            {"$ref": "#/x-parts/a", "x-parts": {"a": {"type": "string"}}},
            1,
        ),
        (
            {"enum": [{"$anchor": "a"}, 1], "$ref": "#a", "$defs": {"d": {"$anchor": "a"}}},
            {"enum": [{"$anchor": "a"}, 1], "$ref": "#a",
             "$defs": {"d": {"$anchor": "a", "type": "string"}}},
            1,
        ),
        (
            {"$ref": "#a", "x": [{"enum": [{"$anchor": "a"}]}], "$defs": {"d": {"$anchor": "a"}}},
            {"$ref": "#a", "allOf": [{"enum": [{"$anchor": "a"}]}],
             "$defs": {"d": {"$anchor": "a"}}},
            1,
        ),
        (
            {**DRAFT[7], "contentEncoding": "base64", "contentMediaType": "application/json"},
            {**DRAFT[7], "contentMediaType": "application/json"},
            "e30=",
        ),
        (
            {"allOf": [{"contains": {"const": 1}, "minContains": 2}, {"contains": ANY}]},
            {"contains": ANY, "minContains": 3},
            [1, 1],
        ),
        (
            {"allOf": [{"prefixItems": [ANY, ANY], "items": False}, {"items": {"type": "null"},
             "prefixItems": [ANY]}]},
            {"prefixItems": [ANY], "items": False},
            [1, None],
        ),
        ({"properties": {"ab": ANY}}, {"properties": {"ab": ANY},
         "patternProperties": {"^a": {"type": "null"}}}, {"ab": 1}),
        ({"patternProperties": {r"^\d$": {"type": "null"}}},
         {"properties": {"٣": {"type": "null"}}}, {"٣": 1}),
        ({"properties": {"a": ANY}}, {"propertyNames": {"const": "a"}}, {"b": 1}),
    ],
    ids=lambda value: ascii(value)[:40],
)  # fmt: skip
def test_what_an_event_refutes_is_a_no(old: Any, new: Any, event: Any) -> None:
    assert compile_validator(old).is_valid(event)
    assert not compile_validator(new).is_valid(event)
    assert reasons_against(old, new)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            {"type": "object", "allOf": [WHEN_A, WHEN_C]},
            {"type": "object", "allOf": [WHEN_A, {**WHEN_C, "description": "new"}]},
        ),
        ({**DRAFT[7], **obj(a=NAME)}, {**DRAFT[2020], **obj(a=NAME)}),
        ({**DRAFT[4], "type": "integer"}, {**DRAFT[7], "type": "integer"}),
        (
            {**DRAFT[4], "minimum": 0, "exclusiveMinimum": True},
            {**DRAFT[6], "exclusiveMinimum": 0},
        ),
        ({**DRAFT[7], "dependencies": {"a": ["b"]}}, {"dependentRequired": {"a": ["b"]}}),
        (
            {**DRAFT[7], "items": [NAME], "additionalItems": False},
            {"prefixItems": [NAME], "items": False},
        ),
        (
            {**obj(a=NAME), "unevaluatedProperties": False},
            {**obj(a=NAME, b=NAME), "unevaluatedProperties": False},
        ),
        (
            {"allOf": [obj(a=NAME)], "unevaluatedProperties": False},
            {"allOf": [obj(a=NAME), obj(b=NAME)], "unevaluatedProperties": False},
        ),
        ({"properties": {"a": {"type": "integer"}}, **WHEN_A}, WHEN_A),
        ({"not": {"type": "string"}}, {"not": {"type": "string", "minLength": 1}}),
        ({"type": "null"}, {"not": {"type": "string"}}),
        (
            {"type": "array", "contains": {"const": 1}, "minContains": 2},
            {"contains": {"type": "integer"}},
        ),
        ({"enum": ["a"]}, {"oneOf": [{"const": "a"}, {"const": "b"}]}),
        ({"type": "number", "maximum": 1},
         {"oneOf": [{"maximum": 1}, {"type": "number", "minimum": 2}]}),
    ],
    ids=lambda value: ascii(value)[:40],
)  # fmt: skip
def test_what_can_be_proven_is_a_yes(old: Any, new: Any) -> None:
    assert [str(reason) for reason in reasons_against(old, new) if not reason.unless_unused] == []


def test_parts_that_refer_to_each_other_are_compared_in_bounded_work() -> None:
    names = [f"t{number}" for number in range(8)]

    def document(kind: str) -> dict[str, Any]:
        fields = {name: {"$ref": f"#/$defs/{name}"} for name in names}
        part = {"type": "object", "properties": {**fields, "n": {"type": kind}}}
        parts = dict.fromkeys(names, part)
        return {"properties": fields, "$defs": parts}

    assert reasons_against(document("integer"), document("number")) == []
    reasons = reasons_against(document("number"), document("integer"))
    assert {reason.text for reason in reasons} == {"number is no longer allowed"}


def test_recursive_schemas_end() -> None:
    def tree(kind: str) -> dict[str, Any]:
        children = {"type": "array", "items": {"$ref": "#"}}
        return obj(name={"type": kind}, children=children)

    assert reasons_against(tree("integer"), tree("number")) == []
    assert reasons_against(tree("number"), tree("integer")) == [
        Reason("name", "number is no longer allowed")
    ]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new, apart = (tmp_path / f"{name}.json" for name in ("old", "new", "apart"))
    old.write_text(json.dumps(obj(a={"type": "integer"})))
    new.write_text(json.dumps(obj(a={"type": "integer"}, b=NAME)))
    apart.write_text(json.dumps(obj(a={"type": "number"})))
    assert main(["schema", "check", str(old), str(new)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("backward: yes\n")
    assert "only if events already have it: b: is named now" in text
    assert main(["schema", "check", str(old), str(new), "--strict"]) == 1
    assert main(["schema", "check", str(new), str(old), "--compatibility=full"]) == 0
    capsys.readouterr()
    assert main(["schema", "check", str(old), str(apart), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["backward"], told["forward"], told["dataset"]) == (True, False, False)
    assert told["columns_apart"] == ["column 'a' is int64 and double"]
    assert main(["schema", "check", str(old), str(apart), "--compatibility=none"]) == 0
    assert main(["schema", "check", str(old), str(tmp_path / "nowhere.json")]) == 2
    assert "NEW=" in capsys.readouterr().err


ID_OR_NUMBER = {"type": ["string", "integer"]}


@pytest.mark.parametrize(
    ("old", "new", "apart"),
    [
        (obj(a=NAME), obj(a=ID_OR_NUMBER), ["column 'a' is string and JSON text"]),
        (obj(a=NAME), obj(a={"type": "string", "enum": ["x"]}), []),
        (obj(a=obj(b=NAME)), obj(a=obj(b=NAME, c=NAME)), []),
        (obj(a=NAME), obj(A=NAME), ["columns 'a' and 'A' differ in case alone"]),
        (
            obj(a=obj(b=NAME)),
            obj(a=obj(B=NAME)),
            ["column 'a' is struct<b: string, extra: JSON text> and struct<B: string, extra"],
        ),
        (obj(a={"type": "integer"}), obj(a={"type": "number"}), ["column 'a' is int64 and double"]),
        (obj(a=NAME), obj(a={"type": "string", "format": "uuid"}), []),
        (obj(a=ID_OR_NUMBER), obj(a={"anyOf": [NAME, {"type": "integer"}]}), []),
        (obj(a=NAME), obj(b=ID_OR_NUMBER), []),
        (
            obj(a={"type": "array", "items": NAME}),
            obj(a={"type": "array", "items": ID_OR_NUMBER}),
            ["column 'a' is list<string> and list<JSON text>"],
        ),
        (
            obj(a={"type": "object", "additionalProperties": NAME}),
            obj(a={"type": "object", "additionalProperties": ID_OR_NUMBER}),
            ["column 'a' is map<string, string> and map<string, JSON text>"],
        ),
        (
            obj(a=obj(b=NAME)),
            obj(a=obj(b=ID_OR_NUMBER)),
            ["column 'a' is struct<b: string, extra: JSON text> and struct<b: JSON text, extra"],
        ),
        (
            obj(True, extra=NAME),
            obj(a=NAME),
            ["column 'extra' is string and JSON text"],
        ),
        ({"type": "string"}, ID_OR_NUMBER, ["column 'value' is string and JSON text"]),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_a_dataset_has_one_encoding_for_each_column(old: Any, new: Any, apart: list[str]) -> None:
    found = incompatible_columns(contract_of(old), contract_of(new))
    assert len(found) == len(apart)
    assert all(text.startswith(start) for text, start in zip(found, apart, strict=True)), found
