"""Small files of a table become larger ones: same rows, whatever comes in between."""

from __future__ import annotations

from collections.abc import Generator
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from output_trees import NOON, OutputTree, Source, kafka_columns
from pyiceberg.transforms import IdentityTransform
from table_trees import (
    begin_epoch,
    check_snapshots,
    committed,
    compacted,
    job_for,
    orders,
    paths_of,
    rows_of,
    table_of,
)

from beam_pipeline.covered_offsets import CoveredOffsets
from beam_pipeline.files.footer import read_footer
from beam_pipeline.files.names import OutputFile
from beam_pipeline.tables import rewriting
from beam_pipeline.tables.committer import Committer
from beam_pipeline.tables.compaction import (
    Compacted,
    Rules,
    TableFile,
    automatic_rules,
    choose,
    compact_once,
)
from beam_pipeline.tables.plan import HeldFile
from beam_pipeline.tables.rewriting import finished
from beam_pipeline.tables.table import PlanAgainError
from beam_pipeline.tools.compact.run import compact

LETTERS = "lake.orders__dead_letters"
NOW = Rules(closed_before=datetime.now(timezone.utc))
LATER = "20261124T150000Zx0001"


@pytest.fixture
def tree(tmp_path: Path) -> OutputTree:
    tree = OutputTree(tmp_path)
    begin_epoch(tree, tree.epoch)
    return tree


def begun(committer: Committer) -> Generator[None, None, Compacted]:
    """A compaction of the rows that has written its files and not committed them."""
    rows, _ = committer.tables
    steps = compact_once(rows.table, rows.landed, NOW)
    for _ in range(len(paths_of(table_of(committer))) + 1):
        next(steps)
    return steps


def local(path: str) -> Path:
    return Path(path.removeprefix("file://"))


def test_small_files_become_one_with_the_same_rows(tree: OutputTree) -> None:
    for offset in range(0, 12, 2):
        tree.parquet(orders(offset, offset + 1))
    tree.letters(orders(20))
    tree.letters(orders(21, 22))
    committer = committed(job_for(tree))
    done = compacted(committer)
    assert (done.snapshots, done.files_before, done.files_after, done.rows) == (2, 8, 2, 15)
    table = table_of(committer)
    assert rows_of(table) == orders(*range(12))
    assert rows_of(table_of(committer, LETTERS)) == orders(20, 21, 22)
    (path,) = paths_of(table)
    assert local(path).stat().st_size == done.bytes_after - letters_size(committer)
    assert read_footer(local(path)).rows == 12
    snapshot = table.current_snapshot()
    assert snapshot is not None
    assert snapshot.summary is not None
    assert snapshot.summary.operation.value == "overwrite"
    assert snapshot.summary["beam-pipeline.compacted-files"] == "6"
    check_snapshots(table)


def letters_size(committer: Committer) -> int:
    (path,) = paths_of(table_of(committer, LETTERS))
    return local(path).stat().st_size


def test_what_is_merged_is_in_the_table_for_this_committer_and_the_next(tree: OutputTree) -> None:
    for offset in range(3):
        tree.parquet(orders(offset))
    committer = committed(job_for(tree))
    compacted(committer)
    head = table_of(committer).metadata_location
    assert committer.round()
    assert committed(job_for(tree)).progress.commits == 0
    assert table_of(committer).metadata_location == head
    tree.parquet(orders(3))
    assert committer.round()
    assert rows_of(table_of(committer)) == orders(0, 1, 2, 3)
    assert compacted(committer).files_before == 2
    assert compacted(committer).files_before == 0


