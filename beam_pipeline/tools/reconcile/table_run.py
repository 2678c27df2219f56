"""Checks from the log and the tables that each record of a topic is in exactly one place.

The tables alone are read, at one snapshot each; the output directory is not listed. Of its ledger
the notes are read on what the log no longer has, and on what was left out.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

from pyiceberg.catalog import Catalog

from beam_pipeline.errors import EnvironmentFailure, PipelineError, UsageError
from beam_pipeline.files.contents import (
    LETTER_COLUMNS,
    ROW_COLUMNS,
    OriginColumns,
    UnreadableFile,
    claimed_by,
    table_file_offsets,
)
from beam_pipeline.files.footer import FileFooter
from beam_pipeline.files.names import JSON_LINES_SUFFIX, PARQUET_SUFFIX
from beam_pipeline.files.reading import read_each
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.offset_sets import OffsetSets
from beam_pipeline.settings.catalog_file import CatalogProperties
from beam_pipeline.settings.table_names import EMBEDDED_FILE, letters_name, table_directory
from beam_pipeline.storage.paths import StoredPath
from beam_pipeline.storage.protocol import StorageAwayError
from beam_pipeline.tables.connect import catalog_properties, connect, words_of
from beam_pipeline.terminal import progress_bar
from beam_pipeline.tools.reconcile.against_log import (
    compare_with_log,
    isolation_level_of,
    log_bounds,
)
from beam_pipeline.tools.reconcile.compare import ReconcileReport
from beam_pipeline.tools.reconcile.coverage import (
    Coverage,
    FileOverlap,
    FileProblem,
    find_overlaps,
    footer_mistake,
    read_coverage,
)
from beam_pipeline.tools.reconcile.ledger_notes import (
    LandedSettings,
    LedgerNotes,
    read_landed_settings,
    read_ledger_notes,
)
from beam_pipeline.tools.reconcile.run import LATE_FILE_SECONDS
from beam_pipeline.tools.reconcile.table_files import PinnedTable, TableFile, load, pin
from beam_pipeline.tools.reconcile.table_state import TableState, lag_of
from beam_pipeline.tools.reconcile.up_to import Until, UpTo

COMMIT_SECONDS = 75.0
"""How long a file may take to get into the table: `--commit_interval`, and a commit."""

_POLL_SECONDS = 1.0


class TablePlace(NamedTuple):
    """Where a table is.

    Attributes:
        name: namespace and name.
        catalog: the file of `--catalog`; None is the embedded catalog.
        rows_id: the snapshot of the rows; None is the current one.
        letters_id: that of the dead letters.
    """

    name: str
    catalog: str | None = None
    rows_id: int | None = None
    letters_id: int | None = None


def reconcile_table(
    connection: KafkaConnection,
    topics: Sequence[str],
    place: TablePlace,
    output_dir: StoredPath,
    isolation_level: str | None = None,
    *,
    accept_expired: bool = False,
    up_to: UpTo = Until.END,
) -> ReconcileReport:
    """Compare the topics' logs with a table and that of its dead letters.

    Args:
        connection: the cluster.
        topics: the input topics to compare.
        place: the table.
        output_dir: the output directory: the embedded catalog and the ledger are below it.
        isolation_level: as in `reconcile`.
        accept_expired: whether records that expired unread are accepted.
        up_to: up to where the log is compared.

    Raises:
        UsageError: there is no such table or snapshot, or the file of `--catalog` does not serve.
        EnvironmentFailure: the catalog does not answer, a topic is missing, or the cluster can't
            be read.
        StorageAwayError: an object store does not answer.
    """
    isolation_level = isolation_level_of(connection, isolation_level)
    properties = _properties(place, output_dir)
    log = log_bounds(connection, topics)
    reader = _Reader(connect(properties), properties, place, topics)
    tables = reader.read()
    notes = read_ledger_notes(output_dir)
    comparison = compare_with_log(
        connection,
        topics,
        log,
        tables,
        read_landed_settings(output_dir),
        notes,
        isolation_level=isolation_level,
        accept_expired=accept_expired,
        up_to=up_to,
    )
    rows, letters = tables.rows.pinned, tables.letters.pinned
    return ReconcileReport(
        reconciliation=comparison.reconciliation,
        overlaps=comparison.overlaps,
        problems=[*tables.rows.problems, *tables.letters.problems],
        parquet_files=len(rows.files),
        dead_letter_files=len(letters.files),
        isolation_level=isolation_level,
        up_to=comparison.part.text,
        behind=comparison.part.behind,
        strays=tables.strays(notes, comparison.overlaps),
        table=TableState(
            rows.snapshot,
            letters.snapshot,
            lag_of(log, [tables.parquet, tables.dead], notes),
            (*rows.foreign, *letters.foreign),
        ),
    )


def _properties(place: TablePlace, output_dir: StoredPath) -> CatalogProperties:
    """Return the properties of the catalog; the embedded one is not made."""
    properties = catalog_properties(place.catalog, str(output_dir))
    if place.catalog is None:
        if not isinstance(output_dir, Path):
            raise UsageError(
                f"--table={place.name} needs --catalog=FILE.yaml, since --output_dir={output_dir} "
                "is an object store"
            )
        file = table_directory(output_dir) / EMBEDDED_FILE
        if not file.exists():
            raise UsageError(
                f"--table={place.name}: there is no catalog {file}; give the --output_dir of a run "
                "with --table, or its --catalog"
            )
        properties["init_catalog_tables"] = "false"
    return properties


@dataclass
class _ReadTable:
    """A pinned table and what its files hold."""

    pinned: PinnedTable
    columns: OriginColumns
    coverage: Coverage
    problems: list[FileProblem]
    footers: Mapping[StoredPath, FileFooter]

    @property
    def paths(self) -> list[StoredPath]:
        return [file.path for file in self.pinned.files]


@dataclass
class _Reader:
    """Reads the two tables."""

    catalog: Catalog
    properties: CatalogProperties
    place: TablePlace
    topics: Sequence[str]

    def read(self, but: frozenset[StoredPath] = frozenset()) -> _Tables:
        """Pin both tables, and read the files that are not in `but`."""
        rows, letters = self.pin()
        if rows.snapshot.snapshot_id is None and letters.snapshot.snapshot_id is None:
            raise UsageError(
                f"--table={self.place.name}: the catalog has no such table with files; look at "
                "--table, --catalog and --output_dir"
            )
        return _Tables(
            self,
            self._read("Reading the table", rows, ROW_COLUMNS, but),
            self._read("Reading the table of dead letters", letters, LETTER_COLUMNS, but),
        )

    @property
    def names(self) -> tuple[str, str]:
        """The names of both tables."""
        return self.place.name, letters_name(self.place.name)

    def pin(self) -> tuple[PinnedTable, PinnedTable]:
        """Read the manifests of both tables, which were loaded one right after the other."""
        ids = (self.place.rows_id, self.place.letters_id)
        columns = (ROW_COLUMNS.offset, LETTER_COLUMNS.offset)
        with self._failures():
            tables = [load(self.catalog, name) for name in self.names]
            rows, letters = map(pin, tables, self.names, ids, columns)
        return rows, letters

    def heads(self) -> list[int | None]:
        """Return the current snapshots of both tables."""
        with self._failures():
            tables = [load(self.catalog, name) for name in self.names]
        return [table.metadata.current_snapshot_id if table else None for table in tables]

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        """Turn what pyiceberg raises into a failure of one line without secrets."""
        try:
            yield
        except (PipelineError, StorageAwayError):
            raise
        except Exception as error:
            words = words_of(error, self.properties)
            raise EnvironmentFailure(f"--table={self.place.name}: {words}") from error

    def _read(
        self,
        description: str,
        pinned: PinnedTable,
        columns: OriginColumns,
        but: frozenset[StoredPath],
    ) -> _ReadTable:
        files = [file for file in pinned.files if file.path not in but]
        judge = _Judge({file.path: file for file in files})
        paths = [file.path for file in files for _ in range(file.times)]
        with progress_bar(description, len(paths)) as progress:
            coverage, problems = read_coverage(
                paths,
                self.topics,
                progress,
                offsets_of=partial(table_file_offsets, columns=columns),
                mistake_of=judge.mistake,
            )
        problems = [*pinned.problems, *dict.fromkeys(problems), *judge.unlike_the_manifest()]
        return _ReadTable(pinned, columns, coverage, problems, judge.footers)


@dataclass
class _Judge:
    """Holds files to what manifest and footer say of them."""

    files: Mapping[StoredPath, TableFile]
    footers: dict[StoredPath, FileFooter] = field(default_factory=dict)

    def mistake(self, path: StoredPath, held: Coverage) -> str | None:
        """Return what is wrong with the rows of a file; None for nothing."""
        file = self.files[path]
        if held.records.total() != file.rows:
            return f"the manifest says {file.rows} rows, the file has {held.records.total()}"
        try:
            footer = claimed_by(path)
        except UnreadableFile as error:
            raise UnreadableFile(f"not a file of this pipeline: {error}") from None
        self.footers[path] = replace(footer, offsets={})  # memory does not grow with ranges
        return footer_mistake(footer, held) or _bounds_mistake(file, held)

    def unlike_the_manifest(self) -> list[FileProblem]:
        """Return what is wrong with the files themselves."""
        problems = []
        for path, stat in read_each(self.files, lambda path: path.stat()):
            file = self.files[path]
            if file.times > 1:
                problems.append(FileProblem(path, f"the manifests name it {file.times} times"))
            try:
                size_bytes = stat().st_size
            except FileNotFoundError:
                continue  # its rows could not be read
            if size_bytes != file.size_bytes:
                reason = f"the manifest says {file.size_bytes} bytes, the file has {size_bytes}"
                problems.append(FileProblem(path, reason))
        return problems


def _bounds_mistake(file: TableFile, held: Coverage) -> str | None:
    """Return how the offsets of the rows leave the bounds by which readers pass over a file."""
    if file.offsets is None or not held.offsets:
        return None
    first = min(offsets.min() for offsets in held.offsets.values())
    last = max(offsets.max() for offsets in held.offsets.values())
    low, high = file.offsets
    if low <= first and last <= high:
        return None
    return f"the manifest says offsets {low} to {high}, the rows have {first} to {last}"


@dataclass
class _Tables:
    """The two tables, read once."""

    reader: _Reader
    rows: _ReadTable
    letters: _ReadTable

    @property
    def parquet(self) -> Coverage:
        return self.rows.coverage

    @property
    def dead(self) -> Coverage:
        return self.letters.coverage

    @property
    def window_ends(self) -> list[datetime]:
        footers = [*self.rows.footers.values(), *self.letters.footers.values()]
        return [footer.window_end for footer in footers]

    def await_newer(self, settings: LandedSettings) -> Coverage:
        place = self.reader.place
        if place.rows_id is not None:
            return Coverage()  # what came later is not asked for
        time.sleep(settings.late_pane_seconds + LATE_FILE_SECONDS)
        before = self._ids
        until = time.monotonic() + COMMIT_SECONDS
        while time.monotonic() < until:
            if self.reader.heads() != before:
                break
            time.sleep(_POLL_SECONDS)
        newer = self.reader.read(frozenset([*self.rows.paths, *self.letters.paths]))
        coverage = newer.parquet
        coverage.merge(newer.dead)
        return coverage

    @property
    def _ids(self) -> list[int | None]:
        return [table.pinned.snapshot.snapshot_id for table in (self.rows, self.letters)]

    def overlaps(self, suspects: OffsetSets) -> list[FileOverlap]:
        overlaps = []
        for table in (self.rows, self.letters):
            with progress_bar("Finding the files at fault", len(table.paths)) as progress:
                offsets_of = partial(table_file_offsets, columns=table.columns)
                overlaps += find_overlaps(table.paths, suspects, progress, offsets_of)
        return overlaps

    def strays(self, notes: LedgerNotes, overlaps: Sequence[FileOverlap]) -> frozenset[str]:
        """Return the names of the files at fault that a worker of a dead epoch finished late."""
        names = {
            path: name
            for table, suffix in ((self.rows, PARQUET_SUFFIX), (self.letters, JSON_LINES_SUFFIX))
            for path, footer in table.footers.items()
            if (name := _output_name(footer, suffix)) is not None
        }
        return frozenset(
            overlap.path.name
            for overlap in overlaps
            if overlap.path in names and notes.is_stray(names[overlap.path])
        )


def _output_name(footer: FileFooter, suffix: str) -> str | None:
    """Return the name of the output file that a footer describes; None if no file has it."""
    try:
        return footer.output_file(suffix).name
    except ValueError:
        return None
