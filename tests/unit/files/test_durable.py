"""Atomic writes: all or nothing, with the durability and the mode that the caller asks for."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from beam_pipeline.storage.durable import write_atomically


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.parametrize(("private", "mode"), [(True, 0o600), (False, 0o644)])
def test_the_mode_of_a_new_file(tmp_path: Path, private: bool, mode: int) -> None:
    path = tmp_path / "report.html"
    write_atomically(path, b"new", durable=False, private=private)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("durable", "synced"), [(True, 2), (False, 0)])
def test_a_durable_write_syncs_the_file_and_its_name(
    tmp_path: Path, durable: bool, synced: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    descriptors: list[int] = []
    monkeypatch.setattr(os, "fsync", descriptors.append)
    write_atomically(tmp_path / "a", b"new", durable=durable, private=True)
    assert len(descriptors) == synced


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def fail(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new", durable=True, private=True)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"old"
