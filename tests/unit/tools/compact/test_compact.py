"""Small files become one, and what they cover stays."""

from __future__ import annotations

import json
import os
import stat
from collections import Counter
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from compaction_trees import CompactionTree, placed
from hypothesis import given
from hypothesis import strategies as st

from beam_pipeline.cli import main
from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.files.footer import read_footer
from beam_pipeline.files.ledger import load_ledger
from beam_pipeline.files.names import OutputFile
from beam_pipeline.runtime.lease import hold_lease
from beam_pipeline.runtime.lease_terms import LeaseLostError
from beam_pipeline.storage import durable
from beam_pipeline.tools.compact import run as compact_module
from beam_pipeline.tools.compact.run import CompactionReport, compact, remove_leftovers
from beam_pipeline.tools.reconcile.coverage import read_coverage

LARGE = 128 * 1024 * 1024


@pytest.fixture
def tree(tmp_path: Path) -> CompactionTree:
    return CompactionTree(tmp_path)


def files(tree: CompactionTree) -> list[Path]:
    return sorted(tree.output_dir.glob("dt=*/hour=*/*.parquet"))


def coverage_of(tree: CompactionTree) -> Any:
    coverage, problems = read_coverage(files(tree), ["orders", "clicks"])
    assert problems == []
    return coverage


def test_files_of_an_hour_become_one_with_their_rows_and_offsets(tree: CompactionTree) -> None:
    first = tree.write("orders", 0, [(0, 0), (0, 1), (1, 7)])
    second = tree.write("orders", 20, [(0, 2), (1, 3)])
    before = placed(tree.output_dir)
    coverage = coverage_of(tree)
    columns = ds.dataset(tree.output_dir / "dt=2026-11-23").schema.names

    report = compact(tree.output_dir, target_bytes=LARGE)

    (path,) = files(tree)
    assert (report.files_before, report.files_after, report.rows) == (2, 1, 5)
    assert report.bytes_after == path.stat().st_size
    assert placed(tree.output_dir) == before
    assert coverage_of(tree) == coverage
    covered = load_ledger(tree.output_dir, tree.root / "dead").covered
    assert [covered.prefix_end("orders", 1, offset) for offset in (3, 4, 7)] == [4, 4, 8]
    assert covered.prefix_end("orders", 0, 0) == 3
    assert ds.dataset(tree.output_dir / "dt=2026-11-23").schema.names == columns
    footer, name = read_footer(path), OutputFile.parse(path)
    assert name is not None
    assert footer.window_start == name.window_start == first.window_start
    assert footer.window_end == name.window_end == second.window_end
    assert footer.offsets == {"orders": {0: [(0, 2)], 1: [(3, 3), (7, 7)]}}
    assert not (tree.output_dir / "_tmp" / name.epoch).exists()


def test_the_ledger_counts_a_compacted_file_once_with_what_it_knew(tree: CompactionTree) -> None:
    """Before and after the old files are deleted, with and without a snapshot of them."""
    for number in range(3):
        tree.write("orders", 10 * number, [(0, number)])
    load_ledger(tree.output_dir, tree.root / "dead").save()
    compact(tree.output_dir, target_bytes=LARGE)
    ledger = load_ledger(tree.output_dir, tree.root / "dead")
    assert ledger.covered.prefix_end("orders", 0, 0) == 3
    ledger.save()
    (path,) = files(tree)
    assert load_ledger(tree.output_dir, tree.root / "dead").files == {path.name}
    path.unlink()
    assert load_ledger(tree.output_dir, tree.root / "dead").covered.prefix_end("orders", 0, 0) == 3


def test_a_second_compaction_finds_nothing_to_do(tree: CompactionTree) -> None:
    tree.write("orders", 0, [(0, 0)])
    tree.write("orders", 10, [(0, 1)])
    compact(tree.output_dir, target_bytes=LARGE)
    (path,) = files(tree)
    assert compact(tree.output_dir, target_bytes=LARGE) == CompactionReport()
    assert files(tree) == [path]


def test_hours_topics_schemas_and_columns_are_kept_apart(tree: CompactionTree) -> None:
    for topic in ("orders", "clicks"):
        for number in range(2):
            tree.write(topic, 10 * number, [(0, number)])
            tree.write(topic, 3600 + 10 * number, [(0, 10 + number)])
            tree.write(topic, 30 + 10 * number, [(0, 20 + number)], schema_sha256="cd" * 32)
            tree.write(topic, 60 + 10 * number, [(0, 30 + number)], column="other")
    before = placed(tree.output_dir)
    report = compact(tree.output_dir, target_bytes=LARGE)
    assert (report.directories, report.files_before, report.files_after) == (2, 16, 8)
    assert placed(tree.output_dir) == before
    assert len(files(tree)) == 8
    coverage_of(tree)


