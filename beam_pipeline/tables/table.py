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
from beam_pipeline.files.names import PARQUET_SUFFIX
from beam_pipeline.tables.landed import held_file
from beam_pipeline.tables.plan import HeldFiles, LandedFile, Plan
from beam_pipeline.tables.pyiceberg_internals import (
    data_file_of,
    expire_in,
    guarded_append,
    guarded_overwrite,
    metadata_of,
)
from beam_pipeline.tables.upkeep import sweep, write_hint

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
    """

    catalog: Catalog
    name: str
    suffix: str = PARQUET_SUFFIX
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

    def _check(self, table: Table) -> None:
        location = f"{table.location().rstrip('/')}/"
        if self.root is not None and f"{self.root}/".startswith(location):
            raise UsageError(
                f"--table={self.name} has its own files in {location}, and removes what no "
                f"snapshot has there; {self.root} can't be below it. Give another --table, or "
                "another place to land in"
            )
        for partition in table.spec().fields:
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

    def commit(self, plan: Plan, files: Sequence[LandedFile]) -> None:
        """Commit a plan as one snapshot: new columns, the files, and the end of old snapshots.

        Args:
            plan: what to drop; what it adds are `files`.
            files: the files to add, with the paths that the table references.

        Raises:
            PlanAgainError: the head has moved, or the outcome is not known.
            UnfitFileError: a file does not fit the table.
        """
        table = self._existing
        summary = summary_of(files, plan.drop)
        drop = self._data_files(plan.drop)
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
        except (CommitFailedException, ValidationException) as error:
            raise PlanAgainError(" ".join(str(error).split())) from error
        self._note(plan, files)
        with contextlib.suppress(OSError):  # the next commit writes it
            write_hint(table)

    def sweep(self) -> int:
        """Remove old files that no snapshot has; return how many.

        Raises:
            OSError: the files can't be listed or removed.
        """
        if self.table is None:
            return 0
        return sweep(self.table, *([self.links] if self.links else []))

    def _note(self, plan: Plan, files: Sequence[LandedFile]) -> None:
        """Keep what the new head has, so that its manifests need not be read."""
        snapshot = self._existing.current_snapshot()
        if snapshot is None or snapshot.summary is None:
            return
        self.held = self.held.without(plan.drop)
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


def summary_of(files: Sequence[LandedFile], drop: Sequence[str]) -> dict[str, str]:
    """Return what a snapshot says of its files.

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
    if drop:
        summary[f"{SUMMARY}.dropped-files"] = str(len(drop))
    return summary
