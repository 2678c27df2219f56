"""Windowed elements to one file per window, shard and pane, whatever the format.

The path is the same for Parquet and for dead letters: elements of a bundle go to part files, the
parts' names are grouped by topic and shard, and each pane becomes one file by an atomic rename.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.transforms.window import GlobalWindows, IntervalWindow
from apache_beam.utils.windowed_value import PaneInfoTiming, WindowedValue

from beam_pipeline.batches import DEAD, METRICS_NAMESPACE, Outputs, count_dead
from beam_pipeline.io.file_names import OutputFile
from beam_pipeline.io.part_files import (
    PartRef,
    find_part,
    new_part_path,
    retire_parts,
)
from beam_pipeline.records import DeadLetter

MAX_OPEN_BYTES = 128 * 1024 * 1024
"""How much a bundle may hold, over all its windows, before it goes to parts."""


class Shard(NamedTuple):
    """Which file of a window a row goes to: a function of the record alone, so that a retried
    bundle or a restored checkpoint sends it to the same one."""

    topic: str
    number: int


class WrittenFile(NamedTuple):
    """A file that is in place. `late` when its pane fired after the window's on-time one."""

    path: str
    rows: int
    size_bytes: int
    late: bool


class FileFormat(Protocol):
    """How elements become parts, and parts a file."""

    @property
    def suffix(self) -> str: ...

    @property
    def part_suffix(self) -> str: ...

    def shards_of(
        self, element: Any
    ) -> Iterator[tuple[Shard, Any, int] | tuple[None, DeadLetter, int]]:
        """The element cut by shard: (shard, piece, its bytes), or (None, letter, 0) if refused."""

    def write_part(self, path: str, shard: Shard, pieces: Sequence[Any]) -> PartRef:
        """Writes the pieces as one part."""

    def assemble(self, path: str, target: OutputFile, parts: Sequence[PartRef]) -> int:
        """Writes the file for `target` from its parts to `path`; the rows it holds."""


@dataclass(frozen=True)
class FileLayout:
    """Where a sink's files go. `watermark_delay_seconds` is how far elements and windows are
    shifted (see `Windowing`); names carry the unshifted window."""

    root: str
    epoch: str
    watermark_delay_seconds: int = 0


class WriteWindowedFiles(beam.PTransform[Any, Any]):
    """PCollection of elements in fixed windows to `Outputs` of WrittenFile and DeadLetter.

    Every pane of every (window, topic, shard) becomes a file of its own; nothing is overwritten
    but a file of the same epoch, window, shard and pane, or one of a later pane, which belongs to
    a timeline that was rolled back.
    """

    def __init__(self, layout: FileLayout, file_format: FileFormat, counter_prefix: str) -> None:
        super().__init__()
        self._layout = layout
        self._format = file_format
        self._counter_prefix = counter_prefix

    def expand(self, elements: beam.PCollection[Any]) -> Outputs:
        if isinstance(elements.windowing.windowfn, GlobalWindows):
            raise ValueError(
                "the input is in the global window; put it into fixed windows first "
                "(beam.WindowInto(FixedWindows(...)) or transforms.WindowBatches)"
            )
        parts = elements | "WriteParts" >> beam.ParDo(
            _WriteParts(self._layout, self._format)
        ).with_output_types(tuple[str, PartRef]).with_outputs(DEAD, main="parts")
        files = (
            parts["parts"]
            | "GroupPartsByShard" >> beam.GroupByKey()
            | "AssembleFiles"
            >> beam.ParDo(_AssembleFiles(self._layout, self._format, self._counter_prefix))
        )
        return Outputs(files, parts[DEAD])


