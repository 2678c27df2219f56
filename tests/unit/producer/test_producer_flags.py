"""`beam-pipeline produce`: a wrong flag is told in one line before anything is sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from beam_pipeline.cli import main


def refusal(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    """The one line that the command ends with."""
    target = ["--kafka_bootstrap_servers=127.0.0.1:1", "--topic=t"]
    assert main(["produce", *target, *flags]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


@pytest.mark.parametrize(
    "wrong",
    [
        "--invalid_ratio=1.5",
        "--late_ratio=-0.1",
        "--late_ratio=nan",
        "--events_per_second=-1",
        "--events_per_second=inf",
        "--late_seconds=-1",
        "--seconds=0",
        "--events=0",
        "--partitions=3",
        "--topic=a b",
        "--topic=..",
        "--key_field=user",
        "--input=missing.jsonl",
        "--schema=missing.json",
        "--status_file=missing/status.json",
        "--kafka_config=missing.properties",
    ],
)
def test_a_wrong_flag_is_named_with_its_value(
    wrong: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert f"{wrong}: " in refusal(capsys, wrong)


def test_shares_of_more_than_the_whole_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    line = refusal(capsys, "--invalid_ratio=0.6", "--late_ratio=0.6")
    assert "--invalid_ratio=0.6 and --late_ratio=0.6" in line


@pytest.mark.parametrize(
    "flag", ["--seed=0", "--invalid_ratio=0.1", "--late_ratio=0.1", "--schema=x.json"]
)
def test_flags_of_made_up_events_are_refused_with_an_input(
    flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(capsys, "--input=-", flag)
    assert line.startswith(f"beam-pipeline: {flag}: ")
    assert "--input" in line


@pytest.mark.parametrize(
    "flags",
    [
        ["--replay_speed=0", "--input=-", "--event_time_field=at"],
        ["--replay_speed=inf", "--input=-", "--event_time_field=at"],
        ["--replay_speed=2", "--event_time_field=at"],
        ["--replay_speed=2", "--input=-"],
        ["--replay_speed=2", "--input=-", "--event_time_field=at", "--events_per_second=9"],
        ["--event_time_field=at", "--input=-"],
    ],
)
def test_a_replay_needs_lines_and_a_time(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert flags[0] in refusal(capsys, *flags)


def test_help_teaches_by_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["produce", "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "examples:" in text
    for flag in ("--events_per_second", "--input", "--key_field", "--create_topic", "--seed"):
        assert flag in text
