"""Numbers, times and sizes are shown as people read them."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from beam_pipeline.tools.report import units

NOON = datetime(2026, 11, 23, 12, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 s"),
        (0.5649, "0.56 s"),
        (-0.25, "-0.25 s"),
        (1, "1 s"),
        (59.94, "59.9 s"),
        (210, "3.5 min"),
        (7_200, "2 h"),
        (1.5 * 86_400, "1.5 d"),
        (13.9 * 365 * 86_400, "13.9 y"),
        (2_000 * 365 * 86_400, "2,000 y"),
    ],
)
def test_durations(seconds: float, shown: str) -> None:
    assert units.duration(seconds) == shown


def test_sizes() -> None:
    assert [units.size(count) for count in (0, 999, 15_947, 1_200_000, 34e9)] == [
        "0 B",
        "999 B",
        "15.9 kB",
        "1.2 MB",
        "34 GB",
    ]
    assert [units.binary_size(1 << power) for power in (9, 12, 20, 30)] == [
        "512 B",
        "4 KiB",
        "1 MiB",
        "1 GiB",
    ]


def test_a_share_is_all_or_nothing_only_where_it_is() -> None:
    shown = [units.share(part, 1_000_000) for part in (0, 1, 79_000, 999_999, 1_000_000)]
    assert shown == ["0%", "0.00%", "7.9%", "99.9%", "100%"]
    assert units.share(0, 0) == "0%"


def test_a_span_names_a_day_once() -> None:
    assert units.span(NOON, NOON + timedelta(seconds=10)) == (
        "2026-11-23 12:00:00 \N{EN DASH} 12:00:10"
    )
    assert units.span(NOON, NOON + timedelta(days=1)).endswith(" 2026-11-24 12:00:00")


@pytest.mark.parametrize("seconds", [-1e18, -1, 0, 1e18])
def test_any_number_is_a_time(seconds: float) -> None:
    assert units.utc(units.instant(seconds))


def test_step_lengths() -> None:
    assert [units.step_length(seconds) for seconds in (1, 10, 60, 5_400, 3_600, 86_400)] == [
        "1 second",
        "10 seconds",
        "1 minute",
        "90 minutes",
        "1 hour",
        "1 day",
    ]
