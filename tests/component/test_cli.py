"""What the words of a command line mean, before anything runs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from beam_pipeline.cli import direct_words, main


@pytest.mark.parametrize(
    ("words", "meaning"),
    [
        ([], ["demo"]),
        (["--demo_seconds=5"], ["demo", "--demo_seconds=5"]),
        (["--input_topics=a"], ["run", "--input_topics=a"]),
        (["--kafka_bootstrap_servers", "h:1"], ["run", "--kafka_bootstrap_servers", "h:1"]),
        (["produce", "--topic=a"], ["produce", "--topic=a"]),
        (["reconcile", "--input_topics=a"], ["reconcile", "--input_topics=a"]),
    ],
)
def test_run_direct_picks_the_command(words: list[str], meaning: list[str]) -> None:
    assert direct_words(words) == meaning


@pytest.mark.parametrize("command", ["run", "demo", "produce", "broker", "reconcile", "dlq"])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert "usage: beam-pipeline" in capsys.readouterr().out


def test_an_unknown_flag_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", "--window_secs=1"])
    assert ended.value.code == 2
    assert "--window_secs=1" in capsys.readouterr().err


def test_the_command_line_does_not_import_beam() -> None:
    code = "import sys, beam_pipeline.cli; sys.exit('apache_beam' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
