"""A check says which doubled rows are in strays, and none are once strays are removed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from output_trees import OutputTree, sources
from rich.console import Console

from beam_pipeline.files.ledger import load_ledger
from beam_pipeline.files.tree import visible_paths
from beam_pipeline.offset_sets import TopicPartition
from beam_pipeline.tools.reconcile.compare import ReconcileReport, compare
from beam_pipeline.tools.reconcile.coverage import find_overlaps, read_coverage
from beam_pipeline.tools.reconcile.ledger_notes import read_ledger_notes
from beam_pipeline.tools.reconcile.text import report_json, report_text

ORDERS = TopicPartition("orders", 0)


@pytest.fixture
def tree(tmp_path: Path) -> OutputTree:
    """A tree of two epochs, both rows of the second one; the first then adds one of them."""
    tree = OutputTree(tmp_path, epoch="epoch1")
    ledger = load_ledger(tree.output_dir, tree.dead_letter_dir)
    ledger.begin_epoch("epoch1")
    ledger.begin_epoch("epoch2")
    tree.epoch = "epoch2"
    tree.parquet(sources("orders", 0, range(3)))
    tree.parquet(sources("orders", 0, range(2, 5)))
    tree.epoch = "epoch1"
    tree.parquet(sources("orders", 0, range(3, 5)))
    return tree


def check(tree: OutputTree) -> ReconcileReport:
    """What `reconcile` reports of a log of five records."""
    paths = sorted(visible_paths(tree.output_dir))
    coverage, problems = read_coverage(paths, ["orders"])
    letters, _ = read_coverage([], ["orders"])
    notes = read_ledger_notes(tree.output_dir)
    reconciliation = compare({ORDERS: (0, 5)}, coverage, letters, notes=notes)
    doubled = {ORDERS: reconciliation.partitions[0].doubled}
    overlaps = find_overlaps(paths, doubled)
    return ReconcileReport(
        reconciliation=reconciliation,
        overlaps=overlaps,
        problems=problems,
        parquet_files=len(paths),
        dead_letter_files=0,
        isolation_level="read_uncommitted",
        strays=frozenset(path.path.name for path in overlaps if notes.is_stray(path.path.name)),
    )


def test_doubled_rows_in_strays_are_named(tree: OutputTree) -> None:
    report = check(tree)
    (stray,) = report.strays
    assert "-eepoch1-" in stray
    assert (report.reconciliation.doubled, report.doubled_in_strays) == (3, 2)
    assert not report.is_clean
    console = Console(record=True, width=400)
    with console.capture() as printed:
        console.print(report_text(report))
    assert f"{stray} (a stray) holds 2 offsets: 3-4" in printed.get()
    assert "2 of the 3 doubled offsets are in 1 stray, which a worker" in printed.get()
    document = json.loads(report_json(report))
    assert document["doubled_in_strays"] == 2
    assert {Path(file["path"]).name: file["stray"] for file in document["files_at_fault"]} == {
        overlap.path.name: overlap.path.name == stray for overlap in report.overlaps
    }


def test_once_they_are_removed_these_rows_are_there_once(tree: OutputTree) -> None:
    ledger = load_ledger(tree.output_dir, tree.dead_letter_dir)
    ledger.remove_strays()
    report = check(tree)
    assert (report.reconciliation.doubled, report.reconciliation.missing) == (1, 0)
    assert (report.strays, report.doubled_in_strays) == (frozenset(), 0)


def test_no_file_is_a_stray_where_an_older_version_wrote(tmp_path: Path) -> None:
    tree = OutputTree(tmp_path)
    tree.parquet(sources("orders", 0, range(3)))
    tree.parquet(sources("orders", 0, range(2, 5)))
    report = check(tree)
    assert (report.reconciliation.doubled, report.strays) == (1, frozenset())
