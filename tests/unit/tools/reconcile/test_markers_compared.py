"""Markers that claim what is there, what is not, and less than there is."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from output_trees import OutputTree, dead_letter, sources
from pyroaring import BitMap64

from beam_pipeline.files.markers import (
    MARKER_NAME,
    HourContent,
    Marker,
    OffsetSpan,
    digest_of,
    sizes_in,
    write_marker,
)
from beam_pipeline.offset_sets import OffsetSets, TopicPartition
from beam_pipeline.tools.reconcile.coverage import read_coverage
from beam_pipeline.tools.reconcile.markers import (
    HourCounts,
    MarkerReport,
    claimed_ends,
    compare_markers,
    read_markers,
)

ORDERS = TopicPartition("orders", 0)
HOUR = "dt=2026-11-23/hour=12"


@pytest.fixture
def tree(tmp_path: Path) -> OutputTree:
    """An hour with eight rows, two dead letters, and its marker."""
    tree = OutputTree(tmp_path)
    tree.parquet(sources("orders", 0, range(8)))
    tree.raw_letters([dead_letter(offset=8), dead_letter(offset=9)])
    place = tree.output_dir / HOUR
    content = HourContent(sizes_in(place, ".parquet"))
    marker = Marker(
        hour=datetime(2026, 11, 23, 12, tzinfo=timezone.utc),
        revision=1,
        watermark_ms=0,
        written_at=datetime.now(timezone.utc),
        files=1,
        size_bytes=sum(content.sizes.values()),
        sha256=digest_of(content.sizes),
        rows={ORDERS: OffsetSpan(0, 7, 8)},
        dead_letters={ORDERS: OffsetSpan(8, 9, 2)},
        landed_to={ORDERS: 10},
    )
    write_marker(place, marker, None)
    return tree


def compared(tree: OutputTree, missing: OffsetSets | None = None) -> MarkerReport:
    markers, unreadable = read_markers(tree.output_dir)
    counts = HourCounts((tree.output_dir, tree.dead_letter_dir), markers)
    paths = [
        path
        for root in (tree.output_dir, tree.dead_letter_dir)
        for path in sorted(root.glob(f"{HOUR}/orders*"))
    ]
    read_coverage(paths, ["orders"], on_file=counts.add)
    return compare_markers(markers, counts.hours, missing or {}, unreadable)


def test_a_true_marker_is_clean(tree: OutputTree) -> None:
    assert compared(tree) == MarkerReport(hours=1)
    markers, _ = read_markers(tree.output_dir)
    assert claimed_ends(markers) == {ORDERS: 10}


def test_files_that_came_since_are_no_fault(tree: OutputTree) -> None:
    tree.parquet(sources("orders", 0, [11]))
    report = compared(tree)
    assert (len(report.behind), report.problems) == (1, [])


def test_dead_letters_that_came_since_are_no_fault(tree: OutputTree) -> None:
    tree.letters(sources("orders", 0, [11]))
    report = compared(tree)
    assert (len(report.behind), report.problems) == (1, [])


def test_a_record_below_the_landed_offset_that_is_in_no_file(tree: OutputTree) -> None:
    assert compared(tree, {ORDERS: BitMap64([10])}).problems == []
    [problem] = compared(tree, {ORDERS: BitMap64([9])}).problems
    assert "landed up to offset 10; the record at 9 is in no file" in problem.reason


def test_a_record_that_the_marker_says_is_left_out(tree: OutputTree) -> None:
    path = tree.output_dir / HOUR / MARKER_NAME
    document = json.loads(path.read_bytes())
    document["topics"]["orders"]["partitions"]["0"]["excluded"] = [[2, 4], [9, 9]]
    path.write_text(json.dumps(document))
    assert compared(tree, {ORDERS: BitMap64([3, 9])}).problems == []
    [problem] = compared(tree, {ORDERS: BitMap64([3, 5])}).problems
    assert "the record at 5 is in no file" in problem.reason


def change(document: dict[str, Any], *names: str, to: Any) -> None:
    for name in names[:-1]:
        document = document[name]
    document[names[-1]] = to


PARTITION = ("topics", "orders", "partitions", "0")


@pytest.mark.parametrize(
    ("names", "value", "reason"),
    [
        (("sha256",), "ab", "sha256 is not that of the names and sizes"),
        (("files",), 2, "the marker says 2 files, there are 1"),
        (("rows",), 9, "rows is not the sum of its partitions"),
        ((*PARTITION, "rows", "last_offset"), 8, "8 rows (offsets 0 to 8) of orders/0, there are"),
        ((*PARTITION, "rows", "first_offset"), -1, "there are 8 (offsets 0 to 7)"),
        (("version",), 2, "version 2"),
        (("topics",), [], "can't be read"),
    ],
)
def test_a_false_marker_is_a_fault(
    tree: OutputTree, names: tuple[str, ...], value: Any, reason: str
) -> None:
    path = tree.output_dir / HOUR / MARKER_NAME
    document = json.loads(path.read_bytes())
    change(document, *names, to=value)
    path.write_text(json.dumps(document))
    [problem] = compared(tree).problems
    assert problem.path == path
    assert reason in problem.reason


def removed_rows(tree: OutputTree) -> None:
    next(tree.output_dir.glob(f"{HOUR}/*.parquet")).unlink()


def removed_letters(tree: OutputTree) -> None:
    next(tree.dead_letter_dir.glob(f"{HOUR}/*.jsonl")).unlink()


def rewritten(tree: OutputTree) -> None:
    path = next(tree.output_dir.glob(f"{HOUR}/*.parquet"))
    path.write_bytes(path.read_bytes() + b" ")


@pytest.mark.parametrize("damage", [removed_rows, removed_letters, rewritten])
def test_files_that_are_gone_or_changed_are_a_fault(
    tree: OutputTree, damage: Callable[[OutputTree], None]
) -> None:
    damage(tree)
    assert len(compared(tree).problems) == 1
