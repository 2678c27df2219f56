"""The journal of a replay: which dead letters were sent to a topic.

In a directory it is `<dead_letter_dir>/_replayed/<topic>.jsonl`, append-only, with one JSON object
per line:

    {"run":"begin","at":"2026-11-24T13:33:50Z","ends":{"0":812,"1":790}}
    {"sent":"<dlq_id>"}
    {"run":"end","at":"2026-11-24T13:34:10Z"}

In an object store nothing can be appended: the same lines are in objects below
`<dead_letter_dir>/_replayed/<topic>/`, in the order of their names (`replay_objects`).

A run notes the ends of the topic's partitions before it sends anything. It notes a letter once the
broker has acknowledged it. A run that is killed in between leaves records in the topic without a
line in the journal, and no `end` line. The next run then searches the topic for them from the noted
offsets on (`replay.find_redriven`). So no letter is sent twice, and none is left out.
"""

from __future__ import annotations

import fcntl
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.storage.durable import make_directory, open_private, sync

JOURNALS = "_replayed"
JOURNAL_SUFFIX = ".jsonl"
_BLOCK_BYTES = 4096


@dataclass(slots=True)
class JournalState:
    """The content of a journal.

    Attributes:
        sent: the ids of the letters that were sent.
        unfinished: the ends of the partitions that the first unfinished run noted; None if the last
            run finished.
    """

    sent: set[str] = field(default_factory=set)
    unfinished: dict[int, int] | None = None

    def add(self, lines: Iterable[bytes]) -> None:
        """Add lines of a journal, in their order.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: a line is not one of a journal.
        """
        for line in lines:
            # A line without an end was being written when the machine went down.
            if not line.endswith(b"\n"):
                continue
            entry: dict[str, Any] = orjson.loads(line)
            if "sent" in entry:
                self.sent.add(entry["sent"])
            elif entry["run"] == "end":
                self.unfinished = None
            elif self.unfinished is None:
                self.unfinished = {int(number): end for number, end in entry["ends"].items()}


class ReplayJournal(ABC):
    """The journal of a topic, open for one run and locked against other runs. A context manager.

    Attributes:
        state: the content when the journal was opened.
    """

    def __init__(self, name: str) -> None:
        """Name the journal, for messages; entering the context opens it."""
        self.name = name
        self.state = JournalState()

    @abstractmethod
    def __enter__(self) -> ReplayJournal:
        """Open, lock and read the journal.

        Raises:
            EnvironmentFailure: another replay holds the lock, or the journal can't be written.
        """

    @abstractmethod
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Release the lock."""

    @abstractmethod
    def confirm(self) -> None:
        """Check that this run still holds the lock; cheap, called several times a second.

        Raises:
            EnvironmentFailure: another replay has taken it.
        """

    @abstractmethod
    def write(self, lines: bytes) -> None:
        """Add whole lines, durably.

        Raises:
            OSError: they can't be written.
        """

    def begin(self, ends: Mapping[int, int], at: datetime) -> None:
        """Note the ends of the topic's partitions before anything is sent, durably."""
        ends_json = {str(number): end for number, end in ends.items()}
        self._append([{"run": "begin", "at": at, "ends": ends_json}])

    def note_sent(self, ids: Iterable[str]) -> None:
        """Note letters that the broker acknowledged, durably."""
        self._append([{"sent": dlq_id} for dlq_id in ids])

    def end(self, at: datetime) -> None:
        """Note that every letter sent was acknowledged and noted."""
        self._append([{"run": "end", "at": at}])

    def _append(self, entries: Iterable[Mapping[str, object]]) -> None:
        option = orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z | orjson.OPT_OMIT_MICROSECONDS
        lines = b"".join(orjson.dumps(entry, option=option) for entry in entries)
        if not lines:
            return
        try:
            self.write(lines)
        except OSError as error:
            raise EnvironmentFailure(
                f"replay journal {self.name}: {error.strerror or error}"
            ) from error


class FileJournal(ReplayJournal):
    """A journal in a directory: one file, locked by flock."""

    def __init__(self, dead_letter_dir: Path, topic: str) -> None:
        """Name the journal of a topic; entering the context opens it."""
        self._path = journal_path(dead_letter_dir, topic)
        self._topic = topic
        super().__init__(str(self._path))

    def __enter__(self) -> FileJournal:
        try:
            make_directory(self._path.parent, private=True)
            self._file = open_private(self._path, "ab")
            sync(self._path.parent)
        except OSError as error:
            raise EnvironmentFailure(f"replay journal {self.name}: {error.strerror}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise another_replay(self.name, self._topic) from None
        _cut_torn_line(self._path)
        self.state = read_file_journal(self._path)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def confirm(self) -> None:
        """Do nothing: the kernel keeps the lock."""

    def write(self, lines: bytes) -> None:
        self._file.write(lines)
        self._file.flush()
        os.fsync(self._file.fileno())


def journal_path(dead_letter_dir: Path, topic: str) -> Path:
    """Return the file of a topic's journal."""
    return dead_letter_dir / JOURNALS / f"{topic}{JOURNAL_SUFFIX}"


def read_file_journal(path: Path) -> JournalState:
    """Return the content of a journal, which is empty if there is no file.

    Raises:
        EnvironmentFailure: the journal can't be read.
    """
    state = JournalState()
    try:
        with path.open("rb") as file:
            state.add(file)
    except FileNotFoundError:
        return state
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise unreadable_journal(str(path), error) from error
    return state


def unreadable_journal(name: str, error: Exception) -> EnvironmentFailure:
    """Return the failure of a journal that can't be read."""
    return EnvironmentFailure(
        f"replay journal {name} can't be read: {error!r}; without it letters may be sent twice"
    )


def another_replay(name: str, topic: str) -> EnvironmentFailure:
    """Return the failure of a journal whose lock another run has."""
    return EnvironmentFailure(f"replay journal {name}: another replay to topic {topic} is running")


def _cut_torn_line(path: Path) -> None:
    """Remove what follows the last newline. Read backwards, so no further than that line."""
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - _BLOCK_BYTES)
            newline = os.pread(file.fileno(), end - start, start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        file.truncate(end)
