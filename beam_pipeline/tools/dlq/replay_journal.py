"""The journal of a replay: which dead letters were sent to a topic.

It is `<dead_letter_dir>/_replayed/<topic>.jsonl`, append-only, with one JSON object per line:

    {"run":"begin","at":"2026-11-24T13:33:50Z","ends":{"0":812,"1":790}}
    {"sent":"<dlq_id>"}
    {"run":"end","at":"2026-11-24T13:34:10Z"}

A run notes the ends of the topic's partitions before it sends anything. It notes a letter once the
broker has acknowledged it. A run that is killed in between leaves records in the topic without a
line in the journal, and no `end` line. The next run then searches the topic for them from the noted
offsets on (`replay.find_redriven`). So no letter is sent twice, and none is left out.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.storage.durable import make_directory, open_private, sync

_DIRECTORY = "_replayed"
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


def read_journal(dead_letter_dir: Path, topic: str) -> JournalState:
    """Return the content of a topic's journal, which is empty if there is no file.

    Raises:
        EnvironmentFailure: the journal can't be read.
    """
    path = _path(dead_letter_dir, topic)
    state = JournalState()
    try:
        for entry in _whole_lines(path):
            if "sent" in entry:
                state.sent.add(entry["sent"])
            elif entry["run"] == "end":
                state.unfinished = None
            elif state.unfinished is None:
                state.unfinished = {int(number): end for number, end in entry["ends"].items()}
    except FileNotFoundError:
        return state
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EnvironmentFailure(
            f"replay journal {path} can't be read: {error!r}; without it letters may be sent twice"
        ) from error
    return state


def replayed_ids(dead_letter_dir: Path) -> set[str]:
    """Return the ids of all letters that were sent back, to whichever topic.

    Raises:
        EnvironmentFailure: a journal can't be read.
    """
    journals = (dead_letter_dir / _DIRECTORY).glob("*.jsonl")
    return {dlq_id for path in journals for dlq_id in read_journal(dead_letter_dir, path.stem).sent}


class ReplayJournal:
    """A journal, open for one run and locked against other runs. A context manager.

    Attributes:
        state: the content when the journal was opened.
    """

    def __init__(self, dead_letter_dir: Path, topic: str) -> None:
        """Name the journal of a topic; entering the context opens it."""
        self._root, self._topic = dead_letter_dir, topic
        self._path = _path(dead_letter_dir, topic)
        self.state = JournalState()

    def __enter__(self) -> ReplayJournal:
        """Open, lock and read the journal.

        Raises:
            EnvironmentFailure: another replay holds the lock, or the journal can't be written.
        """
        try:
            make_directory(self._path.parent, private=True)
            self._file = open_private(self._path, "ab")
            sync(self._path.parent)
        except OSError as error:
            raise EnvironmentFailure(f"replay journal {self._path}: {error.strerror}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise EnvironmentFailure(
                f"replay journal {self._path}: another replay to topic {self._topic} is running"
            ) from None
        _cut_torn_line(self._path)
        self.state = read_journal(self._root, self._topic)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

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
            self._file.write(lines)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise EnvironmentFailure(f"replay journal {self._path}: {error.strerror}") from error


def _path(dead_letter_dir: Path, topic: str) -> Path:
    return dead_letter_dir / _DIRECTORY / f"{topic}.jsonl"


def _whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for line in file:
            # A line without an end was being written when the machine went down.
            if line.endswith(b"\n"):
                yield orjson.loads(line)


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
