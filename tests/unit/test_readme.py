"""The README names every flag of every command."""

from __future__ import annotations

import argparse

import pytest

from beam_pipeline.cli import command_parsers
from beam_pipeline.resources import project_root


def flags_of(parser: argparse.ArgumentParser) -> set[str]:
    found = set()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                found |= flags_of(child)
        elif action.help != argparse.SUPPRESS:
            found |= {option for option in action.option_strings if option.startswith("--")}
    return found - {"--help"}


@pytest.mark.parametrize("command", sorted(command_parsers()))
def test_every_flag_is_in_the_readme(command: str) -> None:
    root = project_root()
    assert root is not None
    text = (root / "README.md").read_text(encoding="utf-8")
    missing = {flag for flag in flags_of(command_parsers()[command]) if f"`{flag}`" not in text}
    assert missing == set()
