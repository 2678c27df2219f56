"""Regular expressions of a plain kind as tables of states over bytes."""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_STATES = 200
_MAX_REPEATS = 100


class PatternNotCompiledError(Exception):
    """The expression is not of the plain kind."""


class _Step(NamedTuple):
    """One character of a set; it may be left out, or come again."""

    bytes: frozenset[int]
    is_optional: bool
    repeats: bool


_ITEM = re.compile(
    r"""
    (?: \[(?P<set>[A-Za-z0-9_.:/\ -]+)\]
      | \\(?P<escaped>[.\\/^$*+?()\[\]{}|-])
      | (?P<plain>[A-Za-z0-9_:/,;@\#=!~\ -]) )
    (?: \{(?P<low>[0-9]{1,3})(?P<comma>,)?(?P<high>[0-9]{1,3})?\}
      | (?P<sign>[?*+]) )?
    """,
    re.VERBOSE,
)
_END = re.compile(r"(?:\(\?!\\n\))?\$")


def compile_pattern(pattern: str) -> bytes:
    """Return a table of rows of 256 next states for an anchored sequence of characters.

    State 0 is that of texts that do not match, state 1 is the first. The entry of a state for byte
    255 is 1 if a text may end there. Sets of ASCII characters, escaped punctuation and `{n}`,
    `{n,m}`, `?`, `*`, `+` behind them are understood, all of which mean the same in every dialect.

    Raises:
      PatternNotCompiledError: there is something else in the expression, or too many states.

    >>> table = compile_pattern("^a{2}$")
    >>> table[256 + ord("a")]
    2
    """
    steps = _steps_of(pattern)
    first = _reachable(steps, frozenset({0}))
    states = {first: 1}
    waiting = [first]
    rows: list[bytes] = [bytes(256)]
    while waiting:
        state = waiting.pop(0)
        row = bytearray(256)
        for byte in range(128):
            following = _after(steps, state, byte)
            if not following:
                continue
            if following not in states:
                if len(states) == MAX_STATES:
                    raise PatternNotCompiledError("too many states")
                states[following] = len(states) + 1
                waiting.append(following)
            row[byte] = states[following]
        row[255] = len(steps) in state
        rows.append(bytes(row))
    return b"".join(rows)


def _steps_of(pattern: str) -> list[_Step]:
    if not pattern.startswith("^"):
        raise PatternNotCompiledError("not anchored")
    steps: list[_Step] = []
    at = 1
    while not (end := _END.fullmatch(pattern, at)):
        item = _ITEM.match(pattern, at)
        if item is None:
            raise PatternNotCompiledError("not a plain sequence")
        steps += _repeated(item)
        at = item.end()
    assert end
    return steps


def _repeated(item: re.Match[str]) -> list[_Step]:
    characters = item["escaped"] or item["plain"]
    known = frozenset({ord(characters)}) if characters else _set_of(item["set"])
    one, again = _Step(known, False, False), _Step(known, True, True)
    if item["sign"]:
        left_out = _Step(known, True, False)
        return {"?": [left_out], "*": [again], "+": [one, again]}[item["sign"]]
    if item["low"] is None:
        return [one]
    low = int(item["low"])
    if item["comma"] and item["high"] is None:
        high = low
    else:
        high = int(item["high"] if item["comma"] else item["low"])
        if item["comma"] is None and item["high"] is not None:  # {12}: both took digits
            raise PatternNotCompiledError("not a plain sequence")
    if high < low or high > _MAX_REPEATS:
        raise PatternNotCompiledError("too many repeats")
    steps = [one] * low + [_Step(known, True, False)] * (high - low)
    return [*steps, again] if item["comma"] and item["high"] is None else steps


def _set_of(text: str) -> frozenset[int]:
    characters: set[int] = set()
    at = 0
    while at < len(text):
        if text[at + 1 : at + 2] == "-" and at + 2 < len(text):
            first, last = ord(text[at]), ord(text[at + 2])
            is_range = any(
                text[at] in kind and text[at + 2] in kind and first <= last
                for kind in (
                    "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
                    "abcdefghijklmnopqrstuvwxyz",
                    "0123456789",
                )
            )
            if not is_range:
                raise PatternNotCompiledError("not a plain range")
            characters |= set(range(first, last + 1))
            at += 3
        elif text[at] == "-" and 0 < at < len(text) - 1:
            raise PatternNotCompiledError("not a plain range")
        else:
            characters.add(ord(text[at]))
            at += 1
    return frozenset(characters)


def _reachable(steps: list[_Step], positions: frozenset[int]) -> frozenset[int]:
    """Return the positions, and those behind steps that may be left out."""
    reached = set(positions)
    for position in range(len(steps)):
        if position in reached and steps[position].is_optional:
            reached.add(position + 1)
    return frozenset(reached)


def _after(steps: list[_Step], positions: frozenset[int], byte: int) -> frozenset[int]:
    moved = set()
    for position in positions:
        if position < len(steps) and byte in steps[position].bytes:
            moved.add(position if steps[position].repeats else position + 1)
    return _reachable(steps, frozenset(moved))
