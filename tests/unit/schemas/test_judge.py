"""Every value gets one verdict, and a reason when it is refused."""

from __future__ import annotations

import copy
import json
import re
import time
import uuid
from pathlib import Path
from typing import Any

import jsonschema
import jsonschema_rs
import orjson
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sample_records import commerce_contract, commerce_event

from beam_pipeline.errors import UsageError
from beam_pipeline.producer.events import EventFactory
from beam_pipeline.records import ErrorCode
from beam_pipeline.schemas import Judge, load_contract
from beam_pipeline.schemas.judge import (
    MAX_DEPTH,
    MAX_VIOLATIONS,
    depth_of,
    explain,
    explaining_validator,
)

MAX_VALUE_BYTES = 1_000_000
DOCUMENT = commerce_contract().document
ANYTHING = Judge({}, MAX_VALUE_BYTES)
COMMERCE = Judge(DOCUMENT, MAX_VALUE_BYTES)
DECIDING = jsonschema_rs.validator_for(dict(DOCUMENT), validate_formats=True)
EXPLAINING = jsonschema.Draft202012Validator(
    DOCUMENT, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
)


def nested(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


def code_of(value: bytes | None, judge: Judge = ANYTHING) -> ErrorCode | None:
    event, failure = judge.judge(value)
    assert failure is None or event is None
    return failure.code if failure else None


@pytest.mark.parametrize(
    ("value", "code", "message"),
    [
        pytest.param(None, ErrorCode.NULL_VALUE, "tombstone", id="tombstone"),
        pytest.param(b"", ErrorCode.MALFORMED_JSON, "the value is empty", id="empty"),
        pytest.param(b" ", ErrorCode.MALFORMED_JSON, "truncated", id="blank"),
        pytest.param(b'{"a": [1, 2', ErrorCode.MALFORMED_JSON, "truncated", id="truncated"),
        pytest.param(b"{} {}", ErrorCode.MALFORMED_JSON, "trailing", id="two values"),
        pytest.param(b"{'a': 1}", ErrorCode.MALFORMED_JSON, "malformed", id="single quotes"),
        pytest.param(
            b"\xef\xbb\xbf{}", ErrorCode.MALFORMED_JSON, "byte order mark (BOM) of UTF-8", id="BOM"
        ),
        pytest.param(b"NaN", ErrorCode.MALFORMED_JSON, "malformed", id="NaN"),
        pytest.param(b'{"a": -Infinity}', ErrorCode.MALFORMED_JSON, "malformed", id="infinity"),
        pytest.param(b"1e400", ErrorCode.MALFORMED_JSON, "out of range", id="1e400"),
        pytest.param(b"1" * 5000, ErrorCode.MALFORMED_JSON, "out of range", id="5000 digits"),
        pytest.param(
            b'"\\ud800"', ErrorCode.MALFORMED_JSON, "lone surrogate \\ud800", id="lone surrogate"
        ),
        pytest.param(b'"\\udc00\\ud800"', ErrorCode.MALFORMED_JSON, "surrogate", id="swapped"),
        pytest.param(b'"a\x00b"', ErrorCode.MALFORMED_JSON, "", id="raw NUL"),
        pytest.param(b'"caf\xe9"', ErrorCode.NOT_UTF8, "byte 0xe9", id="Latin-1"),
        pytest.param(
            b'"\xed\xa0\x80"', ErrorCode.NOT_UTF8, "surrogate U+D800", id="UTF-8 surrogate"
        ),
        pytest.param(
            b"\xff\xfe{\x00}\x00",
            ErrorCode.NOT_UTF8,
            "UTF-16 (little-endian) with a byte order",
            id="UTF-16",
        ),
        pytest.param(nested(50_000), ErrorCode.TOO_DEEP, "200 levels", id="50,000 brackets"),
        pytest.param(b"[" * 50_000, ErrorCode.TOO_DEEP, "200 levels", id="never closed"),
        pytest.param(
            b'"' + b"x" * MAX_VALUE_BYTES + b'"',
            ErrorCode.TOO_LARGE,
            "1000002 bytes, more than --max_value_bytes=1000000",
            id="too large",
        ),
    ],
)
def test_what_is_no_event(value: bytes | None, code: ErrorCode, message: str) -> None:
    event, failure = ANYTHING.judge(value)
    assert event is None
    assert failure is not None
    assert failure.code is code
    assert message in failure.message
    assert failure.violations == ()
    assert failure.error_class


@pytest.mark.parametrize(
    ("value", "event"),
    [
        pytest.param(b"5", 5, id="top-level number"),
        pytest.param(b"null", None, id="top-level null"),
        pytest.param(b'{"a": 1, "a": 2}', {"a": 2}, id="duplicate key: the last one wins"),
        pytest.param(b"123456789012345678901234567890", 123456789012345678901234567890, id="30"),
        pytest.param(b'"\\u0000"', "\0", id="NUL escaped"),
        pytest.param(b'"\\ud83d\\ude00"', "😀", id="surrogate pair"),
        pytest.param(b'"' + b"x" * 900_000 + b'"', "x" * 900_000, id="900 kB"),
        pytest.param(b'"' + b"x" * (MAX_VALUE_BYTES - 2) + b'"', "x" * 999_998, id="just fits"),
        pytest.param(b'"' + b"[{" * 5_000 + b'"', "[{" * 5_000, id="brackets in a string"),
        pytest.param(b'"\\"' + b"[" * 300 + b'"', '"' + "[" * 300, id="behind an escaped quote"),
        pytest.param(b"[" + b"[]," * 900 + b"[]]", [[]] * 901, id="many brackets, not deep"),
    ],
)
def test_what_is_an_event(value: bytes, event: Any) -> None:
    assert ANYTHING.judge(value) == (event, None)


def test_depth_is_bounded_exactly() -> None:
    assert code_of(nested(MAX_DEPTH)) is None
    assert code_of(nested(MAX_DEPTH + 1)) is ErrorCode.TOO_DEEP
    objects = b'{"a":' * MAX_DEPTH + b"1" + b"}" * MAX_DEPTH
    assert code_of(objects) is None
    assert code_of(b"[" + objects + b"]") is ErrorCode.TOO_DEEP


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=20,
)


