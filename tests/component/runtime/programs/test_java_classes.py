"""The project's Java classes are compiled once, against the jars that they run with."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.runtime.programs import java_classes
from beam_pipeline.runtime.programs.java_classes import OWN_CLASSES_PREFIX, beam_jars
from beam_pipeline.runtime.programs.progress import SetupProgress


@pytest.fixture
def progress() -> Iterator[SetupProgress]:
    with SetupProgress() as progress:
        yield progress


@pytest.mark.parametrize("lock", ["expansion", "flink"])
def test_they_are_behind_the_locked_jars(lock: str, java: Path, progress: SetupProgress) -> None:
    *locked, own = beam_jars(lock, java, progress)
    assert own.name.startswith(OWN_CLASSES_PREFIX)
    assert not [jar for jar in locked if jar.name.startswith(OWN_CLASSES_PREFIX)]
    with zipfile.ZipFile(own) as jar:
        assert "beam_pipeline/ReadRecords.class" in jar.namelist()
    made = own.stat().st_mtime_ns
    assert beam_jars(lock, java, progress)[-1] == own
    assert own.stat().st_mtime_ns == made


def test_each_lock_has_its_own(java: Path, progress: SetupProgress) -> None:
    assert beam_jars("expansion", java, progress)[-1] != beam_jars("flink", java, progress)[-1]


def test_what_does_not_compile_is_told_by_file_and_line(
    java: Path, progress: SetupProgress, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "Broken.java").write_text("class Broken {\n  int none() { return missing; }\n}\n")
    monkeypatch.setattr(java_classes, "java_source_dir", lambda: tmp_path)
    with pytest.raises(EnvironmentFailure, match=r"Broken\.java:2: error: missing cannot be"):
        beam_jars("expansion", java, progress)
