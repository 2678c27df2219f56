"""The README has a table of the flags of each command: all, with what they take, and no others."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator

import pytest

from beam_pipeline.cli import command_parsers
from beam_pipeline.resources import project_root

_TAKES_FLAGS_OF_RUN = ("demo", "doctor")
_ROW = re.compile(r"^\| (?P<flags>`.+?) \| ?(?P<takes>.*?) ?(?<!\\)\|", re.MULTILINE)


def leaves(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    """The names of the commands that take flags."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from (f"{name} {child}" for child in action.choices)
            return
    yield name


def flags_of(command: str) -> dict[str, str]:
    """What each flag of a command takes, those of every command left out."""
    name, *below = command.split()
    parser = command_parsers()[name]
    for child in below:
        parser = next(
            action.choices[child]
            for action in parser._actions
            if isinstance(action, argparse._SubParsersAction)
        )
    found = {}
    for action in parser._actions:
        if action.help == argparse.SUPPRESS or "--help" in action.option_strings:
            continue
        choices = "|".join(map(str, action.choices or ()))
        if action.option_strings:
            takes = "" if action.nargs == 0 else choices or action.metavar or action.dest.upper()
            found |= {o: str(takes) for o in action.option_strings if o.startswith("--")}
        else:
            found[str(action.metavar or action.dest)] = choices
    return found


def tables() -> dict[str, dict[str, str]]:
    """What the flags take, by the README's section."""
    root = project_root()
    assert root is not None
    text = (root / "README.md").read_text(encoding="utf-8")
    _, *sections = re.split(r"^### ", text[text.index("\n## Every flag") :], flags=re.MULTILINE)
    found = {}
    for section in sections:
        name, body = section.split("\n", 1)
        rows = [(match["flags"], match["takes"]) for match in _ROW.finditer(body)]
        found[name] = {
            flag: takes.replace("\\", "").strip("`")
            for flags, takes in rows
            for flag in re.findall(r"`([^`]+)`", flags)
        }
    return found


COMMANDS = [leaf for name, parser in command_parsers().items() for leaf in leaves(name, parser)]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_table_has_the_flags_of_the_command(command: str) -> None:
    every, own, actual = tables()["every command"], tables()[command], flags_of(command)
    if command in _TAKES_FLAGS_OF_RUN:
        taken = {flag: takes for flag, takes in tables()["run"].items() if flag in actual}
        own = {**taken, **own}
    assert {flag: takes for flag, takes in actual.items() if flag not in every} == own


def test_there_are_no_tables_of_other_commands() -> None:
    assert set(tables()) == {"every command", *COMMANDS}