def depth_of_value(value: Any) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(depth_of_value, value), default=0) if isinstance(value, list) else 0


@given(JSON_VALUES, st.booleans())
def test_depth_is_that_of_the_value(value: Any, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only).encode()
    assert depth_of(text) == depth_of_value(value)


@given(st.binary(max_size=200) | JSON_VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_get_a_verdict(value: bytes) -> None:
    event, failure = COMMERCE.judge(value)
    assert (failure is None) == (event is not None)


def test_violations_say_where() -> None:
    event = commerce_event(country="D1")
    event["purchase"]["items"][0]["quantity"] = 0
    event["device"]["a/b~c"] = 1
    _, failure = COMMERCE.judge(orjson.dumps(event))
    assert failure is not None
    assert failure.code is ErrorCode.SCHEMA_VIOLATION
    assert {
        (violation.keyword, violation.instance_path, violation.schema_path)
        for violation in failure.violations
    } == {
        ("pattern", "/country", "/properties/country/pattern"),
        (
            "minimum",
            "/purchase/items/0/quantity",
            "/properties/purchase/properties/items/items/properties/quantity/minimum",
        ),
        ("additionalProperties", "/device", "/properties/device/additionalProperties"),
    }
    assert failure.message == failure.violations[0].message


def test_pointers_are_escaped() -> None:
    document = {"properties": {"a/b~c": {"items": {"type": "integer"}}}}
    (violation,) = explain(explaining_validator(document), {"a/b~c": [1, "x"]})
    assert violation.instance_path == "/a~1b~0c/1"
    assert violation.schema_path == "/properties/a~1b~0c/items/type"


def test_violations_are_bounded() -> None:
    judge = Judge({"items": {"type": "integer"}}, MAX_VALUE_BYTES)
    _, failure = judge.judge(orjson.dumps(["x" * 600] * 500))
    assert failure is not None
    assert len(failure.violations) == MAX_VIOLATIONS
    assert all(len(violation.message) <= 500 for violation in failure.violations)


def test_a_local_reference_is_followed() -> None:
    judge = Judge(
        {"$defs": {"id": {"type": "integer"}}, "properties": {"id": {"$ref": "#/$defs/id"}}},
        MAX_VALUE_BYTES,
    )
    assert judge.judge(b'{"id": 1}') == ({"id": 1}, None)
    assert code_of(b'{"id": "1"}', judge) is ErrorCode.SCHEMA_VIOLATION


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("[]", "a JSON Schema is an object"),
        ("{", "not JSON"),
        ('{"type": "text"}', "not a valid JSON Schema at"),
        ('{"pattern": "("}', "pattern"),
        ('{"$ref": "#/$defs/nothing"}', "'/$defs/nothing' does not exist"),
        ('{"properties": {"Kafka_Offset": {}}}', "'Kafka_Offset' is a column that the pipeline"),
        ('{"properties": {"kafka_offset": {}}}', "'kafka_offset' is a column that the pipeline"),
        (
            '{"$ref": "#/$defs/e", "$defs": {"e": {"properties": {"_value": {}}}}}',
            "'_value' is a column that the pipeline",
        ),
    ],
)
def test_a_broken_schema_is_one_line(tmp_path: Path, document: str, message: str) -> None:
    path = tmp_path / "event.schema.json"
    path.write_text(document)
    with pytest.raises(UsageError) as refused:
        load_contract(path)
    assert str(refused.value).startswith(f"--schema={path}: ")
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_references_in_data_are_no_references(tmp_path: Path) -> None:
    data = {"$ref": "http://localhost/a.json", "$id": "urn:a"}
    path = tmp_path / "event.schema.json"
    path.write_bytes(orjson.dumps({"examples": [data], "properties": {"a": {"const": data}}}))
    assert [name for name, _ in load_contract(path).columns] == ["a"]


