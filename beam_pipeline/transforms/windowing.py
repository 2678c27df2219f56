"""Fixed windows of event time, behind a watermark that follows the append time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.metrics import Metrics
from apache_beam.transforms.window import FixedWindows, TimestampedValue, WindowFn
from apache_beam.utils.timestamp import Timestamp

from beam_pipeline.config import Windowing
from beam_pipeline.records import (
    MAX_TIME_MS,
    METRICS_NAMESPACE,
    MIN_TIME_MS,
    TIMESTAMP_TYPES,
    DeadLetter,
)
from beam_pipeline.transforms.batch_coder import returning_batches
from beam_pipeline.transforms.dead_letters import DeadLetters, as_dead_letters
from beam_pipeline.transforms.outputs import register_letters


class WindowBatches(beam.PTransform[Any, Any]):
    """PCollection[pa.RecordBatch] to PCollection[pa.RecordBatch]: the same rows in fixed windows.

    Cuts each batch by the windows of its rows' `_event_time`. The timestamp of a piece is its
    smallest event time, shifted (see `Windowing`). Counts late rows. Any windowing before.

    Args:
      windowing: the windows.
      max_out_of_order_seconds: how much longer a window is open for records that are stamped by
        their producers (see `CreateTimeTopics`).
    """

    def __init__(self, windowing: Windowing, max_out_of_order_seconds: int = 0) -> None:
        super().__init__()
        self._windowing = windowing
        self._max_out_of_order_seconds = max_out_of_order_seconds

    def expand(self, batches: beam.PCollection[Any]) -> beam.PCollection[Any]:
        windowed: beam.PCollection[Any] = (
            batches
            | "CutByWindow"
            >> returning_batches(
                beam.ParDo(_CutByWindow(self._windowing, self._max_out_of_order_seconds))
            )
            | "AssignFixedWindows" >> window_into(self._windowing)
        )
        return windowed


class WindowDeadLetters(beam.PTransform[Any, Any]):
    """PCollection[DeadLetters] to PCollection[DeadLetters] in fixed windows.

    Cuts the letters by the windows of their records' Kafka timestamps. The timestamp of a piece is
    its smallest one, shifted (see `Windowing`). Elements may be single `DeadLetter`s, too. Any
    windowing before.
    """

    def __init__(self, windowing: Windowing) -> None:
        super().__init__()
        self._windowing = windowing

    def expand(self, letters: beam.PCollection[Any]) -> beam.PCollection[Any]:
        register_letters()
        windowed: beam.PCollection[Any] = (
            letters
            | "CutByAppendTime"
            >> beam.ParDo(_CutLetters(self._windowing)).with_output_types(DeadLetters)
            | "AssignFixedWindows" >> window_into(self._windowing)
        )
        return windowed


class ShiftedWindows(FixedWindows):
    """Fixed windows that know how far they are shifted, for the sink that names files by them.

    Runners get plain fixed windows with an offset, which does not tell a delay longer than a
    window.
    """

    def __init__(self, windowing: Windowing) -> None:
        offset = Timestamp(micros=windowing.shifted(0))
        super().__init__(windowing.window_seconds, offset)
        self.delay_seconds = windowing.watermark_delay_seconds

    # Those of FixedWindows compare no subclass (Beam 2.73).
    def __eq__(self, other: object) -> bool:
        return isinstance(other, ShiftedWindows) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((self.size, self.offset, self.delay_seconds))


def window_into(windowing: Windowing) -> beam.WindowInto:
    """Return the WindowInto for elements whose timestamps are shifted."""
    return beam.WindowInto(ShiftedWindows(windowing))


def delay_of(windowfn: WindowFn, given_seconds: int | None) -> int:
    """Return how far windows are shifted, in seconds: what they say themselves, or what is given.

    Windows other than `ShiftedWindows` are not shifted unless it is given.

    Raises:
      ValueError: the windows are shifted by another delay than the one that is given.
    """
    own_seconds = windowfn.delay_seconds if isinstance(windowfn, ShiftedWindows) else None
    if own_seconds is None or given_seconds in (None, own_seconds):
        return own_seconds or given_seconds or 0
    raise ValueError(
        f"watermark_delay_seconds={given_seconds}: the windows are shifted by {own_seconds} s "
        "(Windowing.watermark_delay_seconds); leave the argument out"
    )


def cut_by_window(batch: pa.RecordBatch, window_seconds: int) -> list[tuple[int, pa.RecordBatch]]:
    """Return the rows of each window, by window, with their smallest event time in microseconds.

    A batch that lies in one window is returned as it is.

    >>> times = pa.array([1_000_000, 12_000_000, 3_000_000], pa.timestamp("us", "UTC"))
    >>> batch = pa.RecordBatch.from_pydict({"n": [1, 2, 3], "_event_time": times})
    >>> [(time_us, rows["n"].to_pylist()) for time_us, rows in cut_by_window(batch, 10)]
    [(1000000, [1, 3]), (12000000, [2])]
    """
    return _cut(batch, batch.column("_event_time").cast(pa.int64()).to_numpy(), window_seconds)


def cut_letters_by_window(
    letters: DeadLetters, window_seconds: int
) -> list[tuple[int, DeadLetters]]:
    """Return the letters of each window of Kafka timestamps, as `cut_by_window` does.

    A timestamp beyond those that Beam has is the nearest that it has.
    """
    append_ms = letters.batch.column("kafka_timestamp").cast(pa.int64()).to_numpy()
    append_us = np.clip(append_ms, MIN_TIME_MS, MAX_TIME_MS) * 1_000
    return [
        (time_us, DeadLetters(rows))
        for time_us, rows in _cut(letters.batch, append_us, window_seconds)
    ]


def _cut(
    batch: pa.RecordBatch, times_us: npt.NDArray[np.int64], window_seconds: int
) -> list[tuple[int, pa.RecordBatch]]:
    windows = times_us // (window_seconds * 1_000_000)
    if windows.size == 0:
        return []
    if windows.min() == windows.max():
        return [(int(times_us.min()), batch)]
    order = np.argsort(windows, kind="stable")
    ordered, ordered_us = batch.take(pa.array(order)), times_us[order]
    starts = np.flatnonzero(np.diff(windows[order], prepend=windows[order[0]] - 1))
    ends = np.append(starts[1:], len(order))
    return [
        (int(ordered_us[start:end].min()), ordered.slice(start, end - start))
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
    ]


def late_rows(
    batch: pa.RecordBatch, windowing: Windowing, max_out_of_order_seconds: int = 0
) -> int:
    """Return how many rows came to Kafka after their window had closed.

    It depends on the times of a row alone, not on when the row is read. A row that its producer
    stamped counts from the end of its window plus the delay plus `max_out_of_order_seconds`, as
    the watermark is that far behind such timestamps.
    """
    size_us = windowing.window_seconds * 1_000_000
    event_us = batch.column("_event_time").cast(pa.int64()).to_numpy()
    stamp_us = batch.column("kafka_timestamp").cast(pa.int64()).to_numpy() * 1000
    closed_us = windowing.shifted((event_us // size_us + 1) * size_us)
    if max_out_of_order_seconds:
        is_created = pc.equal(batch.column("_timestamp_type"), TIMESTAMP_TYPES[0])
        closed_us = closed_us + is_created.to_numpy(zero_copy_only=False) * (
            max_out_of_order_seconds * 1_000_000
        )
    return int((stamp_us >= closed_us).sum())


class _CutByWindow(beam.DoFn):
    def __init__(self, windowing: Windowing, max_out_of_order_seconds: int) -> None:
        self._windowing = windowing
        self._max_out_of_order_seconds = max_out_of_order_seconds

    def process(self, batch: pa.RecordBatch) -> Iterator[TimestampedValue[Any]]:
        late = late_rows(batch, self._windowing, self._max_out_of_order_seconds)
        Metrics.counter(METRICS_NAMESPACE, "late").inc(late)
        for event_us, piece in cut_by_window(batch, self._windowing.window_seconds):
            yield TimestampedValue(piece, Timestamp(micros=self._windowing.shifted(event_us)))


class _CutLetters(beam.DoFn):
    def __init__(self, windowing: Windowing) -> None:
        self._windowing = windowing

    def process(self, element: DeadLetters | DeadLetter) -> Iterator[TimestampedValue[Any]]:
        letters = as_dead_letters(element)
        for append_us, piece in cut_letters_by_window(letters, self._windowing.window_seconds):
            yield TimestampedValue(piece, Timestamp(micros=self._windowing.shifted(append_us)))
