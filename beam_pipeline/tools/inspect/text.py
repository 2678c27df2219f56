"""The report of an inspection as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date, datetime
from itertools import islice
from statistics import median
from typing import Any

import orjson
from pyroaring import BitMap64
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from beam_pipeline.files.left_out import left_out_text
from beam_pipeline.offset_sets import TopicPartition, range_count, ranges
from beam_pipeline.terminal import printable, printable_json
from beam_pipeline.times import rfc3339
from beam_pipeline.tools.inspect.inspection import FileInspection, TreeInspection
from beam_pipeline.tools.inspect.statistics import ColumnStatistics

_RANGES_IN_TEXT = 3
_RANGES_IN_JSON = 1_000
_VALUE_WIDTH = 26
_DAMAGED_SHOWN = 10


def file_text(file: FileInspection) -> RenderableType:
    """Return a file's facts, offsets and columns as text."""
    return _text(file_facts(file), file.offsets, file.columns)


def tree_text(tree: TreeInspection) -> RenderableType:
    """Return the facts, offsets and columns of a tree as text, summed over its files."""
    parts: list[RenderableType] = [_text(tree_facts(tree), tree.offsets, tree.columns)]
    for path, reason in tree.damaged[:_DAMAGED_SHOWN]:
        parts.append(Text(f"can't be read: {printable(str(path))}: {printable(reason)}", "red"))
    if len(tree.damaged) > _DAMAGED_SHOWN:
        parts.append(Text(f"and {len(tree.damaged) - _DAMAGED_SHOWN:,} more", "red"))
    return Group(*parts)


def file_facts(file: FileInspection) -> dict[str, str]:
    """Return the facts about a file, by name."""
    facts = {"file": str(file.path)}
    name, footer = file.name, file.footer
    if name is not None:
        facts |= {
            "topic": name.topic,
            "window": f"{name.window_start:%Y-%m-%d %H:%M:%S} - {name.window_end:%H:%M:%S} UTC",
            "shard, pane": f"{name.shard}, {name.pane}",
            "epoch": name.epoch,
        }
    facts["size"] = f"{file.size_bytes:,} bytes"
    facts["lines" if file.dead_by_code else "rows"] = f"{file.rows:,}"
    if file.created_by is not None:
        facts["row groups"] = f"{file.row_groups:,} ({', '.join(file.codecs) or 'empty'})"
        facts["written by"] = file.created_by
        facts["schema"] = (
            f"{footer.schema_id or '(no $id)'} sha256 {footer.schema_sha256}"
            if footer
            else "no footer of this pipeline"
        )
    return facts | _codes(file.dead_by_code)


def tree_facts(tree: TreeInspection) -> dict[str, str]:
    """Return the facts about a tree, by name."""
    facts = {
        "directory": str(tree.root),
        "files": f"{tree.files:,}, {tree.size_bytes:,} bytes"
        + (f", half of them below {round(median(tree.sizes)):,}" if tree.sizes else ""),
        "rows": f"{tree.rows:,}",
        "epochs": f"{len(tree.epochs):,}",
    }
    for topic, (start, end) in sorted(tree.windows.items()):
        facts[f"windows of {topic}"] = f"{start:%Y-%m-%d %H:%M:%S} - {end:%Y-%m-%d %H:%M:%S} UTC"
    for (schema_id, sha256), files in tree.schemas.most_common():
        facts[f"schema {sha256[:12]}"] = f"{files:,} files, {schema_id or '(no $id)'}"
    if tree.left_out:
        facts["left out"] = left_out_text(tree.left_out)
    return facts | _codes(tree.dead_by_code)


def _codes(dead_by_code: Mapping[str, int]) -> dict[str, str]:
    return {f"dead, {code}": f"{count:,}" for code, count in sorted(dead_by_code.items())}


def _text(
    facts: Mapping[str, str],
    offsets: Mapping[TopicPartition, BitMap64],
    columns: Mapping[str, ColumnStatistics],
) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in facts.items():
        grid.add_row(Text(printable(name), "bold"), Text(printable(value)))
    parts: list[RenderableType] = [grid]
    if offsets:
        parts += ["", _offsets_table(offsets)]
    if columns:
        parts += ["", _columns_table(columns)]
    return Group(*parts)