def test_a_schema_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--schema=.*: No such file or directory; give"):
        load_contract(tmp_path / "event.schema.json")


def test_a_pattern_that_backtracks_does_not_hold_up_the_job() -> None:
    """Python's `re` takes 2**30 steps for this value."""
    judge = Judge({"pattern": "^(a+)+$"}, MAX_VALUE_BYTES)
    started = time.process_time()
    _, failure = judge.judge(b'"' + b"a" * 30 + b'!"')
    assert failure is not None
    assert [violation.keyword for violation in failure.violations] == ["pattern"]
    assert time.process_time() - started < 5


# The two libraries, held to the same verdict.

BASE_EVENTS = [
    EventFactory(seed).make(1_795_000_000_000 + seed, event_type=event_type)
    for seed in range(3)
    for event_type in ("page_view", "add_to_cart", "purchase", "refund")
] + [commerce_event()]

ODD_VALUES = st.one_of(
    st.sampled_from(
        [
            "",
            " ",
            "\n",
            "é" * 2048,
            "😀" * 1024,
            "2026-11-23t20:28:34z",
            "2026-11-23 20:28:34Z",
            "2026-02-29T00:00:00Z",
            "2024-02-29T23:59:59.999999999-23:59",
            "2026-11-23T20:28:34+24:00",
            "2026-11-23T20:28Z",
            "0B9C1F5E-58F0-4B5C-9A57-6A0F2D3E7C11",
            "{0b9c1f5e-58f0-4b5c-9a57-6a0f2d3e7c11}",
            "0b9c1f5e58f04b5c9a576a0f2d3e7c11",
            "urn:uuid:0b9c1f5e-58f0-4b5c-9a57-6a0f2d3e7c11",
            "1.2.3\n",
            "de\n",
            "u-4f1d2c3b5a69\n",
            0.01,
            0.009999999999999999,
            10_000_000,
            10_000_000.000000002,
            1.0,
            1.5,
            100,
            101,
            -0.0,
            2**64,
            10**30,
            1e308,
            {},
            [],
        ]
    ),
    JSON_VALUES,
)


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every path below a value."""
    children: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        children = list(value.items())
    elif isinstance(value, list):
        children = list(enumerate(value))
    found = [(*path, step) for step, _ in children]
    return found + [deeper for step, child in children for deeper in paths_of(child, (*path, step))]


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        value = value[step]
    return value


@st.composite
def mutated_events(draw: st.DrawFn) -> Any:
    """An event of the contract with up to three changes at random places."""
    event = copy.deepcopy(draw(st.sampled_from(BASE_EVENTS)))
    for _ in range(draw(st.integers(0, 3))):
        paths = paths_of(event)
        if not paths:
            break
        *above, last = draw(st.sampled_from(paths))
        parent, value = at(event, tuple(above)), at(event, (*above, last))
        change = draw(st.sampled_from(["delete", "replace", "edit", "add"]))
        if change == "delete":
            del parent[last]
        elif change == "add" and isinstance(parent, dict):
            parent[draw(st.text(st.characters(exclude_categories=["Cs"])))] = draw(ODD_VALUES)
        elif change == "add":
            parent.insert(last, copy.deepcopy(draw(st.sampled_from(parent)) or draw(ODD_VALUES)))
        elif change == "edit" and isinstance(value, str):
            start, end = sorted(draw(st.tuples(*[st.integers(0, len(value))] * 2)))
            parent[last] = value[:start] + draw(st.text("aZ09-:.+é\n ", max_size=3)) + value[end:]
        else:
            parent[last] = draw(ODD_VALUES)
    return event


def is_known_difference(event: Any) -> bool:
    """Whether `event` has a time or an ID that the libraries are known to judge differently."""
    if not isinstance(event, dict):
        return False
    time_text, *id_texts = (event.get(name) for name in ("event_time", "event_id", "session_id"))
    return is_odd_time(time_text) or any(map(is_odd_uuid, id_texts))


def is_odd_time(text: Any) -> bool:
    return isinstance(text, str) and (
        text.endswith("\n") or ":60" in text or text.startswith("0000")
    )


def is_odd_uuid(text: Any) -> bool:
    """Whether Python takes it for a UUID that is not written as RFC 9562 has it."""
    if not isinstance(text, str) or UUID_TEXT.fullmatch(text):
        return False
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True


UUID_TEXT = re.compile("[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.ASCII | re.IGNORECASE)


@given(mutated_events())
def test_both_libraries_have_the_same_verdict(event: Any) -> None:
    assume(not is_known_difference(event))
    assert DECIDING.is_valid(event) == EXPLAINING.is_valid(event)


@given(mutated_events())
def test_a_refused_event_is_told_why(event: Any) -> None:
    decoded, failure = COMMERCE.judge(json.dumps(event).encode())
    if failure is None:
        assert decoded == event
        return
    assert failure.code is ErrorCode.SCHEMA_VIOLATION
    assert failure.violations
    for violation in failure.violations:
        steps = [
            step.replace("~1", "/").replace("~0", "~")
            for step in violation.instance_path.split("/")[1:]
        ]
        place = event
        for step in steps:
            place = place[int(step) if isinstance(place, list) else step]
        assert violation.keyword == violation.schema_path.rsplit("/", 1)[1]
        assert violation.message


@pytest.mark.parametrize(
    ("field", "value", "decided", "explained"),
    [
        pytest.param(
            "event_time", "2026-11-23T20:28:34Z\n", False, True, id="newline: Python's $ takes it"
        ),
        pytest.param(
            "event_time", "2016-12-31T23:59:60Z", True, False, id="leap second: no datetime"
        ),
        pytest.param("event_time", "0000-01-01T00:00:00Z", True, False, id="year 0: no datetime"),
        pytest.param(
            "event_id", "0b9c1f5e-58f0-4b5c-9a57-6a0f2d3e7c11}", False, True, id="UUID and brace"
        ),
        pytest.param(
            "event_id", "0b9c1f5e-58f0-4b5c-9a57-6a0f-2d3e7c11", False, True, id="UUID, dash more"
        ),
        pytest.param(
            "event_id", "0x9c1f5e-58f0-4b5c-9a57-6a0f2d3e7c11", False, True, id="UUID with 0x"
        ),
    ],
)
def test_known_differences(field: str, value: str, decided: bool, explained: bool) -> None:
    event = commerce_event(**{field: value})
    assert is_known_difference(event)
    assert DECIDING.is_valid(event) is decided
    assert EXPLAINING.is_valid(event) is explained
    _, failure = COMMERCE.judge(orjson.dumps(event))
    if decided:
        assert failure is None
    else:
        assert failure is not None
        ((keyword, instance_path, schema_path, message),) = failure.violations
        assert (keyword, instance_path) == ("format", f"/{field}")
        assert schema_path == f"/properties/{field}/format"
        assert failure.message == message
        assert "is not a" in message


def test_a_pattern_that_only_one_library_knows_is_told_too() -> None:
    """ECMA-262 has `\\p{L}`, Python's `re` does not."""
    judge = Judge({"properties": {"name": {"pattern": r"^\p{L}+$"}}}, MAX_VALUE_BYTES)
    assert judge.judge('{"name": "Ärzte"}'.encode()) == ({"name": "Ärzte"}, None)
    _, failure = judge.judge(b'{"name": "R2D2"}')
    assert failure is not None
    assert failure.code is ErrorCode.SCHEMA_VIOLATION
    ((keyword, instance_path, schema_path, _),) = failure.violations
    assert (keyword, instance_path) == ("pattern", "/name")
    assert schema_path == "/properties/name/pattern"


