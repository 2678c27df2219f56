"""Which dead letters were sent back to a topic: a journal beside the letters.

It is `<dead_letter_dir>/_replayed/<topic>.jsonl`, append-only, a JSON object a line:

    {"run":"begin","at":"2026-11-24T13:33:50Z","ends":{"0":812,"1":790}}
    {"sent":"<dlq_id>"}
    {"run":"end","at":"2026-11-24T13:34:10Z"}

A run first notes where the topic's partitions end, and only then sends. A letter is noted when the
broker has acknowledged it. A run that was killed in between left records in the topic that no line
tells of; it left no `end` either, so the next one knows that it must look for them, and from which
offsets on (`replay.find_redriven`). So no state of the journal makes a letter go
twice, and none makes it stay behind.
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
from beam_pipeline.files.durable import make_directory, open_private

_DIRECTORY = "_replayed"


@dataclass(slots=True)
class JournalState:
    """What a journal tells.

    Attributes:
        sent: the ids of the letters that were sent.
        unfinished: the partitions' ends noted by the first run since the last that ended; None if
            the last run ended.
    """

    sent: set[str] = field(default_factory=set)
    unfinished: dict[int, int] | None = None


def read_journal(dead_letter_dir: Path, topic: str) -> JournalState:
    """Reads what was sent to a topic so far; nothing, if there is no journal.

    Raises:
        EnvironmentFailure: it can't be read, or makes no sense.
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


class ReplayJournal:
    """A journal that is open for one run, and locked against any other.

    A context manager. `state` is what it told when it was opened.
    """

    def __init__(self, dead_letter_dir: Path, topic: str) -> None:
        """Names the journal of what was sent to `topic`; it is opened on entry."""
        self._root, self._topic = dead_letter_dir, topic
        self._path = _path(dead_letter_dir, topic)
        self.state = JournalState()

    def __enter__(self) -> ReplayJournal:
        """Opens, locks and reads the journal.

        Raises:
            EnvironmentFailure: another replay has it, or it can't be written.
        """
        try:
            make_directory(self._path.parent, private=True)
            self._file = open_private(self._path, "ab")
            _sync_directory(self._path.parent)
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
        """Notes where the topic's partitions end, before anything is sent; on disk on return."""
        ends_json = {str(number): end for number, end in ends.items()}
        self._append([{"run": "begin", "at": at, "ends": ends_json}])

    def note_sent(self, ids: Iterable[str]) -> None:
        """Notes letters that the broker acknowledged; on disk on return."""
        self._append([{"sent": dlq_id} for dlq_id in ids])

    def end(self, at: datetime) -> None:
        """Notes that every letter handed to Kafka was acknowledged and noted."""
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
    content = path.read_bytes()
    os.truncate(path, content.rfind(b"\n") + 1)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
