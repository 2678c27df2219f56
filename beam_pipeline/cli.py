"""`beam-pipeline`: the subcommands. Nothing here imports Beam, so that help comes at once."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from types import ModuleType

from beam_pipeline.commands import broker, compact, demo, doctor, fetch, flink, run, schema
from beam_pipeline.commands.engines import FLINK
from beam_pipeline.errors import PipelineError
from beam_pipeline.ops import dlq_command as dlq
from beam_pipeline.ops import inspect_command as inspect
from beam_pipeline.ops import reconcile_command as reconcile
from beam_pipeline.producer import cli as produce

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
    "compact": (compact, "put small Parquet files together"),
}
_TAKES_BEAM_FLAGS = ("run", "demo")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a subcommand; its exit code. A failure the user can mend is one line."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["direct"]:
        words = direct_words(words[1:])
    elif words[:1] == ["flink"]:
        words = flink_words(words[1:])
    try:
        return _dispatch(words)
    except PipelineError as error:
        print(f"beam-pipeline: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 1


def direct_words(words: list[str]) -> list[str]:
    """What `./run_direct.sh WORDS` means: a subcommand as it is, `run` where a broker or a topic
    is named, else the demo."""
    if words and words[0] in _COMMANDS:
        return words
    own = ("--kafka_bootstrap_servers", "--kafka_config", "--input_topics", "--until", "--detach")
    names_own = any(word.split("=")[0] in own for word in words)
    return ["run" if names_own else "demo", *words]


def flink_words(words: list[str]) -> list[str]:
    """What `./run_flink.sh WORDS` means: as `direct_words`, with `run` and `demo` on Flink, and
    the actions of `flink` by their own names."""
    if words and words[0] in flink.ACTIONS:
        return ["flink", *words]
    command, *rest = direct_words(words)
    on_flink = [f"--engine={FLINK}"] if command in _TAKES_BEAM_FLAGS else []
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
    return parser, commands


def _dispatch(words: list[str]) -> int:
    parser, _ = _parsers()
    words, beam_flags = _split_at_dashes(words)
    args = parser.parse_args(words)
    module = _COMMANDS[args.command][0]
    if args.command in _TAKES_BEAM_FLAGS:
        return int(module.run(args, beam_flags))
    if beam_flags:
        parser.error(f"{args.command} takes no flags for Beam: {' '.join(beam_flags)}")
    return int(module.run(args))


def _split_at_dashes(words: list[str]) -> tuple[list[str], list[str]]:
    """The words before and after `--`."""
    if "--" not in words:
        return words, []
    position = words.index("--")
    return words[:position], words[position + 1 :]
