"""Java properties files, the configuration format of Kafka's servers and tools.

The format is that of `java.util.Properties.load`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_BLANKS = " \t\f"
_KEY = re.compile(r"(?:\\.|[^\\=: \t\f])*", re.DOTALL)
_SEPARATOR = re.compile(r"^[ \t\f]*[=:]?[ \t\f]*")
_ESCAPE = re.compile(r"\\(u[0-9A-Fa-f]{4}|u|.|$)", re.DOTALL)
_CONTROLS = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}
_NAMED = {control: f"\\{name}" for name, control in _CONTROLS.items()}


def parse_properties(text: str) -> dict[str, str]:
    """Parse a Java properties file.

    Raises:
        ValueError: a broken `\\u` escape; the message holds no part of the text.
    """
    result = {}
    for line in _logical_lines(text):
        match = _KEY.match(line)
        key = match[0] if match else ""
        value = _SEPARATOR.sub("", line[len(key) :], count=1)
        result[_unescape(key)] = _unescape(value)
    return result


def format_properties(properties: Mapping[str, str]) -> str:
    """Format a properties file in ASCII, which Java reads in any encoding."""
    return "".join(f"{_escape(key)}={_escape(value)}\n" for key, value in properties.items())


def _logical_lines(text: str) -> list[str]:
    """Drop comments and blank lines, and join a line that ends in a backslash with the next."""
    lines: list[str] = []
    continued = False
    for natural in re.split(r"\r\n|\r|\n", text):
        line = natural.lstrip(_BLANKS)
        if not continued and (not line or line[0] in "#!"):
            continue
        if continued:
            lines[-1] += line
        else:
            lines.append(line)
        continued = (len(line) - len(line.rstrip("\\"))) % 2 == 1
        if continued:
            lines[-1] = lines[-1][:-1]
    return lines


def _unescape(text: str) -> str:
    def character(match: re.Match[str]) -> str:
        escape = match[1]
        if escape == "u":
            raise ValueError("a \\u escape needs four hexadecimal digits")
        if len(escape) == 5:
            return chr(int(escape[1:], 16))
        return _CONTROLS.get(escape, escape)

    units = _ESCAPE.sub(character, text)
    # Two escapes in a row may be one character above 16 bits.
    return units.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


def _escape(text: str) -> str:
    return "".join(_escape_character(character) for character in text)


def _escape_character(character: str) -> str:
    if character in _NAMED:
        return _NAMED[character]
    if character in "\\ =:#!":
        return f"\\{character}"
    if " " < character < "\x7f":
        return character
    # Java's escapes are UTF-16 code units.
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
