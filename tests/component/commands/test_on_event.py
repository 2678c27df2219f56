"""`--on_event`: real commands, for the events of a run."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from beam_pipeline.commands import event_command
from beam_pipeline.commands.event_command import EventRunner
from beam_pipeline.errors import EnvironmentFailure, UsageError
from beam_pipeline.runtime.run_events import HOUR_COMPLETE, RESTART, DeadRatioError, RunEvent
from beam_pipeline.runtime.run_status import RunStatus
from beam_pipeline.settings.config import EventCommand, _event_command

HOOK = """
import json, os, sys
names = ("BEAM_PIPELINE_EVENT", "BEAM_PIPELINE_EVENT_TEXT", "OURS")
line = {"input": json.loads(sys.stdin.read()), **{name: os.environ.get(name) for name in names}}
with open(sys.argv[1], "a") as out:
    out.write(json.dumps(line) + "\\n")
"""
ABOUT = {"output_dir": "lake/orders"}


class Hook:
    """A run whose events go to a command."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.status = RunStatus()

    def runner(self, script: str, *words: str) -> EventRunner:
        command = EventCommand((sys.executable, "-c", script, *words), dict(os.environ))
        return EventRunner(command, ABOUT, self.directory / "events.log", self.status)

    def delivered(self) -> list[dict[str, Any]]:
        lines = (self.directory / "out").read_text().splitlines()
        return [json.loads(line) for line in lines]


@pytest.fixture
def hook(tmp_path: Path) -> Hook:
    return Hook(tmp_path)


def test_each_event_is_a_line_of_json_and_variables(
    hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = hook.runner(HOOK, str(hook.directory / "out"))
    monkeypatch.setenv("OURS", "set after the command was given")
    with runner:
        hook.status.events.append(RunEvent(RESTART, "password=hunter2 is wrong"))
        runner.take(hook.status)
        hook.status.events.append(RunEvent(HOUR_COMPLETE, "complete", {"rows": 7}))
    restart, hour = hook.delivered()
    assert restart["input"]["event"] == restart["BEAM_PIPELINE_EVENT"] == "restart"
    assert (
        restart["input"]["text"] == restart["BEAM_PIPELINE_EVENT_TEXT"] == "password=*** is wrong"
    )
    assert restart["input"]["output_dir"] == "lake/orders"
    assert restart["input"]["at"].endswith("Z")
    assert restart["OURS"] is None
    assert (hour["input"]["event"], hour["input"]["rows"]) == ("hour_complete", 7)
    assert not hook.status.events


@pytest.mark.parametrize(
    ("error", "kinds"),
    [
        (EnvironmentFailure("gave up after 10 restarts"), ["given_up"]),
        (DeadRatioError("90 of 100 are dead letters"), ["dead_ratio_tripped", "given_up"]),
        (KeyboardInterrupt(), []),
    ],
)
def test_the_end_of_a_run_is_delivered_before_the_process_ends(
    hook: Hook, error: BaseException, kinds: list[str]
) -> None:
    (hook.directory / "out").touch()
    with pytest.raises(type(error)), hook.runner(HOOK, str(hook.directory / "out")):
        raise error
    assert [line["input"]["event"] for line in hook.delivered()] == kinds
    assert all(line["input"]["text"] == str(error) for line in hook.delivered())


def failures(hook: Hook, runner: EventRunner) -> list[str]:
    """The notices of a run with one event, once its command has ended."""
    with runner:
        hook.status.events.append(RunEvent(RESTART, "again"))
    runner.take(hook.status)
    return hook.status.notices


def test_a_command_that_fails_is_told_once_and_prints_into_its_log(hook: Hook) -> None:
    runner = hook.runner("import sys; print('no route'); sys.exit(3)")
    log = hook.directory / "events.log"
    assert failures(hook, runner) == [f"--on_event: restart: exit code 3 (log: {log})"]
    assert log.read_text() == "no route\n"
    assert log.stat().st_mode & 0o777 == 0o600
    runner._failures.append("again")
    runner.take(hook.status)
    assert len(hook.status.notices) == 1


def test_a_command_that_is_gone_is_told(hook: Hook) -> None:
    command = EventCommand((str(hook.directory / "gone"),), {})
    runner = EventRunner(command, ABOUT, hook.directory / "events.log", hook.status)
    (notice,) = failures(hook, runner)
    assert notice.startswith("--on_event: restart: No such file or directory")


def test_a_command_that_hangs_is_killed_with_its_children(
    hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_command, "TIMEOUT_SECONDS", 1.0)
    script = (
        "import pathlib, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "pathlib.Path(sys.argv[1]).write_text(str(child.pid))\n"
        "time.sleep(600)"
    )
    (notice,) = failures(hook, hook.runner(script, str(hook.directory / "pid")))
    assert "restart: not at its end within 1 s" in notice
    child = Path("/proc", (hook.directory / "pid").read_text(), "cmdline")
    deadline = time.monotonic() + 60
    while child.exists() and child.read_bytes():  # empty once it is dead and not yet reaped
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_events_that_come_faster_than_the_command_takes_them_hold_up_nothing(
    hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_command, "MAX_WAITING", 2)
    monkeypatch.setattr(event_command, "LAST_SECONDS", 0.0)
    runner = hook.runner("import time; time.sleep(600)")
    with runner:
        hook.status.events.extend(RunEvent(RESTART, "again") for _ in range(50))
        runner.take(hook.status)
        (notice,) = hook.status.notices
    assert "events not delivered, too many waited" in notice
    assert runner._process is None, "the command was killed at the end"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the program '' is missing"),
        ("no-such-program --flag", "the program 'no-such-program' is missing or can't be run"),
        ("sh -c 'echo", "can't be split into words (No closing quotation)"),
    ],
)
def test_a_command_that_can_not_be_run_is_one_line(text: str, reason: str) -> None:
    with pytest.raises(UsageError) as refused:
        _event_command(text)
    assert reason in str(refused.value)
    assert str(refused.value).startswith("--on_event=")