def test_columns_of_all_files_and_of_all_kinds_are_kept_to_the_bit(tree: OutputTree) -> None:
    word = pa.dictionary(pa.int32(), pa.string())
    older = pa.schema(
        [
            ("place", pa.struct([("city", word), ("zip", pa.int32())])),
            ("items", pa.list_(pa.struct([("name", pa.string())]))),
            ("price", pa.decimal128(10, 2)),
            ("kind", word),
            ("at", pa.timestamp("us", "UTC")),
            ("count", pa.int32()),
        ]
    )
    newer = pa.schema(
        [
            ("note", pa.string()),
            ("place", pa.struct([("city", pa.string()), ("zip", pa.int32()), ("x", pa.float64())])),
            ("items", pa.list_(pa.struct([("name", pa.string()), ("n", pa.int64())]))),
            ("price", pa.decimal128(18, 2)),
            ("kind", pa.string()),
            ("count", pa.int64()),
        ]
    )
    item = {"name": "pen"}
    old_rows: list[dict[str, Any]] = [
        {"place": {"city": "Bonn", "zip": 1}, "items": [item, None], "price": Decimal("1.10")},
        {"place": None, "items": None, "price": None, "kind": "a", "at": NOON, "count": 7},
        {"place": {"city": None, "zip": None}, "items": [], "kind": "b", "count": -1},
    ]
    new_rows: list[dict[str, Any]] = [
        {"note": "n", "place": {"city": "Ulm", "zip": 2, "x": -0.0}, "count": 1 << 40},
        {"items": [{"name": "ink", "n": 1}], "price": Decimal("9999999999.99"), "kind": "a"},
    ]
    land(tree, pa.Table.from_pylist(old_rows, schema=older), orders(2, 0, 1))
    land(tree, pa.Table.from_pylist(new_rows, schema=newer), orders(4, 3))
    committer = committed(job_for(tree))
    before = by_offset(committer)
    assert compacted(committer).files_before == 2
    (path,) = paths_of(table_of(committer))
    assert by_offset(committer) == before
    merged = pq.read_table(local(path), partitioning=None)
    assert merged.column("kafka_offset").to_pylist() == [2, 0, 1, 4, 3]
    assert merged.schema.field("kind").type == pa.string()
    assert merged.schema.field("kafka_timestamp").type == pa.timestamp("ms", "UTC")
    assert merged.column("place").to_pylist()[:2] == [{"city": "Bonn", "zip": 1, "x": None}, None]
    assert merged.column("items").to_pylist()[1:3] == [None, []]


def land(tree: OutputTree, table: pa.Table, sources: list[Source]) -> None:
    for name, column in kafka_columns(sources).items():
        table = table.append_column(name, column)
    tree.parquet(sources, table=table)


def by_offset(committer: Committer) -> dict[int, dict[str, Any]]:
    """The rows of the table, as pyiceberg reads them."""
    rows = table_of(committer).scan().to_arrow_batch_reader().read_all().to_pylist()
    return {row["kafka_offset"]: row for row in rows}


def test_a_merged_file_has_one_day(tree: OutputTree) -> None:
    offset = 0
    for day in (0, 1):
        for _ in range(2):
            moments = pa.array([NOON + timedelta(days=day)], pa.timestamp("us", "UTC"))
            table = pa.table({"event_time": moments, **kafka_columns(orders(offset))})
            tree.parquet(orders(offset), table=table)
            offset += 1
    committer = committed(job_for(tree, partition_column="event_time"))
    done = compacted(committer)
    assert (done.files_before, done.files_after) == (4, 2)
    table = table_of(committer)
    assert rows_of(table) == orders(*range(offset))
    found = table.scan(row_filter=f"event_time < '{(NOON + timedelta(hours=1)).isoformat()}'")
    assert len(list(found.plan_files())) == 1


