"""`table status|compact|expire` on the embedded catalog."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from output_trees import OutputTree
from table_trees import (
    begin_epoch,
    check_snapshots,
    job_for,
    orders,
    paths_of,
    rows_of,
    table_of,
)

from beam_pipeline.cli import main
from beam_pipeline.tables.committer import Committer

LETTERS = "lake.orders__dead_letters"


@pytest.fixture
def tree(tmp_path: Path) -> OutputTree:
    tree = OutputTree(tmp_path)
    begin_epoch(tree, tree.epoch)
    return tree


@pytest.fixture
def committer(tree: OutputTree) -> Committer:
    """A table of four commits, with a file each, and one of dead letters."""
    committer = Committer(job_for(tree))
    for offset in range(4):
        tree.parquet(orders(offset))
        assert committer.round()
    tree.letters(orders(4))
    assert committer.round()
    return committer


def words(tree: OutputTree, command: str, *more: str) -> list[str]:
    return [
        *("table", command, "--table=lake.orders"),
        *(f"--output_dir={tree.output_dir}", f"--dead_letter_dir={tree.dead_letter_dir}"),
        *more,
    ]


def answer(
    tree: OutputTree, capsys: pytest.CaptureFixture[str], command: str, *more: str
) -> dict[str, Any]:
    assert main(words(tree, command, "--json", *more)) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def test_status_tells_both_tables(
    tree: OutputTree, committer: Committer, capsys: pytest.CaptureFixture[str]
) -> None:
    tree.parquet(orders(5))
    (tree.output_dir / "_table/lake/orders/data/left-over.parquet").write_bytes(b"12345")
    table = table_of(committer)
    with table.transaction() as transaction:
        transaction.delete("kafka_offset = 3")
    rows, letters = answer(tree, capsys, "status")["tables"]
    assert (rows["name"], letters["name"]) == ("lake.orders", LETTERS)
    head = table_of(committer).current_snapshot()
    assert head is not None
    assert rows["snapshot_id"] == head.snapshot_id
    assert (rows["files"], rows["rows"], rows["small_files"]) == (3, 3, 3)
    assert (rows["snapshots"], rows["foreign_snapshots"]) == (5, [head.snapshot_id])
    assert rows["waiting_files"] == 2  # also that of the row that the other writer deleted
    assert rows["unused_files"] >= 1
    assert rows["unused_bytes"] >= 5
    assert (letters["files"], letters["rows"], letters["foreign_snapshots"]) == (1, 1, [])
    assert main(words(tree, "status")) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "not in it yet 2 landed files" in text
    assert f"by other writers {head.snapshot_id}" in text


def test_compact_merges_and_a_dry_run_does_not(
    tree: OutputTree, committer: Committer, capsys: pytest.CaptureFixture[str]
) -> None:
    planned = answer(tree, capsys, "compact", "--dry_run")["tables"]["lake.orders"]
    assert (planned["files_before"], planned["files_after"], planned["rows"]) == (4, 1, 4)
    assert len(paths_of(table_of(committer))) == 4
    done = answer(tree, capsys, "compact")["tables"]["lake.orders"]
    assert (done["snapshots"], done["files_before"], done["bytes_before"]) == (
        *(1, 4),
        planned["bytes_before"],
    )
    assert len(paths_of(table_of(committer))) == 1
    assert rows_of(table_of(committer)) == orders(0, 1, 2, 3)
    assert main(words(tree, "compact")) == 0
    assert capsys.readouterr().out == (
        f"lake.orders: nothing to merge\n{LETTERS}: nothing to merge\n"
    )


def test_expire_keeps_so_many_snapshots(
    tree: OutputTree, committer: Committer, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = answer(tree, capsys, "expire", "--keep=3", "--dry_run")["tables"]["lake.orders"]
    assert counts["snapshots"] == 1
    assert len(table_of(committer).metadata.snapshots) == 4
    assert main(words(tree, "expire", "--keep=3")) == 0
    assert capsys.readouterr().out == (
        "lake.orders: expired 1 snapshot, removed 0 unused files\n"
        f"{LETTERS}: expired 0 snapshots, removed 0 unused files\n"
    )
    assert len(table_of(committer).metadata.snapshots) == 3
    answer(tree, capsys, "expire", "--max_age_seconds=0")
    assert len(table_of(committer).metadata.snapshots) == 1
    assert rows_of(table_of(committer)) == orders(0, 1, 2, 3)
    tree.parquet(orders(5))
    assert committer.round(), committer.progress.failure
    check_snapshots(table_of(committer))


def test_a_commit_that_meets_an_expiry_of_the_same_snapshots_is_planned_again(
    tree: OutputTree, committer: Committer, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, _ = committer.tables
    commit = rows.table.commit

    def late(*args: Any) -> None:
        monkeypatch.undo()
        assert main(words(tree, "expire", "--max_age_seconds=0")) == 0
        commit(*args)

    monkeypatch.setattr(rows.table, "commit", late)
    monkeypatch.setattr("beam_pipeline.tables.table.expired_snapshots", _all_but_the_newest)
    tree.parquet(orders(5))
    assert committer.round(), committer.progress.failure
    assert rows_of(table_of(committer)) == orders(0, 1, 2, 3, 5)


def _all_but_the_newest(table: Any, *_: object) -> list[int]:
    return [entry.snapshot_id for entry in table.metadata.snapshots][:-1]


@pytest.mark.parametrize(
    ("more", "code", "line"),
    [
        (["--table=orders"], 2, "--table=orders: must be NAMESPACE.NAME"),
        (["--table=lake.other"], 2, "--table=lake.other: the catalog has no such table; name"),
        (["--output_dir=/nowhere"], 2, "--output_dir=/nowhere has no embedded catalog"),
        (["--output_dir=s3://lake/orders"], 2, "--table=lake.orders needs --catalog=FILE.yaml"),
        (["--catalog=missing.yaml"], 2, "--catalog=missing.yaml: No such file"),
    ],
)
def test_a_mistake_is_one_line(
    tree: OutputTree,
    committer: Committer,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    code: int,
    line: str,
) -> None:
    assert main(words(tree, "status", *more)) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    (told,) = captured.err.splitlines()
    assert line in told


@pytest.mark.parametrize(
    ("command", "flag"),
    [
        ("compact", "--target_file_bytes=0"),
        ("expire", "--keep=0"),
        ("expire", "--grace_seconds=10"),
        ("expire", "--max_age_seconds=-1"),
        ("expire", "--max_age_seconds=nan"),
    ],
)
def test_a_wrong_number_is_one_line(
    tree: OutputTree, capsys: pytest.CaptureFixture[str], command: str, flag: str
) -> None:
    assert main(words(tree, command, flag)) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert f"{flag}: must be" in told


def test_a_catalog_that_is_away_is_one_line_without_its_secret(
    tree: OutputTree, capsys: pytest.CaptureFixture[str]
) -> None:
    catalog = tree.root / "catalog.yaml"
    catalog.write_text("type: sql\nuri: sqlite:////nowhere/hunter22.db\nwarehouse: lake\n")
    assert main(words(tree, "status", f"--catalog={catalog}")) == 1
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("beam-pipeline: the catalog: OperationalError: ")
    assert "hunter22" not in told
