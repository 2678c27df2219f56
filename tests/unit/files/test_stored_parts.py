"""Parts for workers that share nothing but the storage of the files."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from beam_pipeline.files.parts import MAX_INLINE_BYTES, PartMissingError, PartRef, StoredParts
from beam_pipeline.storage.directory import DirectoryStorage

EPOCH, OTHER_EPOCH = "20261124T133350Zx3f9a", "20261124T140000Zx0001"
SMALL, LARGE = b"rows", b"rows" * MAX_INLINE_BYTES


class CountingStorage(DirectoryStorage):
    """A directory that counts what is asked of it, as an object store counts its requests."""

    def put_file(self, source: Path, key: str) -> None:
        self.requests["PUT"] += 1
        super().put_file(source, key)

    def put(self, key: str, content: bytes) -> None:
        self.requests["PUT"] += 1
        super().put(key, content)


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A worker's own temporary directory, which is empty at the end."""
    directory = tmp_path / "scratch"
    directory.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(directory))
    yield directory
    assert list(directory.iterdir()) == []


@pytest.fixture
def storage(tmp_path: Path) -> CountingStorage:
    return CountingStorage(tmp_path / "store")


@pytest.fixture
def parts(storage: CountingStorage) -> StoredParts:
    return StoredParts(storage, EPOCH)


def part_of(parts: StoredParts, content: bytes) -> PartRef:
    path = parts.new_path(".arrow")
    Path(path).write_bytes(content)
    return parts.keep(PartRef(path, "orders", 0, 1, {0: [(0, 0)]}))


def content_of(parts: StoredParts, part: PartRef) -> bytes:
    path = parts.fetch(part)
    try:
        return Path(path).read_bytes()
    finally:
        parts.release([path])


def keys_in(storage: CountingStorage) -> list[str]:
    return sorted(entry.key for entry in storage.objects())


def age_all(storage: CountingStorage, seconds: float) -> None:
    then = time.time() - seconds
    for key in keys_in(storage):
        os.utime(storage.root / key, (then, then))


@pytest.mark.parametrize("content", [SMALL, LARGE[:MAX_INLINE_BYTES], LARGE], ids=len)
def test_another_worker_finds_a_part(
    parts: StoredParts, storage: CountingStorage, content: bytes
) -> None:
    part = part_of(parts, content)
    assert content_of(StoredParts(storage, EPOCH), part) == content
    parts.retire([part])
    parts.end_bundle()
    assert content_of(StoredParts(storage, EPOCH), part) == content


def test_small_parts_make_no_request(parts: StoredParts, storage: CountingStorage) -> None:
    small = [part_of(parts, SMALL) for _ in range(10)]
    parts.retire(small)
    parts.end_bundle()
    assert (storage.requests, keys_in(storage)) == (Counter(), [])
    assert len({part.path for part in small}) == 10


def test_large_parts_are_objects_and_a_bundle_notes_them_once(
    parts: StoredParts, storage: CountingStorage
) -> None:
    large = [part_of(parts, LARGE) for _ in range(3)]
    assert keys_in(storage) == sorted(part.path for part in large)
    assert all(part.path.startswith(f"_tmp/{EPOCH}/") for part in large)
    parts.retire(large[:2])
    parts.retire(large[2:])
    parts.end_bundle()
    parts.end_bundle()
    assert storage.requests == Counter(PUT=4)


def test_only_parts_retired_long_ago_are_swept(
    parts: StoredParts, storage: CountingStorage
) -> None:
    waiting, old, fresh = (part_of(parts, LARGE) for _ in range(3))
    parts.retire([old])
    parts.end_bundle()
    age_all(storage, 100)
    parts.retire([fresh])
    parts.end_bundle()
    assert parts.sweep(retention_seconds=60) == 1
    assert content_of(parts, waiting) == content_of(parts, fresh) == LARGE
    with pytest.raises(PartMissingError, match="--part_retention_seconds"):
        parts.fetch(old)
    assert parts.sweep(retention_seconds=60) == 0
    assert parts.sweep(retention_seconds=-1) == 1
    assert keys_in(storage) == [waiting.path]


def test_a_part_is_retired_twice_as_once(parts: StoredParts, storage: CountingStorage) -> None:
    part = part_of(parts, LARGE)
    for _ in range(2):
        parts.retire([part])
        parts.end_bundle()
    parts.sweep(retention_seconds=-1)
    assert keys_in(storage) == []


def test_dead_epochs_go_and_the_live_one_stays(
    parts: StoredParts, storage: CountingStorage
) -> None:
    storage.put("dt=2026-11-23/hour=12/file.parquet", b"rows")
    live = part_of(parts, LARGE)
    for epoch in (OTHER_EPOCH, "old"):
        dead = StoredParts(storage, epoch)
        dead.retire([part_of(dead, LARGE)])
        dead.end_bundle()
        part_of(dead, LARGE)
    assert parts.sweep_other_epochs() == [OTHER_EPOCH, "old"]
    assert keys_in(storage) == sorted([live.path, "dt=2026-11-23/hour=12/file.parquet"])
    assert parts.sweep_other_epochs() == []


def test_a_part_that_can_not_be_stored_leaves_no_file(
    parts: StoredParts, storage: CountingStorage
) -> None:
    storage.root.write_text("a file is in the way")
    with pytest.raises(OSError, match=r"store"):
        part_of(parts, LARGE)