def test_row_groups_are_written_one_by_one(
    tree: OutputTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    for offset in range(6):
        tree.parquet(orders(offset))
    committer = committed(job_for(tree))
    monkeypatch.setattr(rewriting, "ROW_GROUP_BYTES", 1)
    compacted(committer)
    (path,) = paths_of(table_of(committer))
    assert pq.read_metadata(local(path)).num_row_groups == 6
    assert rows_of(table_of(committer)) == orders(*range(6))


def test_a_footer_that_does_not_tell_the_rows_leaves_the_files_alone(tree: OutputTree) -> None:
    tree.parquet(orders(0, 1), claim=orders(0, 2))
    tree.parquet(orders(3))
    committer = committed(job_for(tree))
    before = paths_of(table_of(committer))
    rows, _ = committer.tables
    done = finished(compact_once(rows.table, rows.landed, NOW))
    assert set(done.left_alone) == before
    assert paths_of(table_of(committer)) == before
    assert files_below(tree) == {local(path) for path in before}


def files_below(tree: OutputTree) -> set[Path]:
    return set((tree.output_dir / "_table/lake/orders/data").rglob("*.parquet"))


def test_a_compaction_that_is_left_off_leaves_nothing(tree: OutputTree) -> None:
    for offset in range(3):
        tree.parquet(orders(offset))
    committer = committed(job_for(tree))
    before = files_below(tree)
    steps = begun(committer)
    assert len(files_below(tree)) == 4
    steps.close()
    assert files_below(tree) == before


def test_an_append_may_come_in_between(tree: OutputTree) -> None:
    for offset in range(3):
        tree.parquet(orders(offset))
    committer = committed(job_for(tree))
    steps = begun(committer)
    tree.parquet(orders(3))
    other = committed(job_for(tree))
    finished(steps)
    table = table_of(committer)
    assert rows_of(table) == orders(0, 1, 2, 3)
    assert len(paths_of(table)) == 2
    for each in (committer, other):
        tree.parquet(orders(4 + tree.files))
        assert each.round()
    assert len(rows_of(table_of(committer))) == 6
    check_snapshots(table_of(committer))


def test_of_two_compactors_with_the_same_files_one_gives_up(tree: OutputTree) -> None:
    for offset in range(3):
        tree.parquet(orders(offset))
    first, second = committed(job_for(tree)), committed(job_for(tree))
    steps = begun(first), begun(second)
    finished(steps[0])
    with pytest.raises(PlanAgainError):
        finished(steps[1])
    assert rows_of(table_of(first)) == orders(0, 1, 2)
    assert len(paths_of(table_of(first))) == 1
    check_snapshots(table_of(first))
    assert compacted(second).files_before == 0


def test_a_stray_is_dropped_while_it_is_merged(tree: OutputTree) -> None:
    """The compaction gives up: the file that it replaces is gone."""
    tree.parquet(orders(0))
    stray = tree.parquet(orders(1))
    committer = committed(job_for(tree))
    steps = begun(committer)
    ledger = begin_epoch(tree, LATER, without=[stray])
    ledger.refresh()
    ledger.remove_strays()
    tree.letters(orders(1))
    committed(job_for(tree))
    with pytest.raises(PlanAgainError):
        finished(steps)
    assert committer.round()
    assert rows_of(table_of(committer)) == orders(0)
    assert rows_of(table_of(committer, LETTERS)) == orders(1)
    check_snapshots(table_of(committer))


def test_a_stray_that_was_merged_is_cut_out(tree: OutputTree) -> None:
    """The epoch was not over yet when its files were merged. The next one counts one of three."""
    counted = tree.parquet(orders(0, 1))
    strays = [tree.parquet(orders(2, 3)), tree.parquet(orders(4))]
    committer = committed(job_for(tree))
    compacted(committer)
    ledger = begin_epoch(tree, LATER, without=strays)
    counted.unlink()  # the rest has to come from the merged file
    ledger.refresh()
    assert len(ledger.strays) == 2
    ledger.remove_strays()
    tree.parquet(orders(2, 5))
    tree.letters(orders(3, 4))
    assert committer.round(), committer.progress.failure
    table = table_of(committer)
    assert rows_of(table) == orders(0, 1, 2, 5)
    assert rows_of(table_of(committer, LETTERS)) == orders(3, 4)
    check_snapshots(table)
    assert committed(job_for(tree)).progress.commits == 0


def test_files_of_an_epoch_that_is_not_over_are_merged_by_themselves(tree: OutputTree) -> None:
    for offset in range(2):
        tree.parquet(orders(offset))
    begin_epoch(tree, LATER)
    for offset in range(2, 4):
        tree.parquet(orders(offset))
    committer = committed(job_for(tree))
    compacted(committer)
    epochs = [read_footer(local(path)).epoch for path in paths_of(table_of(committer))]
    assert len(epochs) == 2
    assert LATER in epochs
    begin_epoch(tree, "20261124T160000Zx0001")
    committer = committed(job_for(tree))
    assert compacted(committer).files_before == 2
    assert rows_of(table_of(committer)) == orders(0, 1, 2, 3)


def test_the_directory_is_compacted_after_the_table(tree: OutputTree) -> None:
    """A file that was merged into the table's is gone, and another is merged with a new one."""
    removed = tree.parquet(orders(0, 1))
    tree.parquet(orders(2))
    committer = committed(job_for(tree))
    compacted(committer)
    removed.unlink()
    tree.parquet(orders(3))
    assert compact(tree.output_dir, target_bytes=1 << 20).files_after == 1
    assert committer.round(), committer.progress.failure
    table = table_of(committer)
    assert rows_of(table) == orders(0, 1, 2, 3)
    check_snapshots(table)


def test_the_committer_merges_after_eight_files(tree: OutputTree) -> None:
    committer = committed(job_for(tree))
    assert list(committer.compaction()) == []
    for offset in range(7):
        tree.parquet(orders(offset))
    assert committer.round()
    assert list(committer.compaction()) == []
    assert len(paths_of(table_of(committer))) == 7
    tree.parquet(orders(7))
    assert committer.round()
    for _ in committer.compaction():
        pass
    assert len(paths_of(table_of(committer))) == 1
    assert (committer.progress.compactions, committer.progress.merged_files) == (1, 8)
    assert rows_of(table_of(committer)) == orders(*range(8))
    head = table_of(committer).metadata_location
    assert committer.round()
    assert list(committer.compaction()) == []
    assert table_of(committer).metadata_location == head


def file(number: int, size: int = 1_000, epoch: str = "e1", topic: str = "orders") -> TableFile:
    start = NOON + timedelta(minutes=number)
    name = OutputFile(topic, start, start + timedelta(minutes=1), 0, epoch, 0, ".parquet")
    covered = CoveredOffsets()
    covered.add_range(topic, 0, number, number)
    return TableFile(f"{number}", HeldFile(name.name, epoch, covered), name, size, ())


def chosen(files: list[TableFile], rules: Rules) -> list[list[str]]:
    return [[file.path for file in merge.files] for merge in choose(files, rules, "over".__eq__)]


def test_files_of_open_windows_and_large_files_stay() -> None:
    rules = Rules(closed_before=NOON + timedelta(minutes=3), target_bytes=1_000)
    files = [file(3, 10), file(2, 10), file(1, 501), file(0, 10)]
    assert chosen(files, rules) == [["0", "2"]]


def test_a_merged_file_is_not_above_the_target() -> None:
    rules = Rules(closed_before=NOON + timedelta(hours=1), target_bytes=1_000)
    assert chosen([file(number, 400) for number in range(5)], rules) == [["0", "1"], ["2", "3"]]


def test_topics_and_epochs_that_are_not_over_are_apart() -> None:
    rules = Rules(closed_before=NOON + timedelta(hours=1))
    files = [
        *(file(number, epoch="live") for number in (0, 1)),
        *(file(number, epoch="over") for number in (2, 3)),
        *(file(number, epoch="20261124T133350Zc0001") for number in (4, 5)),
        *(file(number, topic="other") for number in (6, 7)),
    ]
    assert chosen(files, rules) == [["0", "1"], ["2", "3", "4", "5"], ["6", "7"]]


def test_the_committer_merges_files_of_about_the_same_size() -> None:
    rules = automatic_rules(NOON + timedelta(days=1))
    small = [file(number) for number in range(8)]
    merged = [file(number, 8_000_000) for number in range(8, 15)]
    assert chosen([*merged, *small], rules) == [[f"{number}" for number in range(8)]]
    assert chosen([*merged, *small[:7]], rules) == []


def test_files_that_are_partitioned_in_another_way_stay(tree: OutputTree) -> None:
    """Another engine has changed the table's partitions."""
    for offset in range(2):
        tree.parquet(orders(offset))
    committer = committed(job_for(tree))
    with table_of(committer).update_spec() as spec:
        spec.add_field("kafka_partition", IdentityTransform(), "kafka_partition")
    assert compacted(committer).files_before == 0
    assert rows_of(table_of(committer)) == orders(0, 1)
