"""Crash markers: only what a dead process had in the kernel counts, and not for ever."""

from __future__ import annotations

import os
from pathlib import Path

from beam_pipeline.compiled.crash_marker import CRASH_SECONDS, CrashMarker, crashes


def die(marker: CrashMarker) -> None:
    """Do what the end of a process does to its marker: the lock goes, the file stays."""
    os.close(marker._file)


def age(marker: CrashMarker, seconds: float) -> None:
    changed = marker.path.stat().st_mtime - seconds
    os.utime(marker.path, (changed, changed))


def test_a_death_in_the_kernel_is_found_again_and_again(tmp_path: Path) -> None:
    marker = CrashMarker(tmp_path / "new", "digest")
    marker.enter("events[0] 5 to 9")
    assert crashes(tmp_path / "new", "digest") == []  # it lives
    die(marker)
    for _ in range(2):
        assert crashes(tmp_path / "new", "digest") == ["events[0] 5 to 9"]
    assert crashes(tmp_path / "new", "other") == []


def test_a_death_elsewhere_is_none_in_the_kernel(tmp_path: Path) -> None:
    marker = CrashMarker(tmp_path, "digest")
    marker.enter("events[0] 5 to 9")
    marker.leave()
    die(marker)
    age(marker, 2)
    assert crashes(tmp_path, "digest") == []
    assert not marker.path.exists()


def test_a_death_long_ago_is_forgotten(tmp_path: Path) -> None:
    marker = CrashMarker(tmp_path, "digest")
    marker.enter("events[0] 5 to 9")
    die(marker)
    age(marker, CRASH_SECONDS + 1)
    assert crashes(tmp_path, "digest") == []
    assert not marker.path.exists()


def test_a_closed_marker_is_gone(tmp_path: Path) -> None:
    marker = CrashMarker(tmp_path, "digest")
    marker.enter("events[0] 5 to 9")
    marker.close()
    assert [*tmp_path.iterdir()] == []
