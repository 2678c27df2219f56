"""What a run has left is summed up, and shown without harm."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from output_trees import OutputTree, dead_letter, kafka_columns, sources
from rich.console import Console

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.offset_sets import TopicPartition
from beam_pipeline.tools.dlq.letters import Letter
from beam_pipeline.tools.reconcile.compare import compare
from beam_pipeline.tools.reconcile.coverage import Coverage
from beam_pipeline.tools.summary.gather import Summary, summarise
from beam_pipeline.tools.summary.text import summary_text, telling_value


@pytest.fixture
def tree(tmp_path: Path) -> OutputTree:
    return OutputTree(tmp_path)


def shown(summary: Summary, log_end: int | None = None, covered: int = 0) -> str:
    rows = Coverage()
    orders = TopicPartition("orders", 0)
    rows.add(orders, np.arange(covered, dtype=np.int64))
    check = None if log_end is None else compare({orders: (0, log_end)}, rows, Coverage())
    console = Console(file=io.StringIO(), width=140, force_terminal=True, color_system=None)
    console.print(summary_text(summary, check))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_files_rows_and_letters_of_one_topic(tree: OutputTree) -> None:
    first = tree.parquet(sources("orders", 0, range(7)))
    tree.parquet(sources("orders-2", 0, range(100)))
    second = tree.parquet(sources("orders", 0, range(7, 10)))
    tree.parquet([])
    tree.raw_letters([dead_letter(offset=10), dead_letter(offset=11), dead_letter("clicks")])
    tree.raw_letters([dead_letter("orders-2")])
    tree.raw_letters([dead_letter(offset=12, code="TOO_OLD")])
    summary = summarise(tree.output_dir, tree.dead_letter_dir, "orders")

    assert [(file.path, file.rows) for file in summary.files][:2] == [(first, 7), (second, 3)]
    assert [file.size_bytes for file in summary.files][:2] == [
        first.stat().st_size,
        second.stat().st_size,
    ]
    assert summary.rows == 10
    assert [row["kafka_offset"] for row in summary.sample] == [7, 8, 9]
    assert summary.dead_by_code == {"SCHEMA_VIOLATION": 2, "TOO_OLD": 1}
    assert {code: letter.offset for code, letter in summary.examples.items()} == {
        "SCHEMA_VIOLATION": 10,
        "TOO_OLD": 12,
    }
    text = shown(summary)
    assert "Parquet: 3 files, 10 rows" in text
    assert "2026-11-23 12:00:00 - 12:00:10" in text
    assert "Dead letters: 3" in text
    assert "Count check" not in text


def test_nothing_was_written(tree: OutputTree) -> None:
    text = shown(summarise(tree.output_dir, tree.dead_letter_dir, "orders"))
    assert "Parquet: 0 files, 0 rows" in text
    assert "Dead letters: none" in text


def test_the_count_check_says_whether_it_holds(tree: OutputTree) -> None:
    summary = summarise(tree.output_dir, tree.dead_letter_dir, "orders")
    assert "10 records in the topic, 10 rows + 0 dead letters; each record in exactly" in shown(
        summary, log_end=10, covered=10
    )
    assert "Count check FAILED: 12 records in the topic, 10 rows" in shown(
        summary, log_end=12, covered=10
    )


def test_nothing_from_an_event_reaches_the_terminal_unescaped(tree: OutputTree) -> None:
    rows = sources("orders", 0, [0])
    hostile = "\x1b[2J[red]x"
    table = pa.table({"note": [hostile], **kafka_columns(rows), "nested": [{"a": hostile}]})
    tree.parquet(rows, table=table)
    document = dead_letter(offset=1, value=hostile.encode())
    document["error"]["message"] = hostile
    tree.raw_letters([document])
    text = shown(summarise(tree.output_dir, tree.dead_letter_dir, "orders"))
    assert "\x1b" not in text
    assert text.count("\\x1b[2J[red]x") >= 3


def test_a_file_that_cannot_be_read_is_named(tree: OutputTree) -> None:
    path = tree.parquet(sources("orders", 0, range(7)))
    path.write_bytes(b"PAR1")
    with pytest.raises(EnvironmentFailure, match=f"^Parquet file {path} can't be read"):
        summarise(tree.output_dir, tree.dead_letter_dir, "orders")


@pytest.mark.parametrize(
    ("value", "violations", "message", "telling"),
    [
        (b'{"a": {"b/c": [1, "x"]}}', [("type", "/a/b~1c/1")], "no number", '/a/b~1c/1: "x"'),
        (b'{"at": "1970", "n": 1}', [], "at is more than 5 s before", '/at: "1970"'),
        (b'{"at": {"t": 7}}', [], "at.t holds no time", "/at/t: 7"),
        (b'{"n": 1}', [("required", "")], "'id' is a required property", '{"n": 1}'),
        (b'{"n": 1}', [("type", "/list/x")], "odd", '{"n": 1}'),
        (b'[{"n": null}]', [("type", "/0/n")], "null", "/0/n: null"),
        (b"{", [], "not JSON", "{"),
        (None, [], "null", None),
    ],
)
def test_the_telling_value_of_a_letter(
    value: bytes | None, violations: list[tuple[str, str]], message: str, telling: str | None
) -> None:
    document = dead_letter(value=value, violations=violations)
    document["error"]["message"] = message
    assert telling_value(Letter.from_document(document)) == telling
