"""Writes windowed elements to one file for each window, shard and pane, in any format.

Parquet files and dead-letter files are written in the same way. The elements of a bundle go to
parts. Only references to the parts go through the shuffle, by window, topic and shard. A pane is
assembled from its parts in a local file, and committed by one step of the storage, which gives the
file its name unless that is taken.

A stateful DoFn fires the panes, not the triggers of a GroupByKey. On Prism 2.73, a late element
that arrives while another one holds the stage's input watermark gets no timer, and then holds the
watermark for good, so that no window closes any more. State and timers work alike on every runner,
and in the global window no element is dropped for being late.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
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

from beam_pipeline.config import MAX_BACKLOG_SECONDS, PaneTiming, ReadGoal, Windowing
from beam_pipeline.covered_offsets import CoveredOffsets
from beam_pipeline.files.ledger import content_of
from beam_pipeline.files.names import DEFAULT_PARTITION_KEYS, OutputFile
from beam_pipeline.files.parts import PartRef, Parts, parts_below
from beam_pipeline.io.read_goal import note_part, take_unfired
from beam_pipeline.io.whole_bundles import keep_stateful_bundles_whole
from beam_pipeline.records import METRICS_NAMESPACE, REQUESTS
from beam_pipeline.storage.config import StorageConfig
from beam_pipeline.storage.paths import ObjectPath, StoredPath
from beam_pipeline.storage.patience import PatientStorage
from beam_pipeline.storage.protocol import Storage
from beam_pipeline.storage.urls import is_url, open_storage
from beam_pipeline.transforms.dead_letters import DeadLetters, count_dead
from beam_pipeline.transforms.outputs import DEAD, Outputs, register_letters
from beam_pipeline.transforms.windowing import delay_of

QUIET_SECONDS = 3.0
"""A pane of a backlog fires when its window got nothing for so long. A bundle comes within it."""


STORAGE_AWAY_SECONDS = 600.0
"""How long a bundle waits for an object store that is away, before it fails and is tried again."""

_END_BYTES = 64 * 1024

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

    def shards_of(self, element: Any) -> Iterator[Piece | DeadLetters]:
        """Yield the element's content by shard, and dead letters for rows that are refused."""

    def write_part(self, path: str, shard: Shard, contents: Sequence[Any]) -> PartRef:
        """Write the contents of a shard's pieces as one part."""

    def assemble(
        self, path: str, target: OutputFile, parts: Sequence[PartRef], known: CoveredOffsets
    ) -> int:
        """Write the file for `target` to `path`; return how many rows it has.

        It has the rows of the parts whose offsets are not in `known`.
        """


