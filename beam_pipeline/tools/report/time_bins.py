"""Counts over time in bounded memory, and the bars of a chart. Pure, no I/O."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

OTHERS = "others"
MAX_CELLS = 50_000
MAX_BARS = 96
MAX_SERIES = 6

_DAY = 86_400
# Each divides the next, so bins can be merged without splitting counts.
_HELD_STEPS = (
    *(1, 10, 60, 600, 3_600, 21_600),
    *(_DAY * days for days in (1, 7, 28, 364, 3_640)),
)
_DRAWN_STEPS = (
    *(1, 2, 5, 10, 15, 20, 30),
    *(60 * minutes for minutes in (1, 2, 5, 10, 15, 20, 30)),
    *(3_600 * hours for hours in (1, 2, 3, 4, 6, 12)),
    *(_DAY * days for days in (1, 2, 7, 14, 28, 56, 112, 364, 728, 1_820, 3_640, 7_280, 18_200)),
)
# If this share of all counts takes less than a quarter of the time, the rest is not drawn but
# counted in the caption. Otherwise one event of last week would compress today into one bar.
_DRAWN_SHARE = 0.99
_FOCUS_FACTOR = 4


class TimeCounts:
    """Counts by name and time, in bins that get longer when there are many."""

    def __init__(self, max_cells: int = MAX_CELLS) -> None:
        self.step = _HELD_STEPS[0]
        self.cells: Counter[tuple[int, str]] = Counter()
        self._max_cells = max_cells

    def add(self, at: float, name: str, count: int) -> None:
        """Add `count` of `name` at a time in seconds since 1970, UTC."""
        self.cells[_floor(at, self.step), name] += count
        while len(self.cells) > self._max_cells and self.step < _HELD_STEPS[-1]:
            self.step = _HELD_STEPS[_HELD_STEPS.index(self.step) + 1]
            merged: Counter[tuple[int, str]] = Counter()
            for (start, held), cell in self.cells.items():
                merged[_floor(start, self.step), held] += cell
            self.cells = merged

    def names(self) -> Counter[str]:
        """Return the total of each name."""
        totals: Counter[str] = Counter()
        for (_, name), count in self.cells.items():
            totals[name] += count
        return totals


@dataclass(frozen=True, slots=True)
class Bars:
    """Counts as stacked bars.

    Attributes:
        start: the start of the first bar, in seconds since 1970, UTC.
        step: the length of a bar in seconds.
        names: the series, the largest first; `OTHERS` is last if there are many.
        counts: the count of each name in each bar.
        before, after: counts that are too far away in time to be drawn.
    """

    start: int
    step: int
    names: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    before: int = 0
    after: int = 0

    @property
    def end(self) -> int:
        """The end of the last bar."""
        return self.start + self.step * len(self.counts)

    @property
    def highest(self) -> int:
        """The largest total of a bar."""
        return max(map(sum, self.counts))


def bars_of(
    counts: TimeCounts,
    unit_seconds: int = 1,
    max_bars: int = MAX_BARS,
    max_series: int = MAX_SERIES,
) -> Bars | None:
    """Return counts as bars; None if there are no counts.

    Args:
        counts: the counts.
        unit_seconds: the length of a window. A bar is not shorter, and a multiple if possible.
        max_bars: how many bars there are at most.
        max_series: how many series there are at most; the smallest ones become `OTHERS`.
    """
    totals: Counter[int] = Counter()
    for (start, _), count in counts.cells.items():
        totals[start] += count
    if not totals:
        return None
    first, last = _focus(totals, counts.step)
    step = bar_step(first, last + counts.step, max(unit_seconds, 1), counts.step, max_bars)
    # Bars up to a day start at round times of UTC, longer bars at the first day.
    origin = _floor(first, step if step <= _DAY else max(unit_seconds, counts.step))
    bars = (last - origin) // step + 1
    common = [name for name, _ in counts.names().most_common()]
    if len(common) > max_series:
        common = [*common[: max_series - 1], OTHERS]
    places = {name: place for place, name in enumerate(common)}
    drawn = [[0] * len(common) for _ in range(bars)]
    before = after = 0
    for (start, name), count in counts.cells.items():
        position = (start - origin) // step
        if position < 0:
            before += count
        elif position >= bars:
            after += count
        else:
            drawn[position][places.get(name, len(common) - 1)] += count
    return Bars(origin, step, tuple(common), tuple(map(tuple, drawn)), before, after)


def bar_step(first: int, end: int, unit_seconds: int, held_step: int, max_bars: int) -> int:
    """Return the shortest step that covers `first` to `end` in at most `max_bars` bars.

    It is a multiple of `held_step`, and of `unit_seconds` if such a step fits.
    """

    def fits(step: int) -> bool:
        return (
            step >= unit_seconds
            and step % held_step == 0
            and _floor(end - 1, step) - _floor(first, step) < step * max_bars
        )

    multiples = {step for step in _DRAWN_STEPS if step % unit_seconds == 0}
    if unit_seconds not in _DRAWN_STEPS:  # such as of 45 seconds: 90 rather than 900
        multiples |= {unit_seconds << power for power in range(40)}
    for candidates in (multiples, _DRAWN_STEPS):
        for step in sorted(candidates):
            if fits(step):
                return step
    step = held_step
    while not fits(step):
        step *= 2
    return step


def _focus(totals: Counter[int], held_step: int) -> tuple[int, int]:
    """Return the first and the last bin to draw."""
    ordered = sorted(totals)
    margin = totals.total() * (1 - _DRAWN_SHARE) / 2
    first = _reach(ordered, totals, margin)
    last = _reach(ordered[::-1], totals, margin)
    if (last - first + held_step) * _FOCUS_FACTOR < ordered[-1] - ordered[0] + held_step:
        return first, last
    return ordered[0], ordered[-1]


def _reach(ordered: list[int], totals: Counter[int], margin: float) -> int:
    passed = 0
    for start in ordered:
        passed += totals[start]
        if passed > margin:
            return start
    return ordered[-1]


def _floor(at: float, step: int) -> int:
    return int(at // step) * step
