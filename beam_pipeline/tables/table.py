"""One Iceberg table of landed files: it is made, read, and changed by guarded commits."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import (
    CommitFailedException,
    NamespaceAlreadyExistsError,
    NoSuchTableError,
    TableAlreadyExistsError,
    ValidationError,
    ValidationException,
)
from pyiceberg.io import FileIO
from pyiceberg.manifest import DataFile, ManifestFile
from pyiceberg.table import Table, Transaction
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.snapshots import Snapshot
from pyiceberg.transforms import DayTransform
from pyiceberg.types import TimestamptzType

from beam_pipeline.covered_offsets import CoveredOffsets
from beam_pipeline.errors import EnvironmentFailure, UsageError
from beam_pipeline.files.footer import FileFooter, FooterError, footer_of
from beam_pipeline.files.names import PARQUET_SUFFIX, OutputFile
from beam_pipeline.tables.landed import held_file
from beam_pipeline.tables.plan import HeldFiles, LandedFile, Plan
from beam_pipeline.tables.pyiceberg_internals import (
    data_file_of,
    expire_in,
    guarded_append,
    guarded_overwrite,
    has_deletes,
    metadata_of,
    partition_of,
    referenced_files,
)
from beam_pipeline.tables.rewriting import (
    ORIGIN_OF_ROWS,
    OriginColumns,
    Rewrite,
    finished,
    rewrite,
)
from beam_pipeline.tables.upkeep import (
    GRACE_SECONDS,
    StoredFile,
    sweep,
    unused_files,
    write_hint,
)

FORMAT = "1"
"""The version of what is written into summaries."""

SUMMARY = "beam-pipeline"
KEPT_SNAPSHOTS = 50
"""Each is in every metadata file: a commit takes 1 ms of CPU more for each."""

KEPT_SECONDS = 5 * 86_400

_PROPERTIES = {
    "format-version": "2",
    "commit.manifest-merge.enabled": "true",
    "commit.manifest.min-count-to-merge": "20",
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "20",
    # Compaction replaces files by others with the same rows while appends come.
    "write.delete.isolation-level": "snapshot",
    "write.update.isolation-level": "snapshot",
    "write.merge.isolation-level": "snapshot",
    # Other engines' expire_snapshots and remove_orphan_files would delete files that are not ours.
    "gc.enabled": "false",
}


class PlanAgainError(Exception):
    """The commit did not land, or nobody knows: the table has to be read and planned again."""


class UnfitFileError(Exception):
    """A file can't be in the table: a column has another type, or its rows several partitions."""

    def __init__(self, file: LandedFile, reason: str) -> None:
        super().__init__(reason)
        self.file = file


