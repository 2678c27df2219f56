"""The reference of all commands and flags, as Markdown, generated from their parsers."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping

_HEAD = """\
# Commands and flags

This page is generated from the declarations that `--help` shows, by
`.venv/bin/python scripts/flags_reference.py`.

A flag is written `--name=value`. Its value comes from the command line, else from the environment
variable `BEAM_PIPELINE_NAME`, else from the YAML file of `--config`, else it is the default; see
[configuration](../configuration.md). A switch takes no value; `--no_name` turns it off.
"""


def flags_reference(parsers: Mapping[str, argparse.ArgumentParser]) -> str:
    """Return the page: a section for each command, a table for each group of its flags."""
    sections = [_HEAD, _every_command(next(iter(parsers.values())))]
    for name, parser in parsers.items():
        for leaf, leaf_parser in _leaves(name, parser):
            sections.append(_section(leaf, leaf_parser))
    return "\n".join(sections)


def _leaves(
    name: str, parser: argparse.ArgumentParser
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yield the command, or where it has subcommands each of those."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below, below_parser in action.choices.items():
                yield from _leaves(f"{name} {below}", below_parser)
            return
    yield name, parser


def _every_command(parser: argparse.ArgumentParser) -> str:
    rows = [row for group in parser._action_groups for row in _rows(group) if _is_common(row)]
    return "\n".join(["## Every command\n", *_table(rows)])


def _section(name: str, parser: argparse.ArgumentParser) -> str:
    lines = [f"## {name}\n", f"{' '.join((parser.description or '').split())}\n"]
    for group in parser._action_groups:
        rows = [row for row in _rows(group) if not _is_common(row)]
        if not rows:
            continue
        if group.title not in ("options", "positional arguments", "optional arguments"):
            lines.append(f"**{group.title}**\n")
        lines += _table(rows)
    return "\n".join(lines)


Row = tuple[str, str, str]


def _rows(group: argparse._ArgumentGroup) -> Iterator[Row]:
    """Yield (flag, what it takes, meaning) of what `--help` shows."""
    for action in group._group_actions:
        if action.help == argparse.SUPPRESS:
            continue
        names = [option for option in action.option_strings if option.startswith("--")]
        choices = "|".join(map(str, action.choices or ()))
        metavar = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
        takes = "" if action.nargs == 0 else choices or metavar
        values = {**vars(action), "prog": "", "default": action.default}
        meaning = " ".join((action.help or "").split()) % values
        yield (names[0] if names else metavar), takes if names else choices, meaning


def _is_common(row: Row) -> bool:
    return row[0] in ("--help", "--config", "--print_config")


def _table(rows: list[Row]) -> list[str]:
    lines = ["| flag | takes | meaning |", "|---|---|---|"]
    for flag, takes, meaning in rows:
        cells = (f"`{flag}`", f"`{takes}`" if takes else "", meaning)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return [*lines, ""]