@dataclass(frozen=True)
class FileLayout:
    """Where the files of a sink go.

    Args:
      root: the output directory, or the URL of an object store.
      epoch: identity of this submission of the job, part of every file name.
      watermark_delay_seconds: how far elements and windows are shifted (see `Windowing`); file
        names have the window of the events, which is not shifted. None takes what the windows say
        (`transforms.WindowBatches`), or else 0.
      private: whether directories that are made here have mode 0700.
      partition_keys: the names of day and hour in the names of directories.
      storage_config: how the object store is reached.
      parts_dir: a directory that all workers share, for parts (see `files.parts.parts_below`).
    """

    root: str
    epoch: str
    watermark_delay_seconds: int | None = None
    private: bool = False
    partition_keys: tuple[str, str] = DEFAULT_PARTITION_KEYS
    storage_config: StorageConfig = field(default_factory=StorageConfig)
    parts_dir: str | None = None

    @property
    def storage(self) -> Storage:
        """The storage of the files. It waits while it is away."""
        storage = open_storage(self.root, self.storage_config, private=self.private)
        return PatientStorage(storage, STORAGE_AWAY_SECONDS) if is_url(self.root) else storage

    def key_of(self, target: OutputFile) -> str:
        """Return the key of a file."""
        return str(target.relative_path(self.partition_keys))

    def path_of(self, target: OutputFile) -> StoredPath:
        """Return the path of a file."""
        key = self.key_of(target)
        return ObjectPath(self.storage, key) if is_url(self.root) else Path(self.root, key)

    def parts(self) -> Parts:
        """Return the parts of the files."""
        return parts_below(
            self.root,
            self.epoch,
            self.storage_config,
            self.parts_dir,
            private=self.private,
            patience_seconds=STORAGE_AWAY_SECONDS,
        )

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
    """PCollection of elements in fixed windows to `Outputs` of WrittenFile and DeadLetters.

    Writes one file for each pane of each (window, topic, shard). A file in place is never changed.
    If the file of a pane is there already, by a bundle that is tried again or a timeline that the
    runner has rolled back, it is adopted: its rows are not written again, and what is left goes
    into the file of the next pane. The outputs are in the global window.

    Rows that can't be told apart by topic, partition and offset are written over the file of their
    pane instead, and files of later panes are removed.

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
        goal: ReadGoal | None = None,
    ) -> None:
        super().__init__()
        self._layout = layout
        self._format = file_format
        self._counter_prefix = counter_prefix
        self._goal = goal
        self._timing = timing or PaneTiming()

    def expand(self, elements: beam.PCollection[Any]) -> Outputs:
        windowfn = elements.windowing.windowfn
        if isinstance(windowfn, GlobalWindows):
            raise ValueError(
                "the input is in the global window; put it into fixed windows first "
                "(beam.WindowInto(FixedWindows(...)) or transforms.WindowBatches)"
            )
        register_letters()
        delay_seconds = delay_of(windowfn, self._layout.watermark_delay_seconds)
        layout = replace(self._layout, watermark_delay_seconds=delay_seconds)
        parts = elements | "WriteParts" >> beam.ParDo(
            _WriteParts(layout, self._format, self._goal)
        ).with_output_types(tuple[str, PartRef], **{DEAD: DeadLetters}).with_outputs(
            DEAD, main="parts"
        )
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

    A part has the smallest timestamp of its elements. Once the goal is read, each key gets a part
    without rows, which calls on its pane to fire.
    """

    def __init__(
        self, layout: FileLayout, file_format: FileFormat, goal: ReadGoal | None = None
    ) -> None:
        self._layout = layout
        self._format = file_format
        self._goal = goal

    def setup(self) -> None:
        self._parts = self._layout.parts()

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
            if isinstance(piece, DeadLetters):
                count_dead(piece)
                yield beam.pvalue.TaggedOutput(DEAD, piece)
                continue
            self._open[window, piece.shard].add(piece.content, timestamp)
            self._open_bytes += piece.size_bytes
        if self._open_bytes >= MAX_OPEN_BYTES:
            yield from self.finish_bundle()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        for (window, shard), part in self._open.items():
            path = self._parts.new_path(self._format.part_suffix)
            ref = self._parts.keep(self._format.write_part(path, shard, part.contents))._replace(
                window=(window.start.micros // 1_000_000, window.end.micros // 1_000_000)
            )
            key = f"{ref.topic}/{ref.shard}/{ref.window[0]}/{ref.window[1]}"
            if self._goal:
                note_part(self._goal, self._layout.root, key, ref, window)
            yield WindowedValue((key, ref), part.timestamp, (window,))
        self.start_bundle()
        yield from self._calls_to_fire()
        count_requests(self._layout.storage)

    def _calls_to_fire(self) -> Iterator[WindowedValue]:
        if self._goal is None:
            return
        for key, (call, window) in take_unfired(self._goal, self._layout.root).items():
            yield WindowedValue((key, call), window.max_timestamp(), (window,))


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
    come from a backlog, it is due when no more come: a window would get a file every few seconds. A
    part without rows makes it due at once.

    The state of a key: the parts that wait for the next pane, since when, the index of that pane,
    whether the window has closed, and the offsets in adopted files. The index stays when a pane has
    fired, because it is part of the next file's name.

    The files of a key are a log: pane after pane, each taken by the first that gives a file its
    name. Whoever takes a pane has read the files of the panes before it that others took. So each
    row is in one file, whoever else writes: a bundle that is tried again, a timeline that was
    restored from a checkpoint, or a worker of a rolled-back timeline that wakes up late.

    The state is that of one epoch and need not be readable by another version of this code. After
    an upgrade a job resumes from its files, not from a savepoint.
    """

    PARTS = BagStateSpec("parts", PickleCoder())
    PANE = ReadModifyWriteStateSpec("pane", VarIntCoder())
    ADOPTED = ReadModifyWriteStateSpec("adopted", PickleCoder())
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
        self._parts = self._layout.parts()

    def finish_bundle(self) -> None:
        self._parts.end_bundle()
        count_requests(self._layout.storage)

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
        now, timing = time.time(), self._timing
        since = waiting_since.read()
        if not part.rows:
            if since is not None:
                due.set(Timestamp.of(now))
            return
        parts.add(part)
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
        adopted: Any = beam.DoFn.StateParam(ADOPTED),
        waiting_since: Any = beam.DoFn.StateParam(WAITING_SINCE),
        closed: Any = beam.DoFn.StateParam(CLOSED),
        end: Any = beam.DoFn.TimerParam(END),
    ) -> Iterator[WrittenFile]:
        closed.write(True)
        yield from self._fire(parts, pane, adopted, waiting_since, end)

    @on_timer(DUE)
    def fire_pane(
        self,
        parts: Any = beam.DoFn.StateParam(PARTS),
        pane: Any = beam.DoFn.StateParam(PANE),
        adopted: Any = beam.DoFn.StateParam(ADOPTED),
        waiting_since: Any = beam.DoFn.StateParam(WAITING_SINCE),
        end: Any = beam.DoFn.TimerParam(END),
    ) -> Iterator[WrittenFile]:
        yield from self._fire(parts, pane, adopted, waiting_since, end)

    @on_timer(END)
    def end_input(
        self,
        parts: Any = beam.DoFn.StateParam(PARTS),
        pane: Any = beam.DoFn.StateParam(PANE),
        adopted: Any = beam.DoFn.StateParam(ADOPTED),
        waiting_since: Any = beam.DoFn.StateParam(WAITING_SINCE),
        end: Any = beam.DoFn.TimerParam(END),
    ) -> Iterator[WrittenFile]:
        """Fire the last pane: at the end of the input a runner may drop timers of the clock."""
        yield from self._fire(parts, pane, adopted, waiting_since, end)

    def _fire(
        self, parts: Any, pane: Any, adopted: Any, waiting_since: Any, end: Any
    ) -> Iterator[WrittenFile]:
        waiting = sorted(parts.read(), key=lambda part: part.path)
        if not waiting:
            return
        if all(part.names_each_row for part in waiting):
            index = yield from self._append(waiting, pane.read() or 0, adopted)
        else:
            index = yield from self._overwrite(waiting, pane.read() or 0)
        self._parts.retire(waiting)
        parts.clear()
        waiting_since.clear()
        end.clear()  # Prism 2.73 checks every key that has a timer, again and again
        pane.write(index)

    def _append(
        self, parts: Sequence[PartRef], pane: int, adopted: Any
    ) -> Generator[WrittenFile, None, int]:
        """Write the rows of the parts that no file has; return the index of the next pane."""
        known: CoveredOffsets = adopted.read() or CoveredOffsets()
        while left := [part for part in parts if part.has_rows_outside(known)]:
            target = self._target(left[0], pane)
            path = self._layout.path_of(target)
            if not path.exists():  # most are not, and to assemble one takes long
                with self._assembled(target, left, known) as (temporary, rows):
                    size_bytes = temporary.stat().st_size
                    if publish(self._layout, target, temporary) or is_copy(path, temporary):
                        yield self._written(path, rows, size_bytes)
                        return pane + 1
            with contextlib.suppress(FileNotFoundError):  # it was deleted just now: try it again
                covered = content_of(path).covered
                yield self._written(path, covered.count, path.stat().st_size)
                known.update(covered)
                adopted.write(known)
                pane += 1
        return pane

    def _overwrite(self, parts: Sequence[PartRef], pane: int) -> Generator[WrittenFile, None, int]:
        """Write the rows of the parts, whose offsets tell nothing; return the next pane's index."""
        target = self._target(parts[0], pane)
        with self._assembled(target, parts, CoveredOffsets()) as (temporary, rows):
            size_bytes = temporary.stat().st_size
            publish_over(self._layout, target, temporary)
        yield self._written(self._layout.path_of(target), rows, size_bytes)
        return pane + 1

    def _target(self, part: PartRef, pane: int) -> OutputFile:
        start, end = self._layout.event_window(*part.window)
        return OutputFile(
            topic=part.topic,
            window_start=start,
            window_end=end,
            shard=part.shard,
            epoch=self._layout.epoch,
            pane=pane,
            suffix=self._format.suffix,
        )

    @contextlib.contextmanager
    def _assembled(
        self, target: OutputFile, parts: Sequence[PartRef], known: CoveredOffsets
    ) -> Iterator[tuple[Path, int]]:
        """Yield the finished file, which is removed at the end, and its row count."""
        temporary = Path(self._parts.new_path(".assembling"))
        fetched: list[str] = []
        try:
            for part in parts:
                fetched.append(self._parts.fetch(part))
            local = [part._replace(path=path) for part, path in zip(parts, fetched, strict=True)]
            rows = self._format.assemble(str(temporary), target, local, known)
            self._parts.release(fetched)
            yield temporary, rows
        finally:
            self._parts.release(fetched)
            temporary.unlink(missing_ok=True)

    def _written(self, path: StoredPath, rows: int, size_bytes: int) -> WrittenFile:
        written = WrittenFile(str(path), rows, size_bytes)
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


def publish(layout: FileLayout, target: OutputFile, temporary: Path) -> bool:
    """Put a finished file in place in one step, synced, unless its name is taken; return whether.

    Directories that are missing are made. False may also mean that the file is in place, and the
    storage's first answer was lost; see `is_copy`.
    """
    return layout.storage.put_if_absent(temporary, layout.key_of(target))


def is_copy(path: StoredPath, temporary: Path) -> bool:
    """Return whether the file in place is the finished one, by size and end.

    The end of a Parquet file has the nonce of its footer. A file of letters that ends alike holds
    the same letters.
    """
    if isinstance(path, Path):
        return False  # no answer is lost on the way from a file system
    size_bytes = temporary.stat().st_size
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size == size_bytes:
            with temporary.open("rb") as file:
                file.seek(-min(_END_BYTES, size_bytes), 2)
                return file.read() == path.storage.read_range(path.key, -_END_BYTES, _END_BYTES)
    return False


def publish_over(layout: FileLayout, target: OutputFile, temporary: Path) -> None:
    """Put a finished file in place in one step, synced, over a file of the same name.

    Files of later panes of the same epoch, topic, window and shard are removed first: the runner
    has rolled back the timeline that they come from, and their records come again.
    """
    storage, key = layout.storage, layout.key_of(target)
    directory = key.rpartition("/")[0]
    storage.delete(
        other.key
        for other in list(storage.objects(f"{directory}/{target.name_before_pane}"))
        if (file := OutputFile.parse(other.key)) is not None and _supersedes(target, file)
    )
    storage.put_file(temporary, key)


def _supersedes(target: OutputFile, other: OutputFile) -> bool:
    """Return whether `other` is a later pane of what `target` is a pane of."""
    return other.pane > target.pane and replace(other, pane=target.pane) == target


_counted: dict[str, Counter[str]] = defaultdict(Counter)
_counted_lock = threading.Lock()


def count_requests(storage: Storage) -> None:
    """Count the requests that this process has made to a storage since the last call, by kind.

    The counters are `storage.PUT`, `storage.GET` and so on. A directory makes no requests.
    """
    with _counted_lock:
        requests, counted = Counter(storage.requests), _counted[storage.url]
        new = requests - counted
        _counted[storage.url] = requests
    for kind, count in new.items():
        Metrics.counter(METRICS_NAMESPACE, f"{REQUESTS}.{kind}").inc(count)
