"""Output on a terminal: untrusted text is escaped, long work shows its progress."""

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
    r"""Return the text with control, format and similar characters escaped.

    Unescaped, they could move the cursor, change colours or hide text. A result longer than
    `max_length` characters is cut and ends in `…`; the characters of an escape count.

    >>> print(printable("a\x1b[2Jb\n"))
    a\x1b[2Jb\n
    >>> printable("abcdef", max_length=4)
    'abc…'
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
    r"""Return a JSON text of the same value that is safe on a terminal.

    Characters that `printable` escapes become `\\uXXXX`; line breaks and indents stay.
    """
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
    """Print to standard output. Lines wrap on a terminal only, so a log keeps paths whole."""
    console = Console()
    console.print(renderable, soft_wrap=not console.is_terminal)


@contextlib.contextmanager
def progress_bar(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show the progress of a loop on standard error, if that is a terminal, until the block ends.

    Args:
        description: what is done, such as "Reading Parquet files".
        total: how many steps there are.

    Yields:
        A function to call with how many more steps are done.
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


def plural(count: int, noun: str) -> str:
    """Return a count with its noun.

    >>> plural(1, "row"), plural(2000, "row")
    ('1 row', '2,000 rows')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
