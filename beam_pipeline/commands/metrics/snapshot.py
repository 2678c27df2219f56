"""What the metrics of a run or a job are made of: taken now and then, then never changed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from beam_pipeline.commands.metrics import catalogue
from beam_pipeline.commands.metrics.catalogue import Sample
from beam_pipeline.files.watermark_note import WatermarkNote
from beam_pipeline.runtime.landed_totals import KINDS, LandedTotals
from beam_pipeline.runtime.table_committer import TableStatus
from beam_pipeline.storage.paths import StoredPath

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_DEAD = "dead."


@dataclass(frozen=True)
class Snapshot:
    """The status of a run, or of a job that was left running, at a time.

    Attributes:
      taken_at: by a monotonic clock.
      state: see `RunStatus`.
      counters: the job's counters by name.
      totals: what the run has landed.
      note: how far the topics are landed.
      restarts, refused_letters: see `RunStatus`; None where they are not known.
      up: whether each component works.
      free_bytes: free space, by directory.
      table: the table of the run; None without one.
    """

    taken_at: float
    state: str = "starting"
    counters: Mapping[str, int] = field(default_factory=dict)
    totals: LandedTotals = field(default_factory=LandedTotals)
    note: WatermarkNote = field(default_factory=WatermarkNote)
    restarts: int | None = 0
    refused_letters: int | None = 0
    up: Mapping[str, bool] = field(default_factory=dict)
    free_bytes: Mapping[str, int] = field(default_factory=dict)
    table: TableStatus | None = None

    @property
    def unready(self) -> str:
        """Why no records are landed now; empty if they are."""
        if self.state == "running" and all(self.up.values()):
            return ""
        down = [component for component, is_up in self.up.items() if not is_up]
        return ", ".join([f"state: {self.state}", *(f"{name} is down" for name in down)])

    def samples(self, now_s: float) -> Iterator[Sample]:
        """Yield the values at a time, in seconds since 1970."""
        yield from self._of_partitions(now_s)
        for name, metric in _BY_COUNTER.items():
            yield Sample(metric, (), self.counters.get(name, 0))
        for name, count in sorted(self.counters.items()):
            if name.startswith(_DEAD):
                yield Sample(catalogue.DEAD, (name.removeprefix(_DEAD),), count)
        for kind in KINDS:
            yield Sample(catalogue.LANDED_ROWS, (kind,), self.totals.records[kind])
            yield Sample(catalogue.LANDED_FILES, (kind,), self.totals.files[kind])
            yield Sample(catalogue.LANDED_BYTES, (kind,), self.totals.size_bytes[kind])
        if self.totals.last_file_s is not None:
            yield Sample(catalogue.LAST_FILE, (), self.totals.last_file_s)
        if self.refused_letters is not None:
            yield Sample(catalogue.REFUSED, (), self.refused_letters)
        if self.restarts is not None:
            yield Sample(catalogue.RESTARTS, (), self.restarts)
        for component, is_up in self.up.items():
            yield Sample(catalogue.UP, (component,), int(is_up))
        for directory, free in self.free_bytes.items():
            yield Sample(catalogue.DISK_FREE, (directory,), free)
        if self.table is not None:
            yield from _of_table(self.table)

    def _of_partitions(self, now_s: float) -> Iterator[Sample]:
        for topic, about in sorted(self.note.topics.items()):
            if about.watermark_ms is not None:
                yield Sample(catalogue.WATERMARK, (topic,), about.watermark_ms / 1000)
            for number, partition in sorted(about.partitions.items()):
                labels = topic, str(number)
                yield Sample(catalogue.LANDED_OFFSET, labels, partition.landed_to)
                yield Sample(catalogue.EXPIRED, labels, partition.expired_unread)
                if partition.log_end is None or partition.lag is None:
                    continue
                yield Sample(catalogue.LOG_END_OFFSET, labels, partition.log_end)
                yield Sample(catalogue.LAG_RECORDS, labels, partition.lag)
                if not partition.lag:
                    yield Sample(catalogue.LAG_SECONDS, labels, 0)
                elif partition.watermark_ms is not None:
                    seconds = max(0.0, now_s - partition.watermark_ms / 1000)
                    yield Sample(catalogue.LAG_SECONDS, labels, seconds)


def _of_table(table: TableStatus) -> Iterator[Sample]:
    progress = table.progress
    yield Sample(catalogue.TABLE_CURRENT, (), table.current_at)
    yield Sample(catalogue.TABLE_WAITING, (), progress.waiting_files)
    yield Sample(catalogue.TABLE_COMMITS, (), progress.commits)
    if progress.committed_at:
        yield Sample(catalogue.TABLE_LAST_COMMIT, (), progress.committed_at)
    for kind, records in zip(KINDS, (progress.rows, progress.letters), strict=True):
        yield Sample(catalogue.TABLE_RECORDS, (kind,), records)
    yield Sample(catalogue.TABLE_FAILED, (), progress.failures)
    yield Sample(catalogue.TABLE_COMPACTIONS, (), progress.compactions)
    yield Sample(catalogue.TABLE_MERGED, (), progress.merged_files)
    yield Sample(catalogue.TABLE_RESTARTS, (), table.restarts)


_BY_COUNTER = {
    "read": catalogue.READ,
    "valid": catalogue.VALID,
    "late": catalogue.LATE,
}


def free_bytes_of(directories: Mapping[str, StoredPath], *, with_temporary: bool) -> dict[str, int]:
    """Return the free space of the file systems of directories; object stores have none."""
    free = {}
    temporary = {"temporary": Path(tempfile.gettempdir())} if with_temporary else {}
    for name, directory in {**directories, **temporary}.items():
        if isinstance(directory, Path):
            try:
                free[name] = shutil.disk_usage(directory).free
            except OSError:  # it is not there yet, or not any more
                continue
    return free


def resident_bytes() -> dict[str, int]:
    """Return the resident memory of this process, and of all processes below it, by name."""
    own = os.getpid()
    below = [pid for pid in _below(own) if pid != own]
    return {"supervisor": _resident(own), "children": sum(map(_resident, below))}


def _below(pid: int) -> Iterator[int]:
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found = children.read_text().split()
        except OSError:  # it ended
            continue
        for child in found:
            yield from _below(int(child))


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0
