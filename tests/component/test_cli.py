"""What the words of a command line mean, before anything runs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from beam_pipeline.cli import command_parsers, command_words, main
from beam_pipeline.settings.sources import Sources


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
    assert command_words(words, Sources()) == meaning


@pytest.mark.parametrize("command", command_parsers())
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: ./run_direct.sh {command}")


def test_help_lists_the_commands_and_says_what_happens_without_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for command in command_parsers():
        assert f"\n    {command} " in text
    assert "Without a command it is the demo" in text


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (
            ["run", "--window_secs=1"],
            "--window_secs=1 is not a flag of ./run_direct.sh run (did you",
        ),
        (["--windw_seconds=1"], "(did you mean --window_seconds?)"),
        (["run", "--kafka_password=hunter2"], "--kafka_password=*** is not a flag"),
        (["--kafka_bootstrap_server=h:1"], "(did you mean --kafka_bootstrap_servers?)"),
        (["nonsense", "--help"], "nonsense is not a command"),
        (["recncile"], "recncile is not a command (did you mean reconcile?)"),
        (["dlq", "stts"], "COMMAND=stts: must be one of stats, show, replay (did you mean stats?)"),
        (["run", "--engine=flnk"], "--engine=flnk: must be one of prism, flink (did you mean"),
        (["run", "--window_seconds=ten"], "--window_seconds=ten: must be a whole number"),
        (["demo", "--demo_seconds=soon"], "--demo_seconds=soon: must be a number"),
        (["run", "--window_seconds"], "--window_seconds: expected one argument"),
        (["reconcile"], "--input_topics"),
        (["reconcile", "--input_topics=a", "b"], "unrecognized arguments: b"),
        (["reconcile", "--input_topics=a", "--", "--runner=x"], "takes no flags for Beam"),
    ],
)
def test_a_mistake_is_one_line_with_its_remedy(
    words: list[str], answer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert answer in line


def test_the_command_line_does_not_import_beam() -> None:
    code = (
        "import sys, beam_pipeline.cli; "
        "sys.exit(bool({'apache_beam', 'pyiceberg', 'sqlalchemy'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