def test_open_windows_large_files_and_lonely_files_stay(tree: CompactionTree) -> None:
    lonely = tree.write("clicks", 0, [(0, 0)])
    closed = [tree.write("orders", 10 * number, [(0, number)]) for number in range(2)]
    still_open = [tree.write("orders", 100 + 10 * number, [(0, 9 + number)]) for number in range(2)]
    size = min(path.stat().st_size for path in files(tree))
    assert compact(tree.output_dir, target_bytes=2 * size - 2).files_before == 0
    report = compact(
        tree.output_dir, target_bytes=LARGE, now=closed[-1].window_end + timedelta(seconds=1)
    )
    assert report.files_before == 2
    left = {path.name for path in files(tree)}
    assert {lonely.name, *(name.name for name in still_open)} <= left
    assert len(left) == 4


def test_files_are_packed_up_to_the_target(tree: CompactionTree) -> None:
    for number in range(10):
        tree.write("orders", 10 * number, [(0, number)])
    size = max(path.stat().st_size for path in files(tree))
    report = compact(tree.output_dir, target_bytes=4 * size)
    assert report.files_before == 10
    assert [read_footer(path).rows for path in files(tree)] == [4, 4, 2]


def test_epochs_that_may_come_back_are_left_alone(tree: CompactionTree) -> None:
    for number in range(4):
        tree.write("orders", 10 * number, [(0, number)], epoch=f"e{number // 2}")
    (tree.output_dir / "_tmp" / "e1").mkdir(parents=True)
    assert compact(tree.output_dir, target_bytes=LARGE, live_epochs=["e0"]).files_before == 0
    report = compact(tree.output_dir, target_bytes=LARGE)
    assert report.files_before == 2
    assert {read_footer(one.path).epoch for one in report.left_alone} == {"e1"}
    assert (tree.output_dir / "_tmp" / "e1").is_dir()


def test_what_is_doubled_or_foreign_is_left_alone(tree: CompactionTree) -> None:
    tree.write("orders", 0, [(0, 0), (0, 1)])
    tree.write("orders", 10, [(0, 1)])
    foreign = files(tree)[0].parent
    (foreign / "by-hand.parquet").write_bytes(files(tree)[0].read_bytes())
    broken = tree.write("orders", 20, [(0, 2)])
    (foreign / broken.name).write_bytes(b"PAR1")
    before = {path: path.read_bytes() for path in files(tree)}
    report = compact(tree.output_dir, target_bytes=LARGE)
    assert report.files_before == 0
    assert {one.path.name for one in report.left_alone} == {
        broken.name,
        files(tree)[2].name,
    }
    assert any("another file also holds" in one.reason for one in report.left_alone)
    assert {path: path.read_bytes() for path in files(tree)} == before


def test_files_that_stay_are_the_same_files(tree: CompactionTree) -> None:
    stays = tree.write("clicks", 0, [(0, 0)])
    for number in range(2):
        tree.write("orders", 10 * number, [(0, number)])
    (path,) = tree.output_dir.glob(f"dt=*/hour=*/{stays.name}")
    other = path.with_name("notes.txt")
    other.write_text("kept")
    inode = path.stat().st_ino
    path.parent.chmod(0o750)
    compact(tree.output_dir, target_bytes=LARGE)
    assert path.stat().st_ino == inode
    assert other.read_text() == "kept"
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o750


def test_a_directory_with_more_than_files_is_left_alone(tree: CompactionTree) -> None:
    for number in range(2):
        tree.write("orders", 10 * number, [(0, number)])
    (files(tree)[0].parent / "below").mkdir()
    report = compact(tree.output_dir, target_bytes=LARGE)
    assert report.files_before == 0
    assert report.left_alone[0].reason == "contains below, which is not a file"


