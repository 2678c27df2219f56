"""What a table is like now: its newest snapshot, its files, and what is not in it yet."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

from beam_pipeline.tables.committer import Published
from beam_pipeline.tables.compaction import TARGET_BYTES
from beam_pipeline.tables.table import LandedTable, is_foreign


@dataclass(frozen=True)
class TableState:
    """A table.

    Attributes:
        name: namespace and name.
        location: where it has its files; None if it does not exist yet.
        snapshot_id: the newest snapshot.
        committed_ms: when that was made, in milliseconds since 1970.
        files, rows, size_bytes: of the newest snapshot.
        small_files: files of at most half the size that a merged file has.
        snapshots: how many snapshots are kept.
        oldest_ms: when the oldest of these was made, in milliseconds since 1970.
        metadata_bytes: the size of the metadata file, which each commit writes anew.
        unused_files, unused_bytes: files of the table that no kept snapshot has.
        foreign_snapshots: kept snapshots that other writers have made.
        waiting_files: how many landed files are not in the table.
    """

    name: str
    location: str | None = None
    snapshot_id: int | None = None
    committed_ms: int | None = None
    files: int = 0
    rows: int = 0
    size_bytes: int = 0
    small_files: int = 0
    snapshots: int = 0
    oldest_ms: int | None = None
    metadata_bytes: int = 0
    unused_files: int = 0
    unused_bytes: int = 0
    foreign_snapshots: tuple[int, ...] = ()
    waiting_files: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return asdict(self)

    def age_seconds(self) -> float | None:
        """Return how long ago the last commit was; None if there was none."""
        return None if self.committed_ms is None else time.time() - self.committed_ms / 1000


def state_of(published: Published) -> TableState:
    """Return the state of a table.

    Raises:
        PipelineError, OSError: something does not serve or does not answer.
    """
    landed_table = published.table
    landed_table.read()
    waiting_files = published.waiting()
    table = landed_table.table
    if table is None:
        return TableState(landed_table.name, waiting_files=waiting_files)
    snapshots = table.metadata.snapshots
    current = table.current_snapshot()
    files = [data_file for data_file, _ in landed_table.data_files().values()]
    sizes = [data_file.file_size_in_bytes for data_file in files]
    unused = landed_table.unused_files(grace_seconds=0.0)
    return TableState(
        name=landed_table.name,
        location=table.location(),
        snapshot_id=None if current is None else current.snapshot_id,
        committed_ms=None if current is None else current.timestamp_ms,
        files=len(files),
        rows=sum(data_file.record_count for data_file in files),
        size_bytes=sum(sizes),
        small_files=sum(size * 2 <= TARGET_BYTES for size in sizes),
        snapshots=len(snapshots),
        oldest_ms=min((snapshot.timestamp_ms for snapshot in snapshots), default=None),
        metadata_bytes=len(table.io.new_input(table.metadata_location)),
        unused_files=len(unused),
        unused_bytes=sum(file.size_bytes for file in unused),
        foreign_snapshots=_foreign(landed_table),
        waiting_files=waiting_files,
    )


def _foreign(landed_table: LandedTable) -> tuple[int, ...]:
    table = landed_table.table
    assert table is not None
    return tuple(
        snapshot.snapshot_id for snapshot in table.metadata.snapshots if is_foreign(snapshot)
    )
