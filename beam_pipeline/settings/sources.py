"""Where a flag's value comes from: the command line, else the environment, else a file, else its
default. The flag's own argparse converter and choices apply to every value."""

from __future__ import annotations

import argparse
import difflib
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from beam_pipeline.errors import UsageError
from beam_pipeline.settings.config_file import CommandNames, ConfigFile, read_config
from beam_pipeline.settings.masking import is_secret, masked

PREFIX = "BEAM_PIPELINE_"
NOT_FLAGS = frozenset({f"{PREFIX}CACHE", f"{PREFIX}EVENT", f"{PREFIX}EVENT_TEXT"})
"""Variables with the prefix of flags that are no flags."""

FLAG, DEFAULT = "flag", "default"

_ON = frozenset({"true", "yes", "on", "1"})
_OFF = frozenset({"false", "no", "off", "0"})


@dataclass(frozen=True, slots=True)
class Setting:
    """A flag's value and where it comes from: FLAG, DEFAULT, `environment NAME`, or
    `file PATH, line N`."""

    name: str
    value: object
    source: str

    @property
    def is_configured(self) -> bool:
        """Whether it comes from the environment or a file."""
        return self.source not in (FLAG, DEFAULT)


@dataclass(frozen=True, slots=True)
class Configured:
    """A command line, completed from the environment and the file.

    Attributes:
        args: what argparse returns, with the final value of every flag; `given_flags` has the names
            of those on the command line.
        settings: each flag of the command, in the order of its help.
    """

    args: argparse.Namespace
    settings: Sequence[Setting]

    def explained(self, message: str) -> str:
        """Append to a message where the flags in it come from that are not on the command line."""
        named = set(re.findall(r"--(\w+)", message))
        sources = [
            f"{setting.name} is from {setting.source}"
            for setting in self.settings
            if setting.name in named and setting.is_configured
        ]
        return f"{message} ({'; '.join(sources)})" if sources else message


def add_config_flags(parser: argparse.ArgumentParser) -> None:
    """Add `--config` and `--print_config` to a command that has flags, or to its subcommands.

    Each switch also gets a hidden flag that turns it off, such as `--no_detach`.
    """
    for below in _commands_below(parser).values():
        add_config_flags(below)
    flags = _own_flags(parser)
    if not flags:
        return
    for name, action in flags.items():
        if _is_switch(action):
            parser.add_argument(
                f"--no_{name}",
                dest=action.dest,
                action="store_false",
                default=argparse.SUPPRESS,
                help=argparse.SUPPRESS,
            )
    group = parser.add_argument_group("configuration")
    group.add_argument(
        "--config",
        metavar="FILE",
        help="YAML file with a line NAME: VALUE for each flag; a flag on the command line takes "
        f"precedence over the environment ({PREFIX}<FLAG>), and that over the file",
    )
    group.add_argument(
        "--print_config",
        action="store_true",
        help="print the value of each flag and where it comes from, and exit",
    )


@dataclass(frozen=True, slots=True)
class Sources:
    """The sources of values beside the command line."""

    environment: Mapping[str, str] = field(default_factory=dict)
    file: ConfigFile = field(default_factory=ConfigFile)

    def environment_value(self, flag: str) -> str | None:
        """Return what the environment says of a flag, None where it says nothing."""
        return self.environment.get(variable_of(flag)) or None

    def give_any(self, flags: Collection[str], command: str) -> bool:
        """Return whether a source has a value for one of the flags of a command."""
        return any(
            self.environment_value(flag) or self.file.value((command,), flag) for flag in flags
        )


def read_sources(
    parser: argparse.ArgumentParser,
    words: Sequence[str],
    environment: Mapping[str, str] = os.environ,
) -> Sources:
    """Return the environment, and the file that `--config` names on the command line or there.

    Where help is asked for no file is read, so that a broken file can't prevent help.

    Raises:
      UsageError: the file is not usable; see `read_config`.
    """
    if _asks_for_help(words):
        return Sources(environment)
    variable = variable_of("config")
    path, given_as = environment.get(variable) or None, variable
    for position, word in enumerate(words):
        if word == "--config" and position + 1 < len(words):
            path, given_as = words[position + 1], "--config"
        elif word.startswith("--config="):
            path, given_as = word.removeprefix("--config="), "--config"
    if path is None:
        return Sources(environment)
    return Sources(environment, read_config(path, _names(parser), given_as))


