"""Whatever a schema file holds, loading it gives a contract or one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from beam_pipeline.errors import UsageError
from beam_pipeline.schemas import Judge, load_contract
from beam_pipeline.transforms.normalize import rules_of

DRAFTS = [
    "http://json-schema.org/draft-04/schema#",
    "http://json-schema.org/draft-06/schema#",
    "http://json-schema.org/draft-07/schema#",
    "https://json-schema.org/draft/2019-09/schema",
    "https://json-schema.org/draft/2020-12/schema",
]


ODD_VALUES: list[Any] = [7, None, {}, [], [{}], True]
ODD_TEXTS: list[Any] = [7, None, [{}], "\0", "http://[", "x" * 5000]


@pytest.mark.parametrize(
    "document",
    [
        *({keyword: value} for keyword in ("$schema", "$ref", "$id", "$anchor", "$dynamicRef")
          for value in ODD_VALUES),
        *({"properties": {"a": {keyword: value}}}
          for keyword in ("$ref", "$id", "$anchor", "$defs", "type", "enum", "required")
          for value in ODD_TEXTS),
        {"$ref": "\0"},
        {"$ref": "x\0.json"},
        {"$ref": "http://["},
        {"$ref": "x" * 5000},
        {"$ref": "%00"},
        {"$ref": "."},
        {"$ref": "#/%GG"},
        {"$ref": "#/a/\u0661", "a": [{}]},
        {"$schema": "urn:none"},
        {"$schema": "http://["},
        {"$id": "http://["},
        {"$id": "http://[", "$ref": "a"},
        {"$defs": 7},
        {"$defs": 7, "$ref": "other.json"},
        {"type": [{}]},
        {"type": "any"},
        {"properties": {"\ud800": {}}},
        {"const": "\ud800"},
        {"pattern": "\ud800"},
        {"pattern": "("},
        {"patternProperties": {"(": {}}},
        {"x-event-time": 7},
        {"x-decimal": 7, "type": "string"},
        {"$schema": DRAFTS[0], "$id": 7, "id": 8},
        {"$schema": DRAFTS[0], "allOf": []},
        {"$schema": DRAFTS[0], "$ref": "#/x", "x": {"type": [{}], "allOf": 7}},
        {"$ref": "#/x", "x": {"type": [{}], "allOf": 7, "required": 8}},
        {"$schema": DRAFTS[0], "const": {"a": 1}, "prefixItems": 7},
    ],
    ids=lambda document: ascii(document)[:60],
)  # fmt: skip
def test_a_broken_schema_is_one_line(document: Any, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("{}")
    load(tmp_path, json.dumps(document))


@pytest.mark.parametrize(
    "text",
    ['{"const": NaN}', '{"minimum": -Infinity}', '{"const": 1e400}', '{"a": "\\ud800"}', "[]", ""],
)
def test_what_is_not_json_is_refused(text: str, tmp_path: Path) -> None:
    assert not load(tmp_path, text)


@pytest.mark.parametrize(
    "document",
    [
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
        {"$ref": "#"},
        {"allOf": [{"$ref": "#"}]},
        {"anyOf": [{"$ref": "#"}, {"type": "object"}]},
        {"not": {"$ref": "#"}},
    ],
)
def test_references_in_a_circle_are_a_result(document: Any, tmp_path: Path) -> None:
    assert load(tmp_path, json.dumps(document))


@pytest.mark.parametrize("document", [{"not": {"$ref": "#"}}, {"anyOf": [{"$ref": "#"}, False]}])
def test_a_circle_is_explained_from_any_depth_of_the_stack(document: Any) -> None:
    """Where Python's stack ends inside a library in Rust, it panics, which is no Exception."""
    judge = Judge(document, 1000)

    def from_depth(depth: int) -> object:
        return from_depth(depth - 1) if depth else judge.judge(b'{"a": {"b": [1, "2"]}}')

    for depth in range(40):
        assert from_depth(depth) is not None


