"""A file appears whole and at once, and never over another, unless its rows have no offsets."""

from __future__ import annotations

import dataclasses
import errno
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from beam_pipeline.files.names import DEFAULT_PARTITION_KEYS, OutputFile
from beam_pipeline.io.windowed_files import FileLayout, publish, publish_over

NOON = datetime(2026, 11, 23, 12, tzinfo=timezone.utc)
TARGET = OutputFile(
    topic="orders",
    window_start=NOON,
    window_end=NOON + timedelta(seconds=10),
    shard=1,
    epoch="epoch1",
    pane=1,
    suffix=".parquet",
)


def published(
    root: Path,
    target: OutputFile,
    content: str = "rows",
    partition_keys: tuple[str, str] = DEFAULT_PARTITION_KEYS,
) -> Path:
    layout = FileLayout(str(root), target.epoch, partition_keys=partition_keys)
    temporary = Path(FileLayout(str(root), target.epoch).parts().new_path(".assembling"))
    temporary.write_text(content)
    assert publish(layout, target, temporary)
    assert not temporary.exists()
    return root / layout.key_of(target)


def published_over(root: Path, target: OutputFile, content: str = "rows") -> Path:
    layout = FileLayout(str(root), target.epoch)
    temporary = Path(FileLayout(str(root), target.epoch).parts().new_path(".assembling"))
    temporary.write_text(content)
    publish_over(layout, target, temporary)
    assert not temporary.exists()
    return root / layout.key_of(target)


def visible(root: Path) -> dict[str, str]:
    """Name and content of every file that a reader of `dt=*` sees."""
    return {path.name: path.read_text() for path in root.glob("dt=*/**/*") if path.is_file()}


def test_a_file_is_where_its_name_says(tmp_path: Path) -> None:
    path = published(tmp_path, TARGET)
    assert path == tmp_path / "dt=2026-11-23" / "hour=12" / TARGET.name
    assert visible(tmp_path) == {TARGET.name: "rows"}


def test_the_partition_keys_name_the_directories(tmp_path: Path) -> None:
    path = published(tmp_path, TARGET, partition_keys=("day", "of_day"))
    assert path == tmp_path / "day=2026-11-23" / "of_day=12" / TARGET.name


def test_a_file_in_place_stays(tmp_path: Path) -> None:
    published(tmp_path, TARGET, "first")
    temporary = Path(FileLayout(str(tmp_path), TARGET.epoch).parts().new_path(".assembling"))
    temporary.write_text("second")
    assert not publish(FileLayout(str(tmp_path), TARGET.epoch), TARGET, temporary)
    assert temporary.read_text() == "second"
    assert visible(tmp_path) == {TARGET.name: "first"}


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP])
def test_a_file_system_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_paths: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    test_a_file_in_place_stays(tmp_path)


def test_of_many_at_once_one_gets_the_name(tmp_path: Path) -> None:
    layout = FileLayout(str(tmp_path), TARGET.epoch)
    temporaries = [Path(layout.parts().new_path(".assembling")) for _ in range(16)]
    for number, temporary in enumerate(temporaries):
        temporary.write_text(str(number))
    with ThreadPoolExecutor(max_workers=16) as pool:
        won = list(pool.map(lambda temporary: publish(layout, TARGET, temporary), temporaries))
    assert won.count(True) == 1
    assert visible(tmp_path) == {TARGET.name: str(won.index(True))}


def test_a_pane_that_fires_again_replaces_its_file(tmp_path: Path) -> None:
    published_over(tmp_path, TARGET, "first")
    published_over(tmp_path, TARGET, "second")
    assert visible(tmp_path) == {TARGET.name: "second"}


def test_later_panes_of_a_rolled_back_timeline_go(tmp_path: Path) -> None:
    panes = [dataclasses.replace(TARGET, pane=pane) for pane in range(12)]
    for pane in panes:
        published_over(tmp_path, pane, str(pane.pane))
    published_over(tmp_path, panes[2], "again")
    assert visible(tmp_path) == {panes[0].name: "0", panes[1].name: "1", panes[2].name: "again"}


