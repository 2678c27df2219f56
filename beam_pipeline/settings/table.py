"""The flags of the table, and the two JSON files between a run and its committer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from beam_pipeline.errors import UsageError
from beam_pipeline.settings.config import PipelineSettings
from beam_pipeline.settings.flags import EVENT_TIME
from beam_pipeline.settings.table_names import check_name, letters_name
from beam_pipeline.storage.durable import write_atomically
from beam_pipeline.storage.urls import is_url

DAY_SECONDS = 86_400

_CUTS_A_URI = frozenset("?#")


@dataclass(frozen=True)
class TableSettings:
    """The table of a run.

    Attributes:
        name: namespace and name, with dots between them.
        catalog: the file of `--catalog`; None is the embedded catalog.
        commit_interval_seconds: the least time between two commits.
    """

    name: str
    catalog: str | None
    commit_interval_seconds: float

    @property
    def letters_name(self) -> str:
        """The table of the dead letters."""
        return letters_name(self.name)


@dataclass(frozen=True)
class TableJob:
    """What a committer is told. It holds no secret: `--catalog` names the file that has them.

    Attributes:
        table: the table.
        output_dir: where the Parquet files land, a directory or a URL.
        dead_letter_dir: where the dead letters land.
        storage_config: the file of `--storage_config`.
        private_dead_letters: whether files of dead letters are for their user alone.
        partition_column: the column whose days partition a new table; None for no partitions.
    """

    table: TableSettings
    output_dir: str
    dead_letter_dir: str
    storage_config: str | None = None
    private_dead_letters: bool = True
    partition_column: str | None = None

    def write(self, path: Path) -> None:
        """Write the file.

        Raises:
            OSError: it can't be written.
        """
        path.write_bytes(msgspec.json.encode(self))

    @staticmethod
    def read(path: Path) -> TableJob:
        """Read a file that `write` wrote.

        Raises:
            OSError, msgspec.DecodeError: it can't be read, or is not such a file.
        """
        return msgspec.json.decode(path.read_bytes(), type=TableJob)


@dataclass(frozen=True)
class TableProgress:
    """What a committer tells the run.

    Attributes:
        snapshot_id: the newest snapshot of the table; None while it has none.
        committed_at: when this committer committed last, in seconds since 1970; 0 if it has not.
        current_at: when all that had landed was in the tables last, in seconds since 1970; 0 if
            this committer has not seen that.
        commits: how many snapshots it has made, of both tables.
        files: how many files it has put into the table.
        rows: how many rows these hold.
        letters: how many dead letters it has put into their table.
        compactions: how many snapshots it has made that merge small files, of both tables.
        merged_files: how many files these have merged.
        waiting_files: how many landed files were in no table at its last look.
        waiting_since: since when, in seconds since 1970; 0 if none waits.
        failure: one line on why the last try failed; empty after one that did not.
        failures: how many tries have failed.
    """

    snapshot_id: int | None = None
    committed_at: float = 0.0
    current_at: float = 0.0
    commits: int = 0
    files: int = 0
    rows: int = 0
    letters: int = 0
    compactions: int = 0
    merged_files: int = 0
    waiting_files: int = 0
    waiting_since: float = 0.0
    failure: str = ""
    failures: int = 0

    def write(self, path: Path) -> None:
        """Replace the file in one step.

        Raises:
            OSError: it can't be written.
        """
        write_atomically(path, msgspec.json.encode(self), durable=False, private=False)

    @staticmethod
    def read(path: Path) -> TableProgress | None:
        """Read a file that `write` wrote; None if there is none."""
        try:
            return msgspec.json.decode(path.read_bytes(), type=TableProgress)
        except (OSError, msgspec.DecodeError):
            return None


def table_settings(values: Mapping[str, Any]) -> TableSettings | None:
    """Convert and check the flags of the table, by name; None without `--table`.

    Raises:
        UsageError: a value does not serve, or two flags do not go together.
    """
    name, catalog = values.get("table"), values.get("catalog")
    interval_seconds = values.get("commit_interval", 60.0)
    if name is None:
        if catalog is not None:
            raise UsageError(f"--catalog={catalog} needs --table=NAMESPACE.NAME")
        return None
    check_name(name)
    if not 0 < interval_seconds < float("inf"):
        raise UsageError(f"--commit_interval={interval_seconds:g}: must be more than 0")
    check_places(name, str(values["output_dir"]), catalog)
    return TableSettings(name, None if catalog is None else str(catalog), interval_seconds)


def check_places(name: str, output_dir: str, catalog: object) -> None:
    """Check that the files of an output can be in a table.

    Raises:
        UsageError: they can't.
    """
    if output_dir.startswith("az://"):
        raise UsageError(
            f"--table={name}: files in Azure have no table yet; give a directory, s3://… or gs://… "
            "as --output_dir"
        )
    if is_url(output_dir):
        if catalog is None:
            raise UsageError(
                f"--table={name} needs --catalog=FILE.yaml, since the embedded catalog is a file "
                f"below the output directory, and --output_dir={output_dir} is an object store"
            )
    elif _CUTS_A_URI & set(str(Path(output_dir).absolute())):
        raise UsageError(
            f"--output_dir={output_dir}: a table's files can't be below a directory with ? or # in "
            "its path, where readers cut the URI"
        )


def table_job(settings: PipelineSettings, table: TableSettings) -> TableJob:
    """Return what the committer of a run is told.

    Raises:
        UsageError: the schema is not usable.
    """
    return TableJob(
        table=table,
        output_dir=settings.output_dir,
        dead_letter_dir=settings.dead_letter_dir,
        storage_config=settings.storage_config,
        private_dead_letters=settings.private_dead_letters,
        partition_column=partition_column(settings),
    )


def partition_column(settings: PipelineSettings) -> str | None:
    """Return the column whose days partition the table; None if a file may hold several days.

    A window by event time that divides a day holds the events of one day. Rows of null values
    (`--null_values=row`) have no event time.
    """
    is_within_a_day = DAY_SECONDS % settings.windowing.window_seconds == 0
    if settings.window_by != EVENT_TIME or not is_within_a_day or settings.keeps_null_values:
        return None
    return settings.event_time_path(settings.contract())