def _offsets_table(offsets: Mapping[TopicPartition, BitMap64]) -> Table:
    table = Table(title="Offsets", title_justify="left")
    table.add_column("partition", overflow="fold")
    table.add_column("records", justify="right")
    table.add_column("ranges", overflow="fold")
    for partition, covered in sorted(offsets.items()):
        shown = [
            f"{first}" if first == last else f"{first}-{last}"
            for first, last in islice(ranges(covered), _RANGES_IN_TEXT)
        ]
        more = range_count(covered) - len(shown)
        if more > 0:
            shown.append(f"… {more:,} more, to {covered.max()}" if covered else "")
        table.add_row(
            Text(printable(str(partition))), f"{len(covered):,}", ", ".join(shown) or "none"
        )
    return table


def _columns_table(columns: Mapping[str, ColumnStatistics]) -> Table:
    table = Table(title="Columns", title_justify="left")
    table.add_column("column", overflow="fold")
    table.add_column("type", overflow="fold")
    table.add_column("nulls", justify="right")
    table.add_column("smallest", overflow="fold")
    table.add_column("largest", overflow="fold")
    table.add_column("bytes", justify="right")
    for path, column in columns.items():
        table.add_row(
            Text(printable(path)),
            Text(column.type),
            null_share(column),
            Text(_shown(column.smallest)),
            Text(_shown(column.largest)),
            f"{column.stored_bytes:,}",
        )
    return table


def null_share(column: ColumnStatistics) -> str:
    """Return the share of nulls, such as `12.5%`; `?` if the file does not say."""
    if column.nulls is None:
        return "?"
    if column.nulls in (0, column.values):
        return "0%" if column.nulls == 0 else "100%"
    return f"{min(max(100 * column.nulls / column.values, 0.1), 99.9):.1f}%"


def _shown(value: Any) -> str:
    return "" if value is None else printable(plain_text(value), _VALUE_WIDTH)


def plain_text(value: Any) -> str:
    """Return a value of a column as text, not yet escaped for a terminal."""
    if isinstance(value, datetime):
        return rfc3339(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return str(value)


def file_json(file: FileInspection) -> str:
    """One file for machines: one JSON object and a line's end."""
    footer = file.footer
    document: dict[str, Any] = {
        "path": str(file.path),
        "size_bytes": file.size_bytes,
        "rows": file.rows,
        "footer": orjson.loads(footer.to_json()) if footer else None,
        "created_by": file.created_by,
        "codecs": file.codecs,
        "row_groups": file.row_groups,
    }
    return _json(document, file.offsets, file.columns, file.dead_by_code)


def tree_json(tree: TreeInspection) -> str:
    """A tree for machines: one JSON object and a line's end."""
    document: dict[str, Any] = {
        "path": str(tree.root),
        "files": tree.files,
        "size_bytes": tree.size_bytes,
        "median_size_bytes": round(median(tree.sizes)) if tree.sizes else None,
        "rows": tree.rows,
        "epochs": sorted(tree.epochs),
        "windows": {
            topic: {"start": start, "end": end}
            for topic, (start, end) in sorted(tree.windows.items())
        },
        "schemas": [
            {"id": schema_id, "sha256": sha256, "files": files}
            for (schema_id, sha256), files in tree.schemas.most_common()
        ],
        "left_out": [
            {
                "topic": span.key.topic,
                "partition": span.key.partition,
                "first": span.first,
                "end": span.end,
                "by": span.by,
            }
            for span in tree.left_out
        ],
        "damaged": [{"path": str(path), "reason": reason} for path, reason in tree.damaged],
    }
    return _json(document, tree.offsets, tree.columns, tree.dead_by_code)


def _json(
    document: dict[str, Any],
    offsets: Mapping[TopicPartition, BitMap64],
    columns: Mapping[str, ColumnStatistics],
    dead_by_code: Mapping[str, int],
) -> str:
    document |= {
        "offsets": list(_offsets_json(offsets)),
        "columns": {
            path: {
                "type": column.type,
                "values": column.values,
                "nulls": column.nulls,
                "min": column.smallest,
                "max": column.largest,
                "stored_bytes": column.stored_bytes,
            }
            for path, column in columns.items()
        },
        "dead_by_code": dict(dead_by_code),
    }
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z
    return printable_json(orjson.dumps(document, default=plain_text, option=options).decode())


def _offsets_json(offsets: Mapping[TopicPartition, BitMap64]) -> Iterator[dict[str, Any]]:
    for partition, covered in sorted(offsets.items()):
        yield {
            "topic": partition.topic,
            "partition": partition.partition,
            "count": len(covered),
            "ranges": list(islice(ranges(covered), _RANGES_IN_JSON)),
            "ranges_left_out": max(0, range_count(covered) - _RANGES_IN_JSON),
        }
