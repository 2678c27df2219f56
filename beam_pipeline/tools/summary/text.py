"""The summary as text for a terminal. Values from events are escaped and cut."""

from __future__ import annotations

import contextlib
from datetime import date, datetime
from typing import Any

import orjson
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from beam_pipeline.terminal import plural, printable
from beam_pipeline.times import rfc3339
from beam_pipeline.tools.dlq.letters import Letter
from beam_pipeline.tools.reconcile.compare import Reconciliation
from beam_pipeline.tools.reconcile.text import reconciliation_table
from beam_pipeline.tools.summary.gather import Summary

_FILES_SHOWN = 12
_SAMPLE_WIDTH = 78
_COLUMN_FRAME = 3
_CELL_WIDTH = 24
_EXAMPLE_WIDTH = 100


def summary_text(summary: Summary, reconciliation: Reconciliation | None = None) -> RenderableType:
    """Return tables of the files, of a few rows and of the dead letters by code.

    Args:
        summary: the files of the topic.
        reconciliation: the comparison with the topic; adds its table and a verdict.
    """
    parts: list[RenderableType] = [_files(summary)]
    if summary.sample:
        parts += ["", _sample(summary.sample)]
    parts += ["", _dead_letters(summary)]
    if reconciliation is not None:
        parts += ["", reconciliation_table(reconciliation), _count_check(reconciliation)]
    return Group(*parts)


def _files(summary: Summary) -> Table:
    total = f"{plural(len(summary.files), 'file')}, {plural(summary.rows, 'row')}"
    table = Table(title=f"Parquet: {total}", title_justify="left")
    for name in ("window (UTC)", "shard", "pane", "rows", "bytes"):
        table.add_column(name, justify="left" if name.startswith("window") else "right")
    for file in summary.files[-_FILES_SHOWN:]:
        start, end = file.name.window_start, file.name.window_end
        table.add_row(
            f"{start:%Y-%m-%d %H:%M:%S} - {end:%H:%M:%S}",
            str(file.name.shard),
            str(file.name.pane),
            f"{file.rows:,}",
            f"{file.size_bytes:,}",
        )
    if len(summary.files) > _FILES_SHOWN:
        table.caption = f"the last {_FILES_SHOWN} of {len(summary.files):,}"
    return table


def _sample(rows: list[dict[str, Any]]) -> Table:
    """Return a table of the columns that fit side by side; columns with values come first."""
    columns = sorted(rows[0], key=lambda column: all(row[column] is None for row in rows))
    cells = {column: [_cell(row[column]) for row in rows] for column in columns}
    shown: list[str] = []
    room = _SAMPLE_WIDTH
    for column in columns:
        room -= max(map(len, [printable(column), *cells[column]])) + _COLUMN_FRAME
        if room < 0:
            break
        shown.append(column)
    table = Table(title="Some rows", title_justify="left")
    for column in shown:
        table.add_column(Text(printable(column)), no_wrap=True)
    for row in range(len(rows)):
        table.add_row(*(Text(cells[column][row]) for column in shown))
    if len(columns) > len(shown):
        left_out = ", ".join(printable(column) for column in columns[len(shown) :])
        table.caption = Text(f"and the columns {left_out}")
    return table


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return rfc3339(value, separator=" ", timespec="milliseconds")
    if isinstance(value, date):
        return value.isoformat()
    return printable(str(value), _CELL_WIDTH)


def _dead_letters(summary: Summary) -> RenderableType:
    if not summary.dead_by_code:
        return Text("Dead letters: none")
    table = Table(title=f"Dead letters: {summary.dead_letters:,}", title_justify="left")
    table.add_column("code")
    table.add_column("letters", justify="right")
    table.add_column("for example")
    for code, count in summary.dead_by_code.most_common():
        letter = summary.examples[code]
        message = printable(letter.document["error"]["message"], _EXAMPLE_WIDTH)
        value = telling_value(letter)
        example = f"{message}\n{printable(value, _EXAMPLE_WIDTH)}" if value else message
        table.add_row(Text(printable(code)), f"{count:,}", Text(example, overflow="fold"))
    return table


def telling_value(letter: Letter) -> str | None:
    """Return the part of an event that its letter is about, such as `/price: "12"`.

    That is the value at the first violation of the schema, or else the event time if the message
    begins with its field. Otherwise it is the beginning of the event; None without any text.
    """
    text: str | None = letter.document["value_text"]
    try:
        event = orjson.loads(text or "")
    except orjson.JSONDecodeError:  # no JSON, or cut
        return text
    pointers = [pointer for _, pointer in letter.violations if pointer]
    first_word = str(letter.document["error"]["message"]).partition(" ")[0]
    pointers.append("/" + first_word.replace(".", "/"))
    for pointer in pointers:
        with contextlib.suppress(LookupError, TypeError, ValueError):
            value = event
            for step in pointer.split("/")[1:]:
                step = step.replace("~1", "/").replace("~0", "~")
                value = value[int(step)] if isinstance(value, list) else value[step]
            return f"{pointer}: {orjson.dumps(value).decode()}"
    return text


def _count_check(comparison: Reconciliation) -> Text:
    rows = sum(partition.parquet_rows for partition in comparison.partitions)
    letters = sum(partition.dead_letters for partition in comparison.partitions)
    records = comparison.records
    sums = f"{records:,} records in the topic, {rows:,} rows + {letters:,} dead letters"
    if comparison.is_clean:
        return Text(f"Count check: {sums}; each record in exactly one place.", "bold green")
    return Text(
        f"Count check FAILED: {sums}; {comparison.missing:,} missing, "
        f"{comparison.doubled:,} doubled, {comparison.beyond_end:,} beyond the log's end.",
        "bold red",
    )
