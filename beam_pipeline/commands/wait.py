"""`beam-pipeline wait`: wait until all that came before a time is in files."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from beam_pipeline.settings.flags import add_shared, topic_names
from beam_pipeline.settings.places import place_of
from beam_pipeline.terminal import plural, printable
from beam_pipeline.times import ms_of, parse_rfc3339, rfc3339, rfc3339_of_ms

if TYPE_CHECKING:
    from beam_pipeline.files.watermark_note import TopicNote, WatermarkNote

POLL_SECONDS = 1.0
STORE_POLL_SECONDS = 5.0
_STALE_SECONDS = 60.0

_DESCRIPTION = """\
Waits until every event before a time is in files, for all of the topics, so that what reads the
files can begin. It reads _ledger/watermark.json in --output_dir, which a run of the pipeline writes
every ten seconds, and needs no broker.

Events that came to Kafka after their window had closed are late: they get files of their own, and
are not waited for.
"""
_EPILOG = """\
exit codes:
  0  every event before the time is in files
  1  it is not so within --timeout seconds; each line says what is missing
  2  a flag is wrong

example:
  %(prog)s --input_topics=orders --until=2026-11-24T15:00Z --timeout=3600
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `wait` and its help to `parser`."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--input_topics",
        type=topic_names,
        required=True,
        metavar="TOPIC[,…]",
        help="the topics to wait for",
    )
    parser.add_argument(
        "--until",
        type=_moment,
        required=True,
        metavar="TIME",
        help="an RFC 3339 time with its offset: every event before it must be in files",
    )
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=3600.0,
        metavar="SECONDS",
        help="how long to wait; 0 looks once (default: %(default)g)",
    )
    add_shared(parser, "output_dir", "storage_config")


def _moment(text: str) -> datetime:
    """Parse the value of `--until`; an argparse type.

    Raises:
        argparse.ArgumentTypeError: it is no time with an offset.
    """
    try:
        moment = parse_rfc3339(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time with its offset, such as 2026-11-24T15:00Z"
        )
    return moment


def _seconds(text: str) -> float:
    """Parse the value of `--timeout`; an argparse type.

    Raises:
        argparse.ArgumentTypeError: it is no number of seconds.
    """
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from 0 on")
    return seconds


def run(args: argparse.Namespace) -> int:
    """Wait; print what is missing at the timeout; return the exit code.

    Raises:
        UsageError: --output_dir does not serve.
        EnvironmentFailure: the note can't be read.
    """
    from pathlib import Path

    from beam_pipeline.files.left_out import left_out_text, load_left_out
    from beam_pipeline.files.watermark_note import load_watermark_note
    from beam_pipeline.storage.protocol import StorageAwayError

    output_dir = place_of(args, "output_dir")
    poll_seconds = POLL_SECONDS if isinstance(output_dir, Path) else STORE_POLL_SECONDS
    deadline = time.monotonic() + args.timeout
    while True:
        try:
            note = load_watermark_note(output_dir)
        except StorageAwayError:
            if time.monotonic() >= deadline:
                raise
        else:
            missing = list(missing_lines(note, args.input_topics, args.until, time.time()))
            if not missing:
                topics = ", ".join(map(printable, args.input_topics))
                spans = [
                    span
                    for span in load_left_out(output_dir).note.before_start
                    if span.key.topic in args.input_topics
                ]
                but = f", but for what was left out: {left_out_text(spans)}" if spans else ""
                print(
                    f"complete: every event of {topics} before {rfc3339(args.until)} is in "
                    f"files{printable(but)}"
                )
                return 0
            if time.monotonic() >= deadline:
                print("\n".join([f"not complete within {args.timeout:g} s:", *missing]))
                return 1
        time.sleep(max(0.0, min(poll_seconds, deadline - time.monotonic())))


def missing_lines(
    note: WatermarkNote | None, topics: list[str], until: datetime, now_s: float
) -> Iterator[str]:
    """Yield a line for each partition, or topic, that is not in files up to a time.

    Args:
        note: the note of the output directory; None where there is none.
        topics: the topics to wait for.
        until: the time.
        now_s: the time now, in seconds since 1970.
    """
    until_ms = ms_of(until)
    known: Mapping[str, TopicNote] = note.topics if note else {}
    waiting = [topic for topic in topics if not _is_complete(known.get(topic), until_ms)]
    for topic in waiting:
        if topic not in known:
            yield f"{printable(topic)}: no run has noted how far this topic is in --output_dir"
            continue
        about = known[topic]
        behind = {
            number: partition
            for number, partition in sorted(about.partitions.items())
            if partition.watermark_ms is None or partition.watermark_ms < until_ms
        }
        for number, partition in behind.items():
            lag = "" if partition.lag is None else f", lag {plural(partition.lag, 'record')}"
            expired = (
                f"; {partition.expired_unread:,} records at most expired unread, see "
                "--accept_expired of `run`"
                if partition.expired_unread
                else ""
            )
            end = "not known" if partition.log_end is None else f"{partition.log_end:,}"
            yield (
                f"{printable(topic)}/{number}: landed up to offset {partition.landed_to:,}, the "
                f"log ends at {end}{lag}; in files up to {_text(partition.watermark_ms)}{expired}"
            )
        if not behind:
            yield f"{printable(topic)}: in files up to {_text(about.watermark_ms)}"
    if waiting and note and (age := now_s - note.looked_at_ms / 1000) > _STALE_SECONDS:
        yield f"the last look of a run is {age:,.0f} s ago: is the pipeline running?"


def _is_complete(about: TopicNote | None, until_ms: int) -> bool:
    return about is not None and about.watermark_ms is not None and about.watermark_ms >= until_ms


def _text(time_ms: int | None) -> str:
    return "no time yet" if time_ms is None else str(rfc3339_of_ms(time_ms))
