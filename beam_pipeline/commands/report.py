"""`beam-pipeline report`: its flags and its run."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from beam_pipeline.errors import EnvironmentFailure, UsageError
from beam_pipeline.settings.flags import add_kafka_flags, add_shared, topic_names
from beam_pipeline.settings.places import place_of
from beam_pipeline.storage.paths import StoredPath

if TYPE_CHECKING:
    from beam_pipeline.tools.reconcile.compare import ReconcileReport
    from beam_pipeline.tools.report.gather import Landed

DEFAULT_REPORT_FILE = Path("report.html")

_DESCRIPTION = """\
Writes one HTML file about what a pipeline has written: completeness, rows per window, dead letters
by reason over time, the delay from event to file, lag, file sizes, and the columns with null rates
and ranges. The file needs no network and no script, has light and dark colours, and fits a phone.

With a broker it also runs reconcile, so the report says whether every record is in exactly one
place, and shows the lag. Without one it shows what the files contain, from Parquet footers alone.
"""
_EPILOG = """\
exit codes:
  0  written, and no problem was found
  1  written, and a record is missing or doubled, or a file can't be read; or not written
  2  a flag is wrong

examples:
  %(prog)s
  %(prog)s --kafka_bootstrap_servers=localhost:9092 --input_topics=orders \\
    --report_file=orders.html
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `report` and its help to `parser`."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add_shared(parser, "output_dir", "dead_letter_dir", "storage_config")
    parser.add_argument(
        "--report_file",
        type=Path,
        default=DEFAULT_REPORT_FILE,
        metavar="FILE",
        help="the HTML file to write (default: %(default)s)",
    )
    parser.add_argument(
        "--input_topics",
        type=topic_names,
        metavar="TOPIC[,…]",
        help="topics to report on (default: all topics that have files)",
    )
    add_kafka_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command, print the verdict, and return the exit code.

    Raises:
      UsageError: a directory is missing, a topic has no files, or the report can't go there.
      EnvironmentFailure: the cluster fails, or the file can't be written.
    """
    # Imported here, so that help is immediate.
    from datetime import datetime, timezone

    from beam_pipeline.storage.durable import write_atomically
    from beam_pipeline.terminal import printable
    from beam_pipeline.tools.report import page
    from beam_pipeline.tools.report.verdict import verdict_of

    if args.report_file.is_dir():
        raise UsageError(f"--report_file={args.report_file} is a directory; name a file in it")
    places = Places(place_of(args, "output_dir"), place_of(args, "dead_letter_dir"))
    landed = _landed(args, places)
    topics = args.input_topics or sorted(landed.topics)
    completeness = _completeness(args, topics, places)
    given = page.ReportInput(
        landed,
        completeness,
        datetime.now(timezone.utc),
        topics,
        [
            ("Parquet files in", _shown(places.output_dir)),
            ("Dead letters in", _shown(places.dead_letter_dir)),
            (
                "Kafka",
                args.kafka_bootstrap_servers
                or ("see --kafka_config" if completeness else "not read"),
            ),
            *_left_out(places, topics),
        ],
    )
    try:
        args.report_file.parent.mkdir(parents=True, exist_ok=True)
        content = page.render_page(given)
        write_atomically(args.report_file, content, durable=True, private=True)
    except OSError as error:
        raise EnvironmentFailure(
            f"--report_file={args.report_file} can't be written: {error.strerror}"
        ) from None
    verdict = verdict_of(landed, completeness)
    print(f"{printable(str(args.report_file))}: {verdict.title}. {verdict.reason}")
    return 0 if verdict.holds else 1


def _left_out(places: Places, topics: Collection[str]) -> Iterator[tuple[str, str]]:
    from beam_pipeline.files.left_out import left_out_text, load_left_out

    ranges = load_left_out(places.output_dir).note.ranges
    if of_topics := [left_out for left_out in ranges if left_out.key.topic in topics]:
        yield "Left out", left_out_text(of_topics)


class Places(NamedTuple):
    """Where the Parquet files and the dead letters are."""

    output_dir: StoredPath
    dead_letter_dir: StoredPath


def _shown(place: StoredPath) -> str:
    return str(place.resolve() if isinstance(place, Path) else place)


def _landed(args: argparse.Namespace, places: Places) -> Landed:
    from beam_pipeline.files.names import JSON_LINES_SUFFIX, PARQUET_SUFFIX
    from beam_pipeline.files.tree import visible_files
    from beam_pipeline.terminal import progress_bar
    from beam_pipeline.tools.dlq.replay_journals import replayed_ids
    from beam_pipeline.tools.report.gather import gather

    paths = visible_files(places.output_dir, PARQUET_SUFFIX, "--output_dir")
    paths += visible_files(places.dead_letter_dir, JSON_LINES_SUFFIX, "--dead_letter_dir")
    with progress_bar("Reading footers and dead letters", len(paths)) as progress:
        return gather(paths, args.input_topics, progress, replayed_ids(places.dead_letter_dir))


def _completeness(
    args: argparse.Namespace, topics: list[str], places: Places
) -> ReconcileReport | None:
    """Return the comparison with the log; None where no broker is named."""
    from beam_pipeline.kafka.connection import KafkaConnection
    from beam_pipeline.tools.reconcile.run import reconcile

    if args.kafka_bootstrap_servers is None and args.kafka_config is None:
        return None
    if not topics:
        raise UsageError("--input_topics is missing: there are no files that would tell the topics")
    connection = KafkaConnection.from_flags(args.kafka_bootstrap_servers, args.kafka_config)
    return reconcile(connection, topics, places.output_dir, places.dead_letter_dir)
