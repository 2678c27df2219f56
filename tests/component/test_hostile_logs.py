"""The last line of a log is printed without control characters."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from beam_pipeline import cli
from beam_pipeline.commands import run as command_module
from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.runtime.processes import ManagedProcess

HOSTILE = "\x1b[2J\x1b]0;owned\x07\x9b31m\x7f\b\r\u202egpj.\u2066\u2028\ufeffend"


def assert_harmless(text: str) -> None:
    unsafe = {c for c in text if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp")}
    assert not unsafe, f"{unsafe} in {text!r}"


def told(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """All that a command prints, on either stream."""
    capsys.readouterr()
    cli.main(words)
    captured = capsys.readouterr()
    return captured.out + captured.err


def test_the_last_line_of_a_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What `run`, `produce` and all others end with: a worker's last words, an input's name."""
    log = tmp_path / "pipeline.log"
    last_line = HOSTILE.replace("\r", "").replace("\u2028", "")
    with ManagedProcess("pipeline", ["printf", "%s", last_line], log) as process:
        process.wait(10)
        failure = process.failure("died")
    assert "\x1b" in str(failure)

    def fail(args: object, beam_flags: object) -> int:
        raise failure

    monkeypatch.setattr(command_module, "run", fail)
    text = told(["run", "--input_topics=orders"], capsys)
    assert_harmless(text)
    assert "beam-pipeline: pipeline died" in text

    words = ["produce", "--topic=orders", "--kafka_bootstrap_servers=localhost:1"]
    text = told([*words, f"--input={HOSTILE}"], capsys)
    assert_harmless(text)
    assert "--input=\\x1b[2J" in text
    assert isinstance(failure, EnvironmentFailure)
