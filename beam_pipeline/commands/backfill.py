"""`beam-pipeline backfill`: writes what `run --start` has left out."""

from __future__ import annotations

import argparse
from contextlib import ExitStack

from rich.console import Console

from beam_pipeline.commands.launch import (
    Launch,
    logs_in,
    requests_text,
    stop_on_signals,
    unsent_text,
    with_parts_dir,
)
from beam_pipeline.commands.run import CAUGHT_UP_EARLY_PANE_SECONDS, last_line, save_ledger
from beam_pipeline.errors import UsageError
from beam_pipeline.files.left_out import left_out_text, load_left_out
from beam_pipeline.runtime import preflight
from beam_pipeline.runtime.discovery import with_matching_topics
from beam_pipeline.runtime.scope import Backfill
from beam_pipeline.settings.config import (
    engine_settings,
    pipeline_settings,
    supervision_settings,
    time_ms,
)
from beam_pipeline.settings.flags import (
    EARLIEST,
    add_engine_flags,
    add_pipeline_flags,
    add_supervision_flags,
)

TO_START = "start"

_DESCRIPTION = """\
Writes what `run --start` has left out, or a part of it, to the same directories. Every record
becomes one row or one dead letter, exactly once with what is there. Give the flags of the run.

Ends once everything is in files. A backfill that was stopped or killed is started again. It holds
the directories, so the run must be stopped meanwhile. Flags after `--` are passed to Beam as they
are.
"""
_EPILOG = """\
exit codes:
  0  ended as asked
  1  the broker, a topic, a directory or a process failed for good, or dead letters could not be
     sent to their topic
  2  a flag is wrong

examples:
  %(prog)s --kafka_bootstrap_servers=localhost:9092 --input_topics=orders
  %(prog)s --kafka_bootstrap_servers=localhost:9092 --input_topics=orders \\
    --from=2026-11-23T00:00Z --to=2026-11-24T00:00Z
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `backfill`, its description and its examples to `parser`."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add_pipeline_flags(parser)
    group = parser.add_argument_group("backfill")
    group.add_argument(
        "--from",
        metavar="earliest|TIME",
        default=EARLIEST,
        help="begin at the first record that was left out, or at the first one that Kafka stamped "
        "at an RFC 3339 time or later (default: %(default)s)",
    )
    group.add_argument(
        "--to",
        metavar="start|TIME",
        default=TO_START,
        help="end where the run started, or before the first record that Kafka stamped at an RFC "
        "3339 time or later (default: %(default)s)",
    )
    add_supervision_flags(group)
    add_engine_flags(parser)


def run(args: argparse.Namespace, beam_flags: list[str]) -> int:
    """Run until what was left out is in files, or a signal; return the exit code.

    Raises:
      PipelineError: what the user can mend.
    """
    values = vars(args)
    if args.early_pane_seconds is None:
        values["early_pane_seconds"] = CAUGHT_UP_EARLY_PANE_SECONDS
    from_ms, to_ms = times_of(values)
    settings, engine = pipeline_settings(values), engine_settings(values)
    if engine.from_savepoint:
        raise UsageError("--from_savepoint and backfill exclude each other: give it to `run`")
    settings = with_matching_topics(with_parts_dir(settings, engine))
    supervision = supervision_settings(values)
    stop = stop_on_signals()
    launch = Launch(settings, engine, supervision, beam_flags, logs_in(args.log_dir), Console())
    connection, topics = settings.connection(), settings.topics()
    spans = [
        span
        for span in load_left_out(settings.output_path).note.before_start
        if span.key.topic in topics
    ]
    if not spans:
        launch.say(f"nothing of {', '.join(topics)} was left out by --start: nothing to do")
        return 0
    launch.check()
    preflight.prepare(settings)
    with ExitStack() as stack:
        scope = Backfill(settings.output_path, from_ms, to_ms)
        supervisor = launch.supervisor(connection, stack, scope, is_part=True)
        observe = launch.observers(stack, supervisor.status)
        launch.say(
            f"writing what was left out {left_out_text(spans)} to {settings.output_dir}, dead "
            f"letters to {settings.dead_letter_dir} (log: {launch.logs.file('pipeline')})"
        )
        is_done = launch.follow(supervisor, observe, f"backfill of {', '.join(topics)}", stop)
        if not engine.on_flink:
            save_ledger(settings)
        launch.say(last_line(supervisor.status, "backfilled" if is_done else "stopped"))
        left = [span for span in scope.note.before_start if span.key.topic in topics]
        unsent = unsent_text(supervisor.status, settings, at_stop=not is_done)
        for line in (
            requests_text(supervisor.status, settings),
            unsent,
            f"still left out: {left_out_text(left)}" if left else None,
        ):
            if line is not None:
                launch.say(line)
    return 1 if unsent is not None and is_done else 0


def times_of(values: dict[str, str]) -> tuple[int | None, int | None]:
    """Return the times of `--from` and `--to` in milliseconds since 1970; None for a word.

    Raises:
      UsageError: a value is no time, or they are in the wrong order.
    """
    first, last = values["from"], values["to"]
    from_ms = None if first == EARLIEST else time_ms("from", first, f"{EARLIEST} or ")
    to_ms = None if last == TO_START else time_ms("to", last, f"{TO_START} or ")
    if from_ms is not None and to_ms is not None and from_ms >= to_ms:
        raise UsageError(f"--from={first} is not before --to={last}; nothing would be read")
    return from_ms, to_ms
