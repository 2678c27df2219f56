"""Writes windowed elements to one file for each window, shard and pane, in any format.

Parquet files and dead-letter files are written in the same way. The elements of a bundle go to part
files. Only the names of the parts go through the shuffle, by window, topic and shard. A pane is
assembled from its parts and committed by an atomic rename.

A stateful DoFn fires the panes, not the triggers of a GroupByKey. On Prism 2.73, a late element
that arrives while another one holds the stage's input watermark gets no timer, and then holds the
watermark for good, so that no window closes any more. State and timers work alike on every runner,
and in the global window no element is dropped for being late.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import apache_beam as beam
from apache_beam.coders import BooleanCoder, FloatCoder, PickleCoder, VarIntCoder
from apache_beam.metrics import Metrics
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import (
    BagStateSpec,
    ReadModifyWriteStateSpec,
    TimerSpec,
    on_timer,
)
from apache_beam.transforms.window import GlobalWindow, GlobalWindows
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from beam_pipeline.config import PaneTiming, Windowing
from beam_pipeline.files.durable import make_directory, sync
from beam_pipeline.files.names import DEFAULT_PARTITION_KEYS, OutputFile
from beam_pipeline.files.parts import (
    PartRef,
    find_part,
    new_part_path,
    retire_parts,
)
from beam_pipeline.io.whole_bundles import keep_stateful_bundles_whole
from beam_pipeline.records import METRICS_NAMESPACE, DeadLetter
from beam_pipeline.transforms.dead_letters import count_dead
from beam_pipeline.transforms.outputs import DEAD, Outputs
from beam_pipeline.transforms.windowing import delay_of

QUIET_SECONDS = 3.0
"""A pane of a backlog fires when its window got nothing for so long. A bundle comes within it."""

MAX_BACKLOG_SECONDS = 300.0
"""The longest that a pane of a backlog is collected. A kill has what is in no file read again."""

MAX_OPEN_BYTES = 32 * 1024 * 1024
"""How much a bundle holds in memory, over all its windows, before it is written to parts."""


class Shard(NamedTuple):
    """Which file of a window a row goes to.

    It depends on the record alone, so a retried bundle or a restored checkpoint sends the row to
    the same file.
    """

    topic: str
    number: int


class Piece(NamedTuple):
    """The content of an element for one shard, and about how much memory it takes."""

    shard: Shard
    content: Any
    size_bytes: int


class WrittenFile(NamedTuple):
    """A committed file."""

    path: str
    rows: int
    size_bytes: int


class FileFormat(Protocol):
    """How elements become parts, and parts become a file."""

    @property
    def suffix(self) -> str: ...

    @property
    def part_suffix(self) -> str: ...

    def shards_of(self, element: Any) -> Iterator[Piece | DeadLetter]:
        """Yield the element's content by shard, and dead letters for rows that are refused."""

    def write_part(self, path: str, shard: Shard, contents: Sequence[Any]) -> PartRef:
        """Write the contents of a shard's pieces as one part."""

    def assemble(self, path: str, target: OutputFile, parts: Sequence[PartRef]) -> int:
        """Write the file for `target` from its parts to `path`; return how many rows it has."""


