"""A schema proposed from samples takes the samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_records import commerce_event, contract_of, kafka_record

from beam_pipeline.cli import main
from beam_pipeline.config import ValidationRules
from beam_pipeline.io.kafka import batch_of_records
from beam_pipeline.schemas import ColumnBuilder, Judge, load_contract
from beam_pipeline.schemas.inference import DIALECT, infer_schema
from beam_pipeline.transforms.validate import RecordValidator

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5) | st.sampled_from(
    ["2026-11-24T00:00:00Z", "2026-11-24", "red", "green"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
    ),
    max_leaves=8,
)
EVENTS = st.dictionaries(st.sampled_from("abcd"), VALUES, max_size=4)


@given(st.lists(EVENTS, min_size=1, max_size=6), st.integers(0, 3))
def test_every_sample_is_valid_and_becomes_a_row(events: list[Any], max_enum_values: int) -> None:
    schema, _ = infer_schema(events, max_enum_values)
    validator = RecordValidator(contract_of(schema), ValidationRules(event_time_field=None))
    records = [kafka_record(json.dumps(event).encode()) for event in events]
    batches, dead = validator.validate(batch_of_records(records))
    assert dead == []
    assert sum(batch.num_rows for batch in batches) == len(events)


@pytest.mark.parametrize(
    ("values", "schema"),
    [
        ([1, 2], {"type": "integer"}),
        ([1, 2.5], {"type": "number"}),
        ([1, None], {"type": ["integer", "null"]}),
        ([True, "a"], {"type": ["string", "boolean"]}),
        ([2**64], {"type": "integer", "minimum": 0, "maximum": 10**38 - 1}),
        ([-(2**64), 1], {"type": "integer", "minimum": -(10**38) + 1, "maximum": 10**38 - 1}),
        ([2**63 - 1, -(2**63)], {"type": "integer"}),
        (["2026-11-24", "2026-11-25"], {"type": "string", "format": "date"}),
        (["2026-11-24T00:00:00Z"], {"type": "string", "format": "date-time"}),
        (
            ["5e0b9d0c-90a4-4a5c-8f63-f2d3b6a1c001", None],
            {"type": ["string", "null"], "format": "uuid"},
        ),
        (["2026-11-24", "soon"], {"type": "string"}),
        (["a", "b", "a", "b"], {"type": "string", "enum": ["a", "b"]}),
        (["a", "a", None], {"type": ["string", "null"], "enum": ["a", None]}),
        (["a", "b", "a"], {"type": "string"}),
        (["a", "b", "c"] * 2, {"type": "string"}),
        ([[], [1, None]], {"type": "array", "items": {"type": ["integer", "null"]}}),
        ([[]], {"type": "array"}),
        ([{}], {"type": "object"}),
        (
            [{"a": 1, "b": 2}, {"a": 3}],
            {
                "type": "object",
                "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
                "required": ["a"],
            },
        ),
        (
            [{f"id-{n}": n} for n in range(200)],
            {"type": "object", "additionalProperties": {"type": "integer"}},
        ),
    ],
    ids=str,
)
def test_each_proposal(values: list[Any], schema: dict[str, Any]) -> None:
    assert infer_schema(values, max_enum_values=2)[0] == {"$schema": DIALECT, **schema}


@pytest.mark.parametrize(
    ("fields", "event_time"),
    [
        (["seen"], "seen"),
        (["updated", "created_at"], "created_at"),
        (["updated", "seen"], None),
        ([], None),
    ],
)
def test_the_event_time_is_named_where_it_is_clear(
    fields: list[str], event_time: str | None
) -> None:
    schema, times = infer_schema([dict.fromkeys(fields, "2026-11-24T00:00:00Z")])
    assert schema.get("x-event-time") == event_time
    assert times == fields


def test_the_command_proposes_a_schema_that_loads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples, proposed = tmp_path / "events.jsonl", tmp_path / "event.json"
    events = [commerce_event(), commerce_event(referrer=None, purchase=...)]
    lines = [json.dumps(event) for event in events]
    samples.write_text("\n".join([lines[0], "{broken", "", "\xff", lines[1]]), encoding="latin-1")
    assert main(["schema", "infer", str(samples)]) == 0
    told = capsys.readouterr()
    assert "skipped: line 2: MALFORMED_JSON" in told.err
    assert "from 2 events; event time is 'event_time'" in told.err
    proposed.write_text(told.out)
    contract = load_contract(proposed)
    judge = Judge(contract.document, 1_000_000)
    assert all(judge.judge(line.encode())[1] is None for line in lines)
    assert main(["schema", "show", str(proposed), "--json"]) == 0
    columns = json.loads(capsys.readouterr().out)["columns"]
    assert {"name": "event_time", "type": "timestamp[us, tz=UTC]"} in columns
    assert columns[-1]["name"] == "kafka_timestamp"


def test_show_says_what_each_column_is(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(
        "properties:\n"
        "  at: {type: string, format: date-time}\n"
        "  any: {}\n"
        "  by: {type: object, additionalProperties: {type: array, items: {type: integer}}}\n"
        "x-event-time: at\n"
    )
    assert main(["schema", "show", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    for words in (
        ("at ", "timestamp[us, tz=UTC]", "the event time"),
        ("any ", "string", "JSON text"),
        ("by ", "map of string"),
        ("by{} ", "list"),
        ("by{}[]", "int64"),
        ("extra", "string", "JSON text of the fields"),
        ("kafka_offset", "int64", "where the row is from"),
    ):
        assert any(all(word in line for word in words) for line in lines), words


@pytest.mark.parametrize(("text", "code"), [("", 1), ("{", 1)])
def test_nothing_to_learn_from_is_one_line(tmp_path: Path, text: str, code: int) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text(text)
    assert main(["schema", "infer", str(path)]) == code
    assert main(["schema", "infer", str(tmp_path / "nowhere")]) == 2


def test_what_is_inferred_is_a_contract_whatever_the_fields_are_called(tmp_path: Path) -> None:
    events = [
        {"id": 1, "kafka_offset": 77, "Hour": 5, "dt": "2026-11-26T00:00:00Z", "_key": "k"},
        {"id": 2, "kafka_offset": 78, "Hour": 6, "dt": "2026-11-26T00:00:01Z", "_key": None},
    ]
    schema, times = infer_schema(events)
    assert set(schema["properties"]) == {"id"}
    assert times == []
    path = tmp_path / "event.json"
    path.write_text(json.dumps(schema))
    contract = load_contract(path)
    assert contract.event_schema.names == ["id", "extra"]
    (row,) = ColumnBuilder(contract).build(events[:1])[1].to_pylist()
    assert json.loads(row) == {name: events[0][name] for name in events[0] if name != "id"}


def test_of_names_that_differ_in_case_alone_the_most_frequent_is_named() -> None:
    events = [{"id": 1, "a": {"X": 1, "x": 2}}, {"ID": 2, "id": 1, "a": {"x": 2}}]
    schema, _ = infer_schema(events)
    assert list(schema["properties"]) == ["id", "a"]
    assert list(schema["properties"]["a"]["properties"]) == ["x"]
