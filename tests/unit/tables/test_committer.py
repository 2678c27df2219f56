"""The committer on the embedded catalog: what landed is in the tables, once."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from output_trees import NOON, OutputTree, kafka_columns
from pyiceberg.catalog.sql import SqlCatalog
from table_trees import (
    begin_epoch,
    check_snapshots,
    committed,
    job_for,
    orders,
    paths_of,
    rows_of,
    table_of,
)

from beam_pipeline.files.footer import FOOTER_KEY
from beam_pipeline.files.tree import visible_paths
from beam_pipeline.storage.paths import StoredPath
from beam_pipeline.tables import committer as committer_module
from beam_pipeline.tables.committer import Committer
from beam_pipeline.tables.table import LandedTable, expired_snapshots
from beam_pipeline.tables.upkeep import sweep
from beam_pipeline.tools.compact.run import compact

LETTERS = "lake.orders__dead_letters"


@pytest.fixture
def tree(tmp_path: Path) -> OutputTree:
    tree = OutputTree(tmp_path)
    begin_epoch(tree, tree.epoch)
    return tree


def compact_now(tree: OutputTree) -> None:
    report = compact(tree.output_dir, target_bytes=1 << 20)
    assert report.files_after > 0


def test_a_namespace_that_another_committer_makes_just_then(
    tree: OutputTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pyiceberg looks whether there is one, and inserts it a moment later."""
    tree.parquet(orders(0))
    exists = SqlCatalog.namespace_exists

    def made_after_the_look(catalog: SqlCatalog, namespace: str) -> bool:
        monkeypatch.setattr(SqlCatalog, "namespace_exists", exists)
        catalog.create_namespace(namespace)
        return False

    monkeypatch.setattr(SqlCatalog, "namespace_exists", made_after_the_look)
    assert rows_of(table_of(committed(job_for(tree)))) == orders(0)


def test_rows_and_letters_are_in_their_tables(tree: OutputTree) -> None:
    tree.parquet(orders(0, 1))
    tree.letters(orders(2))
    committer = committed(job_for(tree))
    assert rows_of(table_of(committer)) == orders(0, 1)
    (letter,) = table_of(committer, LETTERS).scan().to_arrow().to_pylist()
    assert (letter["topic"], letter["partition"], letter["offset"]) == ("orders", 0, 2)
    assert letter["code"] == "SCHEMA_VIOLATION"
    assert '"value_text"' in letter["letter"]
    progress = committer.progress
    assert (progress.files, progress.rows, progress.letters, progress.commits) == (1, 2, 1, 2)


@pytest.mark.parametrize("expected", [orders(0), orders(1), []])
def test_after_another_writer_removed_files_nothing_is_added_until_that_is_undone(
    tree: OutputTree, expected: list[tuple[str, int, int]]
) -> None:
    """As rewrite_data_files of Spark or Trino: its files have no footer that tells the offsets."""
    tree.parquet(orders(0))
    tree.parquet(orders(1))
    table = table_of(committed(job_for(tree)))
    before = table.current_snapshot()
    assert before is not None
    rewritten = table.scan().to_arrow()
    kept = [("orders", 0, offset) in expected for offset in rewritten["kafka_offset"].to_pylist()]
    table.overwrite(rewritten.filter(pa.array(kept)))
    table.append(rewritten.slice(0, 0))
    removed = next(
        s for s in table.metadata.snapshots if s.parent_snapshot_id == before.snapshot_id
    )

    tree.parquet(orders(2))
    committer = Committer(job_for(tree))
    assert not committer.round()
    assert committer.needs_user
    told = committer.progress.failure
    assert told is not None
    assert f"snapshot {removed.snapshot_id}" in told
    assert f"roll it back to snapshot {before.snapshot_id}" in told
    assert rows_of(table_of(committer)) == expected

    table.refresh()
    table.manage_snapshots().rollback_to_snapshot(before.snapshot_id).commit()
    assert committer.round(), committer.progress.failure
    assert rows_of(table_of(committer)) == orders(0, 1, 2)


def test_files_that_another_writer_appends_are_left_alone(tree: OutputTree) -> None:
    tree.parquet(orders(0))
    table = table_of(committed(job_for(tree)))
    table.append(table.scan().to_arrow())
    tree.parquet(orders(1))
    assert rows_of(table_of(committed(job_for(tree)))) == orders(0, 0, 1)


def test_readers_of_the_directory_see_nothing_of_the_table(tree: OutputTree) -> None:
    landed = {tree.parquet(orders(0)), tree.parquet(orders(1))}
    committed(job_for(tree))
    assert set(visible_paths(tree.output_dir)) == landed


