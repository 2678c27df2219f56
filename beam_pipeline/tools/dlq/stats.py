"""Counts of dead letters by code, keyword, field, hour, attempt and outcome."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import orjson
from rich.bar import Bar
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from beam_pipeline.terminal import printable, printable_json
from beam_pipeline.tools.dlq.letters import Letter
from beam_pipeline.tools.dlq.outcomes import Outcome, Outcomes

_ARRAY_INDEX = re.compile(r"(?<=/)[0-9]+(?=/|$)")
_ROWS_SHOWN = 15
_HOURS_SHOWN = 48
_NAME_WIDTH = 48

NO_REPLAY = Outcomes()


@dataclass(slots=True)
class LetterStats:
    """Counts of letters. A letter with several violations counts once per keyword and per field.

    Attributes:
        letters: all letters.
        by_code, by_keyword: the letters by error code, and by violated JSON Schema keyword.
        by_field: the letters by JSON pointer, with `*` for an index into an array.
        by_hour: the letters by the UTC hour of the failure, such as `2026-11-23T20`.
        by_attempt: the letters by attempt; 2 and above are replayed records.
        by_outcome: the letters by what became of them after a replay.
        refused_by_topic: the letters that the dead-letter topic refused, by the broker's reason.
    """

    letters: int = 0
    by_code: Counter[str] = field(default_factory=Counter)
    by_keyword: Counter[str] = field(default_factory=Counter)
    by_field: Counter[str] = field(default_factory=Counter)
    by_hour: Counter[str] = field(default_factory=Counter)
    by_attempt: Counter[int] = field(default_factory=Counter)
    by_outcome: Counter[Outcome] = field(default_factory=Counter)
    refused_by_topic: Counter[str] = field(default_factory=Counter)


def count_letters(
    letters: Iterable[Letter],
    refused: Mapping[str, str] = MappingProxyType({}),
    outcomes: Outcomes = NO_REPLAY,
) -> LetterStats:
    """Count letters.

    Args:
        letters: the letters.
        refused: the ids of those that the dead-letter topic refused, with the broker's reason.
        outcomes: what became of them after a replay.
    """
    stats = LetterStats()
    for letter in letters:
        stats.letters += 1
        stats.by_code[letter.code] += 1
        stats.by_keyword.update({keyword for keyword, _ in letter.violations})
        stats.by_field.update({_ARRAY_INDEX.sub("*", path) for _, path in letter.violations})
        stats.by_hour[f"{letter.failed_at:%Y-%m-%dT%H}"] += 1
        stats.by_attempt[letter.attempt] += 1
        stats.by_outcome[outcomes.of(letter)] += 1
        if letter.dlq_id in refused:
            stats.refused_by_topic[refused[letter.dlq_id]] += 1
    return stats


def stats_text(stats: LetterStats) -> RenderableType:
    """Return bar charts for a terminal."""
    if not stats.letters:
        return Text("No dead letters.")
    hours = Counter(dict(sorted(stats.by_hour.items())[-_HOURS_SHOWN:]))
    return Group(
        Text(f"{stats.letters:,} dead letters", "bold"),
        _chart("code", stats.by_code.most_common(), stats.letters),
        _chart("keyword", stats.by_keyword.most_common(), stats.letters),
        _chart("field", stats.by_field.most_common(), stats.letters),
        _chart("hour (UTC)", sorted(hours.items()), max(hours.values()), rows_shown=_HOURS_SHOWN),
        _chart("attempt", sorted(stats.by_attempt.items()), stats.letters),
        *_replayed(stats),
        *_refused_by_topic(stats),
    )


def _replayed(stats: LetterStats) -> Iterator[RenderableType]:
    if set(stats.by_outcome) - {Outcome.OPEN}:
        counts = [(outcome.value, stats.by_outcome[outcome]) for outcome in Outcome]
        yield _chart("outcome", counts, stats.letters)


def _refused_by_topic(stats: LetterStats) -> Iterator[RenderableType]:
    if refused := stats.refused_by_topic:
        yield Text(f"\n{refused.total():,} of them are in their file only", "bold")
        yield _chart("refusal of the dead-letter topic", refused.most_common(), stats.letters)


def stats_json(stats: LetterStats) -> str:
    """Return the counts as one JSON object and a newline.

    The largest counts come first; hours and attempts are in order.
    """
    document = {
        "letters": stats.letters,
        "by_code": dict(stats.by_code.most_common()),
        "by_keyword": dict(stats.by_keyword.most_common()),
        "by_field": dict(stats.by_field.most_common()),
        "by_hour": dict(sorted(stats.by_hour.items())),
        "by_attempt": {str(number): count for number, count in sorted(stats.by_attempt.items())},
        "by_outcome": {outcome.name.lower(): stats.by_outcome[outcome] for outcome in Outcome},
        "refused_by_topic": dict(stats.refused_by_topic.most_common()),
    }
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    return printable_json(orjson.dumps(document, option=options).decode())


def _chart(
    title: str,
    counts: list[tuple[str, int]] | list[tuple[int, int]],
    full_bar: int,
    rows_shown: int = _ROWS_SHOWN,
) -> RenderableType:
    if not counts:
        return Text(f"\nby {title}: none")
    table = Table(title=f"\nby {title}", title_justify="left", title_style="", box=None)
    table.add_column(min_width=16, no_wrap=True)
    table.add_column(justify="right")
    table.add_column()
    for name, count in counts[:rows_shown]:
        shown = printable(str(name), _NAME_WIDTH) or "(the whole event)"
        table.add_row(Text(shown), f"{count:,}", Bar(full_bar, 0, count, width=40))
    if len(counts) > rows_shown:
        left_out = sum(count for _, count in counts[rows_shown:])
        table.add_row(f"and {len(counts) - rows_shown:,} more", f"{left_out:,}", "")
    return table
