"""Markers of complete hours as files and as objects."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import pytest

from beam_pipeline.files.markers import (
    MARKER_NAME,
    Marker,
    MarkerError,
    OffsetSpan,
    digest_of,
    hour_of,
    read_marker,
    sizes_in,
    write_marker,
)
from beam_pipeline.files.tree import visible_paths
from beam_pipeline.offset_sets import TopicPartition
from beam_pipeline.storage.directory import DirectoryStorage
from beam_pipeline.storage.paths import ObjectPath, StoredPath

NOON = datetime(2026, 11, 23, 12, tzinfo=timezone.utc)
NAME = "orders-20261123T120000Z-20261123T120100Z-s0-ee1-p0.parquet"


def marker_of(revision: int = 1) -> Marker:
    key = TopicPartition("orders", 3)
    return Marker(
        hour=NOON,
        revision=revision,
        watermark_ms=1_800_000_000_000,
        written_at=NOON,
        files=1,
        size_bytes=7,
        sha256=digest_of({NAME: 7}),
        rows={key: OffsetSpan(5, 9, 4)},
        dead_letters={key: OffsetSpan(6, 6, 1)},
        landed_to={key: 10, TopicPartition("orders", 4): 0},
    )


@pytest.fixture(params=["directory", "object store"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> StoredPath:
    (tmp_path / "dt=2026-11-23").mkdir()
    if request.param == "directory":
        return tmp_path / "dt=2026-11-23"
    return ObjectPath(DirectoryStorage(tmp_path), "dt=2026-11-23")


def test_a_marker_is_read_as_it_was_written(place: StoredPath) -> None:
    assert read_marker(place) == (None, None)
    assert write_marker(place, marker_of(), None)
    marker, version = read_marker(place)
    assert marker == marker_of()
    assert write_marker(place, marker_of(2), version)
    assert read_marker(place).marker == marker_of(2)
    assert list(visible_paths(place)) == []


def test_a_writer_that_lost_its_lease_replaces_no_marker_in_a_store(tmp_path: Path) -> None:
    place = ObjectPath(DirectoryStorage(tmp_path), "hour")
    assert write_marker(place, marker_of(), None)
    _, version = read_marker(place)
    assert write_marker(place, marker_of(2), version)
    assert not write_marker(place, marker_of(5), version)
    assert not write_marker(place, marker_of(5), None)
    assert write_marker(place, marker_of(2), version), "its own answer that was lost"
    assert read_marker(place).marker == marker_of(2)


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b'{"version": 2}', b'{"version": 1}'])
def test_what_is_no_marker_is_refused(place: StoredPath, tmp_path: Path, text: bytes) -> None:
    with pytest.raises(MarkerError):
        Marker.from_json(text)
    (tmp_path / "dt=2026-11-23" / MARKER_NAME).write_bytes(text)
    marker, version = read_marker(place)
    assert marker is None
    assert write_marker(place, marker_of(), version), "it is replaced"


def test_sizes_are_those_of_the_files_of_the_pipeline(tmp_path: Path) -> None:
    for name in (NAME, "by-hand.parquet", f"_{NAME}", NAME.replace("parquet", "jsonl")):
        (tmp_path / name).write_bytes(b"content")
    assert sizes_in(tmp_path, ".parquet") == {NAME: 7}
    assert sizes_in(tmp_path / "missing", ".parquet") == {}


@pytest.mark.parametrize(
    ("directory", "hour"),
    [("dt=2026-11-23/hour=12", NOON), ("day=2026-11-23/h=12", NOON)],
)
def test_the_hour_of_a_directory(directory: str, hour: datetime) -> None:
    assert hour_of(directory) == hour


@pytest.mark.parametrize(
    "directory",
    [
        *(".", "hour=12", "dt=2026-11-23", "dt=2026-11-23/hour=12/more"),
        *("dt=2026-13-23/hour=12", "dt=2026-11-23/hour=24", "_dt=2026-11-23/hour=12"),
    ],
)
def test_a_directory_of_no_hour(directory: str) -> None:
    assert hour_of(directory) is None
