"""The file of `--config`: YAML with the names of flags as keys, and values as on a command line.

Values stay text, as written, and the flags' own converters read them: `none`, `1e3` and
`2026-01-01` mean what they mean on a command line. Tags create no objects, and only places where a
key may be are visited, so the cost is bounded by the document's length.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml  # type: ignore[import-untyped]

from beam_pipeline.errors import UsageError

MAX_CONFIG_BYTES = 1024 * 1024
MAX_SHOWN_KEY = 60

_VALUE_TAGS = frozenset(
    f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "timestamp", "seq")
)
_NULL_TAG = "tag:yaml.org,2002:null"
# PyYAML quotes the text at fault, which may be a password that begins with * or &.
_QUOTED = re.compile(r" '[^'<]{2,}'")


@dataclass(frozen=True, slots=True)
class CommandNames:
    """Names that a file may use: a command's flags, its subcommands and their names."""

    flags: frozenset[str] = frozenset()
    below: Mapping[str, CommandNames] = field(default_factory=dict)

    @property
    def all_flags(self) -> frozenset[str]:
        """The flags of this command and of all its subcommands."""
        return self.flags.union(*(command.all_flags for command in self.below.values()))


@dataclass(frozen=True, slots=True)
class FileValue:
    """What a file says about one flag.

    Attributes:
        texts: the value as written; several for a list.
        is_list: whether it was written as a list.
        where: the file and the line, such as `my.yaml, line 3`.
    """

    texts: tuple[str, ...]
    is_list: bool
    where: str


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A file's values by command: `()` for the top level, `("dlq", "replay")` for that command."""

    sections: Mapping[tuple[str, ...], Mapping[str, FileValue]] = field(default_factory=dict)

    def value(self, command: tuple[str, ...], flag: str) -> FileValue | None:
        """Return the value of a command's flag: below the command's own name, else further up."""
        for depth in range(len(command), -1, -1):
            if value := self.sections.get(command[:depth], {}).get(flag):
                return value
        return None


def read_config(path: str, names: CommandNames, given_as: str = "--config") -> ConfigFile:
    """Read the file at `path`; `given_as` is what named it. Keys without a value are ignored.

    Raises:
      UsageError: it can't be read, is not YAML, or has a key that is no flag and no command.
    """
    document = _document(path, f"{given_as}={path}")
    if document is None or document.tag == _NULL_TAG:
        return ConfigFile()
    if not isinstance(document, yaml.MappingNode):
        raise UsageError(f"{given_as}={path}: has no keys; write one NAME: VALUE a line")
    return ConfigFile(dict(_sections(path, document, (), names)))


def _document(path: str, given: str) -> yaml.Node | None:
    try:
        with Path(path).open("rb") as file:
            raw = file.read(MAX_CONFIG_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{given}: {reason}; give a readable YAML file") from None
    if len(raw) > MAX_CONFIG_BYTES:
        raise UsageError(f"{given}: has more than {MAX_CONFIG_BYTES:,} bytes; is it the right one?")
    try:
        return yaml.compose(raw.decode("utf-8-sig"), Loader=yaml.SafeLoader)
    except UnicodeDecodeError:
        raise UsageError(f"{given}: not UTF-8; save it as UTF-8") from None
    except RecursionError:
        raise UsageError(f"{given}: nested too deep; write one NAME: VALUE a line") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{given}: not YAML: {_problem(error)}") from None


def _problem(error: yaml.YAMLError) -> str:
    """Return where and what, without the text of the file, which may be a secret."""
    mark = getattr(error, "problem_mark", None)
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    problem = getattr(error, "problem", None) or getattr(error, "reason", None)
    return f"{place}{_QUOTED.sub('', str(problem or 'it can not be read'))}"


def _sections(
    path: str, mapping: yaml.MappingNode, command: tuple[str, ...], names: CommandNames
) -> Iterator[tuple[tuple[str, ...], dict[str, FileValue]]]:
    """Yield the values of `mapping`, which is below `command`, and of the commands in it."""
    values: dict[str, FileValue] = {}
    seen: set[tuple[str, bool]] = set()
    known = names.all_flags
    for key_node, node in mapping.value:
        where = f"{path}, line {key_node.start_mark.line + 1}"
        key = _key(key_node, where)
        is_command = isinstance(node, yaml.MappingNode) and key in names.below
        if (key, is_command) in seen:
            raise UsageError(f"{where}: {key} is given twice; remove one")
        seen.add((key, is_command))
        if is_command:
            yield from _sections(path, node, (*command, key), names.below[key])
        elif key in known:
            if (value := _value(node, key, where)) is not None:
                values[key] = value
        elif key not in names.below:
            raise UsageError(f"{where}: {_unknown(key, command, known | names.below.keys())}")
        elif node.tag != _NULL_TAG:
            raise UsageError(f"{where}: {key} is a command; write its flags below it, indented")
    yield command, values


def _key(node: yaml.Node, where: str) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise UsageError(f"{where}: a key is the name of a flag, not a list or a mapping")
    return str(node.value)


def _unknown(key: str, command: tuple[str, ...], known: Collection[str]) -> str:
    shown = key if len(key) <= MAX_SHOWN_KEY else f"{key[:MAX_SHOWN_KEY]}…"
    place = f"of {' '.join(command)}" if command else "of any command"
    plain = key.lstrip("-").replace("-", "_").lower()
    if plain in known:
        return f"{shown} is spelled differently here; write {plain}"
    close = difflib.get_close_matches(plain[:MAX_SHOWN_KEY], sorted(known), n=1)
    if close:
        remedy = f"did you mean {close[0]}?"
    elif "." in key:
        remedy = "Kafka client properties go into the file that kafka_config names"
    else:
        remedy = "see `beam-pipeline COMMAND --help`"
    return f"{shown} is not a flag {place}; {remedy}"


def _value(node: yaml.Node, key: str, where: str) -> FileValue | None:
    """Return the value as text; None where it is blank or null."""
    if isinstance(node, yaml.MappingNode):
        raise UsageError(f"{where}: {key} takes a value, not a mapping; write {key}: VALUE")
    if isinstance(node, yaml.SequenceNode):
        _check_tag(node, key, where)
        texts = tuple(_text(item, key, where) for item in node.value)
        return FileValue(texts, True, where) if texts else None
    if node.tag == _NULL_TAG or node.value == "":
        return None
    return FileValue((_text(node, key, where),), False, where)


def _text(node: yaml.Node, key: str, where: str) -> str:
    if not isinstance(node, yaml.ScalarNode) or node.tag == _NULL_TAG:
        raise UsageError(f"{where}: {key}: an item of the list is not a value; write {key}: [A, B]")
    _check_tag(node, key, where)
    return str(node.value)


def _check_tag(node: yaml.Node, key: str, where: str) -> None:
    if node.tag not in _VALUE_TAGS:
        raise UsageError(f"{where}: {key} has the tag {node.tag}; remove the tag")