def test_a_file_that_comes_meanwhile_is_kept(
    tree: CompactionTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(2):
        tree.write("orders", 10 * number, [(0, number)])

    def write_and_exchange(one: Path, other: Path) -> None:
        tree.write("orders", 50, [(0, 5)])
        durable.exchange(one, other)

    monkeypatch.setattr(compact_module, "exchange", write_and_exchange)
    compact(tree.output_dir, target_bytes=LARGE)
    assert placed(tree.output_dir) == Counter({("orders", 0, n): 1 for n in (0, 1, 5)})


def test_a_file_system_that_can_not_exchange_is_told_and_left(
    tree: CompactionTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(2):
        tree.write("orders", 10 * number, [(0, number)])
    before = {path: path.read_bytes() for path in files(tree)}

    def refuse(one: Path, other: Path) -> None:
        raise OSError(22, os.strerror(22), str(one))

    monkeypatch.setattr(compact_module, "exchange", refuse)
    with pytest.raises(EnvironmentFailure, match=r"Invalid argument.*no row of it is lost"):
        compact(tree.output_dir, target_bytes=LARGE)
    assert {path: path.read_bytes() for path in files(tree)} == before
    assert list((tree.output_dir / "_tmp").iterdir()) == []


def test_rows_that_differ_from_the_footer_are_told_and_left(tree: CompactionTree) -> None:
    tree.write("orders", 0, [(0, 0)], claim=[(0, 4)])
    tree.write("orders", 10, [(0, 1)])
    before = files(tree)
    with pytest.raises(EnvironmentFailure, match="footers and rows differ"):
        compact(tree.output_dir, target_bytes=LARGE)
    assert files(tree) == before


def test_nested_columns_and_dictionaries_come_through(tree: CompactionTree) -> None:
    columns = {
        "tags": pa.array([["a", None], []], pa.list_(pa.string())),
        "labels": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64())),
        "device": pa.array([{"os": "x"}, None], pa.struct([("os", pa.string())])),
        "amount": pa.array([None, 1], pa.decimal128(18, 2)),
    }
    for number, kind in enumerate(["a", "b"]):
        kinds = pa.array([kind, None]).dictionary_encode()
        tree.write(
            "orders", 10 * number, [(0, 2 * number), (0, 2 * number + 1)], **columns, kind=kinds
        )
    rows = sorted(
        (row for path in files(tree) for row in pq.read_table(path, partitioning=None).to_pylist()),
        key=lambda row: row["kafka_offset"],
    )
    schema = pq.read_schema(files(tree)[0]).remove_metadata()
    compact(tree.output_dir, target_bytes=LARGE)
    (path,) = files(tree)
    assert pq.read_schema(path).remove_metadata() == schema
    assert pq.read_table(path, partitioning=None).to_pylist() == rows


@given(
    st.lists(
        st.tuples(st.sampled_from(["orders", "clicks"]), st.integers(0, 9000), st.integers(0, 3)),
        max_size=12,
    ),
    st.integers(1, 40_000),
)
def test_any_tree_keeps_its_rows(
    tmp_path_factory: pytest.TempPathFactory,
    written: list[tuple[str, int, int]],
    target_bytes: int,
) -> None:
    tree = CompactionTree(tmp_path_factory.mktemp("tree"))
    for number, (topic, second, rows) in enumerate(written):
        tree.write(topic, second, [(number % 3, 10 * number + row) for row in range(rows)])
    before, coverage, count = placed(tree.output_dir), coverage_of(tree), len(files(tree))
    report = compact(tree.output_dir, target_bytes=target_bytes)
    assert placed(tree.output_dir) == before
    after = coverage_of(tree)
    assert (after.offsets, after.doubled) == (coverage.offsets, coverage.doubled)
    assert len(files(tree)) == count - report.files_before + report.files_after


def test_the_command_tells_and_refuses_a_running_pipeline(
    tree: CompactionTree, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        tree.write("orders", 10 * number, [(0, number)])
    before = files(tree)
    words = ["compact", f"--output_dir={tree.output_dir}"]
    with hold_lease(tree.output_dir, "--output_dir"):
        assert main(words) == 1
    assert "is being written by another pipeline" in capsys.readouterr().err
    assert main([*words, "--dry_run"]) == 0
    assert capsys.readouterr().out.startswith("Would merge 3 files in 1 directory into 1: 3 rows")
    assert files(tree) == before
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["files_before"], told["files_after"], told["left_alone"]) == (3, 1, [])
    assert main(words) == 0
    assert capsys.readouterr().out == "Nothing to merge.\n"
    assert main(["compact", f"--output_dir={tree.root / 'nowhere'}"]) == 2
    assert main([*words, "--target_file_bytes=0"]) == 2


def test_a_window_of_the_future_stays(tree: CompactionTree) -> None:
    ahead = int((datetime.now(timezone.utc) - tree.start).total_seconds()) + 600
    for number in range(2):
        tree.write("orders", ahead // 3600 * 3600 + 3600 + number, [(0, number)])
    assert compact(tree.output_dir, target_bytes=LARGE).files_before == 0


def test_the_lease_is_kept_while_it_works(tree: CompactionTree) -> None:
    for number in range(3):
        tree.write("orders", 10 * number, [(0, number)])
    calls: list[set[Path]] = []
    compact(tree.output_dir, target_bytes=10**6, keep_lease=lambda: calls.append(set(files(tree))))
    assert len(calls) == 2, "for the row group, and before the exchange"


def test_a_lease_that_is_lost_leaves_the_directory_as_it_was(tree: CompactionTree) -> None:
    for number in range(3):
        tree.write("orders", 10 * number, [(0, number)])
    before = files(tree)

    def lose() -> None:
        raise LeaseLostError("another pipeline took the lease over")

    with pytest.raises(LeaseLostError):
        compact(tree.output_dir, target_bytes=10**6, keep_lease=lose)
    assert files(tree) == before
    remove_leftovers(tree.output_dir)
    assert not list((tree.output_dir / "_tmp").glob("*c*"))
