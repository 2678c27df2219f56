"""Schema files in JSON and YAML, in one piece or several."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from beam_pipeline.errors import UsageError
from beam_pipeline.schemas import Judge, load_contract
from beam_pipeline.schemas.source import read_schema


def write(path: Path, document: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def is_valid(path: Path, value: Any) -> bool:
    judge = Judge(load_contract(path).document, 1_000_000)
    return judge.judge(json.dumps(value).encode())[1] is None


YAML = """
$schema: https://json-schema.org/draft/2020-12/schema
type: object
required: [id, at]
additionalProperties: false
properties:
  id: {type: integer, minimum: 0, maximum: 18446744073709551615}
  at: {type: string, format: date-time}
  day: {const: 2026-11-24}
  answer: {enum: [yes, no, on, off, 1.5, null, true]}
  ratio: {type: number, maximum: 1e3}
"""


def test_yaml_means_what_json_would(tmp_path: Path) -> None:
    path = write(tmp_path / "event.yaml", YAML)
    document, sha256 = read_schema(path)
    assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert document["properties"]["day"] == {"const": "2026-11-24"}
    assert document["properties"]["answer"]["enum"] == [
        "yes",
        "no",
        "on",
        "off",
        1.5,
        None,
        True,
    ]
    assert document["properties"]["id"]["maximum"] == 2**64 - 1
    assert document["properties"]["ratio"]["maximum"] == 1000.0
    as_json = write(tmp_path / "event.json", document)
    assert load_contract(path).event_schema == load_contract(as_json).event_schema
    assert is_valid(path, {"id": 2**64 - 1, "at": "2026-11-24T00:00:00Z", "answer": "no"})
    assert not is_valid(path, {"id": 1, "at": "2026-11-24T00:00:00Z", "answer": False})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: [", "not YAML with JSON's types only"),
        ("a: &a [*a]", "not YAML with JSON's types only"),
        ("a: !!binary aGk=", "not YAML with JSON's types only"),
        ("a: !!python/object:os.system {}", "not YAML with JSON's types only"),
        ("properties: {1: {}}", "the key 1 is not a text"),
        ("- a", "a JSON Schema is an object, not list"),
        ("", "a JSON Schema is an object, not NoneType"),
    ],
)
def test_yaml_beyond_json_is_one_line(tmp_path: Path, text: str, reason: str) -> None:
    path = write(tmp_path / "event.yml", text)
    with pytest.raises(UsageError) as refused:
        load_contract(path)
    assert str(refused.value).startswith(f"--schema={path}: {reason}")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("suffix", [".json", ".yaml"])
@pytest.mark.parametrize(
    "dialect",
    [
        "http://json-schema.org/draft-07/schema#",
        "https://json-schema.org/draft/2019-09/schema",
        "https://json-schema.org/draft/2020-12/schema",
    ],
)
def test_files_beside_it_become_one_document(tmp_path: Path, suffix: str, dialect: str) -> None:
    top = write(
        tmp_path / f"order{suffix}",
        {
            "$schema": dialect,
            "$id": "https://example.com/order.json",
            "type": "object",
            "properties": {
                "total": {"$ref": "shared/money.json#/$defs/money"},
                "again": {"$ref": "./shared/money.json#/$defs/money"},
                "own": {"$ref": "https://example.com/order.json#/definitions/flag"},
                "parent": {"$ref": "https://example.com/order.json"},
                "whole": {"$ref": "shared/currency.yaml"},
                "$ref": {"type": "string"},
                "default": {"$ref": "#/definitions/flag"},
            },
            "definitions": {"flag": {"type": "boolean"}},
            "$defs": {"money.json": {"type": "null"}},
        },
    )
    shared = write(
        tmp_path / "shared" / "money.json",
        {
            "$schema": dialect,
            "$id": "https://example.com/money.json",
            "$defs": {
                "money": {
                    "type": "object",
                    "properties": {
                        "amount": {"type": "number"},
                        "currency": {"$ref": "currency.yaml"},
                        "order": {"$ref": f"../order{suffix}#/definitions/flag"},
                        "refund": {"$ref": "#/$defs/money"},
                    },
                    "additionalProperties": False,
                }
            },
        },
    )
    write(tmp_path / "shared" / "currency.yaml", "enum: [EUR, USD]\n")
    contract = load_contract(top)
    good = {"amount": 1.5, "currency": "EUR", "order": True}
    assert is_valid(top, {"total": good, "again": good, "own": True, "whole": "USD"})
    assert is_valid(top, {"total": {**good, "refund": good}, "parent": {"own": False}})
    for wrong in (
        {"total": {**good, "currency": "GBP"}},
        {"total": {**good, "refund": {"amount": "1"}}},
        {"own": 1},
        {"parent": {"own": 1}},
        {"whole": "GBP"},
        {"default": 1},
        {"$ref": 1},
    ):
        assert not is_valid(top, wrong), wrong
    columns = contract.event_schema
    assert [field.name for field in columns.field("total").type] == [
        "amount",
        "currency",
        "order",
        "refund",
    ]
    assert str(columns.field("own").type) == str(columns.field("default").type) == "bool"
    before = contract.ref.sha256
    shared.write_text(shared.read_text().replace("number", "integer"))
    assert load_contract(top).ref.sha256 != before


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("https://example.com/other.json", "points outside the file; copy its target"),
        ("urn:other:1", "points outside the file; copy its target"),
        ("/etc/schema.json", "points outside the file; copy its target"),
        ("file:///etc/schema.json", "points outside the file; copy its target"),
        ("nowhere.json#/a", "points outside the file, and there is no"),
        ("broken.json", "not JSON"),
    ],
)
def test_references_elsewhere_are_one_line(tmp_path: Path, reference: str, reason: str) -> None:
    write(tmp_path / "broken.json", "{")
    path = write(tmp_path / "event.json", {"properties": {"a": {"$ref": reference}}})
    with pytest.raises(UsageError, match=reason) as refused:
        load_contract(path)
    assert str(refused.value).startswith(f"--schema={path}: ")
    assert "\n" not in str(refused.value)


def test_a_reference_to_nothing_in_a_file_beside_it_is_one_line(tmp_path: Path) -> None:
    write(tmp_path / "shared.json", {"$defs": {}})
    path = write(tmp_path / "event.json", {"properties": {"a": {"$ref": "shared.json#/$defs/b"}}})
    with pytest.raises(UsageError) as refused:
        load_contract(path)
    assert "\n" not in str(refused.value)


DRAFT_7 = "http://json-schema.org/draft-07/schema#"
MONEY = {
    "type": "object",
    "required": ["amount"],
    "properties": {"amount": {"$ref": "#/$defs/amount"}},
    "additionalProperties": False,
    "$defs": {"amount": {"$anchor": "amount", "type": "string"}},
}


@pytest.mark.parametrize(
    ("document", "references"),
    [
        (
            {"$id": "https://e.org/order", "$defs": {"m": {"$id": "/money", **MONEY}}},
            ["money", "https://e.org/money", "/money#", "#/$defs/m", "order#/$defs/m"],
        ),
        (
            {"$defs": {"a/b c%": {"$id": "urn:money", **MONEY}}},
            ["urn:money", "urn:money#", "#/$defs/a~1b%20c%25"],
        ),
        (
            {
                "$schema": DRAFT_7,
                "$id": "http://e.org/a/",
                "definitions": {
                    "m": {
                        "$id": "b/money",
                        **MONEY,
                        "properties": {"amount": {"$ref": "more#/definitions/amount"}},
                        "definitions": {
                            "more": {
                                "$id": "more",
                                "definitions": {"amount": {"$id": "#amount", "type": "string"}},
                            }
                        },
                    }
                },
            },
            ["b/money", "http://e.org/a/b/money#", "#/definitions/m"],
        ),
        (
            {
                "$schema": DRAFT_7,
                "definitions": {"m": {"$id": "#money", **MONEY}},
                "$defs": MONEY["$defs"],
            },
            ["#money"],
        ),
        (
            {
                "$schema": "http://json-schema.org/draft-04/schema#",
                "id": "http://e.org/x",
                "definitions": {"m": {"id": "http://e.org/money", **MONEY}},
            },
            ["money", "http://e.org/money"],
        ),
        (
            {
                "$id": "https://e.org/order",
                "$defs": {
                    "m": {"$id": "money", **MONEY},
                    "tree": {"$id": "tree", "$dynamicAnchor": "node"},
                },
            },
            ["money", "https://e.org/money"],
        ),
        (
            {
                "$id": "https://e.org/x",
                "$defs": {"m": {"$anchor": "m", **MONEY}, "amount": {"type": "string"}},
            },
            ["#m", "x#m"],
        ),
    ],
    ids=["relative", "urn", "draft 7", "fragment", "draft 4", "dynamic", "anchor"],
)
def test_parts_with_an_id_of_their_own_are_found(
    document: dict[str, Any], references: list[str], tmp_path: Path
) -> None:
    for reference in references:
        properties = {"n": {"type": "integer"}, "m": {"$ref": reference}}
        path = write(tmp_path / "event.json", {**document, "properties": properties})
        assert is_valid(path, {"m": {"amount": "1"}}), reference
        assert not is_valid(path, {"m": {"amount": 1}}), reference
        assert not is_valid(path, {"m": {}}), reference
        column = load_contract(path).event_schema.field("m").type
        assert [(field.name, str(field.type)) for field in column] == [("amount", "string")]


def test_a_file_beside_it_with_parts_that_have_ids(tmp_path: Path) -> None:
    write(
        tmp_path / "money.json",
        {
            "$id": "https://e.org/money",
            "properties": {"m": {"$ref": "inner"}, "again": {"$ref": "money#/$defs/i"}},
            "$defs": {
                "i": {"$id": "inner", "$ref": "#x", "$defs": {"x": {"$anchor": "x", **NUMBER}}}
            },
        },
    )
    path = write(tmp_path / "event.json", {"properties": {"a": {"$ref": "money.json"}}})
    assert is_valid(path, {"a": {"m": 1, "again": 2}})
    assert not is_valid(path, {"a": {"m": "1"}})
    assert not is_valid(path, {"a": {"again": "1"}})


NUMBER = {"type": "integer"}


def test_an_id_in_data_or_beside_a_reference_is_none(tmp_path: Path) -> None:
    document = {
        "$schema": DRAFT_7,
        "properties": {
            "a": {"enum": [{"$id": "urn:a", "type": "null"}, {"$ref": "#/x"}]},
            "b": {"$ref": "urn:b"},
        },
        "definitions": {
            "b": {"$id": "urn:b", "type": "string"},
            "c": {"$ref": "#/definitions/b", "$id": "urn:b2"},
        },
    }
    path = write(tmp_path / "event.json", document)
    assert is_valid(path, {"a": {"$id": "urn:a", "type": "null"}, "b": "x"})
    assert is_valid(path, {"a": {"$ref": "#/x"}})
    assert not is_valid(path, {"b": 1})


def test_the_schema_of_schemas_may_be_referred_to(tmp_path: Path) -> None:
    document = {"$schema": DRAFT_7, "properties": {"a": {"$ref": DRAFT_7}}}
    path = write(tmp_path / "event.json", document)
    assert is_valid(path, {"a": {"type": "string"}})
    assert not is_valid(path, {"a": {"type": "text"}})
    assert str(load_contract(path).event_schema.field("a").type) == "string"
