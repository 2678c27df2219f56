"""Counts over time in bounded memory, and the bars that they are drawn as. Pure, no I/O."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

OTHERS = "others"
MAX_CELLS = 50_000
MAX_BARS = 96
MAX_SERIES = 6

_DAY = 86_400
# Each divides the next, so that counts can be put together without being split.
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
# Where this share of all counts needs less than a quarter of the time, the rest is told, not drawn:
# one event of last week would else squeeze today into a bar.
_DRAWN_SHARE = 0.99
_FOCUS_FACTOR = 4


class TimeCounts:
    """Counts by name and time, in bins that grow when there are many."""

    def __init__(self, max_cells: int = MAX_CELLS) -> None:
        self.step = _HELD_STEPS[0]
        self.cells: Counter[tuple[int, str]] = Counter()
        self._max_cells = max_cells

    def add(self, at: float, name: str, count: int) -> None:
        """Adds `count` of `name` at a time in seconds since 1970, UTC."""
        self.cells[_floor(at, self.step), name] += count
        while len(self.cells) > self._max_cells and self.step < _HELD_STEPS[-1]:
            self.step = _HELD_STEPS[_HELD_STEPS.index(self.step) + 1]
            merged: Counter[tuple[int, str]] = Counter()
            for (start, held), cell in self.cells.items():
                merged[_floor(start, self.step), held] += cell
            self.cells = merged

    def names(self) -> Counter[str]:
        """How many there are by name."""
        totals: Counter[str] = Counter()
        for (_, name), count in self.cells.items():
            totals[name] += count
        return totals


@dataclass(frozen=True, slots=True)
class Bars:
    """Counts as stacked bars.

    Attributes:
      start: of the first bar, in seconds since 1970, UTC.
      step: seconds that a bar stands for.
      names: what is stacked, the largest first; `OTHERS` is last where there are many.
      counts: per bar, per name.
      before, after: what is not drawn since it is far away in time.
    """

    start: int
    step: int
    names: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    before: int = 0
    after: int = 0

    @property
    def end(self) -> int:
        """Where the last bar ends."""
        return self.start + self.step * len(self.counts)

    @property
    def highest(self) -> int:
        """The largest sum of a bar."""
        return max(map(sum, self.counts))


def bars_of(
    counts: TimeCounts,
    unit_seconds: int = 1,
    max_bars: int = MAX_BARS,
    max_series: int = MAX_SERIES,
) -> Bars | None:
    """Puts counts into bars; None where there are none.

    Args:
      counts: what to draw.
      unit_seconds: what a bar may not be shorter than, and should be a multiple of: the windows'
        length.
      max_bars: how many there may be.
      max_series: how many names may be stacked; the smaller ones are put together.
    """
    totals: Counter[int] = Counter()
    for (start, _), count in counts.cells.items():
        totals[start] += count
    if not totals:
        return None
    first, last = _focus(totals, counts.step)
    step = bar_step(first, last + counts.step, max(unit_seconds, 1), counts.step, max_bars)
    # Round hours are round everywhere; days begin with the first one, as a year has no weeks.
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
    """The shortest step that needs no more than `max_bars` from `first` to `end`, is a multiple of
    `held_step`, and of `unit_seconds` where a step of that kind is to be had."""

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
    """The first and the last bin to draw."""
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