@dataclass
class LandedTable:
    """A table in a catalog that holds landed files.

    Args:
        catalog: the catalog.
        name: namespace and name.
        suffix: the end of the names of the files that landed.
        partition_column: the column whose days partition the table if it is made.
        location: where it is made; None leaves that to the catalog.
        links: the URI of the directory with files of this table beside its own location.
        root: the URI of the place where its files land.
        origin: the columns that tell where its rows are from.
        adds_files: whether files that landed are added, and so the partitions must be those of the
            run.
    """

    catalog: Catalog
    name: str
    suffix: str = PARQUET_SUFFIX
    origin: OriginColumns = ORIGIN_OF_ROWS
    adds_files: bool = True
    partition_column: str | None = None
    location: str | None = None
    links: str | None = None
    root: str | None = None
    table: Table | None = None
    held: HeldFiles = field(default_factory=HeldFiles)
    _head: int | None = None
    _manifests: dict[str, list[str]] = field(default_factory=dict)
    _schemas: set[tuple[int, bytes]] = field(default_factory=set)

    def read(self) -> None:
        """Read the newest snapshot; its manifests only where it is not this object's own.

        Raises:
            UsageError: the table is partitioned in another way than this run can fill.
        """
        if self.table is None:
            try:
                self.table = self.catalog.load_table(self.name)
            except NoSuchTableError:
                return
            self._check(self.table)
        else:
            self.table.refresh()
        snapshot = self.table.current_snapshot()
        head = snapshot.snapshot_id if snapshot else None
        if head != self._head:
            self._read_head(self.table.io, snapshot)
            self._head = head

    @property
    def snapshot_id(self) -> int | None:
        """The newest snapshot as `read` or `commit` saw it."""
        return self._head

    @property
    def io(self) -> FileIO:
        """What reads and writes the table's files.

        Raises:
            ValueError: there is no table.
        """
        return self._existing.io

    @property
    def _existing(self) -> Table:
        if self.table is None:
            raise ValueError(f"{self.name} does not exist")
        return self.table

    def _read_head(self, files: FileIO, snapshot: Snapshot | None) -> None:
        manifests = snapshot.manifests(files) if snapshot else []
        self._manifests = {
            manifest.manifest_path: self._manifests.get(manifest.manifest_path)
            or _paths_in(manifest, files)
            for manifest in manifests
        }
        held = HeldFiles()
        for paths in self._manifests.values():
            for path in paths:
                known = self.held.files.get(path)
                if known is None:
                    footer = _footer_in(path, files)
                    if footer is None:  # another writer's: it has no offsets of this pipeline
                        continue
                    known = held_file(footer, self.suffix)
                held.add(path, known)
        self.held = held

    def check_history(self) -> None:
        """Check that no other writer has removed files, as `read` saw the table.

        Rows of removed files may be in files without a footer of this pipeline, or were deleted. So
        it can't be told by offsets any more what is in the table, and records would come twice.

        Raises:
            UsageError: one has, in a snapshot that the newest one comes from.
        """
        if self.table is None:
            return
        snapshot = self.table.current_snapshot()
        while snapshot is not None:
            if is_foreign(snapshot) and _removes_files(snapshot):
                raise UsageError(
                    f"--table={self.name}: another writer has removed files in snapshot "
                    f"{snapshot.snapshot_id}, so nothing is added any more; roll it back to "
                    f"snapshot {snapshot.parent_snapshot_id}, or give another --table"
                )
            parent = snapshot.parent_snapshot_id
            snapshot = None if parent is None else self.table.snapshot_by_id(parent)

    def _check(self, table: Table) -> None:
        location = f"{table.location().rstrip('/')}/"
        if self.root is not None and f"{self.root}/".startswith(location):
            raise UsageError(
                f"--table={self.name} has its own files in {location}, and removes what no "
                f"snapshot has there; {self.root} can't be below it. Give another --table, or "
                "another place to land in"
            )
        for partition in table.spec().fields if self.adds_files else ():
            column = table.schema().find_column_name(partition.source_id)
            if column != self.partition_column:
                raise UsageError(
                    f"--table={self.name} has partitions of {column} ({partition.transform}), and "
                    "the windows of this run don't keep to them; give another --table, or the "
                    "--window_by, --window_seconds and --null_values that the table was made with"
                )

    def make(self, schema: pa.Schema) -> None:
        """Make the table unless there is one.

        Raises:
            EnvironmentFailure: a column has a type that Iceberg does not have.
        """
        if self.table is not None:
            return
        self._make_namespace()
        try:
            transaction = self.catalog.create_table_transaction(
                self.name, schema, location=self.location, properties=_PROPERTIES
            )
            with transaction:
                self._partition(transaction)
                mapping = metadata_of(transaction).schema().name_mapping.model_dump_json()
                transaction.set_properties({"schema.name-mapping.default": mapping})
        except (TableAlreadyExistsError, CommitFailedException):
            pass
        except (TypeError, ValueError) as error:
            raise EnvironmentFailure(
                f"--table={self.name}: the files have a column that Iceberg can't hold: {error}"
            ) from None
        self.table = self.catalog.load_table(self.name)
        self._check(self.table)

    def _make_namespace(self) -> None:
        namespace = self.name.rpartition(".")[0]
        try:
            self.catalog.create_namespace(namespace)
        except NamespaceAlreadyExistsError:
            pass
        except Exception:
            # An SQL catalog looks before it inserts; another committer may insert in between.
            if not self.catalog.namespace_exists(namespace):
                raise

    def _partition(self, transaction: Transaction) -> None:
        column = self.partition_column
        if column is None:
            return
        if not isinstance(
            metadata_of(transaction).schema().find_field(column).field_type, TimestamptzType
        ):
            self.partition_column = None
            return
        with transaction.update_spec() as spec:
            spec.add_field(column, DayTransform(), f"{column.replace('.', '_')}_day")

    @property
    def data_location(self) -> str:
        """The URI below which files of the table's own may be written."""
        return f"{self._existing.location().rstrip('/')}/data"

    @property
    def spec_id(self) -> int:
        """The id of how the table is partitioned now."""
        return self._existing.spec().spec_id

    def data_files(self) -> dict[str, tuple[DataFile, tuple[object, ...]]]:
        """Return the data files of the newest snapshot by path, with their partitions."""
        snapshot = self._existing.current_snapshot()
        if snapshot is None:
            return {}
        return {
            path: (data_file, partition_of(data_file))
            for path, data_file in referenced_files(snapshot, self.io).items()
        }

    def has_deletes(self) -> bool:
        """Whether another writer has deleted rows, which files that are written anew would have."""
        snapshot = self._existing.current_snapshot()
        return snapshot is not None and has_deletes(snapshot, self.io)

    def rewrite_of(
        self, sources: Sequence[str], target: OutputFile, keep: CoveredOffsets
    ) -> Rewrite:
        """Describe a file that is made of files of this table."""
        directory = self.links or self.data_location
        return Rewrite(sources, target, keep, directory, self.origin)

    def rest_of(self, path: str, keep: CoveredOffsets) -> LandedFile:
        """Write a file with the rows of one of this table that have some offsets.

        Raises:
            EnvironmentFailure, OSError: it can't be read, or the other one can't be written.
        """
        held = self.held.files[path]
        target = OutputFile.parse(held.name)
        assert target is not None
        if self.has_deletes():
            raise EnvironmentFailure(
                f"--table={self.name}: another writer has deleted rows of it, and a file has rows "
                "that landed twice; rewrite the table's data files there first"
            )
        return finished(rewrite(self.rewrite_of([path], target, keep), self.io))

    def replace(self, gone: Sequence[str], come: Sequence[LandedFile]) -> int:
        """Replace files by others with the same rows, as one snapshot; return their size in bytes.

        Appends may come in between.

        Raises:
            PlanAgainError: a file is gone, or the outcome is not known.
        """
        table = self._existing
        head = self._head
        summary = {
            f"{SUMMARY}.version": FORMAT,
            f"{SUMMARY}.compacted-files": str(len(gone)),
            f"{SUMMARY}.merged-files": str(len(come)),
        }
        drop = self._data_files(gone)
        try:
            transaction = table.transaction()
            producer = guarded_overwrite(transaction, summary, same_rows=True)
            metadata = metadata_of(transaction)
            added = [self._data_file(metadata, file) for file in come]
            for data_file in added:
                producer.append_data_file(data_file)
            for data_file in drop:
                producer.delete_data_file(data_file)
            producer.commit()
            transaction.commit_transaction()
        except (CommitFailedException, ValidationException, UnfitFileError) as error:
            raise PlanAgainError(" ".join(str(error).split())) from error
        snapshot = table.current_snapshot()
        if snapshot is not None and snapshot.parent_snapshot_id == head:
            self._note(gone, come)
        with contextlib.suppress(OSError):  # the next commit writes it
            write_hint(table)
        return sum(data_file.file_size_in_bytes for data_file in added)

    def commit(self, plan: Plan, files: Sequence[LandedFile]) -> None:
        """Commit a plan as one snapshot: new columns, the files, and the end of old snapshots.

        Args:
            plan: what to drop; what it adds are `files`.
            files: the files to add, with the paths that the table references, and the rests of
                those that are cut.

        Raises:
            PlanAgainError: the head has moved, or the outcome is not known.
            UnfitFileError: a file does not fit the table.
        """
        table = self._existing
        summary = summary_of(files, plan)
        drop = self._data_files(plan.gone)
        try:
            transaction = table.transaction()
            self._add_columns(transaction, files)
            producer = (
                guarded_overwrite(transaction, summary)
                if drop
                else guarded_append(transaction, summary)
            )
            metadata = metadata_of(transaction)
            for file in files:
                producer.append_data_file(self._data_file(metadata, file))
            for data_file in drop:
                producer.delete_data_file(data_file)
            producer.commit()
            expire_in(transaction, expired_snapshots(table, time.time()))
            transaction.commit_transaction()
        # ValueError: another process has expired a snapshot that this commit expires.
        except (CommitFailedException, ValidationException, ValueError) as error:
            raise PlanAgainError(" ".join(str(error).split())) from error
        self._note(plan.gone, files)
        with contextlib.suppress(OSError):  # the next commit writes it
            write_hint(table)

    def expire(self, kept: int, kept_seconds: float) -> int:
        """Expire the snapshots beyond the newest `kept` and those that are older; return how many.

        Raises:
            PlanAgainError: another commit came first.
        """
        self.read()
        if self.table is None:
            return 0
        expired = self.expirable(kept, kept_seconds)
        if expired:
            try:
                with self.table.transaction() as transaction:
                    expire_in(transaction, expired)
            except (CommitFailedException, ValueError) as error:  # one has expired meanwhile
                raise PlanAgainError(" ".join(str(error).split())) from error
            with contextlib.suppress(OSError):
                write_hint(self.table)
        return len(expired)

    def expirable(self, kept: int, kept_seconds: float) -> list[int]:
        """Return the snapshots that `expire` would expire, as `read` saw them."""
        return expired_snapshots(self._existing, time.time(), kept + 1, kept_seconds)

    def sweep(self, grace_seconds: float = GRACE_SECONDS) -> int:
        """Remove files that no snapshot has and that are older; return how many.

        Raises:
            OSError: the files can't be listed or removed.
        """
        if self.table is None:
            return 0
        return sweep(self.table, *self._own_directories, grace_seconds=grace_seconds)

    def unused_files(self, grace_seconds: float = GRACE_SECONDS) -> list[StoredFile]:
        """Return the files that `sweep` would remove.

        Raises:
            OSError: the files can't be listed.
        """
        if self.table is None:
            return []
        return unused_files(self.table, *self._own_directories, grace_seconds=grace_seconds)

    @property
    def _own_directories(self) -> Sequence[str]:
        return [self.links] if self.links else []

    def _note(self, gone: Sequence[str], files: Sequence[LandedFile]) -> None:
        """Keep what the new head has, so that its manifests need not be read."""
        snapshot = self._existing.current_snapshot()
        if snapshot is None or snapshot.summary is None:
            return
        self.held = self.held.without(gone)
        for file in files:
            self.held.add(file.uri, file.held)
        self._head = snapshot.snapshot_id

    def _add_columns(self, transaction: Transaction, files: Sequence[LandedFile]) -> None:
        schema_id = metadata_of(transaction).current_schema_id
        self._schemas = {key for key in self._schemas if key[0] == schema_id}
        for file in files:
            schema = _schema_of(file.uri, self.io)
            key = schema_id, schema.serialize().to_pybytes()
            if key in self._schemas:
                continue
            try:
                update = transaction.update_schema()
                update.union_by_name(schema)
                update.commit()
            except (TypeError, ValueError, ValidationError) as error:
                reason = " ".join(str(error).split())
                raise UnfitFileError(
                    file, f"the columns of {file.name} don't fit the table: {reason}"
                ) from None
            if metadata_of(transaction).current_schema_id == schema_id:
                self._schemas.add(key)

    def _data_file(self, metadata: TableMetadata, file: LandedFile) -> DataFile:
        try:
            return data_file_of(self.io, metadata, file.uri)
        except ValueError as error:
            reason = " ".join(str(error).split())
            raise UnfitFileError(file, f"{file.name} does not fit the table: {reason}") from None

    def _data_files(self, paths: Iterable[str]) -> list[DataFile]:
        wanted = set(paths)
        if not wanted:
            return []
        table = self._existing
        snapshot = table.current_snapshot()
        manifests = snapshot.manifests(table.io) if snapshot else []
        found = [
            entry.data_file
            for manifest in manifests
            for entry in manifest.fetch_manifest_entry(table.io)
            if entry.data_file.file_path in wanted
        ]
        if len(found) != len(wanted):
            raise PlanAgainError("a file to drop is gone")
        return found


