"""Large, deep and self-referring schemas: the work is bounded, and what is cut is said."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from sample_records import contract_of

from beam_pipeline.cli import main
from beam_pipeline.config import ValidationRules
from beam_pipeline.errors import UsageError
from beam_pipeline.schemas import columns, load_contract, nodes
from beam_pipeline.schemas.nodes import JSON_TEXT, MAX_LEVELS, Leaf, ListOf, Node, Struct
from beam_pipeline.transforms.normalize import rules_of
from beam_pipeline.transforms.validate import RecordValidator

MAX_STEPS = 500_000


class Steps(Counter[str]):
    """Counts what is derived and merged; a test ends when it is far too much."""

    def count(self, name: str) -> None:
        self[name] += 1
        assert self[name] < MAX_STEPS, f"{name} has no end"


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    steps = Steps()
    derive, merge = nodes.derive, nodes.merge_schemas
    part = nodes._Derivation._derive

    def count_derivations(*arguments: Any, **more: Any) -> Any:
        steps.count("derivations")
        return derive(*arguments, **more)

    def count_merges(*arguments: Any) -> Any:
        steps.count("merges")
        return merge(*arguments)

    def count_parts(*arguments: Any) -> Any:
        steps.count("parts")
        return part(*arguments)

    monkeypatch.setattr("beam_pipeline.schemas.contract.derive", count_derivations)
    monkeypatch.setattr(nodes, "merge_schemas", count_merges)
    monkeypatch.setattr(nodes._Derivation, "_derive", count_parts)
    return steps


def write(path: Path, document: Any) -> Path:
    path.write_text(json.dumps(document))
    return path


def width_of(node: Node) -> int:
    if isinstance(node, Struct):
        return sum(width_of(child) for _, child in node.fields) + bool(node.extra)
    if isinstance(node, ListOf):
        return width_of(node.items)
    return 1 if isinstance(node, Leaf) else 1 + width_of(node.values)


def types_that_refer_to_each_other(count: int) -> dict[str, Any]:
    names = [f"t{number}" for number in range(count)]
    fields = {name: {"$ref": f"#/$defs/{name}"} for name in names}
    part = {"type": "object", "properties": {"n": {"type": "integer"}, **fields}}
    return {"type": "object", "properties": fields, "$defs": dict.fromkeys(names, part)}


def like_fhir(count: int) -> dict[str, Any]:
    """Types with extensions, each of which has a value of any type."""

    def ref(name: str) -> dict[str, Any]:
        return {"$ref": f"#/definitions/{name}"}

    types = [f"T{number}" for number in range(count)]
    values = {f"value{name}": ref(name) for name in types}
    definitions: dict[str, Any] = {
        "Extension": {"properties": {"url": {"type": "string"}, **values}},
        "Resources": {"oneOf": [ref(name) for name in types]},
    }
    for number, name in enumerate(types):
        others = {
            f"f{step}": {"items": ref(types[(number * 5 + step) % count]), "type": "array"}
            for step in range(8)
        }
        extension = {"extension": {"type": "array", "items": ref("Extension")}}
        definitions[name] = {
            "properties": {"id": {"type": "string"}, **extension, **others},
            "additionalProperties": False,
        }
    patient = {f"p{number}": ref(name) for number, name in enumerate(types[:20])}
    contained = {"type": "array", "items": ref("Resources")}
    definitions["Patient"] = {"properties": {"contained": contained, **patient}}
    draft = "http://json-schema.org/draft-06/schema#"
    return {"$schema": draft, "oneOf": [ref("Patient")], "definitions": definitions}


def like_renovate() -> dict[str, Any]:
    """0.4 MB of options, of which many have the whole document inside."""
    options = {
        f"option{number}": {"type": "string", "description": "x" * 400} for number in range(400)
    }
    rule = {"$ref": "#/definitions/rule"}
    whole = {"if": {"required": ["a"]}, "then": {"properties": {"b": {"$ref": "#"}}}}
    groups = {
        f"group{number}": {
            "type": "object",
            "properties": {
                **{f"sub{step}": {"$ref": "#"} for step in range(4)},
                "description": {"type": "string", "description": "y" * 1500},
                "rules": {"type": "array", "items": {"allOf": [rule, whole]}},
            },
        }
        for number in range(100)
    }
    in_rule = {name: {"$ref": f"#/properties/{name}"} for name in groups}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "properties": {**options, **groups},
        "definitions": {"rule": {"type": "object", "properties": {**options, **in_rule}}},
    }


@pytest.mark.parametrize(
    "document",
    [types_that_refer_to_each_other(8), like_fhir(150), like_renovate()],
    ids=["eight types", "like FHIR", "like Renovate"],
)
def test_a_schema_of_parts_that_refer_to_each_other_loads(
    document: dict[str, Any], tmp_path: Path, steps: Steps
) -> None:
    contract = load_contract(write(tmp_path / "event.json", document))
    assert 0 < width_of(contract.node) <= contract.max_columns
    (note,) = contract.notes
    assert "are JSON text, since it has more than --max_columns=2000 columns" in note
    assert rules_of(contract) == ()
    RecordValidator(contract, ValidationRules(event_time_field=None))
    assert steps["derivations"] == 1


def test_unions_that_refer_to_each_other_end(steps: Steps) -> None:
    names = [f"u{number}" for number in range(30)]
    union = {"anyOf": [{"$ref": f"#/$defs/{name}"} for name in names]}
    parts = {name: {**union, "properties": {name: {"type": "integer"}}} for name in names}
    contract = contract_of({"properties": {"a": union}, "$defs": parts})
    assert [name for name, _ in contract.columns] == ["a"]


def test_annotations_of_parts_that_refer_to_each_other_are_found() -> None:
    document = types_that_refer_to_each_other(7)
    document["properties"]["code"] = {"type": "string", "x-normalize": ["trim"]}
    document["$defs"]["t0"]["properties"]["code"] = {"type": "string", "x-normalize": ["upper"]}
    contract = contract_of(document)
    rules = rules_of(contract)
    assert ("code", ()) in [(rule.column, rule.steps) for rule in rules]
    assert ("t0", ("code",)) in [(rule.column, rule.steps) for rule in rules]
    assert len(rules) < contract.max_columns


def test_the_columns_are_derived_once(tmp_path: Path, steps: Steps) -> None:
    document = {"type": "object", "properties": {"a": {"type": "integer"}}}
    contract = load_contract(write(tmp_path / "event.json", document))
    RecordValidator(contract, ValidationRules(event_time_field=None))
    columns.ColumnBuilder(contract)
    for name in ("batch_schema", "event_schema", "extra_column", "columns"):
        getattr(contract, name)
    assert steps["derivations"] == 1


def test_a_contract_is_as_small_as_before_when_it_is_pickled() -> None:
    contract = contract_of(types_that_refer_to_each_other(5))
    before = pickle.dumps(contract)
    node = contract.node
    assert pickle.dumps(contract) == before
    assert pickle.loads(before).node == node


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "properties": {"v": {"type": "integer"}}}
    for _ in range(levels):
        schema = {
            "type": "object",
            "properties": {"v": {"type": "integer"}, "d": schema},
            "additionalProperties": False,
        }
    return schema


@pytest.mark.parametrize("levels", [50, 98, 120])
def test_a_deep_schema_has_columns_as_deep_as_arrow_allows(tmp_path: Path, levels: int) -> None:
    contract = load_contract(write(tmp_path / "event.json", nested(levels)))
    batch = pa.record_batch(
        [pa.nulls(1, field.type) for field in contract.event_schema], contract.event_schema.names
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    assert pa.ipc.open_stream(sink.getvalue()).read_all().num_rows == 1
    node, depth = contract.node, 0
    while isinstance(node, Struct):
        node, depth = dict(node.fields)["d" if "d" in dict(node.fields) else "v"], depth + 1
    assert depth == min(levels, MAX_LEVELS) + 1
    assert (node == JSON_TEXT) == bool(contract.notes) == (levels > MAX_LEVELS)


@pytest.mark.parametrize("levels", [260, 300, 5_000])
@pytest.mark.parametrize("keyword", ["properties", "anyOf", "allOf", "not"])
def test_a_schema_that_is_too_deep_is_one_line(tmp_path: Path, keyword: str, levels: int) -> None:
    part = {"properties": '"properties": {"d": ', "not": '"not": '}.get(keyword, f'"{keyword}": [')
    end = {"properties": "}", "not": ""}.get(keyword, "]")
    path = tmp_path / "event.json"
    path.write_text(f"{{{part}" * levels + "{}" + f"{end}}}" * levels)
    with pytest.raises(UsageError, match=r"nested more than|recursion depth exceeded") as refused:
        load_contract(path)
    assert "\n" not in str(refused.value)


def test_the_command_says_what_is_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "event.json", types_that_refer_to_each_other(3))
    assert main(["schema", "show", str(path)]) == 0
    assert "max_columns" not in capsys.readouterr().out
    assert main(["schema", "show", str(path), "--max_columns=10"]) == 0
    assert "more than 0 levels below the event are JSON text" in capsys.readouterr().out
    assert main(["schema", "show", str(path), "--max_columns=10", "--json"]) == 0
    (note,) = json.loads(capsys.readouterr().out)["notes"]
    assert note.endswith("it has more than --max_columns=10 columns")


def test_what_is_cut_keeps_every_value() -> None:
    contract = contract_of(types_that_refer_to_each_other(8))
    event = {"t0": {"n": 1, "t1": {"n": 2, "t2": {"n": 3, "t3": {"n": 4, "t4": {"n": 5}}}}}}
    arrays = columns.ColumnBuilder(contract).build([event])
    (row,) = pa.record_batch(arrays, contract.event_schema.names).to_pylist()
    cell = row["t0"]["t1"]
    while not isinstance(cell.get("t2", cell.get("t3")), str):
        cell = cell.get("t2", cell.get("t3"))
    assert json.loads(cell.get("t2", cell.get("t3")))["n"] in (3, 4)
