"""`beam-pipeline`: the subcommands. Nothing here imports Beam, so help is immediate."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType

from beam_pipeline import resources
from beam_pipeline.commands import (
    backfill,
    broker,
    compact,
    completion,
    demo,
    dlq,
    doctor,
    fetch,
    flink,
    inspect,
    produce,
    reconcile,
    report,
    run,
    schema,
    store,
    table,
    wait,
)
from beam_pipeline.errors import EnvironmentFailure, PipelineError, UsageError
from beam_pipeline.settings.flags import FLINK
from beam_pipeline.settings.parser import CommandParser, did_you_mean, refuse_unknown_flags
from beam_pipeline.settings.printed import settings_text
from beam_pipeline.settings.sources import (
    Sources,
    add_config_flags,
    command_of,
    parse,
    read_sources,
    unknown_variables,
    variable_of,
)
from beam_pipeline.storage.protocol import StorageAwayError
from beam_pipeline.terminal import printable

_PROGRAM = "beam-pipeline"

_DESCRIPTION = """\
Writes Kafka topics to Parquet with exactly-once files. Every record ends up either as one Parquet
row or as one dead letter.

Without a command it is the demo: a broker, a producer and the pipeline for a minute, and the proof.
Where a flag, the environment or the file of --config names a broker or a topic, it is `run`.
"""
_EPILOG = """\
`%(prog)s COMMAND --help` explains a command and all its flags.

examples:
  %(prog)s
  %(prog)s --kafka_bootstrap_servers=HOST:PORT --input_topics=orders --schema=order.schema.json
  %(prog)s reconcile --kafka_bootstrap_servers=HOST:PORT --input_topics=orders
"""

_COMMANDS: dict[str, tuple[ModuleType, str]] = {
    "run": (run, "write your own topics to Parquet"),
    "backfill": (backfill, "write what --start of `run` has left out"),
    "demo": (demo, "broker, producer and pipeline for a minute, and the proof"),
    "produce": (produce, "send synthetic events, or a file's lines, to a topic"),
    "broker": (broker, "an embedded Kafka broker in the foreground"),
    "store": (store, "an embedded S3 store in the foreground"),
    "fetch": (fetch, "fetch Java, jars and the runner before a run"),
    "doctor": (doctor, "check what a run needs; each line is ok or says what to do"),
    "reconcile": (reconcile, "prove that every record of a topic is in exactly one place"),
    "wait": (wait, "wait until every event before a time is in files"),
    "flink": (flink, "manage a job on a Flink cluster"),
    "dlq": (dlq, "inspect dead letters, and send them again"),
    "schema": (schema, "propose, show and compare the JSON Schemas of events"),
    "inspect": (inspect, "show what a file or a directory contains"),
    "report": (report, "write what was landed as one HTML file"),
    "compact": (compact, "merge small Parquet files"),
    "table": (table, "look after the Iceberg table of a run"),
    "completion": (completion, "print a completion script for bash, zsh or fish"),
}
_TAKES_BEAM_FLAGS = ("run", "backfill", "demo")
_SOURCE_FLAGS = ("kafka_bootstrap_servers", "kafka_config", "input_topics")
_RUN_FLAGS = frozenset({*(f"--{flag}" for flag in _SOURCE_FLAGS), "--until", "--detach"})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand and return its exit code. A failure the user can mend is one line."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _dispatch(words)
    except PipelineError as error:
        print(f"beam-pipeline: {printable(str(error))}", file=sys.stderr)
        return error.exit_code
    except StorageAwayError as error:
        remedy = "check that the store runs and can be reached, then start again"
        print(f"beam-pipeline: {printable(str(error))}; {remedy}", file=sys.stderr)
        return EnvironmentFailure.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 1


def command_words(words: list[str], sources: Sources) -> list[str]:
    """Return the words with a command at their head.

    A command stays as it is. Without one it is `run` where a broker or a topic is named, on the
    command line, in the environment or in the file of `--config`, else the demo. With Flink as the
    engine, as in `./run_flink.sh`, the actions of `flink` are commands too.

    Raises:
      UsageError: the first word is no command; names the nearest.
    """
    first = words[0] if words else "--"
    if first in _COMMANDS:
        return words
    on_flink = sources.environment_value("engine") == FLINK
    actions = flink.ACTIONS if on_flink else ()
    if first in actions:
        return ["flink", *words]
    if not first.startswith("-"):
        known = [*_COMMANDS, *actions]
        raise UsageError(
            f"{first} is not a command{did_you_mean(first, known)}; the commands are "
            f"{', '.join(known)}"
        )
    if "-h" in words or "--help" in words:
        return ["--help"]
    names_source = _RUN_FLAGS & {word.split("=")[0] for word in words}
    return ["run" if names_source or sources.give_any(_SOURCE_FLAGS, "run") else "demo", *words]


def command_parsers(prog: str = _PROGRAM) -> Mapping[str, argparse.ArgumentParser]:
    """Return the parser of each subcommand; `prog` is how the user starts them."""
    return _parsers(prog)[1]


def _parsers(prog: str) -> tuple[CommandParser, dict[str, CommandParser]]:
    parser = CommandParser(
        prog=prog,
        usage="%(prog)s [COMMAND] [--FLAG=VALUE ...]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=_TopHelpFormatter,
        allow_abbrev=False,
    )
    subparsers = parser.add_subparsers(
        dest="command", metavar="COMMAND", title="commands", required=True, prog=prog
    )
    commands = {}
    for name, (module, summary) in _COMMANDS.items():
        commands[name] = subparsers.add_parser(name, help=summary, allow_abbrev=False)
        module.add_flags(commands[name])
        add_config_flags(commands[name])
    commands["completion"].set_defaults(make_parser=lambda: _parsers(_PROGRAM)[0])
    return parser, commands


class _TopHelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps each command and its summary on one line."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=18)

    def add_argument(self, action: argparse.Action) -> None:
        super().add_argument(action)
        # argparse forgets that subcommands are indented once more.
        self._action_max_length = max(self._action_max_length, 16)


def _dispatch(words: list[str]) -> int:
    words, beam_flags = _split_at_dashes(words)
    on_flink = os.environ.get(variable_of("engine")) == FLINK
    program = resources.program("run_flink.sh" if on_flink else "run_direct.sh", _PROGRAM)
    parser, commands = _parsers(program)
    sources = read_sources(parser, words)
    words = command_words(words, sources)
    command, leaf = command_of(parser, words)
    # Without a command it is the demo, where a flag of `run` may be meant.
    refuse_unknown_flags(leaf, words, [commands["run"]] if command == ("demo",) else [])
    configured = parse(parser, words, sources)
    args = configured.args
    module = _COMMANDS[args.command][0]
    if beam_flags and args.command not in _TAKES_BEAM_FLAGS:
        raise UsageError(f"{args.command} takes no flags for Beam: {' '.join(beam_flags)}")
    for line in unknown_variables(parser):
        print(f"beam-pipeline: {line}", file=sys.stderr)
    if getattr(args, "print_config", False):
        sys.stdout.write(settings_text(configured.settings))
        return 0
    try:
        return int(module.run(args, *([beam_flags] if args.command in _TAKES_BEAM_FLAGS else [])))
    except PipelineError as error:
        error.args = (configured.explained(str(error)),)
        raise


def _split_at_dashes(words: list[str]) -> tuple[list[str], list[str]]:
    """Return the words before and after `--`."""
    if "--" not in words:
        return words, []
    position = words.index("--")
    return words[:position], words[position + 1 :]
