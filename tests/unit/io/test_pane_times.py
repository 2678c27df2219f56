"""When a pane is due: live streams by their first part, backlogs when no more parts come."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_pipeline.config import MAX_BACKLOG_SECONDS
from beam_pipeline.files.parts import PartRef
from beam_pipeline.io.windowed_files import (
    QUIET_SECONDS,
    due_time,
    is_late_backlog,
)

NOW = 1_000.0
WINDOW = (900, 910)


def part(oldest_ms: int | None) -> PartRef:
    return PartRef("a.arrow", "orders", 0, 1, {}, WINDOW, oldest_ms=oldest_ms)


@pytest.mark.parametrize("oldest_ms", [None, 999_000, 995_000])
def test_a_live_pane_is_due_by_its_first_part_alone(oldest_ms: int | None) -> None:
    assert due_time(part(oldest_ms), 5, NOW, None) == NOW + 5
    assert due_time(part(oldest_ms), 5, NOW, NOW - 4) is None


def test_a_pane_of_a_backlog_waits_until_no_more_parts_come() -> None:
    assert due_time(part(0), 5, NOW, None) == NOW + QUIET_SECONDS
    assert due_time(part(0), 5, NOW, NOW - 60) == NOW + QUIET_SECONDS
    assert due_time(part(0), 1, NOW, NOW - 60) == NOW + 1


@given(st.floats(0, 10_000))
def test_no_pane_waits_longer_than_a_kill_may_undo(age: float) -> None:
    since = NOW - age
    due_at = due_time(part(0), 5, NOW, since)
    assert due_at is not None
    assert due_at <= since + MAX_BACKLOG_SECONDS


def test_without_a_pane_none_is_due() -> None:
    assert due_time(part(0), 0, NOW, None) is None


@pytest.mark.parametrize(
    ("oldest_ms", "is_late"),
    [
        (None, False),
        (909_999, False),  # came to Kafka while its window was open: the watermark closes it
        (910_000, True),
        (999_000, False),  # live
    ],
)
def test_a_window_that_had_closed_needs_no_file_at_its_end(
    oldest_ms: int | None, is_late: bool
) -> None:
    assert is_late_backlog(part(oldest_ms), 5, NOW) == is_late