@pytest.mark.parametrize(
    "changes",
    [
        {"topic": "clicks"},
        {"topic": "orders-20261123T120000Z"},
        {"window_end": NOON + timedelta(seconds=20)},
        {"window_start": NOON + timedelta(seconds=5)},
        {
            "window_start": NOON + timedelta(seconds=10),
            "window_end": NOON + timedelta(seconds=20),
        },
        {"shard": 0},
        {"shard": 11},
        {"epoch": "epoch2"},
        {"epoch": "epoch"},
        {"suffix": ".jsonl"},
        {"pane": 0},
    ],
    ids=str,
)
def test_every_other_file_stays(tmp_path: Path, changes: dict[str, Any]) -> None:
    other = dataclasses.replace(TARGET, **{"pane": 9, **changes})
    published(tmp_path, other, "other")
    published_over(tmp_path, TARGET)
    assert visible(tmp_path) == {other.name: "other", TARGET.name: "rows"}


def test_files_of_others_stay(tmp_path: Path) -> None:
    directory = tmp_path / "dt=2026-11-23" / "hour=12"
    directory.mkdir(parents=True)
    (directory / "_SUCCESS").write_text("")
    (directory / "orders.parquet").write_text("by hand")
    published_over(tmp_path, TARGET)
    assert set(visible(tmp_path)) == {"_SUCCESS", "orders.parquet", TARGET.name}


def test_only_names_of_the_same_window_and_shard_are_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour of windows of one second has 3,600 files in one directory."""
    for second in range(30):
        start = NOON + timedelta(seconds=10 * second)
        published(
            tmp_path,
            dataclasses.replace(
                TARGET, window_start=start, window_end=start + timedelta(seconds=10)
            ),
        )
    parse, parsed = OutputFile.parse, []

    def counted(path: Path) -> OutputFile | None:
        parsed.append(Path(path).name)
        return parse(path)

    monkeypatch.setattr(OutputFile, "parse", staticmethod(counted))
    published_over(tmp_path, TARGET)
    assert parsed == [TARGET.name]


@pytest.mark.parametrize(("owner", "step"), [(os, "link"), (os, "fsync")])
def test_a_crash_leaves_nothing_to_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, step: str
) -> None:
    def die(*_arguments: Any) -> None:
        raise KeyboardInterrupt

    (tmp_path / "dt=2026-11-23" / "hour=12").mkdir(parents=True)
    monkeypatch.setattr(owner, step, die)
    with pytest.raises(KeyboardInterrupt):
        published(tmp_path, TARGET)
    monkeypatch.undo()
    assert visible(tmp_path) == {}
    published(tmp_path, TARGET, "again")
    assert visible(tmp_path) == {TARGET.name: "again"}


def test_a_file_that_can_not_be_renamed_leaves_the_earlier_panes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    earlier = dataclasses.replace(TARGET, pane=0)
    published(tmp_path, earlier)
    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="No space left"):
        published_over(tmp_path, TARGET)
    assert visible(tmp_path) == {earlier.name: "rows"}


def test_the_file_is_synced_before_and_its_directories_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the second a power cut takes the file, whatever a ledger says of it."""
    steps: list[tuple[str, int]] = []
    fsync, link = os.fsync, os.link

    def watched_fsync(descriptor: int) -> None:
        fsync(descriptor)
        steps.append(("fsync", os.fstat(descriptor).st_ino))

    def watched_link(temporary: Path, target: Path) -> None:
        link(temporary, target)
        steps.append(("link", target.stat().st_ino))

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "link", watched_link)
    path = published(tmp_path, TARGET)
    file, hour, day, root = (
        place.stat().st_ino for place in (path, path.parent, path.parent.parent, tmp_path)
    )
    assert steps[-3:] == [("fsync", file), ("link", file), ("fsync", hour)]
    assert steps[:-3] == [("fsync", root), ("fsync", day)]
    steps.clear()
    published(tmp_path, dataclasses.replace(TARGET, pane=2))
    assert [step for step, _ in steps] == ["fsync", "link", "fsync"]


def test_several_shards_at_once_in_a_new_directory(tmp_path: Path) -> None:
    targets = [dataclasses.replace(TARGET, shard=shard) for shard in range(16)]
    with ThreadPoolExecutor(max_workers=16) as pool:
        list(pool.map(lambda target: published(tmp_path, target, str(target.shard)), targets))
    assert visible(tmp_path) == {target.name: str(target.shard) for target in targets}
