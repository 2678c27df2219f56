"""`beam-pipeline dlq stats|show|replay`: flags and runs."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from itertools import islice
from typing import TYPE_CHECKING

from beam_pipeline.errors import UsageError
from beam_pipeline.settings.flags import add_kafka_flags, add_shared
from beam_pipeline.settings.places import place_of
from beam_pipeline.topic_names import check_topic_name

if TYPE_CHECKING:
    from beam_pipeline.storage.paths import StoredPath
    from beam_pipeline.tools.dlq.letters import Letter
    from beam_pipeline.tools.dlq.replay import ReplayOutcome
    from beam_pipeline.tools.dlq.replay_plan import ReplayChoice, ReplayPlan

_WHERE_HELP = """\
--where:
  NAME=VALUE, or NAME=VALUE,VALUE,... to match any of the values. Repeat it to combine conditions:
  all must match. The names:
    code       MALFORMED_JSON, SCHEMA_VIOLATION, TOO_OLD, ...
    keyword    keyword of the JSON Schema that the event violates: required, enum, pattern, ...
    field      place in the event, as a JSON pointer; * matches any text: /items/*/price
    since      failed at that time or later: 2026-11-23 or 2026-11-23T20:28:30Z (UTC), or an age:
               90s, 30m, 2h, 7d
    until      failed before that time
    stage, topic, partition, id
"""
_DESCRIPTION = """\
Dead letters are the records that could not become rows. Count those below --dead_letter_dir, show
one, or send them back to Kafka once the cause is fixed.
"""
_STATS_DESCRIPTION = """\
Counts dead letters by code, schema keyword, field, hour and attempt, and says which of them were
replayed: those that did not die again, and those that did, which have a newer letter.
"""
_SHOW_DESCRIPTION = "Shows dead letters in full: the one with ID, or the first that match --where."
_REPLAY_DESCRIPTION = """\
Sends dead letters back to the topic they came from, or to another topic. Key, value and headers are
sent byte for byte; the headers about the failure are left out, dlq.attempt and dlq.redrive.of are
added. A running pipeline reads them from its input topic as new records, which become rows or new
dead letters; the old ones stay in their files.

A letter is sent once, however often the command runs: the journal under
<dead_letter_dir>/_replayed/ lists what was sent, and after a run that was killed the topic itself
is searched. To send the letters of a topic again, remove its journal: TOPIC.jsonl, or in an object
store what is below TOPIC/.
"""
_REPLAY_EXAMPLES = """
examples:
  print what would be sent:
    %(prog)s --where=code=TRANSFORM_ERROR --where=since=2h --dry_run
  send it, a hundred a second:
    %(prog)s --kafka_bootstrap_servers=localhost:9092 \\
      --where=code=TRANSFORM_ERROR --where=since=2h --events_per_second=100
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the three commands, their flags and their help to `parser`."""
    parser.description = _DESCRIPTION
    commands = parser.add_subparsers(dest="dlq_command", required=True, metavar="COMMAND")

    stats = _add_command(
        commands,
        "stats",
        "count them by code, field, hour and outcome",
        _WHERE_HELP,
    )
    stats.description = _STATS_DESCRIPTION
    add_shared(stats, "json")
    stats.set_defaults(dlq_run=_run_stats)

    show = _add_command(commands, "show", "show one in full", _WHERE_HELP)
    show.description = _SHOW_DESCRIPTION
    show.add_argument("id", nargs="?", metavar="ID", help="the letter's id, or the beginning of it")
    show.add_argument(
        "--limit",
        type=_positive,
        default=1,
        metavar="N",
        help="show this many of the matching letters (default: %(default)s)",
    )
    show.add_argument(
        "--json", action="store_true", help="print the lines as they are in the files"
    )
    show.set_defaults(dlq_run=_run_show)

    replay = _add_command(
        commands, "replay", "send them back to Kafka", _WHERE_HELP + _REPLAY_EXAMPLES
    )
    replay.description = _REPLAY_DESCRIPTION
    add_kafka_flags(replay)
    replay.add_argument(
        "--to", metavar="TOPIC", help="send to this topic (default: the one each record came from)"
    )
    replay.add_argument(
        "--dry_run", action="store_true", help="print what would be sent, and send nothing"
    )
    replay.add_argument(
        "--events_per_second",
        type=_rate,
        default=0.0,
        metavar="R",
        help="evenly paced rate; 0 means as fast as possible (default: %(default)g)",
    )
    replay.add_argument(
        "--max_attempts",
        type=_positive,
        default=5,
        metavar="N",
        help="skip records that were tried this many times, the first time included "
        "(default: %(default)s)",
    )
    replay.set_defaults(dlq_run=_run_replay)


def run(args: argparse.Namespace) -> int:
    """Run the command that was named, and return the exit code.

    Raises:
        UsageError: a flag is wrong, or no letter has the id.
        EnvironmentFailure: a file can't be read, or Kafka fails.
    """
    code: int = args.dlq_run(args)
    return code


def _add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    what: str,
    epilog: str,
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=what,
        epilog=epilog,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_shared(parser, "dead_letter_dir", "storage_config")
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="only letters that match this condition; see below (default: all)",
    )
    return parser


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not 0 <= rate < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 0 or more")
    return rate


# The commands import what they need when they run, so that help is immediate.


def _chosen(args: argparse.Namespace, dead_letter_dir: StoredPath) -> Iterator[Letter]:
    from beam_pipeline.tools.dlq.letters import letter_files, read_letters
    from beam_pipeline.tools.dlq.where import parse_conditions

    condition = parse_conditions(args.where, datetime.now(timezone.utc))
    return filter(condition, read_letters(letter_files(dead_letter_dir)))


def _run_stats(args: argparse.Namespace) -> int:
    from beam_pipeline.files.sent_notes import read_notes
    from beam_pipeline.terminal import show
    from beam_pipeline.tools.dlq.letters import letter_files, read_letters
    from beam_pipeline.tools.dlq.outcomes import read_outcomes
    from beam_pipeline.tools.dlq.stats import count_letters, stats_json, stats_text

    dead_letter_dir = place_of(args, "dead_letter_dir")
    refused = {
        letter.dlq_id: letter.reason
        for _, note in read_notes(dead_letter_dir)
        for letter in note.refused
    }
    outcomes = read_outcomes(dead_letter_dir, read_letters(letter_files(dead_letter_dir)))
    stats = count_letters(_chosen(args, dead_letter_dir), refused, outcomes)
    if args.json:
        sys.stdout.write(stats_json(stats))
    else:
        show(stats_text(stats))
    return 0


def _run_show(args: argparse.Namespace) -> int:
    from rich.rule import Rule

    from beam_pipeline.terminal import show
    from beam_pipeline.tools.dlq.text import letter_json, letter_text

    if args.id is None and not args.where:
        raise UsageError("dlq show: give the letter's ID, or --where=NAME=VALUE")
    letters = (
        letter
        for letter in _chosen(args, place_of(args, "dead_letter_dir"))
        if args.id is None or letter.dlq_id.startswith(args.id)
    )
    shown = 0
    for letter in islice(letters, args.limit):
        if args.json:
            sys.stdout.write(letter_json(letter))
        else:
            if shown:
                show(Rule())
            show(letter_text(letter))
        shown += 1
    if not shown:
        meant = [*([args.id] if args.id else []), *(f"--where={text}" for text in args.where)]
        raise UsageError(
            f"no dead letter matches {' '.join(meant)}; dlq stats counts what there is"
        )
    more = sum(1 for _ in letters)
    if more and not args.json:
        print(f"{more:,} more match; --limit shows more of them", file=sys.stderr)
    return 0


def _run_replay(args: argparse.Namespace) -> int:
    from rich.text import Text

    from beam_pipeline.kafka.admin import require_cluster
    from beam_pipeline.kafka.connection import KafkaConnection
    from beam_pipeline.producer.stop import StopRequest
    from beam_pipeline.terminal import show
    from beam_pipeline.tools.dlq.replay import plan_only, replay
    from beam_pipeline.tools.dlq.replay_plan import ReplayChoice
    from beam_pipeline.tools.dlq.where import parse_conditions

    condition = parse_conditions(args.where, datetime.now(timezone.utc))
    if args.to is not None:
        check_topic_name("--to", args.to)
    choice = ReplayChoice(condition, args.to, args.max_attempts)
    dead_letter_dir = place_of(args, "dead_letter_dir")
    if args.dry_run:
        show(Text(_plan_text(plan_only(dead_letter_dir, choice), choice)))
        return 0
    connection = KafkaConnection.from_flags(args.kafka_bootstrap_servers, args.kafka_config)
    require_cluster(connection)
    with StopRequest() as stop:
        outcome = replay(connection, dead_letter_dir, choice, args.events_per_second, stop)
    show(Text(_outcome_text(outcome, choice)))
    return 0 if not outcome.refused and not outcome.stopped else 1


def _plan_text(plan: ReplayPlan, choice: ReplayChoice) -> str:
    """Return the result of a dry run as text."""
    from beam_pipeline.terminal import printable

    lines = [
        f"{count:,} letters would go to {printable(topic)}" for topic, count in plan.to_send.items()
    ]
    lines += [f"  {count:,} of {printable(code)}" for code, count in plan.codes.most_common()]
    return "\n".join([*(lines or ["no letter would be sent"]), *_left_out(plan, choice)])


def _outcome_text(outcome: ReplayOutcome, choice: ReplayChoice) -> str:
    """Return the result of a replay as text."""
    from beam_pipeline.terminal import printable

    lines = [f"{outcome.sent:,} of {outcome.plan.to_send.total():,} letters sent"]
    lines += [
        f"  refused {printable(dlq_id)}: {reason}" for dlq_id, reason in outcome.refused.items()
    ]
    if outcome.stopped:
        lines.append("stopped before the end; run it again to resume")
    return "\n".join([*lines, *_left_out(outcome.plan, choice)])


def _left_out(plan: ReplayPlan, choice: ReplayChoice) -> Iterator[str]:
    if plan.already_sent:
        yield f"{plan.already_sent:,} skipped: an earlier replay sent them"
    if plan.max_attempts_reached:
        yield (
            f"{plan.max_attempts_reached:,} skipped: their records were tried "
            f"--max_attempts={choice.max_attempts} times"
        )
