"""Fixed windows of event time behind a watermark of append time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.transforms import trigger
from apache_beam.transforms.window import FixedWindows, TimestampedValue
from apache_beam.utils.timestamp import Timestamp

from beam_pipeline.records import DeadLetter, nearest_time_ms


@dataclass(frozen=True)
class Windowing:
    """How long windows are and when their panes fire; all in seconds.

    Elements are stamped with their time + `watermark_delay_seconds` and the windows shifted by as
    much, so that the watermark, which follows Kafka's append time, trails the events and every
    event up to that late is still on time; files carry the unshifted window.

    A late pane fires `late_pane_seconds` after its first element. With `early_pane_seconds` above
    0 an open window gives what it has that long after the first element. `allowed_lateness_seconds`
    is longer than any backlog: after a restore KafkaIO may take an idle-looking partition's
    watermark to now before the backlog is read, and Beam drops what is later than this in silence.
    """

    window_seconds: int
    watermark_delay_seconds: int = 2
    late_pane_seconds: int = 5
    early_pane_seconds: int = 0
    allowed_lateness_seconds: int = 100 * 366 * 24 * 3600

    def window_into(self) -> beam.WindowInto:
        """The WindowInto for elements that are stamped with their time + delay."""
        early = (
            trigger.AfterProcessingTime(self.early_pane_seconds)
            if self.early_pane_seconds
            else None
        )
        return beam.WindowInto(
            FixedWindows(self.window_seconds, offset=self.watermark_delay_seconds),
            trigger=trigger.AfterWatermark(
                early=early, late=trigger.AfterProcessingTime(self.late_pane_seconds)
            ),
            accumulation_mode=trigger.AccumulationMode.DISCARDING,
            allowed_lateness=self.allowed_lateness_seconds,
        )


class WindowBatches(beam.PTransform[Any, Any]):
    """PCollection[pa.RecordBatch] to the same rows, cut by window and put into fixed windows.

    The time of a row is its `_event_time`. Each piece is stamped with its smallest event time plus
    the watermark delay.
    """

    def __init__(self, windowing: Windowing) -> None:
        super().__init__()
        self._windowing = windowing

    def expand(self, batches: beam.PCollection[Any]) -> beam.PCollection[Any]:
        windowed: beam.PCollection[Any] = (
            batches
            | "CutByWindow" >> beam.ParDo(_CutByWindow(self._windowing))
            | "IntoFixedWindows" >> self._windowing.window_into()
        )
        return windowed


class WindowDeadLetters(beam.PTransform[Any, Any]):
    """PCollection[DeadLetter] to the same in fixed windows of their records' Kafka timestamp."""

    def __init__(self, windowing: Windowing) -> None:
        super().__init__()
        self._windowing = windowing

    def expand(self, letters: beam.PCollection[Any]) -> beam.PCollection[Any]:
        windowed: beam.PCollection[Any] = (
            letters
            | "StampWithAppendTime" >> beam.ParDo(_StampLetter(self._windowing))
            | "IntoFixedWindows" >> self._windowing.window_into()
        )
        return windowed


def cut_by_window(batch: pa.RecordBatch, window_seconds: int) -> list[tuple[int, pa.RecordBatch]]:
    """(smallest event time in microseconds, rows) for each window that the batch touches."""
    event_us = batch.column("_event_time").cast(pa.int64()).to_numpy()
    windows = event_us // (window_seconds * 1_000_000)
    if windows.size == 0:
        return []
    if windows.min() == windows.max():
        return [(int(event_us.min()), batch)]
    order = np.argsort(windows, kind="stable")
    ordered, ordered_us = batch.take(pa.array(order)), event_us[order]
    starts = np.flatnonzero(np.diff(windows[order], prepend=windows[order[0]] - 1))
    ends = np.append(starts[1:], len(order))
    return [
        (int(ordered_us[start:end].min()), ordered.slice(start, end - start))
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
    ]


class _CutByWindow(beam.DoFn):
    def __init__(self, windowing: Windowing) -> None:
        self._window_seconds = windowing.window_seconds
        self._delay_us = windowing.watermark_delay_seconds * 1_000_000

    def process(self, batch: pa.RecordBatch) -> Iterator[TimestampedValue[Any]]:
        for event_us, piece in cut_by_window(batch, self._window_seconds):
            yield TimestampedValue(piece, Timestamp(micros=event_us + self._delay_us))


class _StampLetter(beam.DoFn):
    def __init__(self, windowing: Windowing) -> None:
        self._delay_us = windowing.watermark_delay_seconds * 1_000_000

    def process(self, letter: DeadLetter) -> Iterator[TimestampedValue[Any]]:
        append_us = nearest_time_ms(letter.timestamp) * 1000
        yield TimestampedValue(letter, Timestamp(micros=append_us + self._delay_us))