@dataclass(frozen=True)
class FileLayout:
    """Where the files of a sink go.

    Args:
      root: the output directory.
      epoch: identity of this submission of the job, part of every file name.
      watermark_delay_seconds: how far elements and windows are shifted (see `Windowing`); file
        names have the window of the events, which is not shifted. None takes what the windows say
        (`transforms.WindowBatches`), or else 0.
      private: whether directories that are made here have mode 0700.
      partition_keys: the names of day and hour in the names of directories.
    """

    root: str
    epoch: str
    watermark_delay_seconds: int | None = None
    private: bool = False
    partition_keys: tuple[str, str] = DEFAULT_PARTITION_KEYS

    def new_part_path(self, suffix: str) -> str:
        """Return a path for a new part, and make the directories above it."""
        return new_part_path(self.root, self.epoch, suffix, private=self.private)

    def event_window(self, start: int, end: int) -> tuple[datetime, datetime]:
        """Return the window of the events for a shifted window, given in seconds since 1970.

        >>> FileLayout("output", "e1", watermark_delay_seconds=2).event_window(2, 12)[1].isoformat()
        '1970-01-01T00:00:10+00:00'
        """
        windowing = Windowing(end - start, self.watermark_delay_seconds or 0)
        start_s, end_s = (windowing.unshifted(at * 1_000_000) // 1_000_000 for at in (start, end))
        return (
            datetime.fromtimestamp(start_s, timezone.utc),
            datetime.fromtimestamp(end_s, timezone.utc),
        )


class WriteWindowedFiles(beam.PTransform[Any, Any]):
    """PCollection of elements in fixed windows to `Outputs` of WrittenFile and DeadLetter.

    Writes one file for each pane of each (window, topic, shard). It replaces only a file of the
    same epoch, window, shard and pane, and removes those of later panes, which come from a timeline
    that was rolled back. The outputs are in the global window.

    A worker that runs it declines to split stateful bundles from then on (`whole_bundles`).

    Raises:
      ValueError: the input is in the global window, or its windows are shifted by another delay
        than the layout's.
    """

    def __init__(
        self,
        layout: FileLayout,
        file_format: FileFormat,
        counter_prefix: str,
        timing: PaneTiming | None = None,
    ) -> None:
        super().__init__()
        self._layout = layout
        self._format = file_format
        self._counter_prefix = counter_prefix
        self._timing = timing or PaneTiming()

    def expand(self, elements: beam.PCollection[Any]) -> Outputs:
        windowfn = elements.windowing.windowfn
        if isinstance(windowfn, GlobalWindows):
            raise ValueError(
                "the input is in the global window; put it into fixed windows first "
                "(beam.WindowInto(FixedWindows(...)) or transforms.WindowBatches)"
            )
        delay_seconds = delay_of(windowfn, self._layout.watermark_delay_seconds)
        layout = replace(self._layout, watermark_delay_seconds=delay_seconds)
        parts = elements | "WriteParts" >> beam.ParDo(
            _WriteParts(layout, self._format)
        ).with_output_types(tuple[str, PartRef]).with_outputs(DEAD, main="parts")
        files = (
            parts["parts"]
            | "LeaveWindows" >> beam.WindowInto(GlobalWindows())
            | "AssembleFiles"
            >> beam.ParDo(_AssembleFiles(layout, self._format, self._counter_prefix, self._timing))
        )
        dead = parts[DEAD] | "LeaveWindowsDead" >> beam.WindowInto(GlobalWindows())
        return Outputs(files, dead)


class _WriteParts(beam.DoFn):
    """Elements to (key of window and shard, PartRef).

    A part has the smallest timestamp of its elements.
    """

    def __init__(self, layout: FileLayout, file_format: FileFormat) -> None:
        self._layout = layout
        self._format = file_format

    def start_bundle(self) -> None:
        self._open: dict[tuple[Any, Shard], _OpenPart] = defaultdict(_OpenPart)
        self._open_bytes = 0

    def process(
        self,
        element: Any,
        window: Any = beam.DoFn.WindowParam,
        timestamp: Any = beam.DoFn.TimestampParam,
    ) -> Iterator[Any]:
        for piece in self._format.shards_of(element):
            if isinstance(piece, DeadLetter):
                count_dead(piece.failure.code)
                yield beam.pvalue.TaggedOutput(DEAD, piece)
                continue
            self._open[window, piece.shard].add(piece.content, timestamp)
            self._open_bytes += piece.size_bytes
        if self._open_bytes >= MAX_OPEN_BYTES:
            yield from self.finish_bundle()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        for (window, shard), part in self._open.items():
            path = self._layout.new_part_path(self._format.part_suffix)
            ref = self._format.write_part(path, shard, part.contents)._replace(
                window=(window.start.micros // 1_000_000, window.end.micros // 1_000_000)
            )
            key = f"{ref.topic}/{ref.shard}/{ref.window[0]}/{ref.window[1]}"
            yield WindowedValue((key, ref), part.timestamp, (window,))
        self.start_bundle()


class _OpenPart:
    """The contents that a bundle has collected for one window and shard."""

    def __init__(self) -> None:
        self.contents: list[Any] = []
        self.timestamp: Any = None

    def add(self, content: Any, timestamp: Any) -> None:
        self.contents.append(content)
        if self.timestamp is None or timestamp < self.timestamp:
            self.timestamp = timestamp


class _AssembleFiles(beam.DoFn):
    """(key of window and shard, PartRef) to WrittenFile, one for each pane.

    A late or early pane is due some seconds after its first part (see `PaneTiming`). While parts
    come from a backlog, it is due when no more come: a window would get a file every few seconds.

    The state of a key: the parts that wait for the next pane, since when, the index of that pane,
    and whether the window has closed. The index stays when a pane has fired, because it
    is part of the next file's name.

    The state is that of one epoch and need not be readable by another version of this code. After
    an upgrade a job resumes from its files, not from a savepoint.
    """

    PARTS = BagStateSpec("parts", PickleCoder())
    PANE = ReadModifyWriteStateSpec("pane", VarIntCoder())
    WAITING_SINCE = ReadModifyWriteStateSpec("waiting_since", FloatCoder())
    CLOSED = ReadModifyWriteStateSpec("closed", BooleanCoder())
    CLOSE = TimerSpec("close", TimeDomain.WATERMARK)
    DUE = TimerSpec("due", TimeDomain.REAL_TIME)
    END = TimerSpec("end", TimeDomain.WATERMARK)

    def __init__(
        self,
        layout: FileLayout,
        file_format: FileFormat,
        counter_prefix: str,
        timing: PaneTiming,
    ) -> None:
        self._layout = layout
        self._format = file_format
        self._counter_prefix = counter_prefix
        self._timing = timing

    def setup(self) -> None:
        # Not in the worker's start, because users' own pipelines on Prism need it too.
        keep_stateful_bundles_whole()

    def process(
        self,
        keyed_part: tuple[str, PartRef],
        parts: Any = beam.DoFn.StateParam(PARTS),
        waiting_since: Any = beam.DoFn.StateParam(WAITING_SINCE),
        closed: Any = beam.DoFn.StateParam(CLOSED),
        close: Any = beam.DoFn.TimerParam(CLOSE),
        due: Any = beam.DoFn.TimerParam(DUE),
        end: Any = beam.DoFn.TimerParam(END),
    ) -> None:
        part = keyed_part[1]
        parts.add(part)
        now, timing = time.time(), self._timing
        since = waiting_since.read()
        if since is None:
            waiting_since.write(now)
            end.set(GlobalWindow().max_timestamp())
        is_closed = bool(closed.read())
        if since is None and not is_closed:
            if is_late_backlog(part, timing.late_pane_seconds, now):
                closed.write(True)  # it had closed before its first row came to Kafka
                is_closed = True
            else:
                close.set(Timestamp(seconds=part.window[1]))
        seconds = timing.late_pane_seconds if is_closed else timing.early_pane_seconds
        due_at = due_time(part, seconds, now, since)
        if due_at is not None:
            due.set(Timestamp.of(due_at))

    @on_timer(CLOSE)
    def close_window(
        self,
        parts: Any = beam.DoFn.StateParam(PARTS),
        pane: Any = beam.DoFn.StateParam(PANE),
        waiting_since: Any = beam.DoFn.StateParam(WAITING_SINCE),
        closed: Any = beam.DoFn.StateParam(CLOSED),
        end: Any = beam.DoFn.TimerParam(END),
    ) -> Iterator[WrittenFile]:
        closed.write(True)
        yield from self._fire(parts, pane, waiting_since, end)

    @on_timer(DUE)
    def fire_pane(
        self,
        parts: Any = beam.DoFn.StateParam(PARTS),
        pane: Any = beam.DoFn.StateParam(PANE),
        waiting_since: Any = beam.DoFn.StateParam(WAITING_SINCE),
        end: Any = beam.DoFn.TimerParam(END),
    ) -> Iterator[WrittenFile]:
        yield from self._fire(parts, pane, waiting_since, end)

    @on_timer(END)
    def end_input(
        self,
        parts: Any = beam.DoFn.StateParam(PARTS),
        pane: Any = beam.DoFn.StateParam(PANE),
        waiting_since: Any = beam.DoFn.StateParam(WAITING_SINCE),
        end: Any = beam.DoFn.TimerParam(END),
    ) -> Iterator[WrittenFile]:
        """Fire the last pane: at the end of the input a runner may drop timers of the clock."""
        yield from self._fire(parts, pane, waiting_since, end)

    def _fire(self, parts: Any, pane: Any, waiting_since: Any, end: Any) -> Iterator[WrittenFile]:
        waiting = sorted(parts.read(), key=lambda part: part.path)
        if not waiting:
            return
        index = pane.read() or 0
        yield self._write(waiting, index)
        parts.clear()
        waiting_since.clear()
        end.clear()  # Prism 2.73 checks every key that has a timer, again and again
        pane.write(index + 1)

    def _write(self, parts: Sequence[PartRef], pane: int) -> WrittenFile:
        start, end = self._layout.event_window(*parts[0].window)
        target = OutputFile(
            topic=parts[0].topic,
            window_start=start,
            window_end=end,
            shard=parts[0].shard,
            epoch=self._layout.epoch,
            pane=pane,
            suffix=self._format.suffix,
        )
        temporary = self._layout.new_part_path(".assembling")
        rows = self._format.assemble(
            temporary, target, [part._replace(path=find_part(part)) for part in parts]
        )
        path = publish(self._layout, target, temporary)
        retire_parts(parts)
        written = WrittenFile(str(path), rows, path.stat().st_size)
        self._count(written)
        return written

    def _count(self, written: WrittenFile) -> None:
        counts = {"files": 1, "rows": written.rows, "bytes": written.size_bytes}
        for name, amount in counts.items():
            Metrics.counter(METRICS_NAMESPACE, f"{self._counter_prefix}.{name}").inc(amount)


def is_backlog(part: PartRef, seconds: float, now: float) -> bool:
    """Return whether a part's oldest row came to Kafka more than `seconds` before `now`."""
    return part.oldest_ms is not None and now - part.oldest_ms / 1000 > seconds


def is_late_backlog(part: PartRef, seconds: float, now: float) -> bool:
    """Return whether a part is of a backlog, and each row came to Kafka after its window's end."""
    return is_backlog(part, seconds, now) and (part.oldest_ms or 0) >= part.window[1] * 1000


def due_time(part: PartRef, seconds: float, now: float, since: float | None) -> float | None:
    """Return when a late or early pane is due after a part has come; None for no change.

    Args:
      part: what has come.
      seconds: how long the pane of a live stream is collected; 0 for no such pane.
      now: the time, in seconds since 1970, as are the result and `since`.
      since: when the first part of the pane came; None if this is it.

    >>> live = PartRef("a.arrow", "orders", 0, 1, {}, oldest_ms=99_000)
    >>> due_time(live, 5, now=100.0, since=None), due_time(live, 5, now=102.0, since=100.0)
    (105.0, None)
    >>> old = live._replace(oldest_ms=10_000)
    >>> due_time(old, 5, now=100.0, since=None), due_time(old, 5, now=102.0, since=100.0)
    (103.0, 105.0)
    """
    if not seconds:
        return None
    if not is_backlog(part, seconds, now):
        return now + seconds if since is None else None
    quiet_until = now + min(seconds, QUIET_SECONDS)
    return quiet_until if since is None else min(quiet_until, since + MAX_BACKLOG_SECONDS)


def publish(layout: FileLayout, target: OutputFile, temporary: str | Path) -> Path:
    """Put a finished file in place by one rename, synced, and return its path.

    Files of later panes of the same epoch, topic, window and shard are removed first: the runner
    has rolled back the timeline that they come from, and their records come again. Directories
    that are missing are made.
    """
    path = Path(layout.root, target.relative_path(layout.partition_keys))
    _make_directory(path.parent, layout.private)
    prefix = target.name_before_pane  # an hour may have thousands of files; parsing is slow
    for other in path.parent.iterdir():
        file = OutputFile.parse(other) if other.name.startswith(prefix) else None
        if file is not None and _supersedes(target, file):
            other.unlink(missing_ok=True)
    sync(temporary)
    Path(temporary).replace(path)
    sync(path.parent)
    return path


def _make_directory(path: Path, private: bool) -> None:
    """Make a directory with those above it, each entry synced."""
    if not path.is_dir():
        _make_directory(path.parent, private)
        make_directory(path, private=private)
        sync(path.parent)


def _supersedes(target: OutputFile, other: OutputFile) -> bool:
    """Return whether `other` is a later pane of what `target` is a pane of."""
    return other.pane > target.pane and replace(other, pane=target.pane) == target
