"""What files say of themselves is shown as they say it."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path

import pyarrow as pa
import pytest
from output_trees import NOON, OutputTree, dead_letter, kafka_columns, sources
from pyroaring import BitMap64

from beam_pipeline.cli import main
from beam_pipeline.errors import UsageError
from beam_pipeline.files.contents import UnreadableFile
from beam_pipeline.offset_sets import TopicPartition
from beam_pipeline.tools.inspect.inspection import inspect_file, inspect_tree
from beam_pipeline.tools.inspect.statistics import ColumnStatistics
from beam_pipeline.tools.inspect.text import null_share

ORDERS = TopicPartition("orders", 0)


@pytest.fixture
def tree(tmp_path: Path) -> OutputTree:
    return OutputTree(tmp_path)


def nested(tree: OutputTree) -> Path:
    rows = sources("orders", 0, range(4))
    table = pa.table(
        {
            "amount": pa.array([None, 5, -3, 9], pa.int64()),
            "note": pa.array([None] * 4, pa.string()),
            "at": pa.array([NOON] * 4, pa.timestamp("us", "UTC")),
            "items": pa.array(
                [[{"sku": "b"}, {"sku": "a"}], [], None, [{"sku": None}]],
                pa.list_(pa.struct([("sku", pa.string())])),
            ),
            "labels": pa.array([[("k", 1)], [], None, []], pa.map_(pa.string(), pa.int64())),
            **kafka_columns(rows),
        }
    )
    return tree.parquet(rows, table=table, row_group_size=2)


def test_a_parquet_file(tree: OutputTree) -> None:
    path = nested(tree)
    found = inspect_file(path)
    assert found.rows == 4
    assert found.row_groups == 2
    assert found.size_bytes == path.stat().st_size
    assert found.offsets == {ORDERS: BitMap64(range(4))}
    assert found.footer is not None
    assert found.footer.epoch == "20261124T133350Zx3f9a"
    assert list(found.columns) == [
        "amount",
        "note",
        "at",
        "items[].sku",
        "labels{key}",
        "labels{value}",
        "kafka_topic",
        "kafka_partition",
        "kafka_offset",
        "kafka_timestamp",
    ]
    amount, note, at = (found.columns[name] for name in ("amount", "note", "at"))
    assert (amount.type, amount.values, amount.nulls) == ("int64", 4, 1)
    assert (amount.smallest, amount.largest) == (-3, 9)
    assert (note.nulls, note.smallest, note.largest) == (4, None, None)
    assert at.smallest == datetime(2026, 11, 23, 12, tzinfo=timezone.utc)
    sku = found.columns["items[].sku"]
    assert (sku.type, sku.smallest, sku.largest) == ("string", "a", "b")
    # Arrow's statistics do not tell nulls inside lists from missing lists.
    assert sku.nulls is None
    assert not any(column.is_range_partial for column in found.columns.values())
    assert found.columns["labels{value}"].largest == 1
    assert sum(column.stored_bytes for column in found.columns.values()) < found.size_bytes


def test_a_text_too_long_for_the_statistics_makes_the_range_partial(tree: OutputTree) -> None:
    rows = sources("orders", 0, range(2))
    short = pa.table({"note": ["a", "b"], **kafka_columns(rows)})
    long = pa.table({"note": ["z" * 10_000, None], **kafka_columns(rows)})
    tree.parquet(rows, table=short)
    tree.parquet(rows, table=long)
    note = inspect_tree(tree.root).columns["note"]
    assert (note.smallest, note.largest, note.nulls, note.values) == ("a", "b", 1, 4)
    assert note.is_range_partial


def test_many_types_of_a_column_are_named_once() -> None:
    column = ColumnStatistics("int64")
    for name in ("string", "int64", "string", "double"):
        column.add(ColumnStatistics(name))
    assert column.type == "int64 or string or double"


def test_a_file_of_dead_letters(tree: OutputTree) -> None:
    path = tree.raw_letters(
        [dead_letter(offset=3), dead_letter(offset=4, code="TOO_OLD"), dead_letter(offset=9)]
    )
    found = inspect_file(path)
    assert found.rows == 3
    assert found.offsets == {ORDERS: BitMap64([3, 4, 9])}
    assert found.dead_by_code == {"SCHEMA_VIOLATION": 2, "TOO_OLD": 1}
    assert found.columns == {}


def test_a_tree_adds_up(tree: OutputTree) -> None:
    paths = [
        nested(tree),
        tree.parquet(sources("orders", 0, [8])),
        tree.letters([("clicks", 1, 2)]),
    ]
    broken = tree.parquet(sources("orders", 0, [9]))
    broken.write_bytes(b"PAR1")
    found = inspect_tree(tree.root)
    assert (found.files, found.rows) == (3, 6)
    assert found.size_bytes == sum(path.stat().st_size for path in paths)
    assert found.offsets == {
        ORDERS: BitMap64([0, 1, 2, 3, 8]),
        TopicPartition("clicks", 1): BitMap64([2]),
    }
    assert found.columns["kafka_offset"].largest == 8
    assert found.columns["kafka_offset"].values == 5
    assert found.dead_by_code == {"SCHEMA_VIOLATION": 1}
    assert set(found.windows) == {"orders", "clicks"}
    assert found.windows["orders"][0] == NOON
    assert [path for path, _ in found.damaged] == [broken]


def test_foreign_parquet_has_statistics_and_no_footer(tree: OutputTree) -> None:
    path = tree.root / "by-hand.parquet"
    pa.parquet.write_table(pa.table({"a": [1]}), path, write_statistics=False)
    found = inspect_file(path)
    assert (found.footer, found.name, found.offsets) == (None, None, {})
    assert found.columns["a"].nulls is None
    assert null_share(found.columns["a"]) == "?"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a.parquet", "Parquet"),
        ("a.jsonl", "line 1 is not JSON"),
        ("a.csv", "is neither .parquet nor .jsonl"),
    ],
)
def test_what_is_neither_is_refused(tmp_path: Path, name: str, reason: str) -> None:
    path = tmp_path / name
    path.write_text("a,b\n")
    with pytest.raises(UnreadableFile, match=reason):
        inspect_file(path)
    with pytest.raises(UsageError, match="nowhere is not a directory"):
        inspect_tree(tmp_path / "nowhere")


def test_types_that_differ_between_files_give_up_the_range() -> None:
    column = ColumnStatistics("int64", 2, 0, 1, 5, 10)
    column.add(ColumnStatistics("string", 3, None, "a", "b", 20))
    assert column == ColumnStatistics("int64 or string", 5, None, None, None, 30)


@pytest.mark.parametrize(
    ("nulls", "values", "share"),
    [(0, 0, "0%"), (0, 5, "0%"), (5, 5, "100%"), (1, 100_000, "0.1%"), (99_999, 100_000, "99.9%")],
)
def test_a_share_never_hides_the_last_null(nulls: int, values: int, share: str) -> None:
    assert null_share(ColumnStatistics("int64", values, nulls)) == share


def test_the_command(tree: OutputTree, capsys: pytest.CaptureFixture[str]) -> None:
    path = nested(tree)
    assert main(["inspect", str(path)]) == 0
    text = capsys.readouterr().out
    assert "20261124T133350Zx3f9a" in text
    assert "items[].sku" in text
    assert "timestamp[us," in text
    assert "0-3" in text
    assert main(["inspect", str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["footer"]["offsets"] == {"orders": {"0": [[0, 3]]}}
    assert told["columns"]["at"]["min"] == "2026-11-23T12:00:00Z"
    assert told["columns"]["amount"] == {
        **{"type": "int64", "values": 4, "nulls": 1, "min": -3, "max": 9},
        "stored_bytes": told["columns"]["amount"]["stored_bytes"],
    }
    assert main(["inspect", str(tree.root)]) == 0
    assert "files" in capsys.readouterr().out
    path.write_bytes(b"PAR1")
    assert main(["inspect", str(tree.root), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["damaged"][0]["path"] == str(path)
    assert main(["inspect", str(path)]) == 1
    assert main(["inspect", str(tree.root / "nowhere")]) == 2


def test_hostile_values_can_not_reach_the_terminal(
    tree: OutputTree, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = sources("orders", 0, [0])
    table = pa.table({"a\x1b[2J": ["\x1b[31mred\u202e"], **kafka_columns(rows)})
    path = tree.parquet(rows, table=table)
    assert main(["inspect", str(path)]) == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "\\x1b[31mred" in text
