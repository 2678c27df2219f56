"""The committer: puts what has landed and is not in the tables yet into them, again and again.

It keeps no state of its own. The directory says what has landed, the catalog what is in the table.
So it may be killed at any time.
"""

from __future__ import annotations

import contextlib
import logging
import time
import traceback
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa

from beam_pipeline.covered_offsets import CoveredOffsets
from beam_pipeline.errors import EnvironmentFailure, PipelineError, UsageError
from beam_pipeline.files.footer import read_metadata
from beam_pipeline.files.ledger import Ledger
from beam_pipeline.files.names import JSON_LINES_SUFFIX
from beam_pipeline.settings.table import TableJob, TableProgress
from beam_pipeline.settings.table_names import table_directory
from beam_pipeline.storage.config import read_storage_config
from beam_pipeline.storage.durable import make_directory
from beam_pipeline.storage.paths import StoredPath
from beam_pipeline.storage.urls import stored_path
from beam_pipeline.tables.catalogs import open_catalog, properties_of
from beam_pipeline.tables.compaction import Compacted, automatic_rules, compact_once
from beam_pipeline.tables.connect import without_secrets, words_of
from beam_pipeline.tables.landed import (
    Landed,
    landed_letters,
    ledger_reader,
    linked_rows,
    stored_rows,
)
from beam_pipeline.tables.letters import LETTERS_SCHEMA, describe_letters, write_letters
from beam_pipeline.tables.plan import LandedFile, StraddledListingError, plan
from beam_pipeline.tables.rewriting import ORIGIN_OF_LETTERS
from beam_pipeline.tables.table import LandedTable, PlanAgainError, UnfitFileError

MAX_FILES = 1_000
"""How many files a commit adds at most."""

MERGED_AFTER = 8
"""After how many added files the committer looks for small ones to merge."""

MAX_TRIES = 5
SWEEP_SECONDS = 3600.0
_PAUSE_SECONDS = 0.2

_log = logging.getLogger(__name__)


class UnfitFilesError(EnvironmentFailure):
    """Files can't be in the table, now or later; all others are."""


@dataclass
class Published:
    """A table and the files that are to be in it.

    Args:
        table: the table.
        landed: the files.
        schema_of: returns the columns of a landed file, for a table that is made.
        other: the table of the run's other records.

    Attributes:
        waits_for_other: whether the last commit left out files with records that the other table
            still has, in a stray.
    """

    table: LandedTable
    landed: Landed
    schema_of: Callable[[LandedFile], pa.Schema]
    other: Published | None = None
    waits_for_other: bool = False
    _unfit: dict[str, str] = field(default_factory=dict)
    _unmerged: set[str] = field(default_factory=set)
    _added: int = MERGED_AFTER

    def publish(self, on_commit: Callable[[list[LandedFile]], None]) -> None:
        """Commit until every landed file that fits is in the table.

        Args:
            on_commit: called after each commit with the files that it added.

        Raises:
            UnfitFilesError: a file does not fit; all others are in the table.
            StraddledListingError, PlanAgainError: the last of several tries failed.
            PipelineError, OSError: something does not serve or does not answer.
        """
        tries = 0
        self._unfit.clear()
        while True:
            try:
                if not self._commit_once(on_commit):
                    break
                tries = 0
            except UnfitFileError as error:
                self._unfit[error.file.name] = str(error)
            except (StraddledListingError, PlanAgainError) as error:
                tries += 1
                if tries == MAX_TRIES:
                    raise
                _log.info("planned again: %s", error)
                time.sleep(_PAUSE_SECONDS)
        if self._unfit:
            first = next(iter(self._unfit.values()))
            more = f" (and {len(self._unfit) - 1} files more)" if len(self._unfit) > 1 else ""
            raise UnfitFilesError(
                f"--table={self.table.name}: {first}{more}; give another --table for such files"
            )

    def waiting(self) -> int:
        """Return how many landed files are not in the table.

        Raises:
            PipelineError, OSError: something does not serve or does not answer.
        """
        held = self.table.held
        return sum(
            file.uri not in held.files and not held.covered.includes(file.covered)
            for file in self.landed.look()
        )

    def compact(self, on_merge: Callable[[Compacted], None]) -> Generator[None, None, None]:
        """Merge small files if enough were added since the last time; yield after each row group.

        At most one snapshot is made.

        Args:
            on_merge: called with what was merged, if anything was.

        Raises:
            PlanAgainError: another commit came first.
            PipelineError, OSError: something does not serve or does not answer.
        """
        if self._added < MERGED_AFTER:
            return
        self._added = 0
        done = yield from compact_once(self.table, self.landed, automatic_rules(), self._unmerged)
        self._unmerged.update(done.left_alone)
        if done.snapshots:
            self._added = MERGED_AFTER  # there may be more
            on_merge(done)

    def stray_offsets(self, counted: Ledger) -> CoveredOffsets:
        """Return the offsets of the strays that the table has now.

        Args:
            counted: what the present epoch counts.

        Raises:
            PipelineError, OSError: something does not serve or does not answer.
        """
        self.table.read()
        offsets = CoveredOffsets()
        for again in self.landed.strays(self.table.held.files, counted).values():
            offsets.update(again)
        return offsets

    def _commit_once(self, on_commit: Callable[[list[LandedFile]], None]) -> bool:
        """Make one commit; return whether there was something to commit."""
        self.table.read()
        self.table.check_history()
        landed = [file for file in self.landed.look() if file.name not in self._unfit]
        held = self.table.held
        strays = self.landed.strays(held.files)
        elsewhere: list[LandedFile] = []
        if self.other is not None:
            # A record may come again as one of the other table, as with another schema.
            in_strays = self.other.stray_offsets(self.landed.counted)
            free = [file for file in landed if not file.covered.overlaps(in_strays)]
            self.waits_for_other = len(free) < len(landed)
            landed = free
            elsewhere = self.other.landed.look() if strays else []
        next_plan = plan(landed, held, strays, MAX_FILES, elsewhere, in_place=self.landed.in_place)
        if next_plan.is_empty:
            return False
        if next_plan.add:
            self.table.make(self.schema_of(next_plan.add[0]))
        files = self.landed.materialized(next_plan.add)
        rests = [self.table.rest_of(path, rest) for path, rest in next_plan.cut.items()]
        self.table.commit(next_plan, [*files, *rests])
        self._added += len(files)
        on_commit(files)
        return True


