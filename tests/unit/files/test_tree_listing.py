"""A large tree of an object store is listed by the hours that get files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import pytest

from beam_pipeline.files import listing as listing_module
from beam_pipeline.files.listing import TreeListing
from beam_pipeline.storage.directory import DirectoryStorage
from beam_pipeline.storage.paths import ObjectPath
from beam_pipeline.storage.protocol import StoredObject

NOW = datetime(2026, 11, 23, 12, 5, tzinfo=timezone.utc)


@dataclass(frozen=True)
class CountingStorage(DirectoryStorage):
    """A directory that notes what is listed."""

    listed: list[str] = field(default_factory=list, compare=False)

    def objects(self, prefix: str = "") -> Iterator[StoredObject]:
        self.listed.append(prefix)
        return super().objects(prefix)

    def children(self, key: str = "") -> list[StoredObject | str]:
        self.listed.append(key)
        return super().children(key)


@pytest.fixture(autouse=True)
def small_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing_module, "SMALL_TREE", 2)


def add(root: Path, *hours: str) -> None:
    for hour in hours:
        directory = root / "dt=2026-11-23" / f"hour={hour}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"{len(list(directory.iterdir()))}-{hour}.parquet").touch()


def names(listing: TreeListing, *, whole: bool = False) -> list[str]:
    return sorted(path.name for path in listing.look(whole=whole))


@pytest.fixture
def storage(tmp_path: Path) -> CountingStorage:
    return CountingStorage(tmp_path)


@pytest.fixture
def listing(storage: CountingStorage) -> TreeListing:
    return TreeListing(ObjectPath(storage), now=lambda: NOW)


def test_a_small_tree_is_listed_whole(storage: CountingStorage, listing: TreeListing) -> None:
    add(storage.root, "01", "02")
    assert names(listing) == ["0-01.parquet", "0-02.parquet"]
    add(storage.root, "03")
    assert len(names(listing)) == 3


def test_of_a_large_tree_the_present_hours_and_those_with_new_files_are_listed(
    storage: CountingStorage, listing: TreeListing
) -> None:
    add(storage.root, "01", "02", "11", "12")
    assert len(names(listing)) == 4
    storage.listed.clear()
    assert names(listing) == ["0-11.parquet", "0-12.parquet"]
    assert sorted(storage.listed) == ["dt=2026-11-23/hour=11", "dt=2026-11-23/hour=12"]
    listing.note_landed(ObjectPath(storage, "dt=2026-11-23/hour=02/0-02.parquet"))
    assert names(listing) == ["0-02.parquet", "0-11.parquet", "0-12.parquet"]
    assert len(names(listing, whole=True)) == 4


def test_a_large_tree_is_listed_whole_each_minute(
    storage: CountingStorage, listing: TreeListing, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(storage.root, "01", "02", "12")
    monkeypatch.setattr(listing_module, "WHOLE_SECONDS", 0.0)
    names(listing)
    assert len(names(listing)) == 3


def test_what_is_present_is_known_of_hours_that_are_not_listed(
    storage: CountingStorage, listing: TreeListing
) -> None:
    add(storage.root, "01", "02", "12")
    names(listing)
    add(storage.root, "12")
    names(listing)
    assert listing.present() == {"0-01.parquet", "0-02.parquet", "0-12.parquet", "1-12.parquet"}
    for path in (storage.root / "dt=2026-11-23" / "hour=01").iterdir():
        path.unlink()
    names(listing, whole=True)
    assert listing.present() == {"0-02.parquet", "0-12.parquet", "1-12.parquet"}


def test_a_directory_is_listed_whole_however_large(tmp_path: Path) -> None:
    add(tmp_path, "01", "02", "03")
    listing = TreeListing(tmp_path, now=lambda: NOW)
    for _ in range(2):
        assert len(names(listing)) == 3
