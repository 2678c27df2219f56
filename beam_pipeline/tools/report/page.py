"""The report as a page: the verdict, the key figures, then one section per question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

from beam_pipeline.terminal import plural
from beam_pipeline.tools.inspect.statistics import ColumnStatistics
from beam_pipeline.tools.inspect.text import null_share, plain_text
from beam_pipeline.tools.reconcile.compare import PartitionReconciliation, ReconcileReport
from beam_pipeline.tools.report.charts import columns_chart
from beam_pipeline.tools.report.distribution import (
    DELAY_EDGES,
    SIZE_EDGES,
    classes,
    percentiles,
)
from beam_pipeline.tools.report.gather import PROBLEMS_KEPT, Landed
from beam_pipeline.tools.report.layout import (
    classes_table,
    numeric,
    ranges_text,
    section,
    table,
    with_bar,
)
from beam_pipeline.tools.report.markup import Element, document, foreign, prose, tag
from beam_pipeline.tools.report.time_bins import bars_of
from beam_pipeline.tools.report.units import (
    between,
    binary_size,
    duration,
    share,
    size,
    span,
    step_length,
    utc,
)
from beam_pipeline.tools.report.verdict import Tone, Verdict, verdict_of

COLUMNS_SHOWN = 500
_TOPICS_SHOWN = 8
_RULES_SHOWN = 10
_PARTITIONS_SHOWN = 200
_PROBLEMS_SHOWN = 20
_SMALL_FILE_BYTES = 1 << 20
_MANY_FILES = 100
_VALUE_WIDTH = 48

# Shapes of 24 by 24: a tick, a clock, a cross, a question mark.
_ICONS = {
    Tone.GOOD: "M5 12.5l4.5 4.5L19 7.5",
    Tone.WAITING: "M12 6v6l4 2.5",
    Tone.BAD: "M7 7l10 10M17 7L7 17",
    Tone.OPEN: "M9 9.2a3 3 0 1 1 4.4 2.7c-.9.5-1.4 1-1.4 2.1M12 17.5v.1",
}


@dataclass(frozen=True, slots=True)
class ReportInput:
    """The content of a report.

    Attributes:
        landed: the sums over the files.
        completeness: the comparison with the log; None without a broker.
        made_at: the time of the report; aware.
        topics: the topics that the report covers.
        sources: name and value of each source, such as the directories.
    """

    landed: Landed
    completeness: ReconcileReport | None
    made_at: datetime
    topics: Sequence[str]
    sources: Sequence[tuple[str, str]] = field(default=())


def render_page(given: ReportInput) -> bytes:
    """Return the report as one HTML file, UTF-8, with its style sheet in it."""
    verdict = verdict_of(given.landed, given.completeness)
    main = tag(
        "main",
        _verdict(verdict),
        _figures(given),
        _problems(given, verdict),
        _rows(given.landed),
        _letters(given.landed),
        tag("div", _delay(given), _files(given.landed), class_="pair"),
        _partitions(given),
        _columns(given.landed),
    )
    body = tag("body", _header(given), main, _footer(given))
    topics = ", ".join(given.topics[:3]) or "no topic"
    return document(f"{verdict.title}: {topics}"[:120], style_sheet(), body)


def style_sheet() -> str:
    """Return the style sheet that goes into the page."""
    return Path(__file__).with_name("page.css").read_text(encoding="utf-8")


def _header(given: ReportInput) -> Element:
    shown = given.topics[:_TOPICS_SHOWN]
    heading = tag("h1")
    for place, topic in enumerate(shown):
        heading.append(tag("span", foreign(topic, 249), ", " if place < len(shown) - 1 else ""))
    if len(given.topics) > len(shown):
        heading.append(tag("span", f" and {len(given.topics) - len(shown):,} more"))
    if not given.topics:
        heading.append(tag("span", "No topic"))
    landed = given.landed
    subtitle = f"made {utc(given.made_at)} UTC"
    if landed.first_window and landed.last_window:
        subtitle = f"Events of {span(landed.first_window, landed.last_window)} UTC · {subtitle}"
    return tag(
        "header", tag("p", "beam-pipeline report", class_="kicker"), heading, tag("p", subtitle)
    )


def _verdict(verdict: Verdict) -> Element:
    icon = tag(
        "svg",
        tag("circle", cx=12, cy=12, r=11),
        tag("path", d=_ICONS[verdict.tone]),
        viewBox="0 0 24 24",
        aria_hidden="true",
    )
    return tag(
        "section",
        icon,
        tag("div", tag("h2", verdict.title, id="verdict"), tag("p", *prose(verdict.reason))),
        class_=f"verdict {verdict.tone.value}",
        aria_labelledby="verdict",
    )


def _figures(given: ReportInput) -> Element:
    landed, report = given.landed, given.completeness
    records = landed.row_count + landed.letter_count
    delays = percentiles(landed.end_delays, landed.delay_rows, (0.5, 0.95))
    stored = sum(landed.file_sizes)
    lag = f"{report.reconciliation.missing:,}" if report else "not known"
    tiles = [
        ("Records landed", f"{records:,}", "rows and dead letters"),
        ("Rows", f"{landed.row_count:,}", f"{share(landed.row_count, records)} of the records"),
        (
            "Dead letters",
            f"{landed.letter_count:,}",
            f"{share(landed.letter_count, records)}, {plural(len(landed.reasons), 'reason')}",
        ),
        ("Lag", lag, "records in Kafka and in no file" if report else "needs a broker"),
        (
            "Delay to file",
            duration(delays[0]) if delays else "not known",
            f"median after the window; 95% within {duration(delays[1])}" if delays else "no files",
        ),
        (
            "Parquet",
            size(stored),
            f"{plural(len(landed.file_sizes), 'file')}"
            + (f", {stored / landed.row_count:,.0f} bytes a row" if landed.row_count else ""),
        ),
    ]
    return tag(
        "dl",
        *(
            tag("div", tag("dt", name), tag("dd", value), tag("dd", note, class_="note"))
            for name, value, note in tiles
        ),
        class_="figures",
        aria_label="Key figures",
    )


def _problems(given: ReportInput, verdict: Verdict) -> Element | None:
    """Return what is wrong, by file and by offset; None if nothing is."""
    lines: list[Element] = []
    known = {problem.path for problem in given.landed.problems}
    problems = list(given.landed.problems)
    if given.completeness:
        problems += [
            problem for problem in given.completeness.problems if problem.path not in known
        ]
        for partition in given.completeness.reconciliation.partitions:
            for what, offsets in (
                ("in no file", partition.missing),
                ("in more than one place", partition.doubled),
                ("in files, but beyond the log's end", partition.beyond_end),
                ("with another record in the log", partition.rewritten),
                ("expired unread", partition.expired_unread),
            ):
                if offsets:
                    name = foreign(str(partition.partition), 260)
                    lines.append(tag("li", name, f": {what}: {ranges_text(offsets)}"))
    for problem in problems:
        lines.append(tag("li", foreign(str(problem.path), 300), ": ", foreign(problem.reason, 300)))
    if not lines:
        return None
    more = len(lines) - _PROBLEMS_SHOWN + max(0, given.landed.unreadable - PROBLEMS_KEPT)
    shown = lines[:_PROBLEMS_SHOWN]
    if more > 0:
        shown.append(tag("li", f"and {more:,} more; beam-pipeline reconcile lists all"))
    title = "In no file yet" if verdict.tone is Tone.WAITING else "What is wrong"
    return section("problems", title, None, tag("ul", *shown, class_="problems"))


def _rows(landed: Landed) -> Element:
    bars = bars_of(landed.rows, landed.window_seconds)
    lead = (
        f"By event time, in windows of {step_length(landed.window_seconds)}."
        if bars
        else "No rows yet."
    )
    chart = (
        columns_chart(bars, "row", f"{plural(landed.row_count, 'row')} over time") if bars else None
    )
    topics = None
    if len(landed.topics) > 1:
        topics = table(
            "Topics",
            ("topic", "rows", "dead letters", "files"),
            [
                (
                    foreign(topic, 249),
                    f"{counts['rows']:,}",
                    f"{counts['letters']:,}",
                    f"{counts['files']:,}",
                )
                for topic, counts in sorted(
                    landed.topics.items(), key=lambda item: (-item[1]["rows"], item[0])
                )[:_PARTITIONS_SHOWN]
            ],
            numeric(1, 2, 3),
        )
    return section("rows", "Rows per window", lead, chart, topics)


def _letters(landed: Landed) -> Element:
    bars = bars_of(landed.letters, landed.window_seconds)
    if bars is None:
        return section("dead", "Dead letters", "None: every record was valid.")
    ordered = sorted(landed.reasons.items(), key=lambda item: (-item[1].letters, item[0]))
    most = ordered[0][1].letters
    reasons = table(
        "Reasons",
        ("reason", "letters", "share", "example"),
        [
            (
                foreign(code, 60),
                f"{reason.letters:,}",
                with_bar(share(reason.letters, landed.letter_count), reason.letters, most),
                foreign(reason.message, 200),
            )
            for code, reason in ordered[:_PARTITIONS_SHOWN]
        ],
        {1: "num", 2: "narrow", 3: "text"},
    )
    rules = landed.fields.most_common(_RULES_SHOWN)
    broken = None
    if rules:
        broken = table(
            "Rules of the schema that were violated most",
            ("rule", "field", "letters"),
            [
                (
                    foreign(rule, 40),
                    foreign(place or "(the whole event)", 120),
                    f"{count:,}",
                )
                for (rule, place), count in rules
            ],
            numeric(2),
        )
    lead = (
        f"{share(landed.letter_count, landed.row_count + landed.letter_count)} of all records, by "
        "the time of their arrival in Kafka. beam-pipeline dlq show prints them in full."
    )
    if landed.replayed_letters:
        lead += (
            f" {plural(landed.replayed_letters, 'letter')} of them were replayed; "
            f"{len(landed.dead_again):,} died again."
        )
    description = f"{plural(landed.letter_count, 'dead letter')} by reason over time"
    return section(
        "dead",
        "Dead letters",
        lead,
        columns_chart(bars, "dead letter", description),
        reasons,
        broken,
    )


def _delay(given: ReportInput) -> Element:
    landed = given.landed
    shares = (0.5, 0.95, 0.99, 1.0)
    measured = [
        (name, note, percentiles(values, rows, shares))
        for name, note, values, rows in (
            (
                "its window's end",
                "the shortest wait of an event",
                landed.end_delays,
                landed.delay_rows,
            ),
            (
                "its window's start",
                "the longest wait of an event",
                landed.start_delays,
                landed.delay_rows,
            ),
            (
                "Kafka",
                "the oldest record of each file",
                landed.kafka_delays,
                landed.kafka_delay_rows,
            ),
        )
    ]
    if not measured[0][2]:
        return section("delay", "Delay from event to file", "No files to measure it by.")
    rows = table(
        "Time by which a share of the rows was in files",
        ("after", "50%", "95%", "99%", "100%"),
        [
            (
                tag("span", name, tag("small", note)),
                *(f"{duration(value)}" for value in values),
            )
            for name, note, values in measured
            if values
        ],
        numeric(1, 2, 3, 4),
    )
    by_delay = classes(landed.end_delays, landed.delay_rows, DELAY_EDGES)
    lead = (
        "From the end of an event's window to its file, by the file's modification time. Late "
        "events have files of their own."
    )
    if landed.newest_record:
        age = max(0.0, (given.made_at - landed.newest_record).total_seconds())
        lead += (
            f" The newest record in a Parquet file reached Kafka at {utc(landed.newest_record)} "
            f"UTC, {duration(age)} before this report."
        )
    if landed.compacted_files:
        lead += f" {plural(landed.compacted_files, 'compacted file')} left out."
    return section(
        "delay",
        "Delay from event to file",
        lead,
        classes_table("Rows by delay after the window's end", "delay", "rows", by_delay, duration),
        rows,
    )


def _partitions(given: ReportInput) -> Element:
    report = given.completeness
    if report is None:
        return section(
            "partitions",
            "Completeness and lag",
            "Not compared with Kafka; give --kafka_bootstrap_servers for that. Offsets in the "
            "files:",
            _named_offsets(given.landed),
        )
    comparison = report.reconciliation
    most = max((len(partition.missing) for partition in comparison.partitions), default=0)
    shown = comparison.partitions[:_PARTITIONS_SHOWN]
    rows = table(
        "Partitions",
        ("partition", "log", "records", "rows", "dead letters", "doubled", "lag"),
        [_partition_cells(partition, most) for partition in shown],
        {**numeric(1, 2, 3, 4, 5), 6: "narrow" if most else "num"},
    )
    lead = (
        f"{plural(comparison.records, 'record')} in Kafka, {comparison.covered:,} of them in "
        "files, counted from rows and lines. The lag counts records that are in no file: their "
        "window is still open, or the pipeline is not running."
    )
    if len(comparison.partitions) > len(shown):
        lead += f" The first {len(shown):,} of {len(comparison.partitions):,} partitions."
    return section("partitions", "Completeness and lag", lead, rows)


def _partition_cells(partition: PartitionReconciliation, most: int) -> tuple[Element | str, ...]:
    low, high, doubled = partition.low, partition.high, len(partition.doubled)
    lag = len(partition.missing)
    return (
        foreign(str(partition.partition), 260),
        between(f"{low:,}", f"{high - 1:,}") if high > low else "empty",
        f"{partition.records:,}",
        f"{partition.parquet_rows:,}",
        f"{partition.dead_letters:,}",
        tag("b", f"{doubled:,}", class_="bad") if doubled else "0",
        with_bar(f"{lag:,}", lag, most, "s1") if most else "0",
    )


def _named_offsets(landed: Landed) -> Element:
    return table(
        "Partitions",
        ("partition", "first offset", "last offset", "records"),
        [
            (
                foreign(str(partition), 260),
                f"{offsets.min():,}",
                f"{offsets.max():,}",
                f"{len(offsets):,}",
            )
            for partition, offsets in islice(
                sorted(landed.coverage.offsets.items()), _PARTITIONS_SHOWN
            )
            if offsets
        ],
        numeric(1, 2, 3),
    )


def _files(landed: Landed) -> Element:
    sizes = landed.file_sizes
    if not sizes:
        return section("files", "File sizes", "No Parquet files.")
    facts = table(
        "All files",
        ("", "of Parquet", "of dead letters"),
        [
            ("files", f"{len(sizes):,}", f"{landed.letter_files:,}"),
            ("stored", size(sum(sizes)), size(landed.letter_bytes)),
            ("rows, letters", f"{landed.row_count:,}", f"{landed.letter_count:,}"),
            ("median size", size(median(sizes)), ""),
            ("largest", size(max(sizes)), ""),
            ("compacted", f"{landed.compacted_files:,}", ""),
        ],
        numeric(1, 2),
    )
    lead = f"Written by {plural(len(landed.epochs), 'submission')} of the job."
    small = sum(size_bytes < _SMALL_FILE_BYTES for size_bytes in sizes)
    if small >= _MANY_FILES and 2 * small > len(sizes):
        lead += f" {small:,} are smaller than 1 MiB; beam-pipeline compact merges them."
    by_size = classes(sizes, [1] * len(sizes), SIZE_EDGES)
    return section(
        "files",
        "File sizes",
        lead,
        classes_table("Files by size", "size", "files", by_size, binary_size),
        facts,
    )


def _columns(landed: Landed) -> Element:
    if not landed.columns:
        return section("columns", "Columns", "No Parquet files, so no columns.")
    shown = list(islice(landed.columns.items(), COLUMNS_SHOWN))
    partial = any(column.is_range_partial and column.smallest is not None for _, column in shown)
    lead = (
        f"{plural(len(landed.columns), 'column')}, from the statistics in the files' footers. Null "
        "rates count the files that have the column; there are none for values inside lists."
    )
    if partial:
        lead += " ≈ marks a range that some files do not have, such as that of texts beyond 4 kB."
    if len(landed.columns) > len(shown):
        lead += f" The first {len(shown):,}; beam-pipeline inspect has all."
    rows = table(
        "Columns",
        ("column", "type", "null", "smallest", "largest", "stored"),
        [_column_cells(path, column) for path, column in shown],
        {1: "type", 2: "narrow", 3: "value", 4: "value", 5: "num spare"},
    )
    return section("columns", "Columns", lead, rows)


def _column_cells(path: str, column: ColumnStatistics) -> tuple[Element | str, ...]:
    nulls = null_share(column)
    mark = "≈ " if column.is_range_partial and column.smallest is not None else ""
    return (
        foreign(path, 200),
        foreign(column.type, 80),
        "\N{EN DASH}" if column.nulls is None else with_bar(nulls, column.nulls, column.values),
        *(
            tag("span", mark, foreign(_value_text(value), _VALUE_WIDTH))
            if value is not None
            else "\N{EN DASH}"
            for value in (column.smallest, column.largest)
        ),
        size(column.stored_bytes),
    )


def _value_text(value: Any) -> str:
    if isinstance(value, datetime):
        zone = "" if value.tzinfo is None else " UTC"
        moment = value.astimezone(timezone.utc).replace(tzinfo=None) if zone else value
        return (
            moment.isoformat(" ", "microseconds" if moment.microsecond % 1000 else "milliseconds")
            + zone
        )
    return plain_text(value)


def _footer(given: ReportInput) -> Element:
    return tag(
        "footer",
        tag(
            "dl",
            *(
                tag("div", tag("dt", name), tag("dd", foreign(value, 400)))
                for name, value in given.sources
            ),
        ),
        tag(
            "p",
            "Times are UTC. This file contains values from events (messages, smallest and largest "
            "values): protect it as you protect the data.",
        ),
    )
