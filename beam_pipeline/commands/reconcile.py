"""`beam-pipeline reconcile`: its flags and its run."""

from __future__ import annotations

import argparse
import sys

from beam_pipeline.settings.flags import add_kafka_flags, add_shared, topic_names

_DESCRIPTION = """\
Compares the offsets in the topics with those in the files: each record must be in exactly one
place, as one Parquet row or one dead letter. The content of the files is counted from their rows
and lines, and each Parquet footer is compared with its rows.

Before an offset counts as missing, the log is read there: offsets without a record (compacted
topics, transaction markers) are not missing. Records of a window that is still open are not in a
file yet, so run it when the pipeline has caught up or has ended.

With --dead_letter_topic, the dead-letter topic is read too, from its beginning: it must have the
dlq.id of each dead letter, unless it refused the letter and that is noted beside the files.
"""
_EPILOG = """\
exit codes:
  0  each record is in exactly one place
  1  a record is missing or doubled, or expired unread (--accept_expired); the log was rewritten;
     a file can't be read; or a dead letter is not in its topic
  2  a flag is wrong

example:
  %(prog)s --kafka_bootstrap_servers=localhost:9092 --input_topics=orders
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
        required=True,
        metavar="TOPIC[,…]",
        help="the topics that the pipeline reads",
    )
    add_shared(parser, "output_dir", "dead_letter_dir")
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
    add_shared(parser, "dead_letter_topic_suffix", "accept_expired", "json")


def run(args: argparse.Namespace) -> int:
    """Run the command, print the report, and return the exit code.

    Raises:
        UsageError, EnvironmentFailure: see `reconcile`.
    """
    # Imported here, so that help is immediate.
    from beam_pipeline.kafka.admin import require_cluster
    from beam_pipeline.kafka.connection import KafkaConnection
    from beam_pipeline.terminal import show
    from beam_pipeline.tools.reconcile.run import reconcile
    from beam_pipeline.tools.reconcile.text import report_json, report_text

    connection = KafkaConnection.from_flags(args.kafka_bootstrap_servers, args.kafka_config)
    require_cluster(connection)
    report = reconcile(
        connection,
        args.input_topics,
        args.output_dir,
        args.dead_letter_dir,
        args.isolation_level,
        args.dead_letter_topic_suffix if args.dead_letter_topic else None,
        accept_expired=args.accept_expired,
    )
    if args.json:
        sys.stdout.write(report_json(report))
    else:
        show(report_text(report))
    return 0 if report.is_clean else 1
