"""Plans a compaction: which small files of a directory are merged. Reads footers only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyroaring import BitMap64

from beam_pipeline.files.footer import (
    FOOTER_KEY,
    FileFooter,
    FooterError,
    LastRecords,
    footer_of,
    merge_last_records,
)
from beam_pipeline.files.names import PARQUET_SUFFIX, OutputFile
from beam_pipeline.offset_sets import TopicPartition, ranges


@dataclass(frozen=True, slots=True)
class SmallFile:
    """A Parquet file that may be merged with others."""

    path: Path
    name: OutputFile
    footer: FileFooter
    schema: pa.Schema
    size_bytes: int

    @property
    def offsets(self) -> dict[TopicPartition, BitMap64]:
        """The offsets that the file covers by its footer."""
        return self.footer.offset_sets()


@dataclass(frozen=True, slots=True)
class Group:
    """Small files of one directory, and the file `target` that replaces them."""

    sources: tuple[SmallFile, ...]
    target: OutputFile

    @property
    def rows(self) -> int:
        """How many rows the files hold, by their footers."""
        return sum(source.footer.rows for source in self.sources)

    def footer(self) -> FileFooter:
        """Return the target's footer, which covers what the sources' footers cover."""
        first = self.sources[0].footer
        offsets: dict[str, dict[int, list[tuple[int, int]]]] = {}
        for (topic, partition), covered in sorted(self.offsets().items()):
            offsets.setdefault(topic, {})[partition] = list(ranges(covered))
        return FileFooter(
            topic=self.target.topic,
            window_start=self.target.window_start,
            window_end=self.target.window_end,
            shard=self.target.shard,
            epoch=self.target.epoch,
            pane=self.target.pane,
            rows=self.rows,
            schema_id=first.schema_id,
            schema_sha256=first.schema_sha256,
            offsets=offsets,
            last_records=self._last_records(),
        )

    def _last_records(self) -> LastRecords:
        topics = {topic for source in self.sources for topic in source.footer.last_records}
        return {
            topic: merge_last_records(
                source.footer.last_records.get(topic, {}) for source in self.sources
            )
            for topic in sorted(topics)
        }

    def offsets(self) -> dict[TopicPartition, BitMap64]:
        """Return the offsets that the sources cover together."""
        together: dict[TopicPartition, BitMap64] = {}
        for source in self.sources:
            for partition, offsets in source.offsets.items():
                together.setdefault(partition, BitMap64()).update(offsets)
        return together


@dataclass(frozen=True, slots=True)
class LeftAlone:
    """A file or directory that is left as it is, and why."""

    path: Path
    reason: str


@dataclass(slots=True)
class DirectoryPlan:
    """The plan for one directory: `groups` are merged, all other files stay."""

    directory: Path
    groups: list[Group] = field(default_factory=list)
    left_alone: list[LeftAlone] = field(default_factory=list)


def plan_directory(
    directory: Path,
    *,
    target_bytes: int,
    epoch: str,
    live_epochs: Iterable[str] = (),
    now: datetime,
) -> DirectoryPlan:
    """Return the plan for one directory of Parquet files, all of the same `dt` and `hour`.

    Files of one topic, one JSON Schema and the same columns are merged once their windows have
    closed. Files below half of `target_bytes` are grouped in the order of their windows, up to
    `target_bytes` for a group. Files of `live_epochs` stay: a runner may come back to them.

    Raises:
        OSError: the directory can't be listed.
    """
    plan = DirectoryPlan(directory)
    live = frozenset(live_epochs)
    entries = sorted(directory.iterdir())
    not_files = [entry for entry in entries if entry.is_symlink() or not entry.is_file()]
    if not_files:
        reason = f"contains {not_files[0].name}, which is not a file"
        plan.left_alone.append(LeftAlone(directory, reason))
        return plan
    alike: dict[tuple[object, ...], list[SmallFile]] = defaultdict(list)
    for path in entries:
        name = OutputFile.parse(path)
        if name is None or name.suffix != PARQUET_SUFFIX or name.window_end > now:
            continue
        size_bytes = path.stat().st_size
        if size_bytes * 2 > target_bytes:
            continue
        if name.epoch in live:
            plan.left_alone.append(
                LeftAlone(path, "its run may come back to it; start the pipeline once")
            )
            continue
        file = _read(path, name, size_bytes)
        if isinstance(file, LeftAlone):
            plan.left_alone.append(file)
        else:
            columns = file.schema.serialize().to_pybytes()
            key = (name.topic, file.footer.schema_id, file.footer.schema_sha256, columns)
            alike[key].append(file)
    for files in alike.values():
        for packed in _pack(files, target_bytes):
            repeated = _repeated(packed)
            if repeated:
                plan.left_alone.append(repeated)
            else:
                target = _target(packed, epoch, len(plan.groups))
                plan.groups.append(Group(tuple(packed), target))
    return plan


def _read(path: Path, name: OutputFile, size_bytes: int) -> SmallFile | LeftAlone:
    try:
        metadata = pq.read_metadata(path)
        footer = footer_of(metadata.metadata or {})
        schema = metadata.schema.to_arrow_schema()
    except (OSError, pa.ArrowException, FooterError) as error:
        return LeftAlone(path, " ".join(str(error).split()))
    if footer.rows != metadata.num_rows:
        reason = f"footer says {footer.rows} rows, the file has {metadata.num_rows}"
        return LeftAlone(path, reason)
    if (footer.topic, footer.window_start) != (name.topic, name.window_start):
        return LeftAlone(path, "the file's name does not agree with its footer")
    others = {
        key: value for key, value in (schema.metadata or {}).items() if key != FOOTER_KEY
    } or None
    return SmallFile(path, name, footer, schema.with_metadata(others), size_bytes)


def _pack(files: Sequence[SmallFile], target_bytes: int) -> Iterator[list[SmallFile]]:
    packed: list[SmallFile] = []
    packed_bytes = 0
    for file in sorted(files, key=lambda file: file.name):
        if packed and packed_bytes + file.size_bytes > target_bytes:
            if len(packed) > 1:
                yield packed
            packed, packed_bytes = [], 0
        packed.append(file)
        packed_bytes += file.size_bytes
    if len(packed) > 1:
        yield packed


def _repeated(files: Sequence[SmallFile]) -> LeftAlone | None:
    """Return the first file that holds an offset of a file before it."""
    seen: dict[TopicPartition, BitMap64] = {}
    for file in files:
        for partition, offsets in file.offsets.items():
            known = seen.setdefault(partition, BitMap64())
            if known & offsets:
                return LeftAlone(
                    file.path,
                    f"holds offsets of {partition} that another file also holds; see reconcile",
                )
            known.update(offsets)
    return None


def _target(files: Sequence[SmallFile], epoch: str, index: int) -> OutputFile:
    return OutputFile(
        topic=files[0].name.topic,
        window_start=min(file.name.window_start for file in files),
        window_end=max(file.name.window_end for file in files),
        shard=0,
        epoch=epoch,
        pane=index,
        suffix=PARQUET_SUFFIX,
    )
