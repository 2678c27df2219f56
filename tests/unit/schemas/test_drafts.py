"""All drafts from 4 on, formats that are asserted or not, and digits that JSON text keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_changes import DRAFTS
from sample_records import contract_of, kafka_record

from beam_pipeline.cli import main
from beam_pipeline.config import ValidationRules
from beam_pipeline.io.kafka import batch_of_records
from beam_pipeline.records import ErrorCode
from beam_pipeline.schemas import Judge, load_contract
from beam_pipeline.schemas.dialects import FORMATS, draft_of
from beam_pipeline.schemas.judge import compile_validator
from beam_pipeline.schemas.numbers import Digits
from beam_pipeline.transforms.validate import RecordValidator


def contract_at(tmp_path: Path, document: Any, **more: Any) -> Any:
    path = tmp_path / "event.json"
    path.write_text(json.dumps(document))
    return load_contract(path, **more)


def rows_and_letters(contract: Any, *values: str) -> tuple[list[dict[str, Any]], list[ErrorCode]]:
    validator = RecordValidator(contract, ValidationRules(event_time_field=None))
    records = [kafka_record(value.encode(), offset=at) for at, value in enumerate(values)]
    batches, dead = validator.validate(batch_of_records(records))
    names = contract.event_schema.names
    rows = [row for batch in batches for row in batch.select(names).to_pylist()]
    return rows, [letter.failure.code for letter in dead]


@pytest.mark.parametrize(("draft", "uri"), DRAFTS.items())
def test_every_draft_gives_columns_and_verdicts(draft: int, uri: str, tmp_path: Path) -> None:
    assert draft_of({"$schema": uri}) == draft
    bound = {"minimum": 0, "exclusiveMinimum": True} if draft == 4 else {"exclusiveMinimum": 0}
    document = {
        "$schema": uri,
        ("id" if draft == 4 else "$id"): "http://example.com/event",
        "type": "object",
        "required": ["n"],
        "properties": {
            "n": {"type": "integer", **bound},
            "at": {"type": "string", "format": "date-time"},
            "money": {"$ref": "#/definitions/money"},
            "tags": {"type": "array", "items": {"type": "string"}},
        },
        "definitions": {"money": {"type": "object", "properties": {"eur": {"type": "number"}}}},
        "additionalProperties": False,
    }
    contract = contract_at(tmp_path, document)
    assert [str(field.type) for field in contract.event_schema] == [
        "int64",
        "timestamp[us, tz=UTC]",
        "struct<eur: double, extra: string>",
        "list<item: string>",
    ]
    good = '{"n": 1, "at": "2026-11-26T00:00:00Z", "money": {"eur": 1.5}, "tags": ["a"]}'
    bad = ['{"n": 0}', "{}", '{"n": 1, "x": 1}', '{"n": 1, "at": "now"}', '{"n": 1, "tags": [1]}']
    rows, letters = rows_and_letters(contract, good, *bad)
    assert [row["n"] for row in rows] == [1]
    assert letters == [ErrorCode.SCHEMA_VIOLATION] * len(bad)


def test_what_a_draft_does_not_know_makes_no_column_narrower() -> None:
    properties = {
        "a": {"type": "string", "const": "x"},
        "b": {"anyOf": [{"const": None}, {"type": "integer"}]},
    }
    document = {"$schema": DRAFTS[4], "type": "object", "properties": properties}
    rows, letters = rows_and_letters(contract_of(document), '{"a": "y", "b": "z"}')
    assert letters == []
    assert [(row["a"], row["b"]) for row in rows] == [("y", '"z"')]


@pytest.mark.parametrize(("draft", "uri"), DRAFTS.items())
def test_the_formats_that_are_known_to_be_checked_are(draft: int, uri: str) -> None:
    names = {*FORMATS[2020], "color", "host-name", "ip-address", "none"}
    wrong = ["x", "\\", "{", "(", " ", "-", "\\\\ "]
    checked = {
        name
        for name in names
        if not all(compile_validator({"$schema": uri, "format": name}).is_valid(t) for t in wrong)
    }
    assert checked == FORMATS[draft]


@pytest.mark.parametrize("uri", [DRAFTS[7], DRAFTS[2019], DRAFTS[2020]])
def test_formats_are_asserted_unless_annotate_is_asked_for(uri: str, tmp_path: Path) -> None:
    properties = {
        name: {"type": "string", "format": name} for name in ("date-time", "date", "ipv4")
    }
    document = {"$schema": uri, "type": "object", "properties": properties}
    values = ['{"date-time": "soon"}', '{"date": "x"}', '{"ipv4": "x"}', '{"ipv4": 1}']
    rows, letters = rows_and_letters(contract_at(tmp_path, document), *values)
    assert (rows, len(letters)) == ([], 4)
    contract = contract_at(tmp_path, document, asserts_formats=False)
    rows, letters = rows_and_letters(contract, *values)
    assert (len(rows), len(letters)) == (3, 1)
    assert {str(field.type) for field in contract.event_schema} == {"string"}


def test_the_commands_take_formats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text('{"type": "object", "properties": {"a": {"type": "string"}}}')
    new.write_text(old.read_text().replace('"string"', '"string", "format": "date"'))
    assert main(["schema", "check", str(old), str(new)]) == 1
    assert main(["schema", "check", str(old), str(new), "--formats=annotate"]) == 0
    capsys.readouterr()
    assert main(["schema", "show", str(new), "--formats=annotate", "--json"]) == 0
    assert {"name": "a", "type": "string"} in json.loads(capsys.readouterr().out)["columns"]


OPEN = {"type": "object", "properties": {"n": {"type": "number"}, "free": True}}


@pytest.mark.parametrize(
    "text",
    [
        "0.1234567890123456789",
        "1234567890123456.78",
        "9007199254740993.0",
        "-4503599627370497.51",
        "1e-400",
        "1.2345e-320",
        "0.00000000000000000000000000012345678901234567890123456789",
    ],
)
def test_json_text_keeps_the_digits_that_were_sent(text: str) -> None:
    value = f'{{"n": {text}, "free": {{"x": [{text}, 1.5]}}, "other": {text}}}'
    (row,), letters = rows_and_letters(contract_of(OPEN), value)
    assert letters == []
    assert row["n"] == float(text)
    assert row["free"] == f'{{"x":[{text},1.5]}}'
    assert row["extra"] == f'{{"other":{text}}}'


@pytest.mark.parametrize("text", ["1.5", "0.1", "100.0", "2.5e3", "1e22", "0.30000000000000004"])
def test_what_float64_holds_is_written_as_ever(text: str) -> None:
    (row,), _ = rows_and_letters(contract_of(OPEN), f'{{"free": [{text}]}}')
    assert row["free"] == json.dumps([float(text)]).replace("e+", "e").replace(" ", "")


def test_a_verdict_is_that_of_the_float() -> None:
    document = {"properties": {"a": {"type": "number", "maximum": 1}, "b": {"type": "integer"}}}
    judge = Judge(document, 1_000, digits=Digits.OF_ALL)
    for value in (b'{"a": 0.12345678901234567890}', b'{"b": 9007199254740993.0}'):
        assert judge.judge(value)[1] is None
    failure = judge.judge(b'{"a": 1.12345678901234567890}')[1]
    assert failure is not None
    assert failure.violations[0].keyword == "maximum"
    (row,), letters = rows_and_letters(
        contract_of(document), '{"b": 9007199254740993.0, "x": 1.12345678901234567890}'
    )
    assert (row["b"], letters) == (9007199254740993, [])


def test_a_number_out_of_range_is_as_malformed_as_ever() -> None:
    failures = [
        Judge({}, 1_000, digits=digits).judge(b"[1e400]")[1]
        for digits in (Digits.OF_ALL, Digits.OF_NONE)
    ]
    assert failures[0] is not None
    assert failures[1] is not None
    assert failures[0].code is failures[1].code is ErrorCode.MALFORMED_JSON
    assert "out of range" in failures[0].message


@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(0, 25))
def test_a_number_is_a_float_or_its_text(number: float, digits: int) -> None:
    text = f"{number:.{digits}e}"
    judge = Judge({}, 1_000, digits=Digits.OF_ALL)
    event, failure = judge.judge(text.encode())
    if failure is None:
        assert event == float(text)


def test_every_draft_is_one_of_jsonschema() -> None:
    for uri in DRAFTS.values():
        assert jsonschema.validators.validator_for({"$schema": uri}, default=None) is not None


def test_an_exact_number_fits_columns_of_all_kinds() -> None:
    document = {
        "type": "object",
        "properties": {
            "i": {"type": "integer"},
            "big": {"type": "integer", "minimum": 0, "maximum": 2**64},
            "list": {"type": "array", "items": {"type": "number"}},
            "map": {"type": "object", "additionalProperties": {"type": "number"}},
        },
    }
    text = "9007199254740993.0"
    value = f'{{"i": {text}, "big": {text}, "list": [{text}], "map": {{"a": {text}}}}}'
    (row,), letters = rows_and_letters(contract_of(document), value)
    assert letters == []
    assert row["i"] == row["big"] == 9007199254740993
    assert row["list"][0] == row["map"][0][1] == 9007199254740992
    assert isinstance(pa.scalar(row["list"][0]).as_py(), float)
