"""The ledger adds up what the files say of themselves, and remembers what it has read."""

from __future__ import annotations

import base64
import json
import os
import shutil
from pathlib import Path, PurePath
from typing import Any

import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from output_trees import OutputTree, Source, dead_letter, sources
from pyroaring import BitMap64

from beam_pipeline.covered_offsets import CoveredOffsets
from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.files.ledger import SNAPSHOT, Ledger, load_ledger
from beam_pipeline.files.names import OutputFile


@pytest.fixture
def tree(tmp_path: Path) -> OutputTree:
    return OutputTree(tmp_path)


def load(tree: OutputTree) -> Ledger:
    return load_ledger(tree.output_dir, tree.dead_letter_dir)


def offsets(covered: CoveredOffsets) -> set[Source]:
    """Every covered offset."""
    return {
        (entry["topic"], entry["partition"], offset)
        for entry in covered.to_json()
        for offset in BitMap64.deserialize(base64.b64decode(entry["offsets"]))
    }


def test_nothing_is_covered_where_nothing_is(tmp_path: Path) -> None:
    ledger = load_ledger(tmp_path / "output", tmp_path / "dead")
    assert offsets(ledger.covered) == set()
    assert ledger.files == set()


def test_footers_and_lines_are_added_up(tree: OutputTree) -> None:
    rows = [*sources("orders", 0, [0, 1, 2, 9]), ("orders", 1, 4)]
    letters = [("orders", 0, 3), ("clicks", 7, 2**40)]
    paths = [tree.parquet(rows), tree.parquet([("clicks", 7, 0)]), tree.letters(letters)]
    ledger = load(tree)
    assert offsets(ledger.covered) == {*rows, ("clicks", 7, 0), *letters}
    assert ledger.files == {path.name for path in paths}
    assert ledger.covered.prefix_end("orders", 0, 0) == 4


def test_the_footer_counts_and_not_the_rows(tree: OutputTree) -> None:
    """So start-up reads no data."""
    tree.parquet(sources("orders", 0, [0]), claim=sources("orders", 0, [5, 6]))
    assert offsets(load(tree).covered) == set(sources("orders", 0, [5, 6]))


def test_new_files_are_added(tree: OutputTree) -> None:
    tree.parquet(sources("orders", 0, [0, 1]))
    ledger = load(tree)
    assert ledger.refresh() == []
    new = [tree.parquet(sources("orders", 0, [2])), tree.letters([("orders", 0, 3)])]
    assert ledger.refresh() == new
    assert ledger.covered.prefix_end("orders", 0, 0) == 4


def test_each_name_is_parsed_once(tree: OutputTree, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []
    parse = OutputFile.parse

    def counting(path: str | PurePath) -> OutputFile | None:
        parsed.append(PurePath(path).name)
        return parse(path)

    known = tree.parquet(sources("orders", 0, [0]))
    load(tree).save()
    new = [tree.parquet(sources("orders", 0, [1])), tree.letters([("orders", 0, 2)])]
    (tree.output_dir / "by-hand.parquet").write_text("not Parquet")
    monkeypatch.setattr(OutputFile, "parse", staticmethod(counting))
    ledger = load(tree)
    assert sorted(parsed) == sorted(["by-hand.parquet", *(path.name for path in new)])
    parsed.clear()
    assert ledger.refresh() == []
    ledger.save()
    assert parsed == []
    assert ledger.files == {known.name, *(path.name for path in new)}


def test_what_is_temporary_or_of_others_is_not_counted(tree: OutputTree) -> None:
    path = tree.parquet(sources("orders", 0, [0]))
    for hidden in ("_tmp/epoch1", "_tmp/epoch1/done", "_ledger", ".cache", "dt=2026-11-23/_old"):
        directory = tree.output_dir / hidden
        directory.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, directory / path.name.replace("-s0-", "-s1-"))
    shutil.copy(path, path.with_name(f".{path.name}"))
    shutil.copy(path, path.with_name(f"{path.name}.tmp"))
    path.with_name("by-hand.parquet").write_text("not Parquet")
    (tree.dead_letter_dir / "_tmp").mkdir()
    (tree.dead_letter_dir / "_tmp" / path.with_suffix(".jsonl").name).write_text("not JSON")
    assert load(tree).files == {path.name}


