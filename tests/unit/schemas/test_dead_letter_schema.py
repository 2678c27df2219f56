"""The contract of a dead-letter line."""

from __future__ import annotations

import copy
import json
from typing import Any

import jsonschema
import pytest

from beam_pipeline.records import TIMESTAMP_TYPES, ErrorCode
from beam_pipeline.resources import dead_letter_schema_path

DOCUMENT: dict[str, Any] = json.loads(dead_letter_schema_path().read_bytes())
VALIDATOR = jsonschema.Draft202012Validator(
    DOCUMENT, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
)
LETTER: dict[str, Any] = {
    "dlq_id": "5e" * 32,
    "failed_at": "2026-11-23T20:28:36.001Z",
    "stage": "validate",
    "error": {
        "code": "SCHEMA_VIOLATION",
        "class": "ValidationError",
        "message": "'D1' does not match '^[A-Za-z]{2}$'",
        "stacktrace": None,
        "violations": [
            {
                "keyword": "pattern",
                "instance_path": "/country",
                "schema_path": "/properties/country/pattern",
                "message": "'D1' does not match '^[A-Za-z]{2}$'",
            }
        ],
    },
    "source": {
        "topic": "shop-events",
        "partition": 3,
        "offset": 9_007_199_254_740_993,
        "timestamp": "2026-11-23T20:28:34.512Z",
        "timestamp_type": "LOG_APPEND_TIME",
    },
    "key_b64": "dS00ZjFkMmMzYjVhNjk=",
    "value_b64": "eyJjb3VudHJ5IjogIkQxIn0=",
    "value_text": '{"country": "D1"}',
    "headers": [{"key": "trace", "value_b64": "AAH/"}, {"key": "empty", "value_b64": None}],
    "schema": {"id": "urn:beam-pipeline:commerce-event:1", "sha256": "0f" * 32},
    "epoch": "20261123T202800Zx3f9a",
    "attempt": 1,
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """The letter with the value at a dotted path replaced."""
    letter = copy.deepcopy(LETTER)
    *steps, last = path.split(".")
    target: Any = letter
    for step in steps:
        target = target[int(step) if step.isdigit() else step]
    target[last] = value
    return letter


def objects(schema: Any) -> list[dict[str, Any]]:
    """Every subschema of an object, at any depth."""
    children = schema.values() if isinstance(schema, dict) else schema
    if not isinstance(schema, dict | list):
        return []
    found = [item for child in children for item in objects(child)]
    return [*found, schema] if isinstance(schema, dict) and "properties" in schema else found


def test_the_schema_is_valid_and_a_letter_too() -> None:
    jsonschema.Draft202012Validator.check_schema(DOCUMENT)
    VALIDATOR.validate(LETTER)


def test_the_codes_are_those_of_the_pipeline() -> None:
    codes = DOCUMENT["properties"]["error"]["properties"]["code"]["enum"]
    assert codes == [code.value for code in ErrorCode]


def test_the_timestamp_types_are_those_of_the_pipeline() -> None:
    types = DOCUMENT["properties"]["source"]["properties"]["timestamp_type"]["enum"]
    assert set(types) == set(TIMESTAMP_TYPES.values())


def test_every_object_is_closed_and_whole() -> None:
    found = objects(DOCUMENT)
    assert len(found) == 6
    for schema in found:
        assert schema["additionalProperties"] is False
        assert set(schema["required"]) == set(schema["properties"]) - {"timestamp_ms"}
        assert all(field["description"] for field in schema["properties"].values())


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("key_b64", None),
        ("value_b64", None),
        ("value_b64", ""),
        ("value_text", None),
        ("value_text", ""),
        ("headers", []),
        ("schema.id", None),
        ("error.stacktrace", "Traceback (most recent call last): ..."),
        ("error.violations", []),
        ("error.violations.0.instance_path", ""),
        ("source.timestamp", None),
        ("source.timestamp", "1969-12-31T23:59:59.999Z"),
        ("attempt", 12),
    ],
)
def test_accepts(path: str, value: Any) -> None:
    VALIDATOR.validate(changed(path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("dlq_id", "5e" * 31),
        ("failed_at", "2026-11-23T20:28:36Z"),
        ("failed_at", "2026-11-23T20:28:36.001+00:00"),
        ("failed_at", "2026-13-23T20:28:36.001Z"),
        ("stage", ""),
        ("error.code", "SOMETHING_ELSE"),
        ("error.code", None),
        ("error.hint", "x"),
        ("error.violations.0.instance_path", "country"),
        ("error.violations.0.value", "D1"),
        ("source.offset", -1),
        ("source.timestamp_type", "LogAppendTime"),
        ("source.leader", 0),
        ("key_b64", "dS0"),
        ("value_b64", "not base64!"),
        ("value_text", "x" * 4001),
        ("headers", {"trace": "AAH/"}),
        ("headers.0.value", "x"),
        ("schema.sha256", "0F" * 32),
        ("schema.version", 1),
        ("epoch", "2026-11-23"),
        ("attempt", 0),
        ("attempt", 1.5),
        ("hostname", "h"),
    ],
)
def test_refuses(path: str, value: Any) -> None:
    assert not VALIDATOR.is_valid(changed(path, value))


@pytest.mark.parametrize("field", sorted(LETTER))
def test_every_field_is_required(field: str) -> None:
    assert not VALIDATOR.is_valid({name: LETTER[name] for name in LETTER if name != field})
