"""A schema proposed from samples takes the samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipeline_settings import settings_of
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
    schema = infer_schema(enumerate(events), max_enum_values).schema
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
    assert infer_schema(enumerate(values), max_enum_values=2).schema == {
        "$schema": DIALECT,
        **schema,
    }


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
    inference = infer_schema([(1, dict.fromkeys(fields, "2026-11-24T00:00:00Z"))])
    assert inference.schema.get("x-event-time") == event_time
    assert inference.times == fields


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
    assert [column["name"] for column in columns[-2:]] == ["kafka_key", "kafka_headers"]
    only = "--kafka_columns=topic,partition,offset,timestamp,value"
    assert main(["schema", "show", str(proposed), "--json", only]) == 0
    assert json.loads(capsys.readouterr().out)["columns"][-1]["name"] == "kafka_value"


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
        ("kafka_headers[].value", "binary", "of the Kafka record"),
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
    schema, times, _, _, unnamed = infer_schema(enumerate(events))
    assert set(schema["properties"]) == {"id"}
    assert times == []
    assert unnamed == ["kafka_offset", "Hour", "dt", "_key"]
    path = tmp_path / "event.json"
    path.write_text(json.dumps(schema))
    contract = load_contract(path)
    assert contract.event_schema.names == ["id", "extra"]
    (row,) = ColumnBuilder(contract).build(events[:1])[1].to_pylist()
    assert json.loads(row) == {name: events[0][name] for name in events[0] if name != "id"}


DIRTY: list[Any] = [
    {"id": n, "created_at": "2026-11-24T00:00:00Z", "price": 1 if n % 3 else 2.5, "note": None}
    for n in range(1_000)
]
for _line in (100, 812, 850, 900, 950, 999):
    DIRTY[_line] = {**DIRTY[_line], "created_at": 1764169200}
DIRTY[500] = ["a", "line"]
DIRTY[600] = {**DIRTY[600], "id": {"n": 1}, "note": "text"}


def inferred(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], events: list[Any], *flags: str
) -> tuple[dict[str, Any], list[str]]:
    """The schema and the lines on stderr of the command."""
    path = tmp_path / "events.jsonl"
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    assert main(["schema", "infer", str(path), *flags]) == 0
    told = capsys.readouterr()
    return json.loads(told.out), told.err.splitlines()


def test_rare_types_are_left_out_and_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    schema, lines = inferred(tmp_path, capsys, DIRTY)
    assert schema["type"] == "object"
    assert schema["properties"] == {
        "id": {"type": "integer"},
        "created_at": {"type": "string", "format": "date-time"},
        "price": {"type": "number"},
        "note": {"type": ["string", "null"]},
    }
    assert schema["x-event-time"] == "created_at"
    assert lines == [
        "the event: object 99.9 %, array 0.1 %, first at line 501 (left out: 1)",
        "id: integer 99.9 %, object 0.1 %, first at line 601 (left out: 1)",
        "created_at: date-time 99.4 %, integer 0.6 %, first at line 101 (left out: 6)",
        "left out: 8 values, whose events would be dead letters; --min_share=1 allows them all",
        "from 1,000 events; event time is 'created_at' (x-event-time)",
    ]
    judge = Judge(schema, 1_000)
    dead = [event for event in DIRTY if judge.judge(json.dumps(event).encode())[1] is not None]
    assert len(dead) == 8


def test_with_a_share_of_one_every_event_is_allowed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    schema, lines = inferred(tmp_path, capsys, DIRTY, "--min_share=1")
    judge = Judge(schema, 1_000)
    assert all(judge.judge(json.dumps(event).encode())[1] is None for event in DIRTY)
    assert lines[0] == "the event: object 99.9 %, array 0.1 %, first at line 501"
    assert not any("left out" in line for line in lines)


@pytest.mark.parametrize(
    ("values", "schema"),
    [
        ([1] * 199 + [2.5], {"type": "number"}),
        ([1] * 199 + [None], {"type": ["integer", "null"]}),
        ([1] * 199 + ["x"], {"type": "integer"}),
        ([1] * 60 + ["x"] * 40, {"type": ["string", "integer"]}),
        ([1] * 98 + ["x"], {"type": ["string", "integer"]}),
        (["2026-11-24"] * 199 + ["soon"], {"type": "string", "format": "date"}),
        (["2026-11-24"] * 100 + ["soon"] * 100 + [1], {"type": "string"}),
        (["2026-11-24"] * 100 + ["2026-11-24T00:00:00Z"] * 100, {"type": "string"}),
        (["soon"] * 199 + ["2026-11-24"], {"type": "string"}),
        ([True] * 980 + ["x"] * 15 + [1] * 5, {"type": ["string", "boolean"]}),
        ([[1]] * 199 + [["x"]], {"type": "array", "items": {"type": "integer"}}),
        ([2.5] * 500 + [1] * 499 + ["x"], {"type": "number"}),
    ],
    ids=lambda value: str(value)[:60],
)
def test_the_types_of_most_values_are_kept(values: list[Any], schema: dict[str, Any]) -> None:
    assert infer_schema(enumerate(values), min_share=0.99).schema == {"$schema": DIALECT, **schema}


@given(st.lists(VALUES, min_size=1, max_size=30), st.floats(0.01, 1))
def test_no_more_than_the_share_is_left_out(values: list[Any], min_share: float) -> None:
    flat = [value for value in values if not isinstance(value, list | dict)]
    inference = infer_schema(enumerate(flat), min_share=min_share)
    judge = Judge(inference.schema, 1_000)
    dead = [value for value in flat if judge.judge(json.dumps(value).encode())[1] is not None]
    assert len(dead) <= (1 - min_share) * len(flat) + 1e-9
    left_out = sum(
        kind.values for _, kinds in inference.mixed for kind in kinds if kind.is_left_out
    )
    assert left_out == len(dead)


def test_events_without_the_event_time_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events: list[Any] = [{"at": "2026-11-24T00:00:00Z"}] * 299 + [{}]
    schema, lines = inferred(tmp_path, capsys, events)
    assert schema["x-event-time"] == "at"
    assert lines[-1].endswith("; 1 events do not have it and would be dead letters")


def test_names_that_differ_in_case_only_are_not_proposed_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = [{"userId": 1, "o": {"A": 1, "a": 2}}, {"userid": "x", "userId": 2, "hour": 3}]
    schema, lines = inferred(tmp_path, capsys, events)
    assert list(schema["properties"]) == ["userId", "o"]
    assert list(schema["properties"]["o"]["properties"]) == ["A"]
    assert any(line.startswith("not named in the schema: 'userid', 'hour'; ") for line in lines)


@pytest.mark.parametrize("depth", [60, 61, 130, 199])
def test_the_schema_of_a_deep_event_loads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], depth: int
) -> None:
    event: Any = 1
    for _ in range(depth):
        event = {"a": event}
    schema, _ = inferred(tmp_path, capsys, [event])
    path = tmp_path / "event.json"
    path.write_text(json.dumps(schema))
    judge = load_contract(path).judge(100_000)
    assert judge.judge(json.dumps(event).encode())[1] is None


KEYWORDS = [
    "$ref",
    "$id",
    "$schema",
    "properties",
    "type",
    "x-coerce",
    "x-event-time",
    "a.b",
    "",
    "\0",
]
NAMES = st.sampled_from([*KEYWORDS, "extra", "Extra", "_event_time", "KAFKA_TOPIC", "dt", "Hour"])


@given(st.lists(st.dictionaries(NAMES, VALUES, max_size=5), min_size=1, max_size=5))
def test_whatever_the_fields_are_called_the_proposal_loads(
    tmp_path_factory: pytest.TempPathFactory, events: list[Any]
) -> None:
    path = tmp_path_factory.getbasetemp() / "proposal.json"
    path.write_text(json.dumps(infer_schema(enumerate(events), 3).schema))
    settings = settings_of(f"--schema={path}", "--window_by=append_time")
    validator = RecordValidator(settings.contract(), ValidationRules(None))
    batch = batch_of_records([kafka_record(json.dumps(event).encode()) for event in events])
    batches, dead = validator.validate(batch)
    assert dead == []
    assert sum(rows.num_rows for rows in batches) == len(events)


@pytest.mark.parametrize("share", ["1.1", "-0.1", "nan"])
def test_a_share_out_of_range_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], share: str
) -> None:
    assert main(["schema", "infer", str(tmp_path / "x"), f"--min_share={share}"]) == 2
    assert f"--min_share={share}: must be from 0 to 1" in capsys.readouterr().err
