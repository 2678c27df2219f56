"""Plans: which parts of a contract are compiled, and why the others are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from beam_pipeline import resources
from beam_pipeline.compiled.layout import Kind
from beam_pipeline.compiled.plan import (
    MAX_FIELDS,
    NotCompiled,
    Plan,
    compile_plan,
    describe,
    warn_of,
)
from beam_pipeline.schemas import load_contract


def plan_of(tmp_path: Path, document: dict[str, Any], **options: Any) -> Plan:
    path = tmp_path / "event.schema.json"
    path.write_text(json.dumps(document))
    return compile_plan(load_contract(path, **options))


def of_field(schema: Any, **beside: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": schema}, **beside}


def test_the_default_events_are_compiled_as_a_whole() -> None:
    plan = compile_plan(load_contract(resources.event_schema_path()))
    assert plan.root is not None
    assert not plan.left_out
    assert warn_of(plan) is None
    assert len(plan.conditions) == 1
    assert describe(plan) == [f"compiled: {len(plan.parts)} of {len(plan.parts)} parts"]


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        ({"type": "string"}, Kind.TEXT),
        ({"type": ["string", "null"], "maxLength": 3}, Kind.TEXT),
        ({"type": "string", "format": "uuid"}, Kind.TEXT),
        ({"type": "string", "format": "date-time"}, Kind.TIME),
        ({"type": "string", "format": "date"}, Kind.DATE),
        ({"enum": ["x", "y"]}, Kind.CATEGORY),
        ({"type": "integer", "minimum": 1}, Kind.INTEGER),
        ({"type": "number", "exclusiveMaximum": 1.5}, Kind.NUMBER),
        ({"type": "number", "x-decimal": {"precision": 5, "scale": 2}}, Kind.DECIMAL),
        ({"type": "boolean"}, Kind.BOOLEAN),
        ({}, Kind.JSON),
        (True, Kind.JSON),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 1}, Kind.LIST),
        (of_field({"type": "integer"}), Kind.OBJECT),
        ({"allOf": [{"type": "string"}, {"maxLength": 3}]}, Kind.TEXT),
        ({"$ref": "#/$defs/text"}, Kind.TEXT),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, Kind.TEXT),
        ({"oneOf": [{"type": "null"}, of_field({"type": "integer"})]}, Kind.OBJECT),
    ],
)
def test_a_field_is_compiled(tmp_path: Path, schema: Any, kind: Kind) -> None:
    plan = plan_of(tmp_path, {**of_field(schema), "$defs": {"text": {"type": "string"}}})
    assert plan.root is not None
    assert not plan.left_out
    assert plan.root.parts[0].kind is kind


@pytest.mark.parametrize(
    ("schema", "kind", "is_nullable"),
    [
        ({"type": "string", "format": "email"}, Kind.TEXT, False),
        ({"type": ["string", "null"], "pattern": "a|b"}, Kind.TEXT, True),
        ({"type": "string", "allOf": [{"pattern": "^a$"}, {"pattern": "^b$"}]}, Kind.TEXT, False),
        ({"type": "string", "contentEncoding": "base64"}, Kind.TEXT, False),
        ({"type": "number", "multipleOf": 2}, Kind.NUMBER, False),
        ({"type": "number", "minimum": 2**60}, Kind.NUMBER, False),
        ({"type": ["number", "null"], "not": {"enum": [None]}}, Kind.NUMBER, False),
        ({"type": "boolean", "const": True}, Kind.BOOLEAN, False),
        ({"const": 5}, Kind.INTEGER, False),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, Kind.JSON, False),
        ({"enum": [1, "x", None]}, Kind.JSON, True),
        ({"oneOf": [{"type": ["string", "null"]}, {"type": "null"}]}, Kind.TEXT, False),
    ],
)
def test_rules_of_single_values_are_asked(
    tmp_path: Path, schema: Any, kind: Kind, is_nullable: bool
) -> None:
    plan = plan_of(tmp_path, of_field(schema))
    assert plan.root is not None
    assert not plan.left_out
    (asked,) = plan.asked
    assert asked.part is plan.root.parts[0]
    assert (asked.part.kind, asked.part.row["is_nullable"]) == (kind, is_nullable)


def test_a_choice_is_asked_when_it_is_compiled(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, of_field({"enum": ["x", "yy"], "maxLength": 2}))
    assert not plan.left_out
    assert not plan.asked


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"enum": ["x", "yy"], "maxLength": 1}, "a choice with texts that are not valid"),
        (
            {"type": "string", "not": {"$ref": "#/$defs/text"}},
            "a reference or an identity in the schema of a value",
        ),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "no integer is allowed"),
        (
            {"type": "array", "items": {"type": "integer"}, "uniqueItems": True},
            "keyword uniqueItems",
        ),
        (
            {"type": "object", "additionalProperties": {"type": "integer"}},
            "an object with any names",
        ),
        (False, "the schema false"),
        ({"$ref": "#/$defs/tree"}, "$ref '#/$defs/tree': recursive or not in the document"),
        (
            {"type": "object", "properties": {f"f{n}": {} for n in range(MAX_FIELDS + 1)}},
            f"more than {MAX_FIELDS} fields",
        ),
        (
            of_field({"type": "string"}, required=["b"]),
            "'b' is required, but not named in properties",
        ),
        (
            of_field({"enum": ["x"]}, **{"if": {"properties": {"a": {"minLength": 1}}}}),
            "keyword minLength",
        ),
    ],
)
def test_a_field_is_left_out_with_its_reason(tmp_path: Path, schema: Any, reason: str) -> None:
    tree = of_field({"$ref": "#/$defs/tree"})
    document = {"type": "object", "properties": {"x": schema, "y": {"type": "string"}}}
    plan = plan_of(tmp_path, {**document, "$defs": {"tree": tree, "text": {"type": "string"}}})
    assert plan.left_out == [NotCompiled("x", reason)]
    assert plan.root is not None
    assert [part.kind for part in plan.root.parts] == [Kind.UNKNOWN, Kind.TEXT]
    assert [name for name, _ in plan.fields] == ["x", "y"]
    assert len(plan.column_parts) == 3
    assert (
        warn_of(plan) == f"records with these fields do without --compiled_contract: x ({reason})"
    )


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"type": "array"}, "the event is no object with properties"),
        (of_field({}, unevaluatedProperties=False), "keyword unevaluatedProperties"),
        (of_field({}, **{"$schema": "http://json-schema.org/draft-04/schema#"}), "draft 4"),
        (
            of_field({"type": "integer", "x-coerce": ["number_from_text"]}),
            "x-coerce changes values before the verdict",
        ),
    ],
)
def test_an_event_is_not_compiled(tmp_path: Path, document: dict[str, Any], reason: str) -> None:
    plan = plan_of(tmp_path, document)
    assert plan.root is None
    assert describe(plan) == [f"compiled: nothing ({reason})"]
    assert warn_of(plan) == f"--compiled_contract has no effect on this schema: {reason}"


def test_formats_that_are_not_asserted_are_compiled(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, of_field({"type": "string", "format": "email"}), asserts_formats=False)
    assert not plan.left_out
