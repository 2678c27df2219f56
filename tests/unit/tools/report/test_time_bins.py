"""Counts over time stay the same counts, however they are put into bars."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_pipeline.tools.report.time_bins import OTHERS, Bars, TimeCounts, bars_of

NOON = 1_795_435_200  # 2026-11-23 12:00 UTC
DAY = 86_400

counts_over_time = st.lists(
    st.tuples(st.integers(-(10**10), 10**11), st.sampled_from("abcdefghij"), st.integers(1, 10**6)),
    min_size=1,
    max_size=200,
)


def counted(found: list[tuple[int, str, int]], max_cells: int = 50_000) -> TimeCounts:
    counts = TimeCounts(max_cells)
    for at, name, count in found:
        counts.add(at, name, count)
    return counts


def drawn(bars: Bars | None) -> Bars:
    assert bars is not None
    return bars


@given(counts_over_time, st.integers(1, 90_000), st.integers(1, 60))
def test_nothing_is_lost_and_the_bars_are_few(
    found: list[tuple[int, str, int]], unit_seconds: int, max_cells: int
) -> None:
    bars = drawn(bars_of(counted(found, max_cells), unit_seconds))
    total = sum(map(sum, bars.counts)) + bars.before + bars.after
    assert total == sum(count for _, _, count in found)
    assert len(bars.counts) <= 96
    assert len(bars.names) <= 6
    assert bars.step >= min(unit_seconds, bars.step)


@given(counts_over_time)
def test_memory_is_bounded(found: list[tuple[int, str, int]]) -> None:
    counts = counted(found, max_cells=40)
    assert len(counts.cells) <= 40 or counts.step == 3_640 * DAY
    assert counts.names().total() == sum(count for _, _, count in found)


def test_a_bar_is_a_window_where_there_is_room() -> None:
    bars = drawn(bars_of(counted([(NOON + 7 * place, "a", place + 1) for place in range(20)]), 7))
    assert bars.step == 7
    assert sum(bars.counts, ()) == tuple(range(1, 21))


@pytest.mark.parametrize(
    ("windows", "window_seconds", "step"),
    [
        (96, 10, 10),
        (200, 10, 30),
        (1_440, 60, 900),
        (24 * 365, 3_600, 7 * DAY),
        (500, 7, 56),
        (100, 45, 90),
    ],
)
def test_bars_are_whole_windows(windows: int, window_seconds: int, step: int) -> None:
    start = NOON // window_seconds * window_seconds
    found = [(start + window_seconds * place, "a", 5) for place in range(windows)]
    bars = drawn(bars_of(counted(found), window_seconds))
    assert bars.step == step
    assert bars.step % window_seconds == 0


def test_days_begin_with_the_first_one() -> None:
    bars = drawn(
        bars_of(counted([(NOON // DAY * DAY + DAY * day, "a", 1) for day in range(365)]), DAY)
    )
    assert (bars.start, bars.step) == (NOON // DAY * DAY, 7 * DAY)


def test_what_is_far_away_is_told_not_drawn() -> None:
    found = [(NOON + second, "a", 10) for second in range(60)]
    bars = drawn(bars_of(counted([*found, (NOON - 6 * DAY, "a", 2), (NOON + DAY, "a", 1)])))
    assert (bars.step, bars.before, bars.after) == (1, 2, 1)
    assert sum(map(sum, bars.counts)) == 600


def test_small_names_are_put_together() -> None:
    found = [(NOON, name, 100 - place) for place, name in enumerate("abcdefgh")]
    bars = drawn(bars_of(counted(found)))
    assert bars.names == ("a", "b", "c", "d", "e", OTHERS)
    assert bars.counts == ((100, 99, 98, 97, 96, 95 + 94 + 93),)
    assert bars.highest == 772


def test_nothing_is_no_chart() -> None:
    assert bars_of(TimeCounts()) is None