def is_foreign(snapshot: Snapshot) -> bool:
    """Return whether another writer has made a snapshot."""
    return f"{SUMMARY}.version" not in _summary_of(snapshot)


def _removes_files(snapshot: Snapshot) -> bool:
    return int(_summary_of(snapshot).get("deleted-data-files", 0)) > 0


def _summary_of(snapshot: Snapshot) -> Mapping[str, str]:
    return snapshot.summary.additional_properties if snapshot.summary else {}


def _paths_in(manifest: ManifestFile, files: FileIO) -> list[str]:
    return [entry.data_file.file_path for entry in manifest.fetch_manifest_entry(files)]


def _footer_in(path: str, files: FileIO) -> FileFooter | None:
    with files.new_input(path).open() as stream:
        metadata: Mapping[bytes, bytes] = pq.read_metadata(stream).metadata or {}
    try:
        return footer_of(metadata)
    except FooterError:
        return None


def _schema_of(path: str, files: FileIO) -> pa.Schema:
    with files.new_input(path).open() as stream:
        return pq.read_schema(stream).remove_metadata()


def expired_snapshots(
    table: Table,
    now_s: float,
    kept: int = KEPT_SNAPSHOTS,
    kept_seconds: float = KEPT_SECONDS,
) -> list[int]:
    """Return the snapshots beyond the newest `kept`, and those older than `kept_seconds`.

    Heads of branches and tagged snapshots stay.
    """
    protected = {ref.snapshot_id for ref in table.metadata.refs.values()}
    newest_first = sorted(
        table.metadata.snapshots, key=lambda snapshot: snapshot.sequence_number or 0, reverse=True
    )
    oldest_ms = (now_s - kept_seconds) * 1000
    return [
        snapshot.snapshot_id
        for position, snapshot in enumerate(newest_first)
        if (position >= kept - 1 or snapshot.timestamp_ms < oldest_ms)
        and snapshot.snapshot_id not in protected
    ]