def load(directory: Path, text: str) -> bool:
    """Whether the document of a text is a contract; if not, the message is one line."""
    path = directory / "event.json"
    path.write_text(text)
    refusal = ""
    try:
        contract = load_contract(path)
        rules_of(contract)
        assert isinstance(contract.event_schema, pa.Schema)
        Judge(contract.document, 1000).judge(b'{"a": {"b": [1, "2"]}}')
    except UsageError as error:
        refusal = str(error)
    assert "\n" not in refusal
    assert not refusal or refusal.startswith("--schema=")
    return not refusal


KEYWORDS = [
    *("$anchor", "$comment", "$defs", "$dynamicAnchor", "$dynamicRef", "$id", "$recursiveAnchor"),
    *("$recursiveRef", "$ref", "additionalItems", "additionalProperties", "allOf", "anyOf"),
    *("const", "contains", "default", "definitions", "dependencies", "dependentRequired"),
    *("dependentSchemas", "else", "enum", "exclusiveMinimum", "format", "id", "if", "items"),
    *("maxContains", "maxItems", "minContains", "minLength", "minimum", "multipleOf", "not"),
    *("oneOf", "pattern", "patternProperties", "prefixItems", "properties", "propertyNames"),
    *("required", "then", "type", "unevaluatedItems", "unevaluatedProperties", "uniqueItems"),
    *("x-decimal", "x-event-time", "x-normalize", "contentEncoding", "contentMediaType"),
]
TEXTS = [
    *(
        "#",
        "#/$defs/a",
        "#/definitions/a",
        "#/properties/a",
        "#a",
        "a",
        "b.json",
        "b.json#/$defs/a",
    ),
    *("http://x/y", "urn:z", "urn:z#/$defs/a", "", "(", "^\\p{L}$", "(?<n>a)", "object", "array"),
    *("string", "integer", "date-time", "\0", "#/", "#/a/b", "#/allOf/0", "http://[", "\ud800"),
]
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.sampled_from([-1, 0, 1, 2, 1.5, 2**64, 10**40])
    | st.sampled_from(TEXTS),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*KEYWORDS, "a", "b"]), inner, max_size=4)
    ),
    max_leaves=10,
)
NAMES = ("$defs", "definitions", "dependentSchemas", "patternProperties", "properties")


def keyword_and_value(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[str, Any]]:
    """Mostly what the keyword takes, sometimes anything."""
    names = st.dictionaries(st.sampled_from(["a", "b", "^a"]), inner, max_size=2)
    fitting = st.one_of(
        st.tuples(st.sampled_from(NAMES), names),
        st.tuples(
            st.sampled_from(["allOf", "anyOf", "oneOf", "prefixItems"]),
            st.lists(inner, min_size=1, max_size=2),
        ),
        st.tuples(
            st.sampled_from(
                ["not", "if", "then", "else", "items", "contains", "additionalProperties"]
            ),
            inner,
        ),
        st.tuples(st.sampled_from(["$ref", "$id", "$anchor", "$dynamicRef", "pattern", "format",
                                   "type"]), st.sampled_from(TEXTS)),
    )  # fmt: skip
    return st.integers(0, 9).flatmap(
        lambda die: fitting if die else st.tuples(st.sampled_from(KEYWORDS), VALUES)
    )


SCHEMAS: st.SearchStrategy[Any] = st.recursive(
    st.booleans() | st.just({}) | st.just({"type": "string"}) | st.just({"$ref": "#/$defs/a"}),
    lambda inner: st.lists(keyword_and_value(inner), max_size=4).map(dict),
    max_leaves=12,
)


@settings(
    max_examples=500,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(document=SCHEMAS, draft=st.sampled_from([None, *DRAFTS]))
def test_any_document_is_a_contract_or_one_line(
    document: Any, draft: str | None, tmp_path: Path
) -> None:
    if draft and isinstance(document, dict):
        document = {"$schema": draft, **document}
    (tmp_path / "b.json").write_text('{"$defs": {"a": {"type": "integer"}}}')
    event("a contract" if load(tmp_path, json.dumps(document)) else "one line")