@dataclass
class Committer:
    """The two tables of a run: its rows, and its dead letters.

    Attributes:
        job: what it is told.
        progress: what it tells.
        needs_user: whether the last round failed for what another round would not change.
    """

    job: TableJob
    progress: TableProgress = field(default_factory=TableProgress)
    needs_user: bool = False
    _tables: tuple[Published, Published] | None = None
    _next_sweep: float = 0.0

    def round(self) -> bool:
        """Put everything that has landed into the tables; return whether that was done.

        What goes wrong is in `progress.failure`, in one line.
        """
        self.needs_user = False
        began_at = time.time()
        try:
            rows, letters = self.tables
            try:
                letters.publish(self._note_letters)
            finally:
                rows.publish(self._note_rows)
            for published, note in ((letters, self._note_letters), (rows, self._note_rows)):
                if published.waits_for_other:
                    published.publish(note)
        except Exception as error:
            self._fail(error)
            return False
        self._keep_up(rows, letters)
        self.progress = replace(
            self.progress,
            snapshot_id=rows.table.snapshot_id,
            current_at=began_at,
            failure="",
            waiting_files=0,
            waiting_since=0.0,
        )
        return True

    def compaction(self) -> Generator[None, None, None]:
        """Merge small files of the tables, one snapshot of each at most; yield now and then.

        What fails is tried again after later commits. Closing the iterator ends it early.
        """
        if self._tables is None:
            return
        for published in self._tables:
            try:
                yield from published.compact(self._note_merge)
            except Exception as error:
                _log.warning("%s: not compacted: %s", published.table.name, self._words_of(error))

    def _note_merge(self, done: Compacted) -> None:
        progress = self.progress
        _log.info("merged %d files into %d", done.files_before, done.files_after)
        self.progress = replace(
            progress,
            compactions=progress.compactions + done.snapshots,
            merged_files=progress.merged_files + done.files_before,
        )

    def _words_of(self, error: Exception) -> str:
        properties: Mapping[str, str] = {}
        with contextlib.suppress(PipelineError):
            properties = properties_of(self.job)
        return without_secrets("".join(traceback.format_exception(error)), properties)

    def _keep_up(self, *tables: Published) -> None:
        """Sweep once an hour; what fails is tried again."""
        now = time.monotonic()
        if now < self._next_sweep:
            return
        self._next_sweep = now + SWEEP_SECONDS
        for published in tables:
            with contextlib.suppress(Exception):
                if swept := published.table.sweep():
                    _log.info("swept %d files of %s", swept, published.table.name)

    def _fail(self, error: Exception) -> None:
        properties: Mapping[str, str] = {}
        with contextlib.suppress(PipelineError):
            properties = properties_of(self.job)
        self.needs_user = isinstance(error, UsageError | UnfitFilesError)
        _log.warning("no commit: %s", self._words_of(error))
        waiting = 0
        if self._tables is not None:
            with contextlib.suppress(Exception):
                waiting = sum(published.waiting() for published in self._tables)
        self.progress = replace(
            self.progress,
            failure=str(error) if isinstance(error, PipelineError) else words_of(error, properties),
            failures=self.progress.failures + 1,
            waiting_files=waiting,
            waiting_since=self.progress.waiting_since or time.time(),
        )

    def _note_rows(self, files: list[LandedFile]) -> None:
        self._note_commit(files, "rows")

    def _note_letters(self, files: list[LandedFile]) -> None:
        self._note_commit(files, "letters")

    def _note_commit(self, files: list[LandedFile], counted: str) -> None:
        progress = self.progress
        records = sum(file.rows for file in files)
        _log.info("committed %d files with %d %s", len(files), records, counted)
        self.progress = replace(
            progress,
            committed_at=time.time(),
            commits=progress.commits + 1,
            files=progress.files + (len(files) if counted == "rows" else 0),
            **{counted: getattr(progress, counted) + records},
        )

    @property
    def tables(self) -> tuple[Published, Published]:
        """The table of the rows and that of the dead letters; the first use opens them."""
        if self._tables is None:
            self._tables = open_tables(self.job)
        return self._tables