def test_a_round_without_new_files_commits_nothing(tree: OutputTree) -> None:
    tree.parquet(orders(0))
    tree.letters(orders(1))
    committer = committed(job_for(tree))
    head = table_of(committer).metadata_location
    assert committer.round()
    assert committed(job_for(tree)).progress.commits == 0
    assert table_of(committer).metadata_location == head


def test_without_a_file_no_table_is_made(tree: OutputTree) -> None:
    assert committed(job_for(tree)).progress.commits == 0


def test_letters_are_private(tree: OutputTree) -> None:
    tree.letters(orders(0))
    committed(job_for(tree))
    directory = tree.output_dir / "_table/lake/orders__dead_letters"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_the_summary_tells_epoch_window_and_offsets(tree: OutputTree) -> None:
    tree.parquet(orders(3, 4, 7))
    snapshot = table_of(committed(job_for(tree))).current_snapshot()
    assert snapshot is not None
    assert snapshot.summary is not None
    summary = snapshot.summary.additional_properties
    assert summary["beam-pipeline.version"] == "1"
    assert summary["beam-pipeline.epoch"] == tree.epoch
    assert summary["beam-pipeline.offsets"] == '{"orders":{"0":[3,7,3]}}'
    assert summary["beam-pipeline.window-start"] == "2026-11-23T12:00:00+00:00"
    assert summary["beam-pipeline.window-end"] == "2026-11-23T12:00:10+00:00"


