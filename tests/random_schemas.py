"""Random schemas of the documented subset, each with values that it may or may not allow."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

from hypothesis import strategies as st

DIALECT = "https://json-schema.org/draft/2020-12/schema"
NAMES = ["a", "b", "c d", "é", "x.y", "1", ""]
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
SMALL = st.integers(-(2**53), 2**53)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
TIMES = st.datetimes(datetime(1800, 1, 1), datetime(2200, 1, 1)).map(
    lambda at: f"{at.isoformat()}Z"
)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | SMALL | FLOATS | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(NAMES) | TEXTS, inner, max_size=3)
    ),
    max_leaves=5,
)
LEAVES: list[tuple[dict[str, Any], st.SearchStrategy[Any]]] = [
    ({"type": "string"}, TEXTS),
    ({"type": "string", "minLength": 2}, TEXTS),
    ({"type": "string", "format": "date-time"}, TIMES),
    ({"type": "string", "format": "date"}, st.dates().map(date.isoformat)),
    ({"type": "string", "format": "uuid"}, st.uuids().map(str)),
    ({"type": "integer"}, st.integers(-(2**63), 2**63 - 1)),
    ({"type": "integer", "minimum": 0, "maximum": 2**64 - 1}, st.integers(-5, 2**64)),
    ({"type": "integer", "exclusiveMaximum": 10**50}, st.integers(-(10**49), 10**49)),
    ({"type": "number"}, FLOATS | SMALL),
    ({"type": "number", "multipleOf": 2}, SMALL),
    ({"type": "boolean"}, st.booleans()),
    ({"type": "null"}, st.none()),
    ({"enum": ["red", "green"]}, st.sampled_from(["red", "green", "blue"])),
    ({"enum": ["red", 7, None, [1]]}, st.sampled_from(["red", 7, None, [1], 8])),
    ({"const": "on"}, st.sampled_from(["on", "off"])),
    ({"type": ["string", "integer"]}, TEXTS | SMALL),
    ({"type": ["integer", "null"]}, SMALL | st.none()),
    ({}, JSON_VALUES),
    ({"$ref": "#/$defs/tree"}, st.just({"name": "top", "children": [{"name": "leaf"}]})),
    (
        {"$ref": "#/$defs/money"},
        st.sampled_from([{"amount": 1.5}, {"amount": 1, "currency": "EUR"}]),
    ),
]
DEFINITIONS: dict[str, Any] = {
    "tree": {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "children": {"type": "array", "items": {"$ref": "#/$defs/tree"}},
        },
        "required": ["name"],
    },
    "money": {
        "type": "object",
        "properties": {"amount": {"type": "number"}, "currency": {"enum": ["EUR", "USD"]}},
        "additionalProperties": False,
    },
}

Pair = tuple[dict[str, Any], st.SearchStrategy[Any]]
"""A schema, and values that it may or may not allow."""


def mostly(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.integers(0, 19).flatmap(lambda die: values if die else JSON_VALUES)


@st.composite
def objects(draw: st.DrawFn, fields: st.SearchStrategy[Pair]) -> Pair:
    parts: dict[str, Pair] = draw(st.dictionaries(st.sampled_from(NAMES), fields, max_size=3))
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {name: part for name, (part, _) in parts.items()},
    }
    if bool(parts) and draw(st.booleans()):
        schema["required"] = [draw(st.sampled_from(sorted(parts)))]
    others = JSON_VALUES
    openness = draw(st.sampled_from(["open", "closed", "typed", "patterns"]))
    if openness == "closed":
        schema["additionalProperties"] = False
    elif openness == "typed":
        schema["additionalProperties"], others = draw(fields)
    elif openness == "patterns":
        part, others = draw(fields)
        schema |= {"patternProperties": {"^p": part}, "additionalProperties": False}
    known = st.fixed_dictionaries({}, optional={name: mostly(v) for name, (_, v) in parts.items()})
    unknown = (
        st.just({})
        if openness == "closed"
        else st.dictionaries(st.sampled_from(["p1", "q", "a", "b"]), mostly(others), max_size=2)
    )
    return schema, st.builds(lambda a, b: {**b, **a}, known, unknown)


@st.composite
def arrays(draw: st.DrawFn, items: st.SearchStrategy[Pair]) -> Pair:
    part, values = draw(items)
    schema: dict[str, Any] = {"type": "array", "items": part}
    if draw(st.integers(0, 4)) == 0:
        schema["prefixItems"] = [draw(items)[0]]
    return schema, st.lists(mostly(values), max_size=3)


@st.composite
def combined(draw: st.DrawFn, parts: st.SearchStrategy[Pair]) -> Pair:
    keyword = draw(st.sampled_from(["anyOf", "oneOf", "allOf", "nullable", "beside"]))
    first, second = draw(parts), draw(parts)
    if keyword == "nullable":
        return {"anyOf": [first[0], {"type": "null"}]}, first[1] | st.none()
    if keyword == "beside":
        return {**first[0], "anyOf": [second[0], {}]}, first[1]
    merged = st.builds(
        lambda a, b: {**a, **b} if isinstance(a, dict) and isinstance(b, dict) else a,
        first[1],
        second[1],
    )
    return {keyword: [first[0], second[0]]}, first[1] | second[1] | merged


PARTS: st.SearchStrategy[Pair] = st.recursive(
    st.sampled_from(LEAVES),
    lambda inner: objects(inner) | arrays(inner) | combined(inner),
    max_leaves=5,
)


@st.composite
def topics(draw: st.DrawFn) -> tuple[dict[str, Any], list[Any]]:
    """A schema of object events, and some values."""
    schema, values = draw(objects(PARTS))
    if draw(st.integers(0, 3)) == 0:
        more, more_values = draw(objects(PARTS))
        keyword = draw(st.sampled_from(["allOf", "anyOf", "oneOf"]))
        schema = {"type": "object", keyword: [schema, more]}
        values = values | more_values
    document = {"$schema": DIALECT, "$defs": DEFINITIONS, **schema}
    return document, draw(st.lists(mostly(values), min_size=1, max_size=6))
