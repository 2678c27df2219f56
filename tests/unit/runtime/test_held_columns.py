"""A start compares its columns with those that the directory's files have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from output_trees import OutputTree, kafka_columns, sources
from pipeline_settings import settings_of

from beam_pipeline.errors import EnvironmentFailure, UsageError
from beam_pipeline.runtime.held_columns import (
    COLUMNS_NOTE,
    check_columns,
    columns_to_land,
    held_columns,
    note_columns,
)
from beam_pipeline.settings.config import PipelineSettings

INTEGER, TEXT = {"type": "integer"}, {"type": "string"}
EITHER = {"type": ["string", "integer"]}


@pytest.fixture
def tree(tmp_path: Path) -> OutputTree:
    return OutputTree(tmp_path)


def settings(tree: OutputTree, *flags: str, **properties: Any) -> PipelineSettings:
    """Settings with a schema of these properties."""
    path = tree.root / "event.schema.json"
    document = {"type": "object", "properties": properties, "additionalProperties": False}
    path.write_text(json.dumps(document))
    return settings_of(
        f"--schema={path}", f"--output_dir={tree.output_dir}", "--input_topics=orders", *flags
    )


def land(tree: OutputTree, *flags: str, **properties: Any) -> None:
    """Write a file and the note that a run with these properties leaves."""
    landed = settings(tree, *flags, **properties)
    add_file(tree)
    note_columns(tree.output_dir, columns_to_land(landed, landed.contract()), landed)


def add_file(tree: OutputTree, **columns: pa.Array) -> None:
    rows = sources("orders", 0, [tree.files])
    tree.parquet(rows, table=pa.table({**columns, **kafka_columns(rows)}))


def test_a_directory_without_files_holds_nothing(tree: OutputTree) -> None:
    assert check_columns(settings(tree, a=INTEGER)) == []
    landed = settings(tree, a=INTEGER)
    note_columns(tree.output_dir, columns_to_land(landed, landed.contract()), landed)
    assert check_columns(settings(tree, a=TEXT)) == [], "nothing was landed with that schema"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (INTEGER, {"type": "number"}, "column 'a' is int64 and double"),
        (TEXT, EITHER, "column 'a' is string and JSON text"),
        (EITHER, TEXT, "column 'a' is JSON text and string"),
        (
            {"type": "array", "items": TEXT},
            {"type": "array", "items": EITHER},
            "column 'a' is list<string> and list<JSON text>",
        ),
    ],
)
def test_a_column_of_two_forms_is_refused(
    tree: OutputTree, old: Any, new: Any, reason: str
) -> None:
    land(tree, a=old, b=TEXT)
    with pytest.raises(UsageError) as refusal:
        check_columns(settings(tree, a=new, b=TEXT))
    text = str(refusal.value)
    assert reason in text
    assert "--output_dir" in text
    assert "--allow_schema_change" in text
    assert "\n" not in text


def test_names_that_differ_in_case_from_those_of_the_files_are_refused(tree: OutputTree) -> None:
    land(tree, amount=INTEGER)
    with pytest.raises(UsageError, match="'amount' and 'Amount' differ in case alone"):
        check_columns(settings(tree, Amount=INTEGER))


def test_a_change_that_is_allowed_is_told_and_becomes_what_the_directory_holds(
    tree: OutputTree,
) -> None:
    land(tree, a=INTEGER)
    changed = settings(tree, "--allow_schema_change", a={"type": "number"})
    [notice] = check_columns(changed)
    assert "by --allow_schema_change: column 'a' is int64 and double" in notice
    land(tree, a={"type": "number"})
    assert check_columns(settings(tree, a={"type": "number"})) == []


def test_columns_that_come_and_go_are_told_and_not_refused(tree: OutputTree) -> None:
    nested = {"type": "object", "properties": {"x": TEXT}, "additionalProperties": False}
    wider = {**nested, "properties": {"x": TEXT, "y": TEXT}}
    land(tree, a=INTEGER, b=nested)
    added, gone = check_columns(settings(tree, b=wider, c=TEXT))
    assert added.endswith("do not have: b.y, c")
    assert gone.endswith("will not have: a")


def test_a_column_that_was_gone_for_a_while_keeps_its_type(tree: OutputTree) -> None:
    land(tree, a=INTEGER, b=TEXT)
    land(tree, b=TEXT)
    with pytest.raises(UsageError, match="column 'a' is int64 and string"):
        check_columns(settings(tree, a=TEXT, b=TEXT))


def test_a_text_that_becomes_an_enum_is_still_a_text_to_readers(tree: OutputTree) -> None:
    land(tree, a=TEXT)
    assert check_columns(settings(tree, a={"enum": ["x", "y"]})) == []


def test_files_of_older_versions_tell_types_and_no_encodings(tree: OutputTree) -> None:
    add_file(tree, a=pa.array(["1"]), n=pa.array([1]), e=pa.array(["x"]).dictionary_encode())
    held = held_columns(tree.output_dir)
    assert held is not None
    assert not held.knows_encodings
    assert check_columns(settings(tree, a=EITHER, n=INTEGER, e={"enum": ["x"]})) == [
        "columns that the files there do not have: "
        "kafka_key, kafka_headers[].key, kafka_headers[].value"
    ]
    with pytest.raises(UsageError, match="column 'n' is int64 and string"):
        check_columns(settings(tree, a=TEXT, n=TEXT, e={"enum": ["x"]}))


def test_the_kafka_columns_of_the_files_may_become_more_and_fewer(tree: OutputTree) -> None:
    few = "--kafka_columns=topic,partition,offset,timestamp"
    land(tree, few, a=INTEGER)
    assert check_columns(settings(tree, few, a=INTEGER)) == []
    added = "columns that the files there do not have: kafka_key, kafka_headers[].key, "
    assert check_columns(settings(tree, a=INTEGER)) == [f"{added}kafka_headers[].value"]
    land(tree, a=INTEGER)
    (gone,) = check_columns(settings(tree, few, a=INTEGER))
    assert gone.startswith("columns of the files there that new files will not have: kafka_key")


def test_an_event_s_own_column_is_not_taken_for_the_record_s(tree: OutputTree) -> None:
    land(tree, "--kafka_columns=topic,partition,offset,timestamp", kafka_key=TEXT)
    with pytest.raises(UsageError, match="column 'kafka_key' is string and binary"):
        check_columns(settings(tree, a=INTEGER))


def test_other_topics_and_windows_are_told(tree: OutputTree) -> None:
    land(tree, a=INTEGER)
    other = settings(tree, "--window_seconds=600", a=INTEGER, **{})
    assert check_columns(other) == ["--window_seconds was 60 and is 600"]
    flags = ("--input_topics=refunds,clicks",)
    assert check_columns(settings(tree, *flags, a=INTEGER)) == [
        "topics that are new in this directory: clicks, refunds",
        "topics that are no longer read: orders",
    ]


def test_a_note_that_can_t_be_read_is_one_clear_line(tree: OutputTree) -> None:
    land(tree, a=INTEGER)
    (tree.output_dir / COLUMNS_NOTE).write_text("{")
    with pytest.raises(EnvironmentFailure, match="remove it, and the columns are taken from the"):
        check_columns(settings(tree, a=INTEGER))
