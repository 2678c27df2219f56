"""A snapshot of a table as its manifests tell it: its files, and who made its snapshots."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.io import FileIO
from pyiceberg.manifest import DataFile, DataFileContent
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Snapshot

from beam_pipeline.errors import UsageError
from beam_pipeline.storage.paths import ObjectPath, StoredPath
from beam_pipeline.storage.protocol import Storage, StorageAwayError, StoredObject
from beam_pipeline.tools.reconcile.coverage import FileProblem
from beam_pipeline.tools.reconcile.table_state import ForeignSnapshot, Pinned

_LOCAL = "file://"
_OURS = "beam-pipeline."
"""The beginning of what a snapshot of this pipeline has in its summary."""

_ENGINE = "engine-name"
_ENGINES = {"trino_query_id": "Trino", "spark.app.id": "Spark", "flink.job-id": "Flink"}


@dataclass(frozen=True, slots=True)
class TableFile:
    """A data file as the manifests of a snapshot tell it.

    Attributes:
        path: where it is.
        size_bytes: its size.
        rows: how many rows it has.
        times: how often the manifests name it.
        offsets: the lowest and the highest offset of its rows; None if the manifests have none.
    """

    path: StoredPath
    size_bytes: int
    rows: int
    times: int
    offsets: tuple[int, int] | None


@dataclass(frozen=True)
class PinnedTable:
    """A table at one snapshot; a table that does not exist has no files.

    Attributes:
        snapshot: the snapshot.
        files: its data files.
        problems: what is wrong with the manifests themselves.
        foreign: the snapshots that others made, of those that the table keeps, the newest last.
    """

    snapshot: Pinned
    files: tuple[TableFile, ...] = ()
    problems: tuple[FileProblem, ...] = ()
    foreign: tuple[ForeignSnapshot, ...] = ()


def load(catalog: Catalog, name: str) -> Table | None:
    """Return a table as the catalog has it now; None if there is none."""
    try:
        return catalog.load_table(name)
    except NoSuchTableError:
        return None


def pin(table: Table | None, name: str, snapshot_id: int | None, offset_column: str) -> PinnedTable:
    """Read the manifests of a snapshot.

    Args:
        table: the table; None if there is none.
        name: its name.
        snapshot_id: the snapshot; None is the current one.
        offset_column: the column with the offsets of rows.

    Raises:
        UsageError: the table has no such snapshot.
        OSError: a manifest can't be read.
    """
    if table is None:
        if snapshot_id is not None:
            raise UsageError(f"--snapshot_id={snapshot_id}: there is no table {name}")
        return PinnedTable(Pinned(name))
    snapshot = _snapshot_of(table, name, snapshot_id)
    if snapshot is None:
        return PinnedTable(Pinned(name))
    foreign = _foreign_snapshots(table, name, snapshot)
    paths = _Paths(table.io)
    offset_id = _field_id(table, offset_column)
    files: dict[str, TableFile] = {}
    problems = []
    for manifest in snapshot.manifests(table.io):
        for entry in manifest.fetch_manifest_entry(table.io):
            file = entry.data_file
            uri, path = file.file_path, paths.of(file.file_path)
            if file.content is not DataFileContent.DATA:
                reason = "a delete file: another writer has deleted rows, which are counted here"
                problems.append(FileProblem(path, reason))
            elif uri in files:
                files[uri] = replace(files[uri], times=files[uri].times + 1)
            else:
                bounds = _offset_bounds(file, offset_id)
                files[uri] = TableFile(path, file.file_size_in_bytes, file.record_count, 1, bounds)
    in_order = tuple(files[uri] for uri in sorted(files))
    problems += _summary_problems(snapshot, in_order, paths.of(snapshot.manifest_list))
    pinned = Pinned(name, snapshot.snapshot_id, snapshot.timestamp_ms)
    return PinnedTable(pinned, in_order, tuple(problems), foreign)


def _snapshot_of(table: Table, name: str, snapshot_id: int | None) -> Snapshot | None:
    if snapshot_id is None:
        return table.current_snapshot()
    snapshot = table.snapshot_by_id(snapshot_id)
    if snapshot is None:
        kept = [str(known.snapshot_id) for known in table.metadata.snapshots]
        newest = f"; its newest are {', '.join(kept[-3:])}" if kept else ""
        raise UsageError(f"--snapshot_id={snapshot_id}: {name} does not keep such a one{newest}")
    return snapshot


def _foreign_snapshots(table: Table, name: str, pinned: Snapshot) -> tuple[ForeignSnapshot, ...]:
    last = pinned.sequence_number or 0
    return tuple(
        ForeignSnapshot(
            name,
            snapshot.snapshot_id,
            snapshot.summary.operation.value if snapshot.summary else "",
            _engine_of(_summary(snapshot)),
            snapshot.timestamp_ms,
        )
        for snapshot in sorted(table.metadata.snapshots, key=lambda kept: kept.sequence_number or 0)
        if (snapshot.sequence_number or 0) <= last
        and not any(key.startswith(_OURS) for key in _summary(snapshot))
    )


def _summary(snapshot: Snapshot) -> Mapping[str, str]:
    return snapshot.summary.additional_properties if snapshot.summary else {}


def _engine_of(summary: Mapping[str, str]) -> str:
    if name := summary.get(_ENGINE):
        return " ".join([name, summary.get("engine-version", "")]).strip()
    return next((engine for key, engine in _ENGINES.items() if key in summary), "")


def _summary_problems(
    snapshot: Snapshot, files: Sequence[TableFile], manifest_list: StoredPath
) -> list[FileProblem]:
    """Return where the totals of a snapshot's summary differ from its manifests."""
    summary = _summary(snapshot)
    totals = {
        "total-data-files": sum(file.times for file in files),
        "total-records": sum(file.times * file.rows for file in files),
    }
    return [
        FileProblem(manifest_list, f"its snapshot says {key} {summary[key]}, it has {total}")
        for key, total in totals.items()
        if summary.get(key, str(total)) != str(total)
    ]