def test_many_files_are_several_commits_the_oldest_first(
    tree: OutputTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    for offset in range(5):
        tree.parquet(orders(offset))
    monkeypatch.setattr(committer_module, "MAX_FILES", 2)
    committer = committed(job_for(tree))
    assert committer.progress.commits == 3
    table = table_of(committer)
    counts = [len(rows_of(table, entry.snapshot_id)) for entry in table.history()]
    assert counts == [2, 4, 5]
    assert rows_of(table, table.history()[0].snapshot_id) == orders(0, 1)


def test_removed_and_compacted_files_stay_in_the_table(tree: OutputTree) -> None:
    tree.parquet(orders(0)).unlink()
    removed = tree.parquet(orders(1))
    for offset in (2, 3):
        tree.parquet(orders(offset))
    committer = committed(job_for(tree))
    head = table_of(committer).metadata_location
    removed.unlink()
    compact_now(tree)
    assert committer.round()
    assert committed(job_for(tree)).progress.commits == 0
    assert rows_of(table_of(committer)) == orders(1, 2, 3)
    assert table_of(committer).metadata_location == head


def test_a_file_compacted_of_old_and_new_ones_replaces_the_old_one(tree: OutputTree) -> None:
    tree.parquet(orders(0, 1))
    committer = committed(job_for(tree))
    tree.parquet(orders(2))
    compact_now(tree)
    assert committer.round(), committer.progress.failure
    table = table_of(committer)
    assert rows_of(table) == orders(0, 1, 2)
    assert len(paths_of(table)) == 1
    assert len(rows_of(table, table.history()[0].snapshot_id)) == 2
    check_snapshots(table)


def test_a_compaction_during_the_listing_doubles_nothing(
    tree: OutputTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The links to the small files are there already, and the merged file is listed besides."""
    tree.parquet(orders(0))
    committer = committed(job_for(tree))
    tree.parquet(orders(1))
    tree.parquet(orders(2))
    with monkeypatch.context() as patch:
        patch.setattr(SqlCatalog, "commit_table", _refuse)
        assert not committer.round()
    rows, _ = committer.tables

    def straddled(*, whole: bool) -> Iterator[StoredPath]:
        yield from sorted(visible_paths(tree.output_dir))
        monkeypatch.undo()
        compact_now(tree)
        yield from visible_paths(tree.output_dir)

    monkeypatch.setattr(rows.landed.listing, "look", straddled)
    assert committer.round(), committer.progress.failure
    table = table_of(committer)
    check_snapshots(table)
    assert rows_of(table) == orders(0, 1, 2)


def _refuse(*_: Any, **__: Any) -> None:
    raise ConnectionError("the catalog is away")


def test_a_catalog_that_is_away_is_told_and_tried_again(
    tree: OutputTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree.parquet(orders(0))
    committer = committer_module.Committer(job_for(tree))
    with monkeypatch.context() as patch:
        patch.setattr(SqlCatalog, "commit_table", _refuse)
        assert not committer.round()
    progress = committer.progress
    assert progress.failure == "ConnectionError: the catalog is away"
    assert (progress.failures, progress.waiting_files) == (1, 1)
    assert progress.current_at == 0
    assert committer.round()
    assert (committer.progress.failure, committer.progress.waiting_files) == ("", 0)
    assert committer.progress.current_at > 0
    assert rows_of(table_of(committer)) == orders(0)


def test_a_file_of_a_dead_epoch_is_dropped_when_its_records_come_again(tree: OutputTree) -> None:
    """It was finished while the next epoch counted the files, and committed just before that."""
    tree.parquet(orders(0))
    stray = tree.parquet(orders(1, 2))
    committer = committed(job_for(tree))
    begin_epoch(tree, "20261124T140000Zx0001", without=[stray])
    tree.parquet(orders(3))
    assert committer.round(), committer.progress.failure
    assert rows_of(table_of(committer)) == orders(0, 1, 2, 3)
    landed_again = tree.parquet(orders(1))
    assert committer.round(), committer.progress.failure
    assert rows_of(table_of(committer)) == orders(0, 1, 3)
    tree.parquet(orders(2))
    stray.unlink()
    assert committer.round()
    table = table_of(committer)
    assert rows_of(table) == orders(0, 1, 2, 3)
    assert landed_again.exists()
    check_snapshots(table)


@pytest.mark.parametrize("again_as_row", [False, True])
def test_a_stray_whose_record_comes_again_in_the_other_table(
    tree: OutputTree, monkeypatch: pytest.MonkeyPatch, again_as_row: bool
) -> None:
    """As with another schema. No commit may leave it in both tables."""
    tree.parquet(orders(0))
    tree.letters(orders(1))
    stray = tree.letters(orders(2, 3)) if again_as_row else tree.parquet(orders(2, 3))
    committer = committed(job_for(tree))
    begin_epoch(tree, "20261124T140000Zx0001", without=[stray])
    if again_as_row:
        tree.parquet(orders(2))
    else:
        tree.letters(orders(2))
    commit = LandedTable.commit
    commits = 0

    def checked(table: LandedTable, *args: Any) -> None:
        nonlocal commits
        commit(table, *args)
        commits += 1
        rows = [*rows_of(table_of(committer)), *rows_of(table_of(committer, LETTERS))]
        assert len(rows) == len(set(rows))

    monkeypatch.setattr(LandedTable, "commit", checked)
    assert committer.round(), committer.progress.failure
    assert commits == 2
    rows = [*rows_of(table_of(committer)), *rows_of(table_of(committer, LETTERS))]
    assert sorted(rows) == orders(0, 1, 2)
    assert committed(job_for(tree)).progress.commits == 0


def test_a_stray_never_gets_into_the_table(tree: OutputTree) -> None:
    tree.parquet(orders(0))
    stray = tree.parquet(orders(1))
    begin_epoch(tree, "20261124T140000Zx0001", without=[stray])
    assert rows_of(table_of(committed(job_for(tree)))) == orders(0)


def test_a_new_column_comes_with_its_first_file_in_one_commit(tree: OutputTree) -> None:
    tree.parquet(orders(0))
    committer = committed(job_for(tree))
    commits = len(table_of(committer).history())
    address = pa.array([{"city": "Bern"}], pa.struct([("city", pa.string())]))
    wider = pa.table({"n": [7], **kafka_columns(orders(1)), "address": address})
    tree.parquet(orders(1), table=wider)
    tree.parquet(orders(2))
    assert committer.round(), committer.progress.failure
    table = table_of(committer)
    assert len(table.history()) == commits + 1
    rows = table.scan().to_arrow().sort_by("kafka_offset").to_pylist()
    assert [row["address"] for row in rows] == [None, {"city": "Bern"}, None]


def test_files_without_arrow_types_read_as_one_arrow_table(tree: OutputTree) -> None:
    """As the sink writes them with `--table`. Files with a dictionary column don't."""
    tree.parquet(orders(0))
    kind = pa.array(["view"]).dictionary_encode()
    for offset, store_schema in ((1, False), (2, True)):
        table = pa.table({"n": [7], **kafka_columns(orders(offset)), "kind": kind})
        path = tree.parquet(orders(offset), table=table)
        if not store_schema:
            without_arrow_schema(path)
        committer = committed(job_for(tree))
        scan = table_of(committer).scan()
        if store_schema:
            with pytest.raises(pa.ArrowTypeError, match="dictionary"):
                scan.to_arrow()
            assert scan.to_arrow_batch_reader().read_all().num_rows == 3
        else:
            assert scan.to_arrow().column("kind").to_pylist() == [None, "view"]


def without_arrow_schema(path: Path) -> None:
    """Write a file again as `ParquetFormat` does with `store_schema=False`."""
    table = pq.read_table(path)
    with pq.ParquetWriter(path, table.schema, store_schema=False) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({FOOTER_KEY: table.schema.metadata[FOOTER_KEY]})


def test_a_file_with_another_type_is_told_and_keeps_no_other_out(tree: OutputTree) -> None:
    tree.parquet(orders(0))
    committer = committed(job_for(tree))
    other = pa.table({"n": ["text"], **kafka_columns(orders(1))})
    tree.parquet(orders(1), table=other)
    tree.parquet(orders(2))
    assert not committer.round()
    assert "--table=lake.orders: the columns of orders-" in committer.progress.failure
    assert committer.progress.waiting_files == 1
    assert rows_of(table_of(committer)) == orders(0, 2)


def timed(tree: OutputTree, *days: int, offset: int) -> Path:
    moments = pa.array([NOON + timedelta(days=day) for day in days], pa.timestamp("us", "UTC"))
    sources = orders(*range(offset, offset + len(days)))
    return tree.parquet(sources, table=pa.table({"event_time": moments, **kafka_columns(sources)}))


def test_days_partition_the_table(tree: OutputTree) -> None:
    timed(tree, 0, 0, offset=0)
    timed(tree, 1, offset=2)
    table = table_of(committed(job_for(tree, partition_column="event_time")))
    assert str(table.spec().fields[0].transform) == "day"
    next_day = (NOON + timedelta(hours=12)).isoformat()
    found = table.scan(row_filter=f"event_time >= '{next_day}'")
    assert len(list(found.plan_files())) == 1
    assert found.to_arrow().num_rows == 1


def test_a_file_with_two_days_does_not_fit_a_table_of_days(tree: OutputTree) -> None:
    timed(tree, 0, 1, offset=0)
    committer = committer_module.Committer(job_for(tree, partition_column="event_time"))
    assert not committer.round()
    assert "does not fit the table" in committer.progress.failure


def test_windows_of_another_kind_need_another_table(tree: OutputTree) -> None:
    timed(tree, 0, offset=0)
    committed(job_for(tree, partition_column="event_time"))
    committer = committer_module.Committer(job_for(tree))
    assert not committer.round()
    assert "--table=lake.orders has partitions of event_time (day)" in committer.progress.failure


def test_files_that_land_in_the_tables_own_place_are_refused(tree: OutputTree) -> None:
    """A sweep would take them."""
    catalog = tree.root / "catalog.yaml"
    catalog.write_text(
        f"type: sql\nuri: sqlite:///{tree.root}/catalog.db\nwarehouse: file://{tree.root}\n"
    )
    inside = OutputTree(tree.root / "lake" / "orders")
    inside.parquet(orders(0))
    committer = committer_module.Committer(job_for(inside, catalog))
    assert not committer.round()
    assert committer.needs_user
    assert "can't be below it" in committer.progress.failure


def test_old_snapshots_expire_and_their_files_are_swept_after_a_grace_time(
    tree: OutputTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expired_snapshots, "__defaults__", (3, 1e9))
    committer = committer_module.Committer(job_for(tree))
    for offset in range(30):
        tree.parquet(orders(offset))
        assert committer.round()
    table = table_of(committer)
    assert len(table.metadata.snapshots) == 3
    metadata = tree.output_dir / "_table/lake/orders/metadata"
    before = len(list(metadata.iterdir()))
    assert sweep(table) == 0
    unreferenced = tree.output_dir / "_table/lake/orders/data/2026-11-23/left-over.parquet"
    unreferenced.write_bytes(b"")
    assert sweep(table, grace_seconds=-60) > 0
    assert len(list(metadata.iterdir())) < before
    assert not unreferenced.exists()
    check_snapshots(table_of(committer))
    assert rows_of(table_of(committed(job_for(tree)))) == orders(*range(30))


def test_a_sweep_leaves_what_a_commit_is_about_to_add(tree: OutputTree) -> None:
    """A link has the time of a file that may have landed long ago."""
    os.utime(tree.parquet(orders(0)), (1e9, 1e9))
    committer = committed(job_for(tree))
    os.utime(tree.parquet(orders(1)), (1e9, 1e9))
    rows, _ = committer.tables
    (file,) = [file for file in rows.landed.look() if file.uri not in rows.table.held.files]
    rows.landed.materialized([file])
    assert rows.table.sweep() == 0
    link = Path(file.uri.removeprefix("file://"))
    linked_at = link.stat().st_ctime_ns
    clock = tree.root / "clock"
    while not clock.exists() or clock.stat().st_ctime_ns <= linked_at:
        clock.touch()
    rows.landed.materialized([file])  # as after a kill, much later
    assert link.stat().st_ctime_ns > linked_at


def test_the_hint_names_the_newest_metadata(tree: OutputTree) -> None:
    tree.parquet(orders(0))
    location = table_of(committed(job_for(tree))).metadata_location
    metadata = tree.output_dir / "_table/lake/orders/metadata"
    assert f"{(metadata / 'version-hint.text').read_text()}.metadata.json" in location


def test_the_time_of_a_window_is_utc(tree: OutputTree) -> None:
    tree.letters(orders(0))
    (letter,) = table_of(committed(job_for(tree)), LETTERS).scan().to_arrow().to_pylist()
    assert letter["window_start"] == datetime(2026, 11, 23, 12, tzinfo=timezone.utc)
