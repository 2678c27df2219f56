"""The committer of a table as a process of the run: started, watched, ended, and what it says.

It never stops or slows the run. What it could not commit, the next start commits.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from beam_pipeline.errors import EnvironmentFailure, UsageError
from beam_pipeline.resources import project_root
from beam_pipeline.runtime.processes import ManagedProcess
from beam_pipeline.settings.catalog_file import read_catalog_file
from beam_pipeline.settings.secret_files import open_file_warning
from beam_pipeline.settings.table import TableJob, TableProgress, TableSettings
from beam_pipeline.terminal import plural

COMMITTER_COMMAND = (sys.executable, "-m", "beam_pipeline.tables")
LOOK_SECONDS = 1.0
LAST_COMMIT_SECONDS = 60.0
STOP_COMMIT_SECONDS = 10.0
"""How long a run waits at its end for the last commit, and how long after a stop."""

_BACKOFF_SECONDS = (1.0, 2.0, 5.0, 15.0)
_STEADY_SECONDS = 60.0
"""A committer that lived so long is started again after the least pause when it dies."""


def check_table(table: TableSettings) -> str | None:
    """Check before a run what its committer needs; nothing is imported or opened but the file.

    Returns:
        a warning, if there is one.

    Raises:
        UsageError: pyiceberg is missing, or the file of `--catalog` does not serve.
    """
    require_pyiceberg(table.name)
    if table.catalog is None:
        return None
    path = Path(table.catalog)
    return open_file_warning("--catalog", path, read_catalog_file(path))


def require_pyiceberg(name: str) -> None:
    """Check that pyiceberg is installed, without importing it.

    Args:
        name: the value of `--table`.

    Raises:
        UsageError: it is not.
    """
    if importlib.util.find_spec("pyiceberg") is None:
        remedy = 'pip install "beam-pipeline[iceberg]"'
        if project_root():
            remedy += ", in a checkout pip install --require-hashes -r requirements/iceberg.txt"
        raise UsageError(
            f"--table={name} needs the package pyiceberg, which is not installed: {remedy}"
        )


@dataclass(frozen=True)
class TableStatus:
    """What a run knows of its table.

    Attributes:
        name: the table.
        progress: what the committer said last, counted over all its processes.
        started_at: since when the run has a table, in seconds since 1970.
        restarts: how often it was started again.
        is_complete: at the end of the run, whether everything that has landed is in the table.
    """

    name: str
    progress: TableProgress = field(default_factory=TableProgress)
    started_at: float = field(default_factory=time.time)
    restarts: int = 0
    is_complete: bool = False

    @property
    def records(self) -> int:
        """How many rows and dead letters the run has put into the tables."""
        return self.progress.rows + self.progress.letters

    @property
    def current_at(self) -> float:
        """When all that had landed was in the tables last; until then, when the run began."""
        return self.progress.current_at or self.started_at

    @property
    def text(self) -> str:
        """The state in a few words, for a line of the log."""
        progress = self.progress
        failing = f", {plural(progress.waiting_files, 'file')} waiting" if progress.failure else ""
        return f"{plural(progress.commits, 'commit')}, {self.records:,} records{failing}"


class TableCommitter:
    """The committer of a run; it is used from the main thread."""

    def __init__(
        self,
        job: TableJob,
        log_file: Path,
        say: Callable[[str], object],
        command: Sequence[str] = COMMITTER_COMMAND,
    ) -> None:
        """Describe it; nothing is started yet.

        Args:
            job: what it is told.
            log_file: its log.
            say: called with one line for the user.
            command: the program.
        """
        self.status = TableStatus(job.table.name)
        self._job = job
        self._log_file = log_file
        self._say = say
        self._command = command
        self._process: ManagedProcess | None = None
        self._scratch: Path | None = None
        self._before = TableProgress()
        self._next_look = 0.0
        self._start_at = self._started_at = 0.0
        self._deaths_in_row = 0
        self._failure = ""

    def look(self) -> None:
        """Start the process if it is not there, and read what it says; at most once a second."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + LOOK_SECONDS
        if self._process is None:
            if now >= self._start_at:
                self._start()
            return
        self._read()
        if not self._process.alive:
            self._note_end(now)

    def finish(
        self,
        on_tick: Callable[[], object],
        seconds: Callable[[], float] = lambda: LAST_COMMIT_SECONDS,
    ) -> None:
        """Have it commit what is there, and wait until it has ended, but not longer than that.

        Args:
            on_tick: called several times a second.
            seconds: returns how long to wait; it is asked again and again.
        """
        began = time.monotonic()
        if self._process is not None and self._process.alive:
            self._process.ask_to_end()
        else:
            self._start("--last")
        while self._process is not None and time.monotonic() - began < seconds():
            on_tick()
            code = self._process.wait(0.2)
            if code is not None and code >= 0:
                break
            if code is not None:  # killed, or asked before it listened to signals
                self._read()
                self._start("--last")
        is_complete = self._process is not None and self._process.returncode == 0
        self._read()
        self.status = replace(self.status, is_complete=is_complete)

    def stop(self) -> None:
        """End the process at once."""
        if self._process is not None:
            self._process.kill()
            self._process = None
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = None

    def _start(self, *flags: str) -> None:
        self._started_at = time.monotonic()
        self._process = None
        try:
            if self._scratch is None:
                self._scratch = Path(tempfile.mkdtemp(prefix="beam-pipeline-table-"))
            job_file = self._scratch / "job.json"
            self._job.write(job_file)
            self._progress_file.unlink(missing_ok=True)
            self._before = self.status.progress
            self._process = ManagedProcess(
                "table committer",
                [
                    *self._command,
                    f"--job_file={job_file}",
                    f"--progress_file={self._progress_file}",
                    *flags,
                ],
                self._log_file,
            )
        except (OSError, EnvironmentFailure) as error:
            self._tell(f"the committer of --table={self.status.name} can't be started: {error}")
            self._back_off(time.monotonic())

    @property
    def _progress_file(self) -> Path:
        assert self._scratch is not None
        return self._scratch / "progress.json"

    def _read(self) -> None:
        progress = TableProgress.read(self._progress_file) if self._scratch else None
        if progress is None:
            return
        before = self._before
        self.status = replace(
            self.status,
            progress=replace(
                progress,
                commits=before.commits + progress.commits,
                files=before.files + progress.files,
                rows=before.rows + progress.rows,
                letters=before.letters + progress.letters,
                compactions=before.compactions + progress.compactions,
                merged_files=before.merged_files + progress.merged_files,
                failures=before.failures + progress.failures,
                committed_at=max(before.committed_at, progress.committed_at),
                current_at=max(before.current_at, progress.current_at),
            ),
        )
        if progress.failure:
            self._tell(
                f"--table={self.status.name}: no commit: {progress.failure}; the run goes on, and "
                "the committer tries again"
            )
        elif self._failure:
            self._failure = ""
            self._say(f"--table={self.status.name}: commits again")

    def _note_end(self, now: float) -> None:
        assert self._process is not None
        self._tell(f"{self._process.end()}; it is started again")
        self._process = None
        self._back_off(now)

    def _back_off(self, now: float) -> None:
        if now - self._started_at > _STEADY_SECONDS:
            self._deaths_in_row = 0
        self._start_at = now + _BACKOFF_SECONDS[min(self._deaths_in_row, len(_BACKOFF_SECONDS) - 1)]
        self._deaths_in_row += 1
        self.status = replace(self.status, restarts=self.status.restarts + 1)

    def _tell(self, failure: str) -> None:
        if failure != self._failure:
            self._failure = failure
            self._say(failure)


def not_in_table_text(status: TableStatus | None) -> str | None:
    """Return one line on what has landed and is not in the table; None if nothing is known."""
    if status is None or status.is_complete:
        return None
    progress = status.progress
    how_many = plural(progress.waiting_files, "file") if progress.waiting_files else "some files"
    reason = f" ({progress.failure})" if progress.failure else ""
    return (
        f"--table={status.name}: {how_many} may not be in the table yet{reason}; nothing is lost, "
        "the next start commits them"
    )
