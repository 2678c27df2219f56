"""`beam-pipeline reconcile`: its flags and its run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from beam_pipeline.errors import UsageError
from beam_pipeline.settings.flags import add_kafka_flags, add_metrics_flags, add_shared, topic_names
from beam_pipeline.settings.places import place_of
from beam_pipeline.times import parse_rfc3339

if TYPE_CHECKING:
    from beam_pipeline.kafka.connection import KafkaConnection
    from beam_pipeline.storage.paths import StoredPath
    from beam_pipeline.tools.reconcile.compare import ReconcileReport
    from beam_pipeline.tools.reconcile.up_to import UpTo

_DESCRIPTION = """\
Compares the offsets in the topics with those in the files: each record must be in exactly one
place, as one Parquet row or one dead letter. The content of the files is counted from their rows
and lines, and each Parquet footer is compared with its rows.

Before an offset counts as missing, the log is read there: offsets without a record (compacted
topics, transaction markers) are not missing. Records of a window that is still open are not in a
file yet. So while a pipeline runs, the log is compared up to what should be landed (--up_to).

With --table, the table of a run and its table of dead letters are compared with the log, not the
directories: their files' rows, at one snapshot each. Each file must be there as the snapshot's
manifests and its own footer say, and be named once. Snapshots that other writers made are named.

With --dead_letter_topic, the dead-letter topic is read too, from its beginning: it must have the
dlq.id of each dead letter, unless it refused the letter and that is noted beside the files.
"""
_EPILOG = """\
exit codes:
  0  each record is in exactly one place
  1  a record is missing or doubled, or expired unread (--accept_expired); the log was rewritten;
     a file can't be read, or is not as its manifest says; or a dead letter is not in its topic
  2  a flag is wrong

examples:
  %(prog)s --kafka_bootstrap_servers=localhost:9092 --input_topics=orders
  %(prog)s --kafka_bootstrap_servers=localhost:9092 --input_topics=orders --watch=3600 \\
    --metrics_port=9465
  %(prog)s --kafka_bootstrap_servers=localhost:9092 --input_topics=orders \\
    --table=lake.orders
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
        "--table",
        metavar="NAMESPACE.NAME",
        help="compare this table and NAMESPACE.NAME__dead_letters with the log, not the files of "
        "the directories; only on the command line: elsewhere it is the table of `run` (default: "
        "none)",
    )
    add_shared(parser, "catalog")
    parser.add_argument(
        "--snapshot_id",
        type=_snapshot_ids,
        metavar="ID[,ID]",
        help="with --table, the snapshot to read, and that of the dead letters (default: the "
        "current ones)",
    )
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
        "holds --output_dir or with --snapshot_id, else end)",
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


def _snapshot_ids(text: str) -> tuple[int, ...]:
    """Parse the value of `--snapshot_id`; an argparse type.

    Raises:
        argparse.ArgumentTypeError: it is no id, nor two.
    """
    names = text.split(",")
    if len(names) > 2 or not all(name.strip().isdecimal() for name in names):
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither the id of a snapshot nor two with a comma between them"
        )
    return tuple(int(name) for name in names)


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
    from beam_pipeline.kafka.connection import KafkaConnection
    from beam_pipeline.settings.config import metrics_settings, topic_pattern
    from beam_pipeline.terminal import show
    from beam_pipeline.tools.reconcile.text import report_json, report_text

    pattern = topic_pattern(vars(args))
    if pattern is None and not args.input_topics:
        raise UsageError(
            "--input_topics is missing: name the topics, or give --input_topic_pattern"
        )
    _check_table_flags(args)
    output_dir, dead_letter_dir = place_of(args, "output_dir"), place_of(args, "dead_letter_dir")
    connection = KafkaConnection.from_flags(args.kafka_bootstrap_servers, args.kafka_config)
    metrics = metrics_settings(vars(args))
    if metrics is not None and args.watch is None:
        raise UsageError("--metrics_port needs --watch: a single comparison is over at once")
    prove = _prover(args, connection, pattern, output_dir, dead_letter_dir)
    if args.watch is not None:
        return watch(prove, args.watch, metrics, as_json=args.json)
    report = prove()
    if args.json:
        sys.stdout.write(report_json(report))
    else:
        show(report_text(report))
    return 0 if report.is_clean else 1


def _check_table_flags(args: argparse.Namespace) -> None:
    """Check the flags of the table, before anything is read.

    Raises:
        UsageError: they don't go together, or pyiceberg is missing.
    """
    from beam_pipeline.runtime.table_committer import require_pyiceberg
    from beam_pipeline.settings.table_names import check_name

    table = _table_of(args)
    if table is not None:
        check_name(table)
        require_pyiceberg(table)
        if args.dead_letter_topic:
            raise UsageError(
                "--dead_letter_topic compares the files of --dead_letter_dir: leave --table away"
            )
    elif args.snapshot_id is not None:
        raise UsageError("--snapshot_id needs --table=NAMESPACE.NAME")


def _table_of(args: argparse.Namespace) -> str | None:
    """Return the table to compare; what a file of `--config` says is for `run`."""
    if args.table is None or "table" not in args.given_flags:
        return None
    return str(args.table)


def _prover(
    args: argparse.Namespace,
    connection: KafkaConnection,
    pattern: str | None,
    output_dir: StoredPath,
    dead_letter_dir: StoredPath,
) -> Callable[[], ReconcileReport]:
    """Return what makes a comparison, each time anew."""
    from beam_pipeline.kafka.admin import require_cluster
    from beam_pipeline.runtime.discovery import topics_at
    from beam_pipeline.runtime.lease import holder_of
    from beam_pipeline.tools.reconcile.up_to import Until

    suffix, table = args.dead_letter_topic_suffix, _table_of(args)

    def up_to() -> UpTo:
        holder = holder_of(output_dir) if args.up_to is None else None
        if holder and not args.json and args.watch is None:
            print(f"{holder.name} writes to {output_dir} now: compared like --up_to=landed")
        if holder or (args.up_to is None and args.snapshot_id is not None):
            return Until.LANDED
        return args.up_to or Until.END

    def of_files(topics: Sequence[str]) -> ReconcileReport:
        from beam_pipeline.tools.reconcile.run import reconcile

        return reconcile(
            connection,
            topics,
            output_dir,
            dead_letter_dir,
            args.isolation_level,
            suffix if args.dead_letter_topic else None,
            accept_expired=args.accept_expired,
            up_to=up_to(),
        )

    def of_table(table: str, topics: Sequence[str]) -> ReconcileReport:
        from beam_pipeline.tools.reconcile.table_run import TablePlace, reconcile_table

        catalog = None if args.catalog is None else str(args.catalog)
        return reconcile_table(
            connection,
            topics,
            TablePlace(table, catalog, *(args.snapshot_id or ())),
            output_dir,
            args.isolation_level,
            accept_expired=args.accept_expired,
            up_to=up_to(),
        )

    def prove() -> ReconcileReport:
        require_cluster(connection)
        topics = args.input_topics if pattern is None else topics_at(connection, pattern, suffix)
        return of_files(topics) if table is None else of_table(table, topics)

    return prove
