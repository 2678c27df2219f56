"""Many files are read in order; objects by several threads at once."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from beam_pipeline.files.reading import READERS, read_each
from beam_pipeline.storage.directory import DirectoryStorage
from beam_pipeline.storage.paths import ObjectPath, StoredPath


def objects(tmp_path: Path, count: int) -> list[ObjectPath]:
    for number in range(count):
        (tmp_path / f"{number:03}").write_text(str(number))
    root = ObjectPath(DirectoryStorage(tmp_path))
    return [root / f"{number:03}" for number in range(count)]


def test_results_come_in_the_order_of_the_paths(tmp_path: Path) -> None:
    paths = objects(tmp_path, 100)
    read = [(path, int(content())) for path, content in read_each(paths, ObjectPath.read_bytes)]
    assert read == list(zip(paths, range(100), strict=True))


def test_objects_are_read_at_the_same_time(tmp_path: Path) -> None:
    together = threading.Barrier(READERS, timeout=20)

    def read(path: ObjectPath) -> bytes:
        together.wait()  # breaks unless so many threads come here
        return path.read_bytes()

    paths = objects(tmp_path, READERS)
    assert [content() for _, content in read_each(paths, read)] == [
        str(number).encode() for number in range(READERS)
    ]


def test_files_of_a_directory_are_read_in_this_thread_when_they_are_asked_for(
    tmp_path: Path,
) -> None:
    threads = []

    def read(path: Path) -> str:
        threads.append(threading.current_thread())
        return path.name

    asked = [content for _, content in read_each([tmp_path / "a", tmp_path / "b"], read)]
    assert threads == []
    assert [content() for content in asked] == ["a", "b"]
    assert set(threads) == {threading.current_thread()}


def test_both_kinds_in_one_list_keep_their_order(tmp_path: Path) -> None:
    paths: Sequence[StoredPath] = [*objects(tmp_path, 3), tmp_path / "001", *objects(tmp_path, 1)]

    def read(path: StoredPath) -> bytes:
        return path.read_bytes()

    assert [content() for _, content in read_each(paths, read)] == [b"0", b"1", b"2", b"1", b"0"]


def test_what_a_read_raises_comes_where_its_result_would(tmp_path: Path) -> None:
    paths = [*objects(tmp_path, 2), ObjectPath(DirectoryStorage(tmp_path), "gone")]
    first, second, gone = [read for _, read in read_each(paths, ObjectPath.read_bytes)]
    assert (first(), second()) == (b"0", b"1")
    with pytest.raises(FileNotFoundError):
        gone()