class _WriteParts(beam.DoFn):
    """Elements to (shard key, PartRef), each part stamped with the smallest of its timestamps.

    The window's own maximum loses rows on Prism 2.73, whose watermark may pass it before the part
    arrives; the smallest timestamp never makes a part later than its rows were.
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
        for shard, piece, piece_bytes in self._format.shards_of(element):
            if shard is None:
                count_dead(piece.failure.code)
                yield beam.pvalue.TaggedOutput(DEAD, piece)
                continue
            self._open[window, shard].add(piece, timestamp)
            self._open_bytes += piece_bytes
        if self._open_bytes >= MAX_OPEN_BYTES:
            yield from self.finish_bundle()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        for (window, shard), part in self._open.items():
            path = new_part_path(self._layout.root, self._layout.epoch, self._format.part_suffix)
            ref = self._format.write_part(path, shard, part.pieces)
            yield WindowedValue((f"{ref.topic}/{ref.shard}", ref), part.timestamp, (window,))
        self.start_bundle()


class _OpenPart:
    """What a bundle has collected for one window and shard."""

    def __init__(self) -> None:
        self.pieces: list[Any] = []
        self.timestamp: Any = None

    def add(self, piece: Any, timestamp: Any) -> None:
        self.pieces.append(piece)
        if self.timestamp is None or timestamp < self.timestamp:
            self.timestamp = timestamp


class _AssembleFiles(beam.DoFn):
    """(shard key, PartRefs of one pane) to WrittenFile."""

    def __init__(self, layout: FileLayout, file_format: FileFormat, counter_prefix: str) -> None:
        self._layout = layout
        self._format = file_format
        self._counter_prefix = counter_prefix

    def process(
        self,
        keyed_parts: tuple[str, Iterable[PartRef]],
        window: Any = beam.DoFn.WindowParam,
        pane: Any = beam.DoFn.PaneInfoParam,
    ) -> Iterator[WrittenFile]:
        parts = sorted(keyed_parts[1], key=lambda part: part.path)
        start, end = unshifted(window, self._layout.watermark_delay_seconds)
        target = OutputFile(
            topic=parts[0].topic,
            window_start=start,
            window_end=end,
            shard=parts[0].shard,
            epoch=self._layout.epoch,
            pane=pane.index,
            suffix=self._format.suffix,
        )
        temporary = new_part_path(self._layout.root, self._layout.epoch, ".assembling")
        rows = self._format.assemble(
            temporary, target, [part._replace(path=find_part(part)) for part in parts]
        )
        path = publish(self._layout.root, target, temporary)
        retire_parts(parts)
        late = pane.timing == PaneInfoTiming.LATE
        written = WrittenFile(str(path), rows, path.stat().st_size, late)
        self._count(written)
        yield written

    def _count(self, written: WrittenFile) -> None:
        counts = {
            "files": 1,
            "rows": written.rows,
            "bytes": written.size_bytes,
            "late_rows": written.rows if written.late else 0,
        }
        for name, amount in counts.items():
            Metrics.counter(METRICS_NAMESPACE, f"{self._counter_prefix}.{name}").inc(amount)


def publish(root: str | Path, target: OutputFile, temporary: str | Path) -> Path:
    """Puts a finished file in place: synced, by one rename, superseding a rolled-back timeline.

    Files of the same epoch, topic, window and shard with this pane's index or a later one came
    from a timeline that the runner rolled back; their records come again, so they go first.
    """
    path = Path(root, target.relative_path())
    _make_directory(path.parent)
    for other in path.parent.iterdir():
        found = OutputFile.parse(other)
        if found is not None and _supersedes(target, found):
            other.unlink(missing_ok=True)
    sync(temporary)
    Path(temporary).replace(path)
    sync(path.parent)
    return path


def _make_directory(path: Path) -> None:
    """Makes a directory with those above it, each entry synced."""
    if not path.is_dir():
        _make_directory(path.parent)
        path.mkdir(exist_ok=True)
        sync(path.parent)


def _supersedes(target: OutputFile, found: OutputFile) -> bool:
    def identity(file: OutputFile) -> tuple[Any, ...]:
        return file.topic, file.window_start, file.window_end, file.shard, file.epoch, file.suffix

    return found.pane > target.pane and identity(found) == identity(target)


def sync(path: str | Path) -> None:
    """Makes a file, or the names in a directory, outlast a power cut (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unshifted(window: IntervalWindow, delay_seconds: int) -> tuple[datetime, datetime]:
    """Start and end of the event-time window behind a shifted one."""
    delay = timedelta(seconds=delay_seconds)
    start, end = (
        datetime.fromtimestamp(bound.micros // 1_000_000, timezone.utc) - delay
        for bound in (window.start, window.end)
    )
    return start, end
