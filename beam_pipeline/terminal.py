"""What the tools show on a terminal: foreign text made harmless, the progress of long work."""

from __future__ import annotations

import contextlib
import unicodedata
from collections.abc import Callable, Iterator

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

# Control and format characters (escape sequences, bidirectional overrides), lone surrogates,
# private and unassigned code points, line and paragraph separators.
_UNSAFE_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def printable(text: str, max_length: int | None = None) -> str:
    r"""Escapes what could move a terminal's cursor, change its colours or hide text.

    `"a\x1b[2Jb\n"` becomes `"a\\x1b[2Jb\\n"`. A text longer than `max_length` characters ends
    in `…`; an escape counts as the characters it takes.
    """
    cut = text if max_length is None else text[: max_length + 1]
    escaped = "".join(
        character.encode("unicode_escape").decode("ascii")
        if unicodedata.category(character) in _UNSAFE_CATEGORIES
        else character
        for character in cut
    )
    if max_length is not None and len(escaped) > max_length:
        return escaped[: max_length - 1] + "…"
    return escaped


def printable_json(text: str) -> str:
    r"""A JSON text that says the same and is harmless on a terminal: what `printable` escapes is
    written as `\\uXXXX`, lines and indents stay."""
    return "".join(
        _json_escape(character)
        if character != "\n" and unicodedata.category(character) in _UNSAFE_CATEGORIES
        else character
        for character in text
    )


def _json_escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def show(renderable: RenderableType) -> None:
    """Prints to standard output; lines of text are folded on a terminal only, so that paths can be
    found in a log."""
    console = Console()
    console.print(renderable, soft_wrap=not console.is_terminal)


@contextlib.contextmanager
def progress_bar(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Shows how far a loop is on standard error, if that is a terminal; gone when it ends.

    Args:
        description: what is being done, such as "Reading Parquet files".
        total: how many parts there are.

    Yields:
        a function that is told how many more parts are done.
    """
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task(description, total=total)
        yield lambda parts: progress.advance(task, parts)