def summary_of(files: Sequence[LandedFile], plan: Plan) -> dict[str, str]:
    """Return what a snapshot says of the files that it adds, and of those that the table loses.

    `beam-pipeline.offsets` is JSON: topic to partition to first offset, last offset, and how many
    records the new files have of it.
    """
    covered = CoveredOffsets()
    for file in files:
        covered.update(file.covered)
    offsets: dict[str, dict[str, list[int]]] = {}
    for key in covered.partitions():
        of_partition = covered.of(key)
        offsets.setdefault(key.topic, {})[str(key.partition)] = [
            of_partition.min(),
            of_partition.max(),
            len(of_partition),
        ]
    summary = {
        f"{SUMMARY}.version": FORMAT,
        f"{SUMMARY}.epoch": ",".join(sorted({file.epoch for file in files})),
        f"{SUMMARY}.offsets": orjson.dumps(offsets).decode(),
    }
    if files:
        summary[f"{SUMMARY}.window-start"] = min(file.window[0] for file in files).isoformat()
        summary[f"{SUMMARY}.window-end"] = max(file.window[1] for file in files).isoformat()
    if plan.drop:
        summary[f"{SUMMARY}.dropped-files"] = str(len(plan.drop))
    if plan.cut:
        summary[f"{SUMMARY}.cut-files"] = str(len(plan.cut))
    return summary