def test_the_snapshot_survives_the_files(tree: OutputTree) -> None:
    old = tree.parquet(sources("orders", 0, range(5)))
    old_letters = tree.letters([("orders", 0, 5)])
    kept = tree.parquet(sources("orders", 0, [6]))
    ledger = load(tree)
    ledger.topic_ids["orders"] = "id-1"
    ledger.save()
    old.unlink()
    old_letters.unlink()
    again = load(tree)
    assert offsets(again.covered) == set(sources("orders", 0, range(7)))
    assert again.topic_ids == {"orders": "id-1"}
    again.save()
    assert load(tree).files == {kept.name}
    assert offsets(load(tree).covered) == set(sources("orders", 0, range(7)))


def test_only_files_that_the_snapshot_lacks_are_opened(tree: OutputTree) -> None:
    old = [tree.parquet(sources("orders", 0, [0])), tree.letters([("orders", 0, 1)])]
    load(tree).save()
    for path in old:
        path.write_bytes(b"what was read once is not read again")
    new = tree.parquet(sources("orders", 0, [2]))
    ledger = load(tree)
    assert offsets(ledger.covered) == set(sources("orders", 0, range(3)))
    assert ledger.files == {path.name for path in (*old, new)}
    new.write_bytes(b"")
    with pytest.raises(EnvironmentFailure, match="a damaged file must be moved away"):
        load(tree)


def test_a_crash_while_saving_leaves_the_snapshot_before(
    tree: OutputTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tree.parquet(sources("orders", 0, [0]))
    load(tree).save()
    path.unlink()
    tree.parquet(sources("orders", 0, [1]))

    def die(*_arguments: Any) -> None:
        raise KeyboardInterrupt

    for owner, step in ((os, "fsync"), (Path, "replace")):
        ledger = load(tree)
        monkeypatch.setattr(owner, step, die)
        with pytest.raises(KeyboardInterrupt):
            ledger.save()
        monkeypatch.undo()
        assert offsets(load(tree).covered) == set(sources("orders", 0, [0, 1]))


def good_snapshot() -> dict[str, Any]:
    return {"version": 1, "covered": [], "files": [], "topic_ids": {}}


ENTRY = {"topic": "orders", "partition": 0, "offsets": "AAAA"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "\xff",
        json.dumps({**good_snapshot(), "version": 3}),
        json.dumps({**good_snapshot(), "version": 2}),
        json.dumps({**good_snapshot(), "covered": 5}),
        json.dumps({**good_snapshot(), "covered": {"orders": {}}}),
        json.dumps({**good_snapshot(), "covered": [{**ENTRY, "offsets": "not base64!"}]}),
        json.dumps({**good_snapshot(), "covered": [{**ENTRY, "offsets": "A"}]}),
        json.dumps({**good_snapshot(), "covered": [ENTRY]}),
        json.dumps({**good_snapshot(), "covered": [{**ENTRY, "offsets": ""}]}),
        json.dumps({**good_snapshot(), "covered": [{**ENTRY, "partition": None}]}),
        json.dumps({**good_snapshot(), "files": None}),
        json.dumps({**good_snapshot(), "topic_ids": [1]}),
    ],
)
def test_a_damaged_snapshot_is_one_line(tree: OutputTree, text: str) -> None:
    path = tree.output_dir / SNAPSHOT
    path.parent.mkdir()
    path.write_text(text, encoding="latin-1")
    with pytest.raises(EnvironmentFailure) as failed:
        load(tree)
    assert str(failed.value).startswith(f"ledger snapshot {path} can't be read (")
    assert "remove it" in str(failed.value)
    assert "\n" not in str(failed.value)


def broken_parquet(tree: OutputTree) -> Path:
    path = tree.parquet(sources("orders", 0, [0]))
    path.write_bytes(path.read_bytes()[:-20])
    return path


def empty_parquet(tree: OutputTree) -> Path:
    path = tree.parquet(sources("orders", 0, [0]))
    path.write_bytes(b"")
    return path


def parquet_without_footer(tree: OutputTree) -> Path:
    path = tree.parquet(sources("orders", 0, [0]))
    table = pyarrow.parquet.read_table(path, partitioning=None)
    pyarrow.parquet.write_table(table.replace_schema_metadata({}), path)
    return path


def negative_footer(tree: OutputTree) -> Path:
    return tree.parquet(sources("orders", 0, [0]), claim=[("orders", 0, -5)])


