"""The private names of pyiceberg do what exactly-once commits need of them."""

from __future__ import annotations

import inspect
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import CommitFailedException, ValidationException
from pyiceberg.table import Table, Transaction
from pyiceberg.table.update.snapshot import _SnapshotProducer

from beam_pipeline.tables.durable_io import DurableFileIO
from beam_pipeline.tables.pyiceberg_internals import (
    GuardedAppend,
    GuardedOverwrite,
    HeadMovedError,
    RewriteOfRows,
    data_file_of,
    guarded_append,
    guarded_overwrite,
    metadata_of,
    referenced_files,
    referenced_paths,
)

SCHEMA = pa.schema([("n", pa.int64())])


@pytest.fixture
def table(tmp_path: Path) -> Table:
    catalog = SqlCatalog(
        "c",
        uri=f"sqlite:///{tmp_path}/catalog.db",
        warehouse=f"file://{tmp_path}/warehouse",
        **{"py-io-impl": "beam_pipeline.tables.durable_io.DurableFileIO"},
    )
    catalog.create_namespace("lake")
    table = catalog.create_table("lake.numbers", SCHEMA)
    mapping = table.schema().name_mapping.model_dump_json()
    with table.transaction() as transaction:
        transaction.set_properties(
            {
                "schema.name-mapping.default": mapping,
                "write.delete.isolation-level": "snapshot",
                "commit.retry.min-wait-ms": "1",
            }
        )
    return catalog.load_table("lake.numbers")


def again(table: Table) -> Table:
    return table.catalog.load_table(table.name())


def numbers(directory: Path, *values: int) -> str:
    path = directory / f"{'-'.join(map(str, values))}.parquet"
    pq.write_table(pa.table({"n": values}, schema=SCHEMA), path)
    return f"file://{path}"


def append(table: Table, *paths: str) -> None:
    with table.transaction() as transaction, guarded_append(transaction, {}) as producer:
        for path in paths:
            producer.append_data_file(data_file_of(table.io, metadata_of(transaction), path))


def replace(table: Table, gone: str, come: str, *, same_rows: bool) -> None:
    snapshot = table.current_snapshot()
    assert snapshot is not None
    data_file = referenced_files(snapshot, table.io)[gone]
    with (
        table.transaction() as transaction,
        guarded_overwrite(transaction, {}, same_rows=same_rows) as producer,
    ):
        producer.delete_data_file(data_file)
        producer.append_data_file(data_file_of(table.io, metadata_of(transaction), come))


def values_of(table: Table) -> list[int]:
    return sorted(again(table).scan().to_arrow().column("n").to_pylist())


def test_the_private_names_are_those_of_the_pinned_version() -> None:
    assert version("pyiceberg") == "0.12.0"
    overridden = {"_validate_concurrency", "_cleanup_uncommitted", "_clean_all_uncommitted"}
    for kind in (GuardedAppend, GuardedOverwrite, RewriteOfRows):
        assert overridden <= vars(kind).keys()
        assert overridden <= vars(_SnapshotProducer).keys()
    retry = inspect.getsource(Transaction.commit_transaction)
    assert "_clean_all_uncommitted()" in retry
    assert "snapshot_by_id(producer._snapshot_id)" in retry
    assert "_validate_concurrency()" in inspect.getsource(Transaction._rebuild_snapshot_updates)


def test_two_commits_of_the_same_plan_land_once(table: Table, tmp_path: Path) -> None:
    path = numbers(tmp_path, 1, 2)
    first, second = again(table), again(table)
    append(first, path)
    with pytest.raises(HeadMovedError):
        append(second, path)
    assert values_of(table) == [1, 2]


@pytest.mark.parametrize("retries", [0, 4])
def test_a_commit_that_landed_and_was_called_a_conflict_leaves_the_table_whole(
    table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, retries: int
) -> None:
    """With pyiceberg's own append and no retries, the table can't be read any more."""
    original = SqlCatalog.commit_table

    def landed(*args: Any, **options: Any) -> None:
        original(*args, **options)
        monkeypatch.setattr(SqlCatalog, "commit_table", original)
        raise CommitFailedException("the answer was lost, and the request sent again")

    opened = again(table)
    opened.metadata.properties["commit.retry.num-retries"] = str(retries)
    monkeypatch.setattr(SqlCatalog, "commit_table", landed)
    if retries:
        append(opened, numbers(tmp_path, 1))
    else:
        with pytest.raises(CommitFailedException):
            append(opened, numbers(tmp_path, 1))
    assert values_of(table) == [1]


def test_an_overwrite_lands_on_the_head_that_it_was_planned_on(
    table: Table, tmp_path: Path
) -> None:
    path = numbers(tmp_path, 1)
    append(again(table), path)
    stale = again(table)
    append(again(table), numbers(tmp_path, 5))
    with pytest.raises(HeadMovedError):
        replace(stale, path, numbers(tmp_path, 1, 2), same_rows=False)
    replace(again(table), path, numbers(tmp_path, 1, 2), same_rows=False)
    assert values_of(table) == [1, 2, 5]


def test_a_rewrite_of_the_same_rows_lets_appends_come_in_between(
    table: Table, tmp_path: Path
) -> None:
    path = numbers(tmp_path, 1)
    append(again(table), path)
    stale, staler = again(table), again(table)
    append(again(table), numbers(tmp_path, 5))
    other = tmp_path / "rewritten"
    other.mkdir()
    rewritten = numbers(other, 1)
    replace(stale, path, rewritten, same_rows=True)
    assert values_of(table) == [1, 5]
    with pytest.raises(ValidationException):
        replace(staler, path, rewritten, same_rows=True)
    assert values_of(table) == [1, 5]
    snapshot = again(table).current_snapshot()
    assert snapshot is not None
    assert len(referenced_paths(snapshot, table.io)) == 2


def test_files_are_synced_before_the_catalog_points_at_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(
        "beam_pipeline.tables.durable_io.sync", lambda path: synced.append(str(path))
    )
    with DurableFileIO().new_output(f"file://{tmp_path}/new/deep/file").create() as output:
        output.write(b"content")
        assert synced == []
    assert (tmp_path / "new/deep/file").read_bytes() == b"content"
    below = [str(tmp_path / name) for name in ("new/deep/file", "new/deep", "new", "")]
    assert {path.rstrip("/") for path in below} <= set(synced)
