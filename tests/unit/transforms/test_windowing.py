"""Batches are cut at the windows' bounds, and nothing falls between."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pyarrow as pa
import pytest
from apache_beam.transforms.window import IntervalWindow
from apache_beam.utils.timestamp import Duration, Timestamp
from hypothesis import given
from hypothesis import strategies as st
from sample_records import NOON_MS, SHA256

from beam_pipeline.config import Windowing
from beam_pipeline.io.windowed_files import FileLayout
from beam_pipeline.records import (
    MAX_TIME_MS,
    MIN_TIME_MS,
    DeadLetter,
    ErrorCode,
    Failure,
    SchemaRef,
    make_dead_letter,
    nearest_time_ms,
)
from beam_pipeline.transforms.dead_letters import DeadLetters
from beam_pipeline.transforms.windowing import (
    _CutByWindow,
    _CutLetters,
    cut_by_window,
    late_rows,
    window_into,
)

UTC = timezone.utc
MIN_US, MAX_US = MIN_TIME_MS * 1000, MAX_TIME_MS * 1000 + 999
TIMES_US = st.integers(MIN_US, MAX_US) | st.integers(-30_000_000, 30_000_000)


def batch_of(times_us: list[int], append_times_ms: list[int] | None = None) -> pa.RecordBatch:
    appended = [0] * len(times_us) if append_times_ms is None else append_times_ms
    return pa.RecordBatch.from_arrays(
        [
            pa.array(range(len(times_us)), pa.int64()),
            pa.array(times_us, pa.timestamp("us", tz="UTC")),
            pa.array(appended, pa.timestamp("ms", tz="UTC")),
        ],
        names=["row", "_event_time", "kafka_timestamp"],
    )


def times_of(batch: pa.RecordBatch) -> list[int]:
    times: list[int] = batch.column("_event_time").cast(pa.int64()).to_pylist()
    return times


@given(
    st.lists(TIMES_US, max_size=30), st.integers(1, 86_400), st.integers(0, 5), st.integers(0, 30)
)
def test_pieces_are_the_rows_each_within_one_window(
    times_us: list[int], window_seconds: int, start: int, length: int
) -> None:
    batch = batch_of(times_us).slice(min(start, len(times_us)), length)
    window_us = window_seconds * 1_000_000
    pieces = cut_by_window(batch, window_seconds)
    rows: list[int] = []
    windows = []
    for smallest_us, piece in pieces:
        piece.validate(full=True)
        times = times_of(piece)
        assert smallest_us == min(times)
        (window,) = {time // window_us for time in times}
        windows.append(window)
        rows += piece.column("row").to_pylist()
        assert piece.column("row").to_pylist() == sorted(piece.column("row").to_pylist())
    assert sorted(rows) == batch.column("row").to_pylist()
    assert len(set(windows)) == len(windows)


def test_times_before_1970_are_cut_downwards() -> None:
    batch = batch_of([-1, 0, -10_000_000, -10_000_001, 9_999_999])
    assert [
        (stamp, piece.column("row").to_pylist()) for stamp, piece in cut_by_window(batch, 10)
    ] == [
        (-10_000_001, [3]),
        (-10_000_000, [0, 2]),
        (0, [1, 4]),
    ]


def test_a_batch_of_one_window_is_not_copied() -> None:
    batch = batch_of([3, 1, 2])
    ((stamp, piece),) = cut_by_window(batch, 10)
    assert stamp == 1
    assert piece is batch


def test_no_rows_are_no_pieces() -> None:
    assert cut_by_window(batch_of([]), 10) == []


def window_of(stamped: Any, windowing: Windowing) -> IntervalWindow:
    """The window that Beam puts a stamped element into."""
    window_fn: Any = window_into(windowing).windowing.windowfn
    window: IntervalWindow
    (window,) = window_fn.assign(window_fn.AssignContext(stamped.timestamp, stamped.value))
    return window


@given(
    st.lists(TIMES_US, min_size=1, max_size=5),
    st.integers(1, 86_400),
    st.integers(0, 100_000),
)
def test_a_file_has_the_window_of_its_rows(
    times_us: list[int], window_seconds: int, delay_seconds: int
) -> None:
    """Shifted by the delay and back again, the window is that of the event times."""
    windowing = Windowing(window_seconds, watermark_delay_seconds=delay_seconds)
    for stamped in _CutByWindow(windowing, 0).process(batch_of(times_us)):
        window = window_of(stamped, windowing)
        assert window.end - window.start == Duration(window_seconds)
        start, end = FileLayout("output", "e1", delay_seconds).event_window(*bounds_of(window))
        for time_us in times_of(stamped.value):
            number = time_us // (window_seconds * 1_000_000)
            assert seconds_of(start) == number * window_seconds
            assert seconds_of(end) == (number + 1) * window_seconds


def bounds_of(window: IntervalWindow) -> tuple[int, int]:
    return window.start.micros // 1_000_000, window.end.micros // 1_000_000


def seconds_of(moment: datetime) -> int:
    return int((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds())


def letter_at(timestamp_ms: int) -> DeadLetter:
    return make_dead_letter(
        stage="validate",
        failure=Failure(ErrorCode.NULL_VALUE, "null"),
        schema=SchemaRef(None, SHA256),
        topic="orders",
        partition=0,
        offset=0,
        timestamp=timestamp_ms,
        timestamp_type="CREATE_TIME",
        key=None,
        value=None,
        headers=(),
        failed_at_ms=NOON_MS,
    )


@given(st.integers(-(2**63), 2**63 - 1) | st.integers(-100_000, 100_000), st.integers(1, 86_400))
def test_a_letter_is_in_the_window_of_its_record(timestamp_ms: int, window_seconds: int) -> None:
    """Or, where no window can be that of its record, in the nearest."""
    windowing = Windowing(window_seconds)
    (stamped,) = _CutLetters(windowing).process(letter_at(timestamp_ms))
    assert list(stamped.value) == [letter_at(timestamp_ms)]
    bounds = bounds_of(window_of(stamped, windowing))
    layout = FileLayout("output", "e1", windowing.watermark_delay_seconds)
    start, end = layout.event_window(*bounds)
    nearest = nearest_time_ms(timestamp_ms)
    assert seconds_of(start) * 1000 <= nearest < seconds_of(end) * 1000
    if MIN_TIME_MS <= timestamp_ms <= MAX_TIME_MS:
        assert nearest == timestamp_ms


@given(st.lists(st.integers(-100_000, 100_000), min_size=1, max_size=8), st.integers(1, 60))
def test_letters_are_cut_by_window(timestamps_ms: list[int], window_seconds: int) -> None:
    windowing = Windowing(window_seconds)
    letters = DeadLetters.of(map(letter_at, timestamps_ms))
    pieces = list(_CutLetters(windowing).process(letters))
    numbers = []
    for stamped in pieces:
        found = [letter.timestamp for letter in stamped.value]
        (number,) = {timestamp // (window_seconds * 1000) for timestamp in found}
        numbers.append(number)
        assert found == [t for t in timestamps_ms if t // (window_seconds * 1000) == number]
        assert stamped.timestamp == Timestamp(micros=windowing.shifted(min(found) * 1000))
    assert sorted(set(numbers)) == numbers
    assert sum(len(stamped.value) for stamped in pieces) == len(timestamps_ms)


def test_the_range_of_times_is_that_of_whole_years() -> None:
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    assert epoch.timestamp() == 0
    assert datetime.fromtimestamp(MIN_TIME_MS / 1000, UTC) == datetime(2, 1, 1, tzinfo=UTC)
    assert datetime.fromtimestamp((MAX_TIME_MS + 1) / 1000, UTC) == datetime(9999, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("event_us", "append_ms", "late"),
    [
        (0, 11_999, False),
        (0, 12_000, True),
        (9_999_999, 11_999, False),
        (9_999_999, 12_000, True),
        (10_000_000, 21_999, False),
        (-1, 1_999, False),
        (-1, 2_000, True),
        (0, 0, False),
        (50_000_000, 0, False),
    ],
)
def test_a_row_is_late_when_its_window_had_closed(
    event_us: int, append_ms: int, late: bool
) -> None:
    batch = batch_of([event_us, 0], [append_ms, 0])
    assert late_rows(batch, Windowing(10, watermark_delay_seconds=2)) == late


@pytest.mark.parametrize(
    ("timestamp_type", "stamp_ms", "late"),
    [
        ("LOG_APPEND_TIME", 11_999, 0),
        ("LOG_APPEND_TIME", 12_000, 1),
        ("CREATE_TIME", 41_999, 0),
        ("CREATE_TIME", 42_000, 1),
    ],
)
def test_a_row_that_its_producer_stamped_has_the_bound_longer(
    timestamp_type: str, stamp_ms: int, late: int
) -> None:
    batch = batch_of([5], [stamp_ms]).append_column("_timestamp_type", pa.array([timestamp_type]))
    assert late_rows(batch, Windowing(10, watermark_delay_seconds=2), 30) == late


def test_a_stamp_keeps_the_delay() -> None:
    (stamped,) = _CutByWindow(Windowing(10, watermark_delay_seconds=2), 0).process(batch_of([5, 4]))
    assert stamped.timestamp == Timestamp(micros=2_000_004)
