"""Names that differ in case alone are refused at every depth: readers fold case."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from beam_pipeline.errors import UsageError
from beam_pipeline.schemas import load_contract

TEXT = {"type": "string"}


def obj(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "additionalProperties": False}


@pytest.mark.parametrize(
    ("document", "where"),
    [
        (obj(Id=TEXT, id=TEXT), "'Id' and 'id'"),
        (obj(a=obj(b=obj(X=TEXT, x=TEXT))), "'X' and 'x' in 'a.b'"),
        (obj(a={"type": "array", "items": obj(X=TEXT, x=TEXT)}), "'X' and 'x' in 'a'"),
        (obj(a={"type": "object", "additionalProperties": obj(Ä=TEXT, ä=TEXT)}), "'Ä' and 'ä'"),
        ({"allOf": [{"properties": {"Id": TEXT}}, {"properties": {"id": TEXT}}]}, "'Id' and 'id'"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_names_that_differ_in_case_alone_are_refused(
    tmp_path: Path, document: Any, where: str
) -> None:
    path = tmp_path / "event.json"
    path.write_text(json.dumps(document))
    with pytest.raises(UsageError) as refusal:
        load_contract(path)
    text = str(refusal.value)
    assert text.startswith(f"--schema={path}: properties {where}")
    assert "rename one" in text
    assert "\n" not in text


def test_names_that_differ_otherwise_load(tmp_path: Path) -> None:
    path = tmp_path / "event.json"
    path.write_text(json.dumps(obj(id=TEXT, idd=TEXT, a=obj(id=TEXT), b={"enum": ["x", "X"]})))
    assert load_contract(path).event_schema.names == ["id", "idd", "a", "b"]


def test_the_column_of_unnamed_fields_is_named_apart_from_a_property(tmp_path: Path) -> None:
    path = tmp_path / "event.json"
    path.write_text(json.dumps({"type": "object", "properties": {"Extra": TEXT}}))
    assert load_contract(path).event_schema.names == ["Extra", "_extra"]
