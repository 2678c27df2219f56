"""What a demo says of the broker that it leaves up is to be copied, wherever the code lies."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from pipeline_settings import settings_of

from beam_pipeline import resources
from beam_pipeline.cli import command_parsers
from beam_pipeline.commands.demo import broker_hint


@pytest.mark.parametrize("installed", [False, True])
def test_the_hint_has_commands_that_can_be_run(
    installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if installed:
        monkeypatch.setattr(resources, "project_root", lambda: None)
    settings = settings_of("--input_topics=demo-1", "--output_dir=my files")
    _, *lines = broker_hint(settings, 7, Path("/tmp/broker")).splitlines()
    words = [shlex.split(line) for line in lines]
    program = "beam-pipeline" if installed else "./run_direct.sh"
    assert [line[0] for line in words] == [program, program, "and", "kill"]
    for _, command, *flags in words[:2]:
        command_parsers()[command].parse_args(flags)
    assert "--output_dir=my files" in words[0]