def test_a_number_beyond_floats_is_told_too() -> None:
    """jsonschema divides by `multipleOf`, and 10**400 is beyond floats."""
    judge = Judge({"multipleOf": 0.3}, MAX_VALUE_BYTES)
    _, failure = judge.judge(b"1" + b"0" * 400)
    assert failure is not None
    assert failure.code is ErrorCode.SCHEMA_VIOLATION
    assert [violation.keyword for violation in failure.violations] == ["multipleOf"]


@pytest.mark.parametrize("draft", ["http://json-schema.org/draft-04/schema#", None])
@pytest.mark.parametrize(
    ("schema", "good", "bad", "keyword"),
    [
        ({"properties": {"a": {"pattern": r"^\p{L}+$"}}}, {"a": "山"}, {"a": "1"}, "pattern"),
        ({"properties": {"a": {"pattern": "(?<n>a)"}}}, {"a": "a"}, {"a": "b"}, "pattern"),
        (
            {"patternProperties": {r"^\p{Ll}+$": {"type": "null"}}},
            {"größe": None, "Größe": 1},
            {"größe": 1},
            "type",
        ),
        (
            {"patternProperties": {r"^\p{Ll}+$": {}}, "additionalProperties": False},
            {"größe": None},
            {"Größe": 1},
            "additionalProperties",
        ),
        (
            {"patternProperties": {"(a+)+$": {}}, "additionalProperties": {"type": "null"}},
            {"aaaa": 1},
            {"a" * 60 + "!": 1},
            "type",
        ),
    ],
    ids=lambda value: ascii(value)[:50],
)
def test_patterns_are_those_of_the_library_that_decides(
    schema: Any, good: Any, bad: Any, keyword: str, draft: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "event.schema.json"
    path.write_text(json.dumps({**({"$schema": draft} if draft else {}), **schema}))
    judge = Judge(load_contract(path).document, 1_000)
    assert judge.judge(json.dumps(good).encode())[1] is None
    failure = judge.judge(json.dumps(bad).encode())[1]
    assert failure is not None
    assert [violation.keyword for violation in failure.violations] == [keyword]


def test_what_the_explaining_library_fails_on_is_explained_by_the_other() -> None:
    judge = Judge({"if": {"$ref": "#/$defs/nothing"}, "allOf": [False]}, 1_000)
    failure = judge.judge(b"1")[1]
    assert failure is not None
    assert failure.code is ErrorCode.SCHEMA_VIOLATION
    assert failure.violations
