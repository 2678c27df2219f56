"""The report of a reconciliation as text and as JSON."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import islice
from typing import Any

import orjson
from pyroaring import BitMap64
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from beam_pipeline.offset_sets import TopicPartition, range_count, ranges
from beam_pipeline.terminal import plural, printable, printable_json
from beam_pipeline.times import rfc3339_of_ms
from beam_pipeline.tools.reconcile.compare import (
    PartitionReconciliation,
    ReconcileReport,
    Reconciliation,
)
from beam_pipeline.tools.reconcile.coverage import FileOverlap
from beam_pipeline.tools.reconcile.letter_topic import LetterTopic
from beam_pipeline.tools.reconcile.markers import MarkerReport
from beam_pipeline.tools.reconcile.table_state import Pinned, TableState

_RANGES_IN_TEXT = 5
_LINES_IN_TEXT = 20
_RANGES_IN_JSON = 1_000

# What is wrong with a partition, by the attribute that holds the offsets.
_FAULTS = {
    "missing": "in no file",
    "doubled_in_parquet": "in Parquet more than once",
    "doubled_in_dead": "in the dead letters more than once",
    "in_both": "in Parquet and in the dead letters",
    "beyond_end": "in files, but beyond the log's end (was the topic recreated?)",
    "rewritten": "in the log with another timestamp than in files: the log was rewritten, as by a "
    "broker that is back from an older disk, or the topic was recreated",
    "expired_unread": "expired unread (at most so many were records)",
}

_TABLE_FAULTS = {
    **_FAULTS,
    "missing": "in neither table",
    "doubled_in_parquet": "in the table more than once",
    "doubled_in_dead": "in the table of dead letters more than once",
    "in_both": "in the table and in that of dead letters",
    "beyond_end": "in the tables, but beyond the log's end (was the topic recreated?)",
    "rewritten": "in the log with another timestamp than in the table: the log was rewritten, as "
    "by a broker that is back from an older disk, or the topic was recreated",
}


def report_text(report: ReconcileReport) -> RenderableType:
    """Return the report as text: a table of the partitions, then the faults, then the verdict."""
    parts: list[RenderableType] = [reconciliation_table(report.reconciliation)]
    faults = list(_fault_lines(report))
    parts.extend(Text(line, "red") for line in faults[:_LINES_IN_TEXT])
    if len(faults) > _LINES_IN_TEXT:
        parts.append(Text(f"and {len(faults) - _LINES_IN_TEXT:,} more lines; --json lists them"))
    parts.extend(Text(line, "yellow") for line in _note_lines(report))
    parts.extend(Text(line) for line in _excluded_lines(report.reconciliation))
    if in_strays := report.doubled_in_strays:
        parts.append(Text(_strays_text(report, in_strays), "yellow"))
    if report.up_to:
        parts.append(
            Text(f"Compared {report.up_to}; {report.behind:,} offsets behind it are not compared")
        )
    if report.table is not None:
        parts.extend(Text(line, "yellow") for line in _foreign_lines(report.table))
        parts.append(Text(_table_text(report.table)))
    if report.markers.hours:
        parts.append(Text(_markers_text(report.markers)))
    parts.extend(Text(_letter_topic_line(topic)) for topic in report.letter_topics)
    parts.append(_verdict(report))
    return Group(*parts)


def reconciliation_table(reconciliation: Reconciliation) -> Table:
    """Return a table with one line per partition; counts that should be zero are red if not."""
    table = Table(show_footer=len(reconciliation.partitions) > 1)
    table.add_column("partition", footer="total", overflow="fold")
    for name, total in {
        "log": None,
        "records": reconciliation.records,
        "rows": sum(partition.parquet_rows for partition in reconciliation.partitions),
        "dead letters": sum(partition.dead_letters for partition in reconciliation.partitions),
        "missing": reconciliation.missing,
        "doubled": reconciliation.doubled,
        "expired unread": reconciliation.expired_unread,
    }.items():
        footer = "" if total is None else f"{total:,}"
        table.add_column(name, footer=footer, justify="right")
    for partition in reconciliation.partitions:
        low, high = partition.low, partition.high
        table.add_row(
            Text(printable(str(partition.partition))),
            f"{low:,} - {high - 1:,}" if high > low else "empty",
            f"{partition.records:,}",
            f"{partition.parquet_rows:,}",
            f"{partition.dead_letters:,}",
            _should_be_zero(len(partition.missing)),
            _should_be_zero(len(partition.doubled)),
            _should_be_zero(len(partition.expired_unread)),
        )
    return table


def _should_be_zero(count: int) -> Text:
    return Text(f"{count:,}", style="bold red" if count else "")


def _fault_lines(report: ReconcileReport) -> Iterator[str]:
    held: dict[TopicPartition, list[FileOverlap]] = defaultdict(list)
    for overlap in report.overlaps:
        held[overlap.partition].append(overlap)
    for partition in report.reconciliation.partitions:
        for fault, meaning in (_TABLE_FAULTS if report.table else _FAULTS).items():
            offsets: BitMap64 = getattr(partition, fault)
            if offsets:
                yield f"{printable(str(partition.partition))}: {meaning}: {_ranges_text(offsets)}"
        for overlap in held[partition.partition]:
            stray = " (a stray)" if overlap.path.name in report.strays else ""
            yield f"  {printable(str(overlap.path))}{stray} holds {_ranges_text(overlap.offsets)}"
    for topic in report.letter_topics:
        for letter in topic.missing:
            record = f"{printable(str(letter.partition))} offset {letter.offset}"
            yield (
                f"{printable(topic.topic)}: lacks {letter.dlq_id} ({record}) of "
                f"{printable(str(letter.path))}"
            )
    for problem in (*report.problems, *report.markers.problems):
        yield f"{printable(str(problem.path))}: {printable(problem.reason)}"


def _ranges_text(offsets: BitMap64) -> str:
    count = range_count(offsets)
    shown = [
        f"{first}" if first == last else f"{first}-{last}"
        for first, last in islice(ranges(offsets), _RANGES_IN_TEXT)
    ]
    more = f" and {count - len(shown):,} ranges more" if count > len(shown) else ""
    noun = "offset" if len(offsets) == 1 else "offsets"
    return f"{len(offsets):,} {noun}: {', '.join(shown)}{more}"


def _note_lines(report: ReconcileReport) -> Iterator[str]:
    then = ", and commits them within --commit_interval" if report.table else ""
    for partition in report.reconciliation.partitions:
        name = printable(str(partition.partition))
        if partition.missing and partition.missing.max() == partition.high - 1:
            yield (
                f"{name}: the last records of the log are missing; "
                f"a running pipeline writes them when their window closes{then}"
            )
        if partition.expired_unread:
            yield (
                f"{name}: the log can no longer show how many of the expired offsets were records; "
                "--accept_expired accepts the loss, in run for later checks too"
            )


def _foreign_lines(table: TableState) -> Iterator[str]:
    for snapshot in table.foreign:
        engine = printable(snapshot.engine) or "an engine that does not say its name"
        yield (
            f"{snapshot.table}: foreign snapshot {snapshot.snapshot_id}, {snapshot.operation} by "
            f"{engine} at {rfc3339_of_ms(snapshot.committed_ms)}"
        )


def _table_text(table: TableState) -> str:
    pinned = " and ".join(
        f"snapshot {one.snapshot_id} of {one.name} ({rfc3339_of_ms(one.committed_ms)})"
        for one in (table.rows, table.letters)
        if one.snapshot_id is not None
    )
    return f"Compared {pinned}; the log has {plural(table.total_lag, 'offset')} behind their ends"


def _excluded_lines(reconciliation: Reconciliation) -> Iterator[str]:
    for partition in reconciliation.partitions:
        for flag, offsets in partition.excluded.items():
            name = printable(str(partition.partition))
            yield f"{name}: excluded by {printable(flag)}: {_ranges_text(offsets)}"


def _strays_text(report: ReconcileReport, in_strays: int) -> str:
    files = plural(len(report.strays), "stray")
    return (
        f"{in_strays:,} of the {report.reconciliation.doubled:,} doubled offsets are in {files}, "
        "which a worker of an earlier epoch finished late: the running pipeline, or else the next "
        "start, removes strays"
    )


def _markers_text(markers: MarkerReport) -> str:
    hours = f"{plural(markers.hours, 'hour')} marked as complete"
    if not markers.behind:
        return hours
    return (
        f"{hours}, {len(markers.behind):,} of which have got files since; a running pipeline, or "
        "the next run, renews their markers"
    )


def _letter_topic_line(topic: LetterTopic) -> str:
    counts = {
        "in the topic": topic.in_topic,
        "refused by it": topic.refused,
        "no longer in it (its retention or compaction)": topic.expired,
        "missing": len(topic.missing),
    }
    shown = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
    return f"{printable(topic.topic)}: {topic.letters:,} dead letters" + (
        f", {shown}" if shown else ""
    )


def _verdict(report: ReconcileReport) -> Text:
    reconciliation = report.reconciliation
    of_rows = "Parquet file" if report.table is None else "data file"
    files = (
        f"{plural(report.parquet_files, of_rows)} and "
        f"{plural(report.dead_letter_files, 'file')} of dead letters"
    )
    records = plural(reconciliation.records, "record")
    if report.is_clean:
        accepted = reconciliation.expired_accepted
        expired = f"; {accepted:,} expired unread, accepted" if accepted else ""
        excluded = "".join(
            f"; {count:,} excluded by {printable(flag)}"
            for flag, count in reconciliation.excluded.items()
        )
        return Text(
            f"Clean: {records}, each in one place{expired}{excluded}; {files}.",
            "bold green",
        )
    wrong = {
        "missing": reconciliation.missing,
        "doubled": reconciliation.doubled,
        "beyond the log's end": reconciliation.beyond_end,
        "rewritten": reconciliation.rewritten,
        "expired unread": reconciliation.expired_unread,
        "file problems": len(report.problems),
        "wrong markers of hours": len(report.markers.problems),
        "dead letters not in their topic": report.missing_letters,
    }
    faults = ", ".join(f"{count:,} {name}" for name, count in wrong.items() if count)
    return Text(f"NOT clean: {faults}; {records}, {files}.", "bold red")


def report_json(report: ReconcileReport) -> str:
    """Return the report as one JSON object and a newline.

    `clean` is the verdict. A set of offsets has its `count`, its first thousand inclusive `ranges`,
    and how many `ranges_left_out`.
    """
    reconciliation = report.reconciliation
    document = {
        "clean": report.is_clean,
        "isolation_level": report.isolation_level,
        "up_to": report.up_to or "end",
        "behind": report.behind,
        "parquet_files": report.parquet_files,
        "dead_letter_files": report.dead_letter_files,
        "records": reconciliation.records,
        "covered": reconciliation.covered,
        "missing": reconciliation.missing,
        "doubled": reconciliation.doubled,
        "doubled_in_strays": report.doubled_in_strays,
        "in_both": reconciliation.in_both,
        "beyond_end": reconciliation.beyond_end,
        "rewritten": reconciliation.rewritten,
        "expired_unread": reconciliation.expired_unread,
        "expired_accepted": reconciliation.expired_accepted,
        "excluded": reconciliation.excluded,
        "partitions": [_partition_json(partition) for partition in reconciliation.partitions],
        "files_at_fault": [
            {
                "path": str(overlap.path),
                "stray": overlap.path.name in report.strays,
                "topic": overlap.partition.topic,
                "partition": overlap.partition.partition,
                "offsets": _offsets_json(overlap.offsets),
            }
            for overlap in report.overlaps
        ],
        "file_problems": [
            {"path": str(problem.path), "reason": problem.reason} for problem in report.problems
        ],
        "markers": {
            "hours": report.markers.hours,
            "behind": [str(path) for path in report.markers.behind],
            "problems": [
                {"path": str(problem.path), "reason": problem.reason}
                for problem in report.markers.problems
            ],
        },
        **({} if report.table is None else {"table": _table_json(report.table)}),
        "dead_letter_topics": [_letter_topic_json(topic) for topic in report.letter_topics],
    }
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    return printable_json(orjson.dumps(document, option=options).decode())


def _table_json(table: TableState) -> dict[str, Any]:
    return {
        "rows": _pinned_json(table.rows),
        "dead_letters": _pinned_json(table.letters),
        "lag": table.total_lag,
        "partitions": [
            {"topic": key.topic, "partition": key.partition, "lag": lag}
            for key, lag in table.lag.items()
        ],
        "foreign_snapshots": [
            {
                "table": snapshot.table,
                "snapshot_id": snapshot.snapshot_id,
                "operation": snapshot.operation,
                "engine": snapshot.engine or None,
                "committed_at": rfc3339_of_ms(snapshot.committed_ms),
            }
            for snapshot in table.foreign
        ],
    }


def _pinned_json(pinned: Pinned) -> dict[str, Any]:
    is_there = pinned.snapshot_id is not None
    return {
        "name": pinned.name,
        "snapshot_id": pinned.snapshot_id,
        "committed_at": rfc3339_of_ms(pinned.committed_ms) if is_there else None,
    }


def _letter_topic_json(topic: LetterTopic) -> dict[str, Any]:
    return {
        "topic": topic.topic,
        "dead_letters": topic.letters,
        "in_topic": topic.in_topic,
        "refused": topic.refused,
        "expired": topic.expired,
        "missing": {
            "count": len(topic.missing),
            "letters": [
                {
                    "dlq_id": letter.dlq_id,
                    "topic": letter.partition.topic,
                    "partition": letter.partition.partition,
                    "offset": letter.offset,
                    "path": str(letter.path),
                }
                for letter in topic.missing[:_RANGES_IN_JSON]
            ],
        },
    }


def _partition_json(partition: PartitionReconciliation) -> dict[str, Any]:
    return {
        "topic": partition.partition.topic,
        "partition": partition.partition.partition,
        "low": partition.low,
        "high": partition.high,
        "records": partition.records,
        "covered": partition.covered,
        "parquet_rows": partition.parquet_rows,
        "dead_letters": partition.dead_letters,
        "expired": partition.expired,
        "expired_unseen": _offsets_json(partition.expired_unseen),
        "expired_accepted": _offsets_json(partition.expired_accepted),
        "holes": _offsets_json(partition.offset_gaps),
        "excluded": {flag: _offsets_json(offsets) for flag, offsets in partition.excluded.items()},
        **{fault: _offsets_json(getattr(partition, fault)) for fault in _FAULTS},
    }


def _offsets_json(offsets: BitMap64) -> dict[str, Any]:
    count = range_count(offsets)
    return {
        "count": len(offsets),
        "ranges": list(islice(ranges(offsets), _RANGES_IN_JSON)),
        "ranges_left_out": max(0, count - _RANGES_IN_JSON),
    }
