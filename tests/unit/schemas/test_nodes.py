"""Which Arrow type each part of a JSON Schema gets."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from sample_records import commerce_contract, contract_of

from beam_pipeline.errors import UsageError
from beam_pipeline.records import KAFKA_COLUMNS, PROVENANCE_COLUMNS
from beam_pipeline.schemas.contract import (
    KAFKA_FIELDS,
    RECORD_FIELDS,
    RIDE_ALONG_FIELDS,
    file_schema,
    row_schema,
)
from beam_pipeline.schemas.nodes import (
    BIG_INTEGER,
    EXTRA,
    JSON_TEXT,
    TIMESTAMP_TYPE,
    Encoding,
    Leaf,
    ListOf,
    MapOf,
    Node,
    Struct,
    derive_node,
)
from beam_pipeline.schemas.references import References

STRING, INTEGER, NUMBER = Leaf(pa.string()), Leaf(pa.int64()), Leaf(pa.float64())
BOOLEAN = Leaf(pa.bool_())
TIMESTAMP = Leaf(TIMESTAMP_TYPE, Encoding.TIMESTAMP)
DATE = Leaf(pa.date32(), Encoding.DATE)

DECIMAL = {"precision": 18, "scale": 2}


def dictionary(*categories: str) -> Leaf:
    return Leaf(pa.dictionary(pa.int32(), pa.string()), Encoding.DICTIONARY, categories)


DEFINITIONS: dict[str, Any] = {
    "id": {"type": "integer"},
    "when": {"type": "string", "format": "date-time"},
    "alias": {"$ref": "#/$defs/when"},
    "a/b~c": {"type": "boolean"},
    "address": {
        "$anchor": "address",
        "type": "object",
        "properties": {"zip": {"type": "string"}, "city": {"type": "string"}},
        "additionalProperties": False,
    },
    "tree": {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "children": {"type": "array", "items": {"$ref": "#/$defs/tree"}},
        },
        "additionalProperties": False,
    },
}
ADDRESS = Struct((("zip", STRING), ("city", STRING)), None)


@pytest.mark.parametrize(
    ("schema", "node"),
    [
        ({"type": "string"}, STRING),
        ({"type": "integer"}, INTEGER),
        ({"type": "number"}, NUMBER),
        ({"type": "boolean"}, BOOLEAN),
        ({"type": "string", "format": "date-time"}, TIMESTAMP),
        ({"type": "string", "format": "date"}, DATE),
        ({"type": "string", "format": "uuid"}, STRING),
        ({"type": "string", "format": "email"}, STRING),
        ({"format": "date-time"}, JSON_TEXT),
        ({"type": "null"}, JSON_TEXT),
        ({"type": ["string", "null"]}, STRING),
        ({"type": ["null", "string"], "format": "date-time"}, TIMESTAMP),
        ({"type": ["integer", "null"]}, INTEGER),
        ({"type": ["integer", "number"]}, NUMBER),
        ({"type": ["string", "integer"]}, JSON_TEXT),
        ({"enum": ["a", "b"]}, dictionary("a", "b")),
        ({"enum": ["a", None, "a"]}, dictionary("a")),
        ({"type": ["string", "null"], "enum": ["a", None]}, dictionary("a")),
        ({"enum": [1, 2]}, INTEGER),
        ({"enum": [1, 2.5]}, NUMBER),
        ({"enum": [True]}, BOOLEAN),
        ({"enum": [True, 1]}, JSON_TEXT),
        ({"enum": ["a", 1]}, JSON_TEXT),
        ({"enum": [None]}, JSON_TEXT),
        ({"enum": [{"a": 1}]}, JSON_TEXT),
        ({"const": "a"}, dictionary("a")),
        ({"const": 1.5}, NUMBER),
        ({"const": None}, JSON_TEXT),
        ({"const": [1]}, JSON_TEXT),
        (True, JSON_TEXT),
        ({}, JSON_TEXT),
        ({"type": "object"}, JSON_TEXT),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, MapOf(INTEGER)),
        ({"type": "object", "additionalProperties": {}}, JSON_TEXT),
        ({"type": "object", "additionalProperties": True}, JSON_TEXT),
        (
            {"type": "object", "additionalProperties": {"type": ["string", "integer"]}},
            MapOf(JSON_TEXT),
        ),
        ({"type": "object", "additionalProperties": {"enum": ["a"]}}, MapOf(STRING)),
        (
            {
                "type": "object",
                "patternProperties": {"^[a-z]+$": {"$ref": "#/$defs/address"}},
                "additionalProperties": False,
            },
            MapOf(ADDRESS),
        ),
        (
            {
                "type": "object",
                "patternProperties": {"^a": {"type": "integer"}},
                "additionalProperties": {"type": "string"},
            },
            JSON_TEXT,
        ),
        (
            {
                "type": "array",
                "items": {"type": "object", "additionalProperties": {"type": "number"}},
            },
            ListOf(MapOf(NUMBER)),
        ),
        (
            {"type": "string", "x-decimal": DECIMAL},
            Leaf(pa.decimal128(18, 2), Encoding.DECIMAL_TEXT),
        ),
        ({"type": "string", "x-decimal": {"precision": 50, "scale": 2}}, STRING),
        ({"type": "integer", "minimum": 0, "maximum": 2**63 - 1}, INTEGER),
        ({"type": "integer", "minimum": 0, "maximum": 2**64 - 1}, BIG_INTEGER),
        ({"type": "integer", "exclusiveMinimum": -(10**30)}, BIG_INTEGER),
        ({"enum": [1, 2**64]}, BIG_INTEGER),
        ({"type": "integer", "maximum": 10**40}, JSON_TEXT),
        ({"type": "array"}, JSON_TEXT),
        ({"items": {"type": "integer"}}, JSON_TEXT),
        ({"type": "array", "items": True}, JSON_TEXT),
        ({"type": "array", "items": {"type": "integer"}}, ListOf(INTEGER)),
        ({"type": ["array", "null"], "items": {"type": "string"}}, ListOf(STRING)),
        ({"type": "array", "items": {"type": ["string", "null"]}}, ListOf(STRING)),
        ({"type": "array", "items": {"type": "array", "items": {}}}, ListOf(ListOf(JSON_TEXT))),
        ({"type": "array", "prefixItems": [{}], "items": {"type": "integer"}}, JSON_TEXT),
        ({"type": "array", "items": {"$ref": "#/$defs/address"}}, ListOf(ADDRESS)),
        (
            {"type": "object", "properties": {"a": {"type": "integer"}}},
            Struct((("a", INTEGER),), "extra"),
        ),
        (
            {"properties": {"a": {"type": "integer"}}, "additionalProperties": False},
            Struct((("a", INTEGER),), None),
        ),
        (
            {"type": ["object", "null"], "properties": {"a": {}}, "additionalProperties": False},
            Struct((("a", JSON_TEXT),), None),
        ),
        (
            {
                "properties": {"a": {"type": "integer"}},
                "patternProperties": {"^x-": {}},
                "additionalProperties": False,
            },
            Struct((("a", INTEGER),), "extra"),
        ),
        ({"properties": {"extra": {}}}, Struct((("extra", JSON_TEXT),), "_extra")),
        (
            {"properties": {"extra": {}, "_extra": {}}},
            Struct((("extra", JSON_TEXT), ("_extra", JSON_TEXT)), "__extra"),
        ),
        ({"$ref": "#/$defs/id"}, INTEGER),
        ({"$ref": "#/$defs/alias"}, TIMESTAMP),
        ({"$ref": "#/$defs/alias", "description": "when"}, TIMESTAMP),
        ({"$ref": "#/$defs/a~1b~0c"}, BOOLEAN),
        ({"$ref": "#/$defs/address"}, ADDRESS),
        (
            {"$ref": "#/$defs/address", "properties": {"zip": {"pattern": "^[0-9]+$"}}},
            ADDRESS,
        ),
        ({"$ref": "#address"}, ADDRESS),
        ({"$ref": "#nowhere"}, JSON_TEXT),
        ({"$ref": "#/$defs/nothing"}, JSON_TEXT),
        (
            {"$ref": "#/$defs/tree"},
            Struct((("name", STRING), ("children", ListOf(JSON_TEXT))), None),
        ),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, STRING),
        ({"oneOf": [{"type": "null"}, {"$ref": "#/$defs/when"}]}, TIMESTAMP),
        ({"anyOf": [{"$ref": "#/$defs/address"}, {"type": "null"}]}, ADDRESS),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, JSON_TEXT),
        ({"anyOf": [{"type": "string", "format": "date-time"}, {"type": "string"}]}, JSON_TEXT),
        ({"anyOf": [{"type": "string"}, True]}, JSON_TEXT),
        ({"anyOf": [{"type": "null"}]}, JSON_TEXT),
        ({"anyOf": [{"minLength": 1}, {"pattern": "x"}], "type": "string"}, STRING),
        ({"allOf": [{"type": "string"}]}, STRING),
        ({"allOf": [{"type": "string"}, {"format": "date"}]}, DATE),
        ({"allOf": [{"type": ["integer", "null"]}, {"type": "number"}]}, INTEGER),
        ({"allOf": [True, {"$ref": "#/$defs/nothing"}]}, JSON_TEXT),
        (
            {
                "allOf": [
                    {"$ref": "#/$defs/address"},
                    {"properties": {"zip": {"maxLength": 5}, "id": {"$ref": "#/$defs/id"}}},
                ],
                "properties": {"own": {"type": "boolean"}},
            },
            Struct((("zip", STRING), ("city", STRING), ("id", INTEGER), ("own", BOOLEAN)), None),
        ),
        (
            {
                "type": "object",
                "properties": {"kind": {"type": "string"}},
                "oneOf": [
                    {"properties": {"a": {"type": "integer"}}},
                    {"properties": {"b": {"type": "string"}}},
                ],
            },
            Struct((("kind", STRING), ("a", JSON_TEXT), ("b", JSON_TEXT)), "extra"),
        ),
        (
            {
                "oneOf": [
                    {
                        "properties": {"kind": {"const": "x"}, "a": {"type": "integer"}},
                        "additionalProperties": False,
                    },
                    {
                        "properties": {"kind": {"const": "y"}, "b": {"type": "string"}},
                        "additionalProperties": False,
                    },
                    {"type": "null"},
                ]
            },
            Struct((("kind", dictionary("x", "y")), ("a", INTEGER), ("b", STRING)), None),
        ),
        (
            {
                "type": "array",
                "anyOf": [{"items": {"type": "string"}}, {"items": {"type": "integer"}}],
            },
            ListOf(JSON_TEXT),
        ),
    ],
    ids=str,
)
def test_a_schema_has_a_node(schema: Any, node: Node) -> None:
    assert derive_node(schema, {"$defs": DEFINITIONS}) == node


def test_a_recursive_document_ends() -> None:
    document = {
        "type": "object",
        "properties": {name: {"$ref": "#"} for name in ("left", "right")},
        "additionalProperties": False,
    }
    inner = Struct((("left", JSON_TEXT), ("right", JSON_TEXT)), None)
    assert derive_node(document, document) == Struct((("left", inner), ("right", inner)), None)


def test_up_to_draft_7_what_stands_beside_a_reference_has_no_effect() -> None:
    document = {
        "definitions": {"a": {"type": "integer"}},
        "properties": {"a": {"$ref": "#/definitions/a", "type": "string"}},
    }
    for draft, node in (("draft-07", INTEGER), ("2019-09", JSON_TEXT)):
        drafted = {**document, "$schema": f"http://json-schema.org/{draft}/schema#"}
        assert derive_node(drafted, drafted) == Struct((("a", node),), "extra")


@pytest.mark.parametrize(
    ("reference", "target"),
    [
        ("#", {"$defs": DEFINITIONS}),
        ("#/$defs/id", {"type": "integer"}),
        ("#/$defs/a~1b~0c", {"type": "boolean"}),
        ("#/$defs/nothing", None),
        ("#/$defs/id/type/0", None),
        ("#address", DEFINITIONS["address"]),
        ("#nowhere", None),
        ("other.json#/$defs/id", None),
        ("urn:other", None),
    ],
)
def test_pointers_are_resolved_within_the_document(reference: str, target: Any) -> None:
    assert References({"$defs": DEFINITIONS}).resolve(reference) == target


def test_columns_of_the_commerce_event() -> None:
    schema = commerce_contract().event_schema
    money = pa.decimal128(18, 2)
    item = pa.struct([("sku", pa.string()), ("quantity", pa.int64()), ("unit_price", money)])
    assert schema.field("event_time").type == pa.timestamp("us", tz="UTC")
    assert schema.field("referrer").type == pa.string()
    assert schema.field("consent").type == pa.bool_()
    assert schema.field("purchase").type == pa.struct(
        [
            ("order_id", pa.string()),
            ("amount", money),
            ("currency", pa.string()),
            ("items", pa.list_(item)),
        ]
    )
    assert schema.names[-1] == EXTRA
    assert schema.field(EXTRA).type == pa.string()


def test_a_batch_has_event_kafka_and_ride_along_columns() -> None:
    contract = contract_of({"properties": {"a": {"type": "integer"}}})
    event = [pa.field("a", pa.int64()), pa.field("extra", pa.string())]
    assert contract.batch_schema == pa.schema([*event, *KAFKA_FIELDS, *RIDE_ALONG_FIELDS])
    rows = pa.schema([*event, *KAFKA_FIELDS])
    assert row_schema(contract.batch_schema) == rows
    assert file_schema(contract.batch_schema, PROVENANCE_COLUMNS) == rows
    whole = file_schema(contract.batch_schema, KAFKA_COLUMNS)
    assert whole == pa.schema([*rows, *RECORD_FIELDS.values()])


@pytest.mark.parametrize("name", ["kafka_key", "Kafka_Headers"])
def test_an_event_s_column_is_refused_where_the_record_has_it(name: str) -> None:
    contract = contract_of({"properties": {name: {"type": "string"}}})
    with pytest.raises(UsageError, match=rf"column '{name}' has the name .* --kafka_columns=topic"):
        file_schema(contract.batch_schema)
    rest = tuple(column for column in KAFKA_COLUMNS if f"kafka_{column}" != name.lower())
    assert name in file_schema(contract.batch_schema, rest).names


@pytest.mark.parametrize(
    ("document", "column_type"),
    [
        ({"type": "integer"}, pa.int64()),
        ({"type": "array", "items": {"type": "string"}}, pa.list_(pa.string())),
        ({}, pa.string()),
    ],
)
def test_an_event_that_is_no_object_is_one_column(document: Any, column_type: Any) -> None:
    contract = contract_of(document)
    assert contract.event_schema == pa.schema([("value", column_type)])
    assert contract.extra_column is None


def test_a_definition_that_is_used_twice_is_no_recursion() -> None:
    """Once for the event itself and once for a field of it; its own fields may use others."""
    document = {
        "type": "object",
        "allOf": [{"$ref": "#/$defs/identified"}],
        "properties": {"owner": {"$ref": "#/$defs/identified"}, "top": {"$ref": "#/$defs/tree"}},
        "unevaluatedProperties": False,
        "$defs": {
            "identified": {
                "type": "object",
                "properties": {"id": {"$ref": "#/$defs/text"}, "alias": {"$ref": "#/$defs/text"}},
                "additionalProperties": False,
            },
            "text": {"type": "string"},
            "tree": {
                "type": "object",
                "properties": {"under": {"$ref": "#/$defs/tree"}},
                "additionalProperties": False,
            },
        },
    }
    node = derive_node(document, document)
    assert isinstance(node, Struct)
    fields = dict(node.fields)
    assert fields["owner"].arrow_type == pa.struct([("id", pa.string()), ("alias", pa.string())])
    assert fields["top"].arrow_type == pa.struct([("under", pa.string())])
