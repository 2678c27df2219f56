"""Archives of the classes that a JVM loads, made by a real one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from beam_pipeline.runtime.programs.class_archive import ClassArchive
from beam_pipeline.runtime.programs.java import find_java
from beam_pipeline.runtime.programs.jvm import start_jvm
from beam_pipeline.runtime.programs.progress import SetupProgress


@pytest.fixture
def java() -> Path:
    with SetupProgress() as progress:
        return find_java(progress)


@pytest.fixture(autouse=True)
def _cache(java: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEAM_PIPELINE_CACHE", str(tmp_path / "cache"))


def _run(java: Path, log_file: Path, flags: Sequence[str]) -> list[str]:
    """Run a JVM that prints its settings, and return the classes that came from an archive."""
    flags = [*flags, "-Xlog:class+load", "-XshowSettings:properties"]
    process = start_jvm(
        "java", java, [], "-version", [], log_file, properties={}, extra_flags=flags
    )
    assert process.wait(60.0) == 0, process.tail()
    return [line for line in log_file.read_text().splitlines() if "shared objects file" in line]


def test_a_list_becomes_an_archive_that_the_next_jvm_uses(java: Path, tmp_path: Path) -> None:
    archive = ClassArchive("help", java, [], "java/lang/Object")
    assert archive.flags() == []
    assert not archive.is_wanted
    new_list = tmp_path / "classes.list"
    _run(java, tmp_path / "first.log", archive.list_flags(new_list))
    archive.keep(new_list)
    assert archive.is_wanted

    archive.make()
    assert archive.path.is_file()
    assert not archive.is_wanted
    flags = [*archive.flags(), "-Xlog:cds"]
    shared = _run(java, tmp_path / "second.log", flags)
    assert shared
    assert str(archive.path) in (tmp_path / "second.log").read_text()


def test_a_list_without_the_last_class_is_not_kept(java: Path, tmp_path: Path) -> None:
    archive = ClassArchive("help", java, [], "beam_pipeline/Pack")
    new_list = tmp_path / "classes.list"
    _run(java, tmp_path / "first.log", archive.list_flags(new_list))
    archive.keep(new_list)
    assert not archive.class_list.exists()


def test_what_fails_is_tried_once(java: Path, tmp_path: Path) -> None:
    archive = ClassArchive("help", java, [], "java/lang/Object")
    new_list = tmp_path / "classes.list"
    new_list.write_text("java/lang/Object id: none\n")
    archive.keep(new_list)
    archive.make()
    assert not archive.path.exists()
    assert not archive.is_wanted
    assert archive.flags() == []


def test_other_jars_and_a_changed_java_have_an_archive_of_their_own(
    java: Path, tmp_path: Path
) -> None:
    first = ClassArchive("help", java, [], "java/lang/Object")
    assert ClassArchive("help", java, [], "java/lang/Object").path == first.path
    assert ClassArchive("help", java, [tmp_path / "a.jar"], "java/lang/Object").path != first.path
