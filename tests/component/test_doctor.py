"""What stands in the way of a run is told with its remedy, and nothing is changed."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from output_trees import OutputTree, sources

from beam_pipeline.cli import main
from beam_pipeline.resources import java_lock_path
from beam_pipeline.runtime.prism.build import find_prism
from beam_pipeline.runtime.programs import go, kernel
from beam_pipeline.runtime.programs.java import read_lock
from beam_pipeline.runtime.programs.progress import SetupProgress

Usage = namedtuple("Usage", ["total", "used", "free"])


def findings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], *flags: str
) -> tuple[int, dict[str, dict[str, Any]]]:
    places = [f"--output_dir={tmp_path}/output", f"--dead_letter_dir={tmp_path}/dead"]
    code = main(["doctor", "--json", *places, *flags])
    return code, {one["name"]: one for one in json.loads(capsys.readouterr().out)}


def test_a_machine_with_nothing_fetched_yet_is_noted_and_left_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BEAM_PIPELINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    code, found = findings(tmp_path, capsys)
    assert code == 0
    states = {name: one["state"] for name, one in found.items()}
    assert {name for name, state in states.items() if state == "note"} == {
        *("Java", "Prism", "jars", "jars, demo", "kernel", "broker")
    }
    assert set(states.values()) == {"ok", "note"}
    assert not (tmp_path / "output").exists()
    assert list((tmp_path / "cache").rglob("*")) == []


def test_the_prism_that_a_run_takes_is_green(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BEAM_PIPELINE_CACHE", str(tmp_path / "cache"))
    built = tmp_path / "built"
    built.touch(mode=0o755)
    monkeypatch.setattr(go, "_build", lambda *_: built)
    binary = find_prism(SetupProgress())
    _, found = findings(tmp_path, capsys)
    assert found["Prism"]["state"] == "ok"
    assert found["Prism"]["text"].endswith(str(binary))
    binary.chmod(0o644)
    code, found = findings(tmp_path, capsys)
    assert code == 1
    assert "remove it" in found["Prism"]["text"]


def test_the_kernel_is_named_with_the_command_that_builds_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BEAM_PIPELINE_CACHE", str(tmp_path / "cache"))
    _, found = findings(tmp_path, capsys)
    assert found["kernel"]["state"] == "note"
    assert "run_direct.sh fetch` builds it" in found["kernel"]["text"]
    library = kernel._library_path()
    library.parent.mkdir(parents=True)
    library.write_bytes(b"code")
    _, found = findings(tmp_path, capsys)
    assert found["kernel"]["state"] == "ok"
    assert library.parent.name in found["kernel"]["text"]
    _, found = findings(tmp_path, capsys, "--compiled_contract=off")
    assert found["kernel"]["state"] == "note"
    assert "--compiled_contract=off" in found["kernel"]["text"]


def test_a_jar_that_is_not_the_locked_one_is_red(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BEAM_PIPELINE_CACHE", str(tmp_path / "cache"))
    jar = read_lock(java_lock_path("expansion"))[0]
    path = tmp_path / "cache" / "jars" / jar.cache_name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"another")
    code, found = findings(tmp_path, capsys)
    assert code == 1
    assert found["jars"]["state"] == "wrong"
    assert str(path) in found["jars"]["text"]
    assert "remove it" in found["jars"]["text"]


def test_what_is_wrong_with_flags_and_directories_is_red(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    code, found = findings(
        tmp_path, capsys, "--schema=nowhere.json", f"--output_dir={tmp_path}/file/below"
    )
    assert code == 1
    assert found["schema"]["text"].startswith("--schema=nowhere.json: No such file")
    assert "can't be written" in found["output"]["text"]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(9, 9, 1024**3))
    code, found = findings(tmp_path, capsys)
    assert code == 0
    assert found["dead letters"]["state"] == "note"
    assert "1.0 GiB free; make room" in found["dead letters"]["text"]


def test_earlier_files_are_added_up_and_damage_is_red(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = OutputTree(tmp_path)
    path = tree.parquet(sources("orders", 0, range(5)))
    _, found = findings(tmp_path, capsys)
    assert found["ledger"] == {
        **{"name": "ledger", "state": "ok"},
        "text": "1 files; 1 partitions landed so far",
    }
    path.write_bytes(b"PAR1")
    code, found = findings(tmp_path, capsys)
    assert code == 1
    assert "must be moved away" in found["ledger"]["text"]


def test_it_reads_well_on_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of the three states has a mark of its own, and nothing unsafe is printed."""
    monkeypatch.setenv("BEAM_PIPELINE_CACHE", str(tmp_path / "empty"))
    assert main(["doctor", f"--output_dir={tmp_path}", "--schema=\x1b[2J"]) == 1
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert "✗ schema" in text
    assert "✓ Python" in text
    assert "• Prism" in text


def test_a_flag_out_of_range_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--window_seconds=0"]) == 2
    assert "--window_seconds=0" in capsys.readouterr().err
