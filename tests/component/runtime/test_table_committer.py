"""The committer as a process of a run: it commits at once, is started again, and ends in time."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from output_trees import OutputTree, kafka_columns
from table_trees import committed, job_for, orders, paths_of, rows_of, table_of

from beam_pipeline.errors import UsageError
from beam_pipeline.runtime.table_committer import TableCommitter, check_table, not_in_table_text


@pytest.fixture
def tree(tmp_path: Path) -> OutputTree:
    return OutputTree(tmp_path)


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def committer(tree: OutputTree, told: list[str]) -> Iterator[TableCommitter]:
    committer = TableCommitter(job_for(tree), tree.root / "table.log", told.append)
    yield committer
    committer.stop()


def look_until(committer: TableCommitter, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, committer.status
        committer.look()
        time.sleep(0.05)


def test_the_first_commit_comes_at_once_and_the_last_at_the_end(
    tree: OutputTree, committer: TableCommitter, told: list[str]
) -> None:
    tree.parquet(orders(0))
    tree.letters(orders(1))
    look_until(committer, lambda: committer.status.progress.commits == 2)
    tree.parquet(orders(2))  # the next commit is a minute away
    ticks: list[bool] = []
    committer.finish(lambda: ticks.append(True))
    assert committer.status.is_complete
    assert (committer.status.progress.files, committer.status.progress.rows) == (2, 2)
    assert not_in_table_text(committer.status) is None
    assert told == []
    assert rows_of(table_of(committed(job_for(tree)))) == orders(0, 2)


def test_small_files_are_merged_between_two_commits(
    tree: OutputTree, committer: TableCommitter, told: list[str]
) -> None:
    for offset in range(9):
        tree.parquet(orders(offset))
    look_until(committer, lambda: committer.status.progress.compactions == 1)
    assert committer.status.progress.merged_files == 9
    tree.parquet(orders(9))
    committer.finish(lambda: None)
    assert committer.status.is_complete
    table = table_of(committed(job_for(tree)))
    assert rows_of(table) == orders(*range(10))
    assert len(paths_of(table)) == 2
    assert told == []


def test_a_run_that_ends_at_once_commits(tree: OutputTree, committer: TableCommitter) -> None:
    tree.parquet(orders(0))
    committer.finish(lambda: None)
    assert committer.status.is_complete
    assert committer.status.progress.rows == 1


def test_the_end_may_come_before_the_committer_listens_to_signals(
    tree: OutputTree, committer: TableCommitter
) -> None:
    tree.parquet(orders(0))
    committer.look()
    committer.finish(lambda: None)
    assert committer.status.is_complete
    assert committer.status.progress.rows == 1


def test_a_file_that_never_fits_does_not_hold_up_the_end(
    tree: OutputTree, committer: TableCommitter
) -> None:
    tree.letters(orders(0))
    tree.parquet(orders(1))
    tree.parquet(orders(2), table=pa.table({"n": ["text"], **kafka_columns(orders(2))}))
    committer.finish(lambda: None)
    assert not committer.status.is_complete
    progress = committer.status.progress
    assert (progress.rows, progress.letters, progress.waiting_files) == (1, 1, 1)
    assert progress.failures == 1


def test_a_committer_that_dies_is_started_again(
    tree: OutputTree, committer: TableCommitter, told: list[str]
) -> None:
    tree.parquet(orders(0))
    look_until(committer, lambda: committer.status.progress.commits == 1)
    (pid,) = _children_of("beam_pipeline.tables")
    os.kill(pid, signal.SIGKILL)
    tree.parquet(orders(1))
    look_until(committer, lambda: committer.status.progress.commits == 2)
    assert committer.status.restarts == 1
    assert told[0].startswith("table committer was killed (SIGKILL)")
    assert committer.status.progress.rows == 2


def test_a_catalog_that_does_not_answer_is_told_once_and_the_end_is_bounded(
    tree: OutputTree, told: list[str]
) -> None:
    catalog = tree.root / "catalog.yaml"
    catalog.write_text("type: rest\nuri: http://127.0.0.1:9/secret-path\ntoken: hush-hush\n")
    log = tree.root / "table.log"
    committer = TableCommitter(job_for(tree, catalog), log, told.append)
    tree.parquet(orders(0))
    try:
        look_until(committer, lambda: committer.status.progress.failures > 0)
        committer.finish(lambda: None, lambda: 0.5)
    finally:
        committer.stop()
    assert not committer.status.is_complete
    assert len(told) == 1
    assert told[0].startswith("--table=lake.orders: no commit: the catalog: ConnectionError")
    text = not_in_table_text(committer.status)
    assert text is not None
    assert "the next start commits them" in text
    for place in (told[0], text, log.read_text()):
        assert "hush-hush" not in place


def test_what_a_run_needs_is_checked_before_it(
    monkeypatch: pytest.MonkeyPatch, tree: OutputTree
) -> None:
    settings = job_for(tree, tree.root / "missing.yaml").table
    with pytest.raises(UsageError, match=r"missing\.yaml: No such file"):
        check_table(settings)
    catalog = tree.root / "catalog.yaml"
    catalog.write_text("type: rest\nuri: https://example.com\ntoken: hush\n")
    catalog.chmod(0o644)
    warning = check_table(job_for(tree, catalog).table)
    assert warning is not None
    assert warning.startswith(f"--catalog={catalog} has secrets, and every user")
    catalog.chmod(0o600)
    assert check_table(job_for(tree, catalog).table) is None
    assert check_table(job_for(tree).table) is None
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="needs the package pyiceberg"):
        check_table(settings)


def _children_of(module: str) -> list[int]:
    """Return the ids of this process's children that run a module."""
    children = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if int(parent) == os.getpid() and module.encode() in words:
                children.append(int(entry.name))
    return children
