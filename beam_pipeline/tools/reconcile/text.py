"""How a reconciliation is told, to people and to machines."""

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
from beam_pipeline.terminal import printable, printable_json
from beam_pipeline.tools.reconcile.compare import (
    PartitionReconciliation,
    ReconcileReport,
    Reconciliation,
)
from beam_pipeline.tools.reconcile.coverage import FileOverlap

_RANGES_IN_TEXT = 5
_LINES_IN_TEXT = 20
_RANGES_IN_JSON = 1_000

# What is wrong with a partition, by the attribute that holds the offsets.
_FAULTS = {
    "missing": "in no file",
    "doubled_in_parquet": "in Parquet more than once",
    "doubled_in_dead": "in the dead letters more than once",
    "in_both": "in Parquet and in the dead letters",
    "beyond_end": "in files, but beyond the log's end (was the topic made anew?)",
}


def report_text(report: ReconcileReport) -> RenderableType:
    """The report for people: a table of the partitions, then what is wrong, then the verdict."""
    parts: list[RenderableType] = [reconciliation_table(report.reconciliation)]
    faults = list(_fault_lines(report))
    parts.extend(Text(line, "red") for line in faults[:_LINES_IN_TEXT])
    if len(faults) > _LINES_IN_TEXT:
        parts.append(Text(f"and {len(faults) - _LINES_IN_TEXT:,} lines more; --json has them"))
    parts.extend(Text(line, "yellow") for line in _note_lines(report.reconciliation))
    parts.append(_verdict(report))
    return Group(*parts)


def reconciliation_table(reconciliation: Reconciliation) -> Table:
    """One line a partition; numbers that should be zero are red where they are not."""
    table = Table(show_footer=len(reconciliation.partitions) > 1)
    table.add_column("partition", footer="total", overflow="fold")
    for name, total in {
        "log": None,
        "records": reconciliation.records,
        "rows": sum(one.parquet_rows for one in reconciliation.partitions),
        "dead letters": sum(one.dead_letters for one in reconciliation.partitions),
        "missing": reconciliation.missing,
        "doubled": reconciliation.doubled,
    }.items():
        footer = "" if total is None else f"{total:,}"
        table.add_column(name, footer=footer, justify="right")
    for one in reconciliation.partitions:
        table.add_row(
            Text(printable(str(one.partition))),
            f"{one.low:,} - {one.high - 1:,}" if one.high > one.low else "empty",
            f"{one.records:,}",
            f"{one.parquet_rows:,}",
            f"{one.dead_letters:,}",
            _should_be_zero(len(one.missing)),
            _should_be_zero(len(one.doubled)),
        )
    return table


def _should_be_zero(count: int) -> Text:
    return Text(f"{count:,}", style="bold red" if count else "")


def _fault_lines(report: ReconcileReport) -> Iterator[str]:
    held: dict[TopicPartition, list[FileOverlap]] = defaultdict(list)
    for overlap in report.overlaps:
        held[overlap.partition].append(overlap)
    for one in report.reconciliation.partitions:
        for fault, meaning in _FAULTS.items():
            offsets: BitMap64 = getattr(one, fault)
            if offsets:
                yield f"{printable(str(one.partition))}: {meaning}: {_ranges_text(offsets)}"
        for overlap in held[one.partition]:
            yield f"  {printable(str(overlap.path))} holds {_ranges_text(overlap.offsets)}"
    for problem in report.problems:
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


def _note_lines(reconciliation: Reconciliation) -> Iterator[str]:
    for one in reconciliation.partitions:
        name = printable(str(one.partition))
        if one.missing and one.missing.max() == one.high - 1:
            yield (
                f"{name}: the last records of the log are missing: "
                "a pipeline at work writes them when their window closes"
            )
        if one.expired_unseen:
            yield (
                f"{name}: {len(one.expired_unseen):,} offsets left the log before this check and "
                "are in no file; whether they were records can't be told any more"
            )


def _verdict(report: ReconcileReport) -> Text:
    found = report.reconciliation
    files = (
        f"{report.parquet_files:,} Parquet files and {report.dead_letter_files:,} "
        "files of dead letters"
    )
    if report.is_clean:
        return Text(f"Clean: {found.records:,} records, each in one place; {files}.", "bold green")
    wrong = {
        "missing": found.missing,
        "doubled": found.doubled,
        "beyond the log's end": found.beyond_end,
        "file problems": len(report.problems),
    }
    told = ", ".join(f"{count:,} {name}" for name, count in wrong.items() if count)
    return Text(f"NOT clean: {told}; {found.records:,} records, {files}.", "bold red")


def report_json(report: ReconcileReport) -> str:
    """The report for machines: one JSON object and a line's end.

    `clean` is the verdict. Of each set of offsets it has the `count` and inclusive `ranges`, the
    first thousand; `ranges_left_out` counts the rest.
    """
    found = report.reconciliation
    document = {
        "clean": report.is_clean,
        "isolation_level": report.isolation_level,
        "parquet_files": report.parquet_files,
        "dead_letter_files": report.dead_letter_files,
        "records": found.records,
        "covered": found.covered,
        "missing": found.missing,
        "doubled": found.doubled,
        "in_both": found.in_both,
        "beyond_end": found.beyond_end,
        "partitions": [_partition_json(one) for one in found.partitions],
        "files_at_fault": [
            {
                "path": str(overlap.path),
                "topic": overlap.partition.topic,
                "partition": overlap.partition.partition,
                "offsets": _offsets_json(overlap.offsets),
            }
            for overlap in report.overlaps
        ],
        "file_problems": [
            {"path": str(problem.path), "reason": problem.reason} for problem in report.problems
        ],
    }
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    return printable_json(orjson.dumps(document, option=options).decode())


def _partition_json(one: PartitionReconciliation) -> dict[str, Any]:
    return {
        "topic": one.partition.topic,
        "partition": one.partition.partition,
        "low": one.low,
        "high": one.high,
        "records": one.records,
        "covered": one.covered,
        "parquet_rows": one.parquet_rows,
        "dead_letters": one.dead_letters,
        "expired": one.expired,
        "expired_unseen": _offsets_json(one.expired_unseen),
        "holes": _offsets_json(one.holes),
        **{fault: _offsets_json(getattr(one, fault)) for fault in _FAULTS},
    }


def _offsets_json(offsets: BitMap64) -> dict[str, Any]:
    count = range_count(offsets)
    return {
        "count": len(offsets),
        "ranges": list(islice(ranges(offsets), _RANGES_IN_JSON)),
        "ranges_left_out": max(0, count - _RANGES_IN_JSON),
    }
