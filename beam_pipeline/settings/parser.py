"""An argument parser that answers a mistake with one line: the flag, the value and the remedy."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Iterable, Sequence
from typing import NoReturn

from beam_pipeline.errors import UsageError
from beam_pipeline.settings.masking import masked

_NUMBER_KINDS = {"int": "a whole number", "float": "a number"}
# What argparse says of a value that its `type` refuses, and of one that is not among its choices.
_BAD_NUMBER = re.compile(
    r"argument (?P<flag>[^:]+): invalid (?P<kind>int|float) value: '(?P<value>.*)'"
)
_BAD_CHOICE = re.compile(
    r"argument (?P<flag>[^:]+): invalid choice: '(?P<value>.*?)' \(choose from (?P<choices>.*)\)"
)
_OTHER = re.compile(r"argument (?P<flag>[^:]+): (?P<reason>.*)", re.DOTALL)


class CommandParser(argparse.ArgumentParser):
    """A parser whose errors are `UsageError`s.

    Subcommands get the same class: argparse makes them with the class of their parent.
    """

    def error(self, message: str) -> NoReturn:
        """Refuse the command line.

        Raises:
          UsageError: always.
        """
        raise UsageError(f"{readable(message)}; see `{self.prog} --help`")


def readable(message: str) -> str:
    """Turn a message of argparse into one that names the flag and the value first.

    >>> readable("argument --window_seconds: invalid int value: 'ten'")
    '--window_seconds=ten: must be a whole number'
    >>> readable("argument --engine: invalid choice: 'flnk' (choose from 'prism', 'flink')")
    '--engine=flnk: must be one of prism, flink (did you mean flink?)'
    """
    if match := _BAD_NUMBER.fullmatch(message):
        return f"{match['flag']}={match['value']}: must be {_NUMBER_KINDS[match['kind']]}"
    if match := _BAD_CHOICE.fullmatch(message):
        choices = [choice.strip("'") for choice in match["choices"].split(", ")]
        known = f"must be one of {', '.join(choices)}"
        return f"{match['flag']}={match['value']}: {known}{did_you_mean(match['value'], choices)}"
    if match := _OTHER.fullmatch(message):
        return f"{match['flag']}: {match['reason']}"
    return message


def refuse_unknown_flags(
    parser: argparse.ArgumentParser,
    words: Sequence[str],
    others: Sequence[argparse.ArgumentParser] = (),
) -> None:
    """Refuse a word that looks like a flag and is none of the parser's.

    The nearest flag may also be one of `others`.

    Raises:
      UsageError: names the word and the nearest flag.
    """
    known = [option for action in parser._actions for option in action.option_strings]
    shown = [
        option
        for each in (parser, *others)
        for action in each._actions
        for option in action.option_strings
        if action.help != argparse.SUPPRESS
    ]
    for word in words:
        name, _, value = word.partition("=")
        if name.startswith("--") and name != "--" and name not in known:
            given = f"{name}={masked(name, value)}" if value else name
            raise UsageError(
                f"{given} is not a flag of {parser.prog}{did_you_mean(name, shown)}; "
                f"see `{parser.prog} --help`"
            )


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return " (did you mean X?)" for the nearest of the known words, "" where none is near.

    >>> did_you_mean("recncile", ["run", "reconcile"])
    ' (did you mean reconcile?)'
    """
    nearest = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {nearest[0]}?)" if nearest else ""