def parse(parser: argparse.ArgumentParser, words: Sequence[str], sources: Sources) -> Configured:
    """Parse a command line, and complete it from the sources.

    For help it exits, as `parse_args` does.

    Raises:
      UsageError: a flag is wrong, or a value in a source is not usable; the message names the
        source, the flag and the remedy.
    """
    command, leaf = command_of(parser, words)
    flags = _own_flags(leaf)
    if not flags or _asks_for_help(words):
        return Configured(parser.parse_args(words), ())
    named = {word[2:].split("=")[0] for word in words if word.startswith("--")}
    given = {name for name in flags if named & {name, f"no_{name}"}}
    configured = {
        name: value
        for name, action in flags.items()
        if name not in given and (value := _configured(leaf, command, action, name, sources))
    }
    for name, action in flags.items():
        if name in configured or "print_config" in named:
            action.required = False
    args = parser.parse_args(words)
    args.given_flags = frozenset(given)
    settings = []
    for name, action in flags.items():
        unconfigured = getattr(args, action.dest), FLAG if name in given else DEFAULT
        value, source = configured.get(name, unconfigured)
        setattr(args, action.dest, value)
        settings.append(Setting(name, value, source))
    return Configured(args, settings)


def unknown_variables(
    parser: argparse.ArgumentParser, environment: Mapping[str, str] = os.environ
) -> Iterator[str]:
    """Yield a line for each variable whose name is nearly that of a flag.

    Others may belong to something else, such as those that Kubernetes sets for a service.
    """
    names = {"config", *_names(parser).all_flags}
    known = {variable_of(name) for name in names} | NOT_FLAGS
    for variable in sorted(environment):
        if variable.startswith(PREFIX) and variable not in known:
            name = variable.removeprefix(PREFIX).lower()
            if close := difflib.get_close_matches(name, sorted(names), n=1, cutoff=0.8):
                yield f"{variable} sets no flag; did you mean {variable_of(close[0])}?"


def without_configuration(parser: argparse.ArgumentParser) -> dict[str, str]:
    """Return variables that undo those of a command's flags, for a command started with flags."""
    return {variable_of(name): "" for name in ("config", *_own_flags(parser))}


def variable_of(flag: str) -> str:
    """Return the environment variable of a flag: `BEAM_PIPELINE_WINDOW_SECONDS`."""
    return PREFIX + flag.upper()


def command_of(
    parser: argparse.ArgumentParser, words: Sequence[str]
) -> tuple[tuple[str, ...], argparse.ArgumentParser]:
    """Return the command that the words begin with, and its parser."""
    command: tuple[str, ...] = ()
    for word in words:
        below = _commands_below(parser).get(word)
        if below is None:
            break
        command, parser = (*command, word), below
    return command, parser


def _commands_below(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _own_flags(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """Return the flags of a command that can be configured, by name."""
    return {
        option.removeprefix("--"): action
        for action in parser._actions
        for option in action.option_strings
        if option.startswith("--")
        and option not in ("--help", "--config", "--print_config")
        and action.help != argparse.SUPPRESS
    }


def _names(parser: argparse.ArgumentParser) -> CommandNames:
    return CommandNames(
        frozenset(_own_flags(parser)),
        {name: _names(below) for name, below in _commands_below(parser).items()},
    )


def _asks_for_help(words: Sequence[str]) -> bool:
    return "-h" in words or "--help" in words


def _configured(
    parser: argparse.ArgumentParser,
    command: tuple[str, ...],
    action: argparse.Action,
    name: str,
    sources: Sources,
) -> tuple[object, str] | None:
    """Return the value of a flag from the environment, else the file, and which it was."""
    variable = variable_of(name)
    if text := sources.environment.get(variable):
        lines = tuple(filter(None, map(str.strip, text.splitlines())))
        texts = lines if _is_repeatable(action) else (text,)
        return _converted(parser, action, name, texts, False, variable), f"environment {variable}"
    if value := sources.file.value(command, name):
        where = value.where
        return _converted(parser, action, name, value.texts, value.is_list, where), f"file {where}"
    return None


def _converted(
    parser: argparse.ArgumentParser,
    action: argparse.Action,
    name: str,
    texts: tuple[str, ...],
    is_list: bool,
    source: str,
) -> object:
    """Convert the texts as the flag does."""
    if _is_switch(action):
        word = texts[0].lower()
        if is_list or word not in _ON | _OFF:
            given = masked(name, ",".join(texts))
            raise UsageError(f"{source}: {name}={given}: this is a switch; write true or false")
        return word in _ON
    takes_commas = ",…" in str(action.metavar)
    if is_list and not takes_commas and not _is_repeatable(action):
        raise UsageError(f"{source}: {name} takes one value, not a list; write {name}: VALUE")
    try:
        if _is_repeatable(action):
            return [_convert(parser, action, text) for text in texts]
        return _convert(parser, action, ",".join(texts))
    except argparse.ArgumentError as error:
        given = masked(name, ",".join(texts))
        reason = "not accepted" if is_secret(name) else masked(name, error.message)
        raise UsageError(
            f"{source}: {name}={given}: {reason}; see `{parser.prog} --help`"
        ) from None


def _convert(parser: argparse.ArgumentParser, action: argparse.Action, text: str) -> object:
    value: object = parser._get_value(action, text)
    parser._check_value(action, value)
    return value


def _is_switch(action: argparse.Action) -> bool:
    return isinstance(action, argparse._StoreTrueAction)


def _is_repeatable(action: argparse.Action) -> bool:
    return isinstance(action, argparse._AppendAction)
