"""Parts stay findable until their time is up, and dead epochs leave nothing."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from beam_pipeline.files.parts import LocalParts, PartMissingError, PartRef

EPOCH, OTHER_EPOCH = "20261124T133350Zx3f9a", "20261124T140000Zx0001"


@pytest.fixture
def parts(tmp_path: Path) -> LocalParts:
    return LocalParts(tmp_path, EPOCH)


def part_in(root: Path, epoch: str = EPOCH, content: str = "rows") -> PartRef:
    path = LocalParts(root, epoch).new_path(".arrow")
    Path(path).write_text(content)
    return PartRef(path, "orders", 0, 1, {0: [(0, 0)]})


def all_files(root: Path) -> set[Path]:
    return {path for path in root.rglob("*") if path.is_file()}


def age(path: str, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_a_new_part_has_a_path_of_its_own_below_tmp(tmp_path: Path) -> None:
    parts = LocalParts(tmp_path / "new", EPOCH)
    paths = {parts.new_path(".arrow") for _ in range(100)}
    assert len(paths) == 100
    for path in map(Path, paths):
        assert path.parent == tmp_path / "new" / "_tmp" / EPOCH
        assert path.suffix == ".arrow"
        assert path.parent.is_dir()
        assert not path.exists()


def test_a_part_is_found_before_and_after_it_is_retired(tmp_path: Path, parts: LocalParts) -> None:
    part = part_in(tmp_path)
    assert parts.fetch(part) == part.path
    parts.retire([part])
    found = parts.fetch(part)
    assert found != part.path
    assert Path(found).read_text() == "rows"
    assert all_files(tmp_path) == {Path(found)}


def test_a_part_is_retired_twice_as_once(tmp_path: Path, parts: LocalParts) -> None:
    """A pane that a restore fires again retires its parts again."""
    part, other = part_in(tmp_path), part_in(tmp_path)
    parts.retire([part])
    age(parts.fetch(part), 100)
    parts.retire([part, other])
    assert Path(parts.fetch(part)).stat().st_mtime < time.time() - 50
    assert parts.fetch(other) != other.path


def test_a_part_that_is_gone_says_what_to_do(tmp_path: Path, parts: LocalParts) -> None:
    part = part_in(tmp_path)
    parts.retire([part])
    Path(parts.fetch(part)).unlink()
    with pytest.raises(PartMissingError, match=r"is gone: .*--part_retention_seconds.*afresh"):
        parts.fetch(part)


def test_only_retired_parts_past_their_retention_are_swept(
    tmp_path: Path, parts: LocalParts
) -> None:
    waiting, fresh, old, foreign = (
        part_in(tmp_path),
        part_in(tmp_path),
        part_in(tmp_path),
        part_in(tmp_path, OTHER_EPOCH),
    )
    parts.retire([fresh, old, foreign])
    age(waiting.path, 10_000)
    age(parts.fetch(fresh), 50)
    age(parts.fetch(old), 61)
    age(parts.fetch(foreign), 61)
    assert parts.sweep(retention_seconds=60) == 1
    assert parts.fetch(waiting) == waiting.path
    parts.fetch(fresh)
    parts.fetch(foreign)
    with pytest.raises(PartMissingError):
        parts.fetch(old)
    assert parts.sweep(retention_seconds=60) == 0


def test_a_part_waits_from_when_it_is_retired_on(tmp_path: Path, parts: LocalParts) -> None:
    part = part_in(tmp_path)
    age(part.path, 10_000)
    parts.retire([part])
    assert parts.sweep(retention_seconds=60) == 0


def test_a_crash_while_a_part_is_retired_does_not_shorten_its_time(
    tmp_path: Path, parts: LocalParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed right behind the rename, the part must not look as old as its rows are."""
    part = part_in(tmp_path)
    age(part.path, 10_000)
    rename = Path.rename

    def rename_and_die(self: Path, target: Path) -> None:
        rename(self, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", rename_and_die)
    with pytest.raises(KeyboardInterrupt):
        parts.retire([part])
    monkeypatch.undo()
    assert parts.sweep(retention_seconds=60) == 0
    parts.fetch(part)


def test_nothing_to_sweep(tmp_path: Path) -> None:
    parts = LocalParts(tmp_path / "nowhere", EPOCH)
    assert parts.sweep(0) == 0
    assert parts.sweep_other_epochs() == []


def test_dead_epochs_go_and_the_live_one_stays(tmp_path: Path, parts: LocalParts) -> None:
    output = tmp_path / "dt=2026-11-23" / "hour=12" / "file.parquet"
    output.parent.mkdir(parents=True)
    output.write_text("rows")
    live = part_in(tmp_path)
    for epoch in (OTHER_EPOCH, "old"):
        parts.retire([part_in(tmp_path, epoch)])
        part_in(tmp_path, epoch)
    assert parts.sweep_other_epochs() == [OTHER_EPOCH, "old"]
    assert all_files(tmp_path) == {output, Path(live.path)}
    assert parts.sweep_other_epochs() == []
