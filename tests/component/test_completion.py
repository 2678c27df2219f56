"""`beam-pipeline completion`: each shell, as it is, completes what the command line takes."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from beam_pipeline.cli import main

# What a key press asks for: the words so far, and some of what must be offered.
WANTED = [
    ("beam-pipeline re", {"reconcile", "report"}),
    ("beam-pipeline dlq re", {"replay"}),
    ("beam-pipeline run --parquet", {"--parquet_codec"}),
    ("beam-pipeline run --parquet_codec z", {"zstd"}),
    ("beam-pipeline dlq replay --print", {"--print_config"}),
    ("run_direct.sh completion z", {"zsh"}),
    ("run_flink.sh run --config my", {"my.yaml"}),
    ("beam-pipeline run --no_de", set()),
]


def script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["completion", shell]) == 0
    return capsys.readouterr().out


def finished(command: list[str], directory: Path) -> str:
    done = subprocess.run(
        command, cwd=directory, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "my.yaml").touch()
    return tmp_path


@pytest.mark.parametrize(("line", "offered"), WANTED)
def test_bash(
    line: str, offered: set[str], directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (directory / "completion").write_text(script("bash", capsys))
    ask = """
        source ./completion
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
        function=$(complete -p "$1" | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
        "$function" 2>/dev/null  # compopt has something to say outside of a completion
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    answer = finished(["bash", "-c", ask, "bash", *line.split(" ")], directory)
    assert set(answer.split()) == offered


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
@pytest.mark.parametrize(("line", "offered"), [*WANTED, ("./run_direct.sh dlq re", {"replay"})])
def test_fish(
    line: str, offered: set[str], directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (directory / "completion").write_text(script("fish", capsys))
    ask = "source ./completion; complete --do-complete $argv[1]"
    answer = finished(["fish", "--no-config", "-c", ask, line], directory)
    assert {row.split("\t")[0] for row in answer.splitlines()} == offered


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (directory / "_beam-pipeline").write_text(script("zsh", capsys))
    ask = """
        fpath=($PWD $fpath); autoload -Uz compinit; compinit -u -d ./dump
        print $_comps[beam-pipeline] $_comps[run_direct.sh] $_comps[run_flink.sh]
        compdef -d beam-pipeline run_direct.sh run_flink.sh
        eval "$(<_beam-pipeline)"
        print $_comps[beam-pipeline] $_comps[run_direct.sh] $_comps[run_flink.sh]
        print -l $_shtab_beam_pipeline_run_options
    """
    loaded, evaluated, *options = finished(["zsh", "-f", "-c", ask], directory).splitlines()
    assert loaded.split() == ["_beam-pipeline"] * 3
    assert evaluated.split() == ["_shtab_beam_pipeline"] * 3
    assert any("--parquet_codec" in option and "zstd" in option for option in options)
    assert not any("--no_detach" in option for option in options)


def test_other_shells_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "tcsh"]) == 2
    assert "SHELL=tcsh: must be one of bash, zsh, fish" in capsys.readouterr().err
