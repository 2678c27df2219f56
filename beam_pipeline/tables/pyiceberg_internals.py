"""The private names of pyiceberg that exactly-once commits need, in one place.

pyiceberg is pinned to one version, and `test_pyiceberg_internals.py` fails when a name moves.

Two defaults of pyiceberg 0.12 are changed here. A commit that meets another one is rebuilt on the
new head and committed again, without a look whether the new head has the same files: they are in
the table twice. And a commit that was refused deletes its manifests, also where it had landed and
only its answer said otherwise: the table can't be read any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from pyiceberg.exceptions import ValidationException
from pyiceberg.io.pyarrow import parquet_file_to_data_file
from pyiceberg.manifest import DataFile, ManifestContent
from pyiceberg.table import Table, Transaction
from pyiceberg.table.snapshots import Operation, Snapshot
from pyiceberg.table.update.snapshot import ExpireSnapshots, _MergeAppendFiles, _OverwriteFiles

if TYPE_CHECKING:
    from pyiceberg.io import FileIO
    from pyiceberg.table.metadata import TableMetadata


class HeadMovedError(ValidationException):
    """Another commit came first; what this one planned must be planned again on the new head."""


class GuardedAppend(_MergeAppendFiles):
    """An append that lands on the head it was planned on, or not at all; it deletes nothing.

    A commit that had landed, and whose answer said otherwise, is recognised by its snapshot id
    before this is asked (`Transaction.commit_transaction`).
    """

    def _validate_concurrency(self) -> None:
        _refuse_new_head(self)

    def _cleanup_uncommitted(self) -> None:
        """Leave what may be in use; `tables.sweep` takes it once no snapshot has it."""

    def _clean_all_uncommitted(self) -> None:
        """Leave what may be in use; `tables.sweep` takes it once no snapshot has it."""


class GuardedOverwrite(_OverwriteFiles):
    """A replacement of files that lands on the head it was planned on, or not at all."""

    def _validate_concurrency(self) -> None:
        _refuse_new_head(self)

    def _cleanup_uncommitted(self) -> None:
        """As in `GuardedAppend`."""

    def _clean_all_uncommitted(self) -> None:
        """As in `GuardedAppend`."""


class RewriteOfRows(_OverwriteFiles):
    """A replacement of files by others with the same rows; appends may come in between.

    The table needs `write.delete.isolation-level=snapshot`. It is refused if a file that it
    replaces is gone, or one that it adds is there.
    """

    def _validate_concurrency(self) -> None:
        super()._validate_concurrency()
        head = self._commit_window.head if self._commit_window else None
        added = {file.file_path for file in self._added_data_files}
        if head is not None and added & referenced_paths(head, self._io):
            raise HeadMovedError("a file that is added is in the table already")

    def _cleanup_uncommitted(self) -> None:
        """As in `GuardedAppend`."""

    def _clean_all_uncommitted(self) -> None:
        """As in `GuardedAppend`."""


def _refuse_new_head(producer: GuardedAppend | GuardedOverwrite) -> None:
    window = producer._commit_window
    if window is not None and not window.is_empty():
        raise HeadMovedError("the table has a snapshot that this commit was not planned on")


def guarded_append(transaction: Transaction, properties: Mapping[str, str]) -> GuardedAppend:
    """Return an append as part of a transaction; `properties` go into the snapshot's summary."""
    return GuardedAppend(
        operation=Operation.APPEND,
        transaction=transaction,
        io=transaction._table.io,
        snapshot_properties=dict(properties),
    )


def guarded_overwrite(
    transaction: Transaction, properties: Mapping[str, str], *, same_rows: bool = False
) -> GuardedOverwrite | RewriteOfRows:
    """Return a replacement of files as part of a transaction.

    Args:
        transaction: the transaction.
        properties: go into the snapshot's summary.
        same_rows: whether the files that are added hold the rows of those that are deleted.
    """
    kind = RewriteOfRows if same_rows else GuardedOverwrite
    return kind(
        operation=Operation.OVERWRITE,
        transaction=transaction,
        io=transaction._table.io,
        snapshot_properties=dict(properties),
    )


def expire_in(transaction: Transaction, snapshot_ids: Iterable[int]) -> None:
    """Expire snapshots as part of a transaction."""
    ids = list(snapshot_ids)
    if ids:
        ExpireSnapshots(transaction).by_ids(ids).commit()


def data_file_of(io: FileIO, metadata: TableMetadata, path: str) -> DataFile:
    """Return the entry of a Parquet file with the statistics of its footer.

    Raises:
        ValueError: its columns don't fit the table, or its rows are in several partitions.
        OSError: it can't be read.
    """
    return parquet_file_to_data_file(io, metadata, path)


def referenced_files(snapshot: Snapshot, io: FileIO) -> dict[str, DataFile]:
    """Return the data files of a snapshot by their paths; each manifest is read."""
    return {
        entry.data_file.file_path: entry.data_file
        for manifest in snapshot.manifests(io)
        for entry in manifest.fetch_manifest_entry(io)
    }


def paths_by_manifest(snapshots: Iterable[Snapshot], io: FileIO) -> dict[str, set[str]]:
    """Return the paths of the data files of snapshots, by manifest; each is read once."""
    paths: dict[str, set[str]] = {}
    for snapshot in snapshots:
        for manifest in snapshot.manifests(io):
            if manifest.manifest_path not in paths:
                entries = manifest.fetch_manifest_entry(io)
                paths[manifest.manifest_path] = {entry.data_file.file_path for entry in entries}
    return paths


def referenced_paths(snapshot: Snapshot, io: FileIO) -> set[str]:
    """Return the paths of a snapshot's data files."""
    return set(referenced_files(snapshot, io))


def partition_of(data_file: DataFile) -> tuple[object, ...]:
    """Return the values of a data file's partition, with the id of their spec."""
    record = data_file.partition
    return (data_file.spec_id, *(record[position] for position in range(len(record))))


def has_deletes(snapshot: Snapshot, io: FileIO) -> bool:
    """Return whether another writer has deleted rows of a snapshot without writing files anew."""
    return any(manifest.content is ManifestContent.DELETES for manifest in snapshot.manifests(io))


def metadata_of(transaction: Transaction) -> TableMetadata:
    """Return the table's metadata as the transaction leaves it; each call copies all of it."""
    return transaction.table_metadata


def fresh(table: Table) -> Table:
    """Return the table as the catalog has it now."""
    return table.catalog.load_table(table.name())
