"""Compatibility of a schema with random changes of it."""

from __future__ import annotations

import copy
from typing import Any

import jsonschema
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st
from random_schemas import DEFINITIONS, DIALECT, PARTS, objects, topics

from beam_pipeline.schemas.compatibility import reasons_against


@st.composite
def changed(draw: st.DrawFn, schema: Any) -> Any:
    """A schema near to another: a keyword dropped, loosened or tightened, a part replaced."""
    if not isinstance(schema, dict) or not schema or draw(st.integers(0, 5)) == 0:
        return draw(PARTS)[0] if draw(st.booleans()) else {}
    result = copy.deepcopy(schema)
    keyword = draw(st.sampled_from(sorted(result)))
    part = result[keyword]
    if keyword == "properties" and part:
        name = draw(st.sampled_from(sorted(part)))
        how = draw(st.sampled_from(["change", "drop", "add"]))
        if how == "change":
            part[name] = draw(changed(part[name]))
        elif how == "drop":
            del part[name]
        else:
            part["new"] = draw(PARTS)[0]
    elif keyword in ("items", "additionalProperties") and isinstance(part, dict):
        result[keyword] = draw(changed(part))
    elif keyword in ("anyOf", "oneOf", "allOf"):
        position = draw(st.integers(0, len(part) - 1))
        part[position] = draw(changed(part[position]))
    elif keyword in ("minimum", "maximum", "minLength", "multipleOf"):
        result[keyword] = part * draw(st.sampled_from([1, 2, 3]))
    elif keyword == "type" and isinstance(part, str):
        result[keyword] = draw(st.sampled_from([part, [part, "null"], "number", "string"]))
    elif keyword != "$ref":
        del result[keyword]
    return result


def is_valid(document: dict[str, Any], value: Any) -> bool:
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    return bool(jsonschema.Draft202012Validator(document, format_checker=checker).is_valid(value))


@settings(max_examples=300)
@given(st.data(), topics())
def test_what_is_said_to_be_allowed_still_is(
    data: st.DataObject, drawn: tuple[dict[str, Any], list[Any]]
) -> None:
    old, values = drawn
    body = {name: part for name, part in old.items() if name not in ("$schema", "$defs")}
    new = {"$schema": DIALECT, "$defs": DEFINITIONS, **data.draw(changed(body))}
    allowed = [value for value in values if is_valid(old, value)]
    assume(allowed)
    reasons = reasons_against(old, new)
    refused = [value for value in allowed if not is_valid(new, value)]
    event(f"reasons {bool(reasons)}, refused {bool(refused)}")
    if not reasons:
        assert refused == []


@given(objects(PARTS))
def test_a_schema_may_follow_itself(drawn: Any) -> None:
    document = {"$schema": DIALECT, "$defs": DEFINITIONS, **drawn[0]}
    assert reasons_against(document, copy.deepcopy(document)) == []