def truncated_line(tree: OutputTree) -> Path:
    path = tree.letters(sources("orders", 0, range(3)))
    path.write_bytes(path.read_bytes()[:-30])
    return path


def line_without_source(tree: OutputTree) -> Path:
    path = tree.letters([("orders", 0, 0)])
    path.write_text('{"dlq_id": "5e"}\n')
    return path


def line_that_is_no_object(tree: OutputTree) -> Path:
    path = tree.letters([("orders", 0, 0)])
    path.write_text("[1]\n")
    return path


def negative_line(tree: OutputTree) -> Path:
    return tree.raw_letters([dead_letter(offset=-1)])


def text_offset(tree: OutputTree) -> Path:
    letter = dead_letter()
    letter["source"]["offset"] = "0"
    return tree.raw_letters([letter])


@pytest.mark.parametrize(
    "damage",
    [
        broken_parquet,
        empty_parquet,
        parquet_without_footer,
        negative_footer,
        truncated_line,
        line_without_source,
        line_that_is_no_object,
        negative_line,
        text_offset,
    ],
)
def test_a_damaged_file_is_one_line_that_names_it(tree: OutputTree, damage: Any) -> None:
    tree.parquet(sources("orders", 0, [7]))
    path = damage(tree)
    with pytest.raises(EnvironmentFailure) as failed:
        load(tree)
    assert str(failed.value).startswith(f"{path}: what it covers can't be read (")
    assert "moved away" in str(failed.value)
    assert "\n" not in str(failed.value)
    path.unlink()
    assert offsets(load(tree).covered) == {("orders", 0, 7)}


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_a_file_that_goes_while_it_is_looked_for_is_no_damage(
    tree: OutputTree, suffix: str
) -> None:
    """As a pane that is superseded does; a link to nowhere is listed and can't be opened too."""
    path = tree.parquet(sources("orders", 0, [0]))
    gone = path.with_name(path.name.replace("-p0", "-p1")).with_suffix(suffix)
    gone.symlink_to(tree.root / "nowhere")
    ledger = load(tree)
    assert ledger.files == {path.name}
    gone.unlink()
    shutil.copy(path, gone.with_suffix(".parquet"))
    assert ledger.refresh() == [gone.with_suffix(".parquet")]


def test_a_directory_that_can_not_be_listed_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "output").write_text("a file")
    with pytest.raises(EnvironmentFailure, match=r"output can't be listed: Not a directory"):
        load_ledger(tmp_path / "output", tmp_path / "dead")


@given(
    st.lists(
        st.sets(st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 2), st.integers(0, 30))),
        max_size=6,
    ),
    st.data(),
)
def test_any_split_over_files_and_snapshots_adds_up(
    tmp_path_factory: pytest.TempPathFactory, files: list[set[Source]], data: st.DataObject
) -> None:
    tree = OutputTree(tmp_path_factory.mktemp("tree"))
    for covered in files:
        if not covered:
            continue
        write = data.draw(st.sampled_from([tree.parquet, tree.letters]))
        path = write(sorted(covered))
        if data.draw(st.booleans()):
            load(tree).save()
            if data.draw(st.booleans()):
                path.unlink()
    assert offsets(load(tree).covered) == set().union(*files)


def test_a_file_that_is_deleted_counts_for_good(tree: OutputTree) -> None:
    """What is deleted, as old data is, must not be read again."""
    path = tree.parquet(sources("orders", 0, [0, 1]))
    ledger = load(tree)
    path.unlink()
    assert ledger.refresh() == []
    assert offsets(ledger.covered) == set(sources("orders", 0, [0, 1]))


def test_the_last_landed_record_of_each_partition_is_known_and_kept(tree: OutputTree) -> None:
    tree.parquet(sources("orders", 0, range(5)), last_records={"orders": {0: (4, 1_400)}})
    tree.parquet(sources("orders", 0, range(5, 8)), last_records={"orders": {0: (7, 1_700)}})
    tree.parquet(sources("orders", 1, range(3)))
    stamped = dead_letter("orders", 2, 9, timestamp="1970-01-01T00:00:01.500Z")
    tree.raw_letters([stamped, dead_letter("orders", 2, 3)])
    tree.letters([("orders", 3, 0)])
    expected = {("orders", 0): (7, 1_700), ("orders", 2): (9, 1_500)}
    ledger = load(tree)
    assert ledger.last_records == expected
    ledger.save()
    assert load(tree).last_records == expected
