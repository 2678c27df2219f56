"""Rows that the kernel proves are those of the exact path: random values and the suites."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from proven_rows import KINDS, MAX_VALUE_BYTES, Tried, check, floats_in, try_cases

from beam_pipeline.compiled import plan as plans
from beam_pipeline.compiled.kernel import Kernel, KernelLibrary, KernelUnusableError
from beam_pipeline.compiled.plan import compile_plan
from beam_pipeline.errors import UsageError
from beam_pipeline.schemas import Contract, load_contract

DATA = Path(__file__).parents[2] / "data"
DRAFTS = {
    "draft7": "http://json-schema.org/draft-07/schema#",
    "draft2019-09": "https://json-schema.org/draft/2019-09/schema",
    "draft2020-12": "https://json-schema.org/draft/2020-12/schema",
}


def contract_of(tmp_path: Path, document: Any, asserts_formats: bool = True) -> Contract:
    path = tmp_path / "event.schema.json"
    path.write_text(json.dumps(document))
    return load_contract(path, asserts_formats=asserts_formats)


@pytest.mark.parametrize(("kind", "share"), [("events", 0.4), ("records", 0.08), ("random", 0.3)])
def test_random_values_of(kernel_library: KernelLibrary, kind: str, share: float) -> None:
    tried = try_cases(kind, 11, 6_000, kernel_library)
    assert tried.wrong == []
    assert tried.proven > share * tried.valid
    assert set(KINDS) == {"events", "records", "random"}


@pytest.mark.parametrize("ignored", ["pattern", "format", "maxLength", "required"])
def test_a_keyword_that_the_plan_forgets_is_found(
    kernel_library: KernelLibrary, monkeypatch: pytest.MonkeyPatch, ignored: str
) -> None:
    whole = plans._Compiler._schemas

    def without(self: Any, schema: Any, nested: int = 0) -> Any:
        return [
            {name: part for name, part in each.items() if name != ignored}
            for each in whole(self, schema, nested)
        ]

    # A date-time without its format is refused, so that only uuid is forgotten.
    monkeypatch.setattr(plans._Compiler, "_schemas", without)
    assert any(try_cases(kind, 11, 6_000, kernel_library).wrong for kind in ("events", "random"))


def test_the_json_test_suite_as_values_of_fields(
    kernel_library: KernelLibrary, tmp_path: Path
) -> None:
    with zipfile.ZipFile(DATA / "json-test-suite.zip") as suite:
        names = [name for name in suite.namelist() if name.startswith("test_parsing/")]
        texts = [suite.read(name) for name in names]
    values = [
        *texts,
        *(b'{"a": ' + text + b"}" for text in texts),
        *(b'{"z": ' + text + b"}" for text in texts),
        *(b'{"list": [' + text + b"]}" for text in texts),
    ]
    tried = Tried()
    for part in (
        {},
        {"type": "string"},
        {"type": "number"},
        {"type": "integer"},
        {"type": "number", "x-decimal": {"precision": 18, "scale": 4}},
        {"type": ["boolean", "null"]},
        {"type": "object", "properties": {"a": {"type": "string"}, "b": {}}},
    ):
        fields = {"a": part, "list": {"type": "array", "items": part}}
        contract = contract_of(tmp_path, {"type": "object", "properties": fields})
        check(contract, values, kernel_library, tried)
    assert tried.wrong == []
    assert tried.compiled == tried.schemas
    assert tried.proven > 130


@pytest.mark.parametrize("draft", DRAFTS)
def test_the_json_schema_test_suite_as_schemas_of_fields(
    kernel_library: KernelLibrary, tmp_path: Path, draft: str
) -> None:
    tried = Tried()
    with zipfile.ZipFile(DATA / "json-schema-test-suite.zip") as suite:
        for name in suite.namelist():
            if not name.startswith(f"tests/{draft}/"):
                continue
            for group in json.loads(suite.read(name)):
                data = [test["data"] for test in group["tests"]]
                schema = group["schema"]
                documents = [{"$schema": DRAFTS[draft], "properties": {"a": schema}}]
                if isinstance(schema, dict):
                    documents.append({"$schema": DRAFTS[draft], **schema})
                wrapped = [{"a": value} for value in data]
                for document, values in zip(documents, (wrapped, data), strict=False):
                    try:
                        contract = contract_of(tmp_path, document, "/format/" in name)
                    except UsageError:
                        continue
                    encoded = [json.dumps(value).encode() for value in values]
                    check(contract, encoded, kernel_library, tried)
    assert tried.wrong == []
    assert tried.compiled > 200
    assert tried.proven > 150


def test_signs_of_zero_are_told_apart() -> None:
    nested = pa.array([[{"n": 0.0}]], pa.list_(pa.struct([("n", pa.float64())])))
    other = pa.array([[{"n": -0.0}]], nested.type)
    assert nested.equals(other)
    assert floats_in(nested) != floats_in(other)


def test_the_kernel_takes_what_the_bench_sends(kernel_library: KernelLibrary) -> None:
    contract = load_contract(Path(__file__).parents[3] / "schema" / "commerce_event.schema.json")
    event = contract.document["examples"][0]
    spaced = json.dumps(event, indent=1, ensure_ascii=True).encode()
    too_large = json.dumps({**event, "x": "y" * MAX_VALUE_BYTES}).encode()
    escaped = json.dumps({**event, "page_url": 'é"😀\n', "user_agent": "\\"}).encode()
    behind_prefix = b"\0\0\0\0\1" + spaced
    kernel = Kernel(kernel_library, compile_plan(contract), MAX_VALUE_BYTES)
    values = [spaced, too_large, None, escaped, behind_prefix]
    assert kernel.prove(pa.array(values, pa.binary())).rows.tolist() == [0, 3, 4]
    assert kernel.prove(pa.array([], pa.binary())).rows.tolist() == []
    assert kernel.prove(pa.array([None], pa.binary())).rows.tolist() == []


def test_rows_with_values_that_jsonschema_rs_refuses_are_given_up(
    kernel_library: KernelLibrary, tmp_path: Path
) -> None:
    number = {"type": "number", "multipleOf": 0.01, "x-decimal": {"precision": 18, "scale": 2}}
    lists = {"type": "array", "items": {"type": "array", "items": {"format": "ipv4"}}}
    fields = {"a": {"type": ["string", "null"], "format": "email"}, "b": number}
    lists["items"]["items"]["type"] = "string"  # type: ignore[index]
    contract = contract_of(tmp_path, {"type": "object", "properties": {**fields, "c": lists}})
    events: list[Any] = [
        *({}, {"a": "a@b.eu"}, {"a": "b.eu"}, {"a": None}, {"b": 19.99}, {"b": 90071992547409.93}),
        *({"c": [[], ["1.1.1.1", "1.1.1.2"]]}, {"c": [[], ["1.1.1.1", "1.1.1"], []]}),
        *({"c": [["1.1.1.1"]], "a": "b@a.eu"}, {"c": [["1.1"]], "a": "b"}),
    ]
    values = [json.dumps(event).encode() for event in events]
    kernel = Kernel(kernel_library, compile_plan(contract), MAX_VALUE_BYTES)
    proven = kernel.prove(pa.array(values, pa.binary()))
    assert proven.rows.tolist() == [0, 1, 3, 4, 6, 8]
    assert proven.columns[0].to_pylist() == [None, "a@b.eu", None, None, None, "b@a.eu"]
    tried = Tried()
    check(contract, values, kernel_library, tried)
    assert tried.wrong == []


def test_lists_longer_than_the_memory_are_given_up(
    kernel_library: KernelLibrary, tmp_path: Path
) -> None:
    items = {"type": "array", "items": {"type": "integer"}}
    contract = contract_of(tmp_path, {"type": "object", "properties": {"a": items}})
    kernel = Kernel(kernel_library, compile_plan(contract), MAX_VALUE_BYTES)
    values = [json.dumps({"a": [1] * items}).encode() for items in (0, 3, 200, 1)]
    proven = kernel.prove(pa.array(values, pa.binary()))
    assert proven.rows.tolist() == [0, 1, 3]
    assert proven.columns[0].to_pylist() == [[], [1, 1, 1], [1]]


def test_a_library_of_another_machine_is_not_loaded(kernel_library: KernelLibrary) -> None:
    other = KernelLibrary("vax", kernel_library.digest, kernel_library.data)
    with pytest.raises(KernelUnusableError, match="it is for vax"):
        other.load()


def test_a_library_with_another_layout_is_not_used(
    kernel_library: KernelLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert b" json_types:" in kernel_library.data
    data = kernel_library.data.replace(b" json_types:", b" json_typos:")
    with pytest.raises(KernelUnusableError, match="another layout"):
        KernelLibrary(kernel_library.machine, "altered", data).load()


def test_what_is_no_library_is_not_used(kernel_library: KernelLibrary) -> None:
    with pytest.raises(KernelUnusableError):
        KernelLibrary(kernel_library.machine, "broken", b"no library").load()
