"""One dead letter as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterator

import orjson
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from beam_pipeline.terminal import printable, printable_json
from beam_pipeline.tools.dlq.letters import Letter


def letter_text(letter: Letter) -> RenderableType:
    """Return all fields of a letter, escaped, with the record's bytes as text."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, content in _lines(letter):
        grid.add_row(name, Text(content))
    return grid


def letter_json(letter: Letter) -> str:
    """Return the letter's line as in its file."""
    return printable_json(orjson.dumps(letter.document, option=orjson.OPT_APPEND_NEWLINE).decode())


def _lines(letter: Letter) -> Iterator[tuple[str, str]]:
    error, source = letter.document["error"], letter.document["source"]
    yield "id", printable(letter.dlq_id)
    yield "record", printable(f"{letter.topic}/{letter.partition} offset {letter.offset}")
    yield "timestamp", printable(f"{source['timestamp']} ({source['timestamp_type']})")
    yield "failed at", f"{letter.failed_at:%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z"
    yield "stage", printable(letter.stage)
    yield "attempt", str(letter.attempt)
    yield "code", printable(letter.code)
    yield "error", printable(f"{error['class']}: {error['message']}")
    for violation in error["violations"]:
        where = violation["instance_path"] or "(the whole event)"
        yield "violation", printable(f"{violation['keyword']} at {where}: {violation['message']}")
    if error["stacktrace"]:
        yield "stack trace", _multiline(error["stacktrace"])
    schema = letter.document["schema"]
    yield "schema", printable(f"{schema['id']} sha256 {schema['sha256']}")
    yield "epoch", printable(letter.document["epoch"])
    for name, content in letter.headers:
        yield "header", f"{printable(name)}: {_content(content)}"
    yield "key", _content(letter.key)
    yield "value", _content(letter.value)


def _content(content: bytes | None) -> str:
    """Return bytes as text; bytes that are not UTF-8 become `\\xNN`."""
    return "null" if content is None else _multiline(content.decode("utf-8", "backslashreplace"))


def _multiline(text: str) -> str:
    return "\n".join(printable(line) for line in text.split("\n"))
