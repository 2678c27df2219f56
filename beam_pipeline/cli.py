"""`beam-pipeline`: the subcommands. Nothing here imports Beam, so that help comes at once."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from types import ModuleType

from beam_pipeline.commands import (
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
)
from beam_pipeline.commands.engines import FLINK
from beam_pipeline.errors import PipelineError
from beam_pipeline.settings.printed import settings_text
from beam_pipeline.settings.sources import (
    Sources,
    add_config_flags,
    parse,
    read_sources,
    unknown_variables,
)
from beam_pipeline.terminal import printable

_DESCRIPTION = "Kafka to Parquet on Apache Beam: every record is a row or a dead letter, once."

_COMMANDS: dict[str, tuple[ModuleType, str]] = {
    "run": (run, "land your own topics as Parquet"),
    "demo": (demo, "broker, producer and pipeline for a minute, and the proof"),
    "produce": (produce, "write synthetic events, or a file's lines, to a topic"),
    "broker": (broker, "an embedded Kafka in the foreground"),
    "fetch": (fetch, "fetch Java, jars and the runner ahead of a run"),
    "doctor": (doctor, "look at what a run needs, each thing green or with the remedy"),
    "reconcile": (reconcile, "prove that every record of a topic is in exactly one place"),
    "flink": (flink, "look after a job on a Flink cluster"),
    "dlq": (dlq, "look into dead letters, and send them again"),
    "schema": (schema, "propose, show and compare the JSON Schemas of events"),
    "inspect": (inspect, "what a file or a directory says of itself"),
    "report": (report, "what was landed, as one HTML file"),
    "compact": (compact, "put small Parquet files together"),
    "completion": (completion, "let bash, zsh or fish complete commands and flags"),
}
_TAKES_BEAM_FLAGS = ("run", "demo")
_SOURCE_FLAGS = ("kafka_bootstrap_servers", "kafka_config", "input_topics")
_NO_SOURCES = Sources()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a subcommand; its exit code. A failure the user can mend is one line."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _dispatch(words)
    except PipelineError as error:
        print(f"beam-pipeline: {printable(str(error))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 1


def direct_words(words: list[str], sources: Sources = _NO_SOURCES) -> list[str]:
    """What `./run_direct.sh WORDS` means: a subcommand as it is, `run` where a broker or a topic
    is named, here or in the environment or the file of `--config`, else the demo."""
    if words and words[0] in _COMMANDS:
        return words
    named = {word.split("=")[0] for word in words}
    names_own = named & {*(f"--{flag}" for flag in _SOURCE_FLAGS), "--until", "--detach"}
    return ["run" if names_own or sources.give_any(_SOURCE_FLAGS, "run") else "demo", *words]


def flink_words(words: list[str], sources: Sources = _NO_SOURCES) -> list[str]:
    """What `./run_flink.sh WORDS` means: as `direct_words`, with `run` and `demo` on Flink, and
    the actions of `flink` by their own names."""
    if words and words[0] in flink.ACTIONS:
        return ["flink", *words]
    command, *rest = direct_words(words, sources)
    takes_engine = command in (*_TAKES_BEAM_FLAGS, "doctor")
    on_flink = [f"--engine={FLINK}"] if takes_engine else []
    return [command, *on_flink, *rest]


def command_parsers() -> dict[str, argparse.ArgumentParser]:
    """The parser of each subcommand."""
    return _parsers()[1]


def _parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    parser = argparse.ArgumentParser(prog="beam-pipeline", description=_DESCRIPTION)
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    commands = {}
    for name, (module, summary) in _COMMANDS.items():
        commands[name] = subparsers.add_parser(name, help=summary, allow_abbrev=False)
        module.add_flags(commands[name])
        add_config_flags(commands[name])
    commands["completion"].set_defaults(top_parser=parser)
    return parser, commands


def _dispatch(words: list[str]) -> int:
    parser, _ = _parsers()
    words, beam_flags = _split_at_dashes(words)
    sources = read_sources(parser, words)
    if words[:1] == ["direct"]:
        words = direct_words(words[1:], sources)
    elif words[:1] == ["on_flink"]:
        words = flink_words(words[1:], sources)
    configured = parse(parser, words, sources)
    args = configured.args
    module = _COMMANDS[args.command][0]
    if beam_flags and args.command not in _TAKES_BEAM_FLAGS:
        parser.error(f"{args.command} takes no flags for Beam: {' '.join(beam_flags)}")
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
    """The words before and after `--`."""
    if "--" not in words:
        return words, []
    position = words.index("--")
    return words[:position], words[position + 1 :]
