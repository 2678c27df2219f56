"""`beam-pipeline reconcile`: its flags and its run."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from beam_pipeline.errors import UsageError
from beam_pipeline.settings.flags import add_kafka_flags, add_metrics_flags, add_shared, topic_names
from beam_pipeline.settings.places import place_of
from beam_pipeline.times import parse_rfc3339

if TYPE_CHECKING:
    from beam_pipeline.tools.reconcile.compare import ReconcileReport
    from beam_pipeline.tools.reconcile.up_to import UpTo

_DESCRIPTION = """\
Compares the offsets in the topics with those in the files: each record must be in exactly one
place, as one Parquet row or one dead letter. The content of the files is counted from their rows
and lines, and each Parquet footer is compared with its rows.

Before an offset counts as missing, the log is read there: offsets without a record (compacted
topics, transaction markers) are not missing. Records of a window that is still open are not in a
file yet. So while a pipeline runs, the log is compared up to what should be landed (--up_to).

With --dead_letter_topic, the dead-letter topic is read too, from its beginning: it must have the
dlq.id of each dead letter, unless it refused the letter and that is noted beside the files.
"""
_EPILOG = """\
exit codes:
  0  each record is in exactly one place
  1  a record is missing or doubled, or expired unread (--accept_expired); the log was rewritten;
     a file can't be read; or a dead letter is not in its topic
  2  a flag is wrong

examples:
  %(prog)s --kafka_bootstrap_servers=localhost:9092 --input_topics=orders
  %(prog)s --kafka_bootstrap_servers=localhost:9092 --input_topics=orders --watch=3600 \\
    --metrics_port=9465
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `reconcile` and its help to `parser`."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add_kafka_flags(parser)
    parser.add_argument(
        "--input_topics",
        type=topic_names,
        metavar="TOPIC[,…]",
        help="the topics that the pipeline reads",
    )
    parser.add_argument(
        "--input_topic_pattern",
        metavar="REGEX",
        help="instead of --input_topics: all topics that there are now whose whole name matches "
        "this regular expression, as in `run`",
    )
    add_shared(parser, "output_dir", "dead_letter_dir", "storage_config")
    parser.add_argument(
        "--isolation_level",
        choices=["read_uncommitted", "read_committed"],
        help="which records count: all, or those of committed transactions; give what the pipeline "
        "uses (default: isolation.level in --kafka_config, else read_uncommitted)",
    )
    parser.add_argument(
        "--dead_letter_topic",
        action="store_true",
        help="also look for each dead letter of the files in the dead-letter topic, by its dlq.id",
    )
    parser.add_argument(
        "--up_to",
        type=_up_to,
        metavar="end|landed|TIME",
        help="up to where the log is compared: its end; what a running pipeline should have "
        "landed; or what Kafka stamped before an RFC 3339 time (default: landed while a pipeline "
        "holds --output_dir, else end)",
    )
    add_shared(parser, "dead_letter_topic_suffix", "accept_expired", "json")
    parser.add_argument(
        "--watch",
        type=_seconds,
        metavar="SECONDS",
        help="compare again each time so many seconds have passed, until Ctrl-C; the exit code is "
        "that of the last comparison (default: compare once)",
    )
    add_metrics_flags(parser)


def _seconds(text: str) -> float:
    """Parse the value of `--watch`; an argparse type.

    Raises:
        argparse.ArgumentTypeError: it is no number of seconds above 0.
    """
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return seconds


def _up_to(text: str) -> UpTo:
    """Parse the value of `--up_to`; an argparse type.

    Raises:
        argparse.ArgumentTypeError: it is neither a word nor a time.
    """
    from beam_pipeline.tools.reconcile.up_to import Until

    if text in ("end", "landed"):
        return Until(text)
    try:
        moment = parse_rfc3339(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither end, landed nor a time with its offset, such as "
            "2026-11-26T15:00:00Z"
        )
    return moment


def run(args: argparse.Namespace) -> int:
    """Run the command, print the report, and return the exit code.

    Raises:
        UsageError, EnvironmentFailure: see `reconcile`; --metrics_port without --watch.
    """
    # Imported here, so that help is immediate.
    from beam_pipeline.commands.reconcile_watch import watch
    from beam_pipeline.kafka.admin import require_cluster
    from beam_pipeline.kafka.connection import KafkaConnection
    from beam_pipeline.runtime.discovery import topics_at
    from beam_pipeline.runtime.lease import holder_of
    from beam_pipeline.settings.config import metrics_settings, topic_pattern
    from beam_pipeline.terminal import show
    from beam_pipeline.tools.reconcile.run import reconcile
    from beam_pipeline.tools.reconcile.text import report_json, report_text
    from beam_pipeline.tools.reconcile.up_to import Until

    pattern = topic_pattern(vars(args))
    if pattern is None and not args.input_topics:
        raise UsageError(
            "--input_topics is missing: name the topics, or give --input_topic_pattern"
        )
    output_dir, dead_letter_dir = place_of(args, "output_dir"), place_of(args, "dead_letter_dir")
    connection = KafkaConnection.from_flags(args.kafka_bootstrap_servers, args.kafka_config)
    metrics = metrics_settings(vars(args))
    if metrics is not None and args.watch is None:
        raise UsageError("--metrics_port needs --watch: a single comparison is over at once")
    suffix = args.dead_letter_topic_suffix

    def prove() -> ReconcileReport:
        require_cluster(connection)
        topics = args.input_topics if pattern is None else topics_at(connection, pattern, suffix)
        holder = holder_of(output_dir) if args.up_to is None else None
        if holder and not args.json and args.watch is None:
            print(f"{holder.name} writes to {output_dir} now: compared like --up_to=landed")
        return reconcile(
            connection,
            topics,
            output_dir,
            dead_letter_dir,
            args.isolation_level,
            suffix if args.dead_letter_topic else None,
            accept_expired=args.accept_expired,
            up_to=Until.LANDED if holder else args.up_to or Until.END,
        )

    if args.watch is not None:
        return watch(prove, args.watch, metrics, as_json=args.json)
    report = prove()
    if args.json:
        sys.stdout.write(report_json(report))
    else:
        show(report_text(report))
    return 0 if report.is_clean else 1