def open_tables(job: TableJob, *, adds_files: bool = True) -> tuple[Published, Published]:
    """Open the table of the rows and that of the dead letters; they need not exist.

    Args:
        job: what a committer is told.
        adds_files: as in `LandedTable`.

    Raises:
        UsageError: the file of `--catalog` or of `--storage_config` does not serve.
        EnvironmentFailure: the catalog does not answer.
    """
    catalog = open_catalog(job)
    storage = read_storage_config(Path(job.storage_config) if job.storage_config else None)
    output_dir = stored_path(job.output_dir, storage)
    dead_letter_dir = stored_path(job.dead_letter_dir, storage)
    ledger = ledger_reader(output_dir, dead_letter_dir)

    is_embedded = job.table.catalog is None
    rows_directory = _directory_of(output_dir, job.table.name)
    rows = LandedTable(
        catalog,
        job.table.name,
        partition_column=job.partition_column,
        location=f"file://{rows_directory}" if is_embedded else None,
        links=f"file://{rows_directory}/data" if rows_directory else None,
        root=_uri_of(output_dir),
        adds_files=adds_files,
    )
    if rows_directory is None:
        landed = stored_rows(output_dir, ledger)
    else:
        landed = linked_rows(rows_directory / "data", ledger=ledger, root=Path(str(output_dir)))

    letters_directory = _directory_of(output_dir, job.table.letters_name)
    letters = LandedTable(
        catalog,
        job.table.letters_name,
        suffix=JSON_LINES_SUFFIX,
        origin=ORIGIN_OF_LETTERS,
        location=f"file://{letters_directory}" if is_embedded else None,
        links=f"file://{letters_directory}/data" if letters_directory else None,
        root=_uri_of(dead_letter_dir),
        adds_files=adds_files,
    )

    def write(path: StoredPath, file: LandedFile) -> str:
        if letters_directory is None:
            return write_letters(path, file, letters.io, f"{letters.data_location}")
        make_directory(letters_directory, private=job.private_dead_letters)
        return write_letters(path, file, letters.io, f"file://{letters_directory}/data")

    letter_files = landed_letters(dead_letter_dir, ledger, describe_letters, write)
    if letters_directory is not None:
        make_directory(letters_directory, private=job.private_dead_letters)
    of_rows = Published(rows, landed, lambda file: _columns_of(landed.source_of(file)))
    of_letters = Published(letters, letter_files, lambda file: LETTERS_SCHEMA, other=of_rows)
    of_rows.other = of_letters
    return of_rows, of_letters


def _uri_of(root: StoredPath) -> str:
    return f"file://{root.absolute()}" if isinstance(root, Path) else str(root)


def _directory_of(output_dir: StoredPath, name: str) -> Path | None:
    """Return the directory of a table below an output directory; None for an object store."""
    if not isinstance(output_dir, Path):
        return None
    return table_directory(output_dir).joinpath(*name.split("."))


def _columns_of(path: StoredPath) -> pa.Schema:
    try:
        return read_metadata(path).schema.to_arrow_schema().remove_metadata()
    except FileNotFoundError:
        raise StraddledListingError(f"{path} has gone since it was listed") from None
    except (OSError, ValueError) as error:
        raise EnvironmentFailure(f"{path}: its columns can't be read ({error})") from None
