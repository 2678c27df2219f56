"""Which Java a start takes, and that looking for it tells the same without changing anything."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from beam_pipeline.commands import doctor
from beam_pipeline.runtime.programs import java as java_module
from beam_pipeline.runtime.programs.java import find_java, look_for_java
from beam_pipeline.runtime.programs.progress import SetupProgress


class Machine:
    """A machine with `java` programs that are shell scripts."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.cache = directory / "cache"
        self.calls = directory / "calls"

    def java(self, name: str, version: str, then: str = "") -> Path:
        return self.write(self.directory / name / "bin" / "java", version, then)

    def write(self, program: Path, version: str, then: str = "") -> Path:
        program.parent.mkdir(parents=True)
        name = program.relative_to(self.directory).parts[0]
        program.write_text(
            f"#!/bin/sh\n{then}\necho {name} >> {self.calls}\n"
            f"echo 'openjdk version \"{version}\"' >&2\n"
        )
        program.chmod(0o755)
        return program

    def files_in_cache(self) -> list[Path]:
        return [path for path in self.cache.rglob("*") if path.is_file()]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(tmp_path)
    monkeypatch.setenv("BEAM_PIPELINE_CACHE", str(machine.cache))
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'path' / 'bin'}:/usr/bin:/bin")
    return machine


@pytest.fixture
def progress() -> SetupProgress:
    return SetupProgress(Console(quiet=True))


def test_java_home_is_preferred(machine: Machine, progress: SetupProgress) -> None:
    home, _ = machine.java("home", "17.0.9"), machine.java("path", "21.0.2")
    found = look_for_java()
    assert found is not None
    assert (found.path, found.version, found.source) == (home, "17.0.9", "JAVA_HOME")
    assert found.passed_over == ()
    assert machine.files_in_cache() == []
    assert find_java(progress) == home


@pytest.mark.parametrize("old", ["1.8.0_402", "11.0.22"])
def test_a_java_home_that_is_too_old_is_passed_over(
    machine: Machine, progress: SetupProgress, old: str
) -> None:
    home, path = machine.java("home", old), machine.java("path", "17-ea")
    found = look_for_java()
    assert found is not None
    assert (found.path, found.version, found.source) == (path, "17-ea", "PATH")
    assert found.passed_over == (f"JAVA_HOME: {home} is version {old}",)
    assert find_java(progress) == path


def test_doctor_and_a_start_agree(machine: Machine, progress: SetupProgress) -> None:
    machine.java("home", "11.0.22")
    path = machine.java("path", "17.0.9")
    state, text = doctor._java()
    assert state == doctor.GREEN
    assert text.startswith(f"17.0.9, {path} (from PATH); not used: JAVA_HOME: ")
    assert find_java(progress) == path


def test_versions_are_remembered_by_a_start(machine: Machine, progress: SetupProgress) -> None:
    machine.java("home", "1.8.0_402")
    path = machine.java("path", "21.0.2")
    assert find_java(progress) == path
    assert find_java(progress) == path
    assert machine.calls.read_text().split() == ["home", "path"]
    look_for_java()
    assert machine.calls.read_text().split() == ["home", "path"]


def test_a_java_that_does_not_answer_is_passed_over(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(java_module, "_VERSION_TIMEOUT_SECONDS", 0.2)
    home = machine.java("home", "17.0.9", then="exec sleep 60")
    path = machine.java("path", "21.0.2")
    found = look_for_java()
    assert found is not None
    assert found.path == path
    assert found.passed_over == (f"JAVA_HOME: {home} gives no version",)


def test_an_installed_java_is_found_in_the_cache(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, progress: SetupProgress
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("JAVA_HOME")
    assert look_for_java() is None
    installed = machine.write(java_module._packaged_java(), "25")
    found = look_for_java()
    assert found is not None
    assert (found.path, found.source) == (installed, "the cache")
    assert find_java(progress) == installed


def test_beam_is_not_imported_for_cached_jars(machine: Machine) -> None:
    jar = machine.cache / "jars" / "org.example" / "plain-1.0.jar"
    jar.parent.mkdir(parents=True)
    jar.write_bytes(b"a jar")
    lock = machine.directory / "example.lock"
    lock.write_text(f"org.example:plain:1.0 {hashlib.sha256(b'a jar').hexdigest()}\n")
    script = (
        "import sys, pathlib\n"
        "from beam_pipeline.runtime.programs.java import fetch_jars\n"
        "from beam_pipeline.runtime.programs.progress import SetupProgress\n"
        "assert len(fetch_jars(pathlib.Path(sys.argv[1]), SetupProgress())) == 1\n"
        "assert 'apache_beam' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script, lock], check=True)