def _field_id(table: Table, column: str) -> int | None:
    name = table.schema().find_column_name
    return next((key for key in table.schema().field_ids if name(key) == column), None)


def _offset_bounds(file: DataFile, field_id: int | None) -> tuple[int, int] | None:
    lower = (file.lower_bounds or {}).get(field_id) if field_id is not None else None
    upper = (file.upper_bounds or {}).get(field_id) if field_id is not None else None
    if lower is None or upper is None:
        return None
    # int and long alike: little-endian in four or eight bytes
    return int.from_bytes(lower, "little"), int.from_bytes(upper, "little")


class _Paths:
    """The files of a table as paths that the readers of files take."""

    def __init__(self, files: FileIO) -> None:
        self._files = files
        self._storages: dict[str, Storage] = {}

    def of(self, uri: str) -> StoredPath:
        """Return the path of a URI: one of the local file system, or an object."""
        if uri.startswith(_LOCAL):
            return Path(uri.removeprefix(_LOCAL))
        parts = urlsplit(uri)
        if not parts.scheme:
            return Path(uri)
        root = f"{parts.scheme}://{parts.netloc}"
        if root not in self._storages:
            # What reads an object asks for a range, the size and the name of the storage alone.
            self._storages[root] = cast("Storage", _ReadObjects(root, self._files))
        return ObjectPath(self._storages[root], uri.removeprefix(root).lstrip("/"))


class _ReadObjects:
    """What a catalog's FileIO reads, as a storage that only reads."""

    def __init__(self, url: str, files: FileIO) -> None:
        self.url = url
        self._files = files

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """As `Storage.read_range`."""
        uri = f"{self.url}/{key}"
        try:
            with self._files.new_input(uri).open() as stream:
                if start < 0:
                    start = max(0, self.stat(key).size_bytes + start)
                stream.seek(start)
                return stream.read(length)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StorageAwayError(f"{uri}: {' '.join(str(error).split())}") from error

    def stat(self, key: str) -> StoredObject:
        """As `Storage.stat`; the time is not asked for."""
        uri = f"{self.url}/{key}"
        try:
            return StoredObject(key, len(self._files.new_input(uri)), time.time())
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StorageAwayError(f"{uri}: {' '.join(str(error).split())}") from error
