"""The journal of a replay in an object store: each write is an object of its own.

The objects are `<dead_letter_dir>/_replayed/<topic>/<number>-<run>.jsonl`. Their numbers rise, also
over runs, and each run has a random name, so no object is ever written twice. An object appears
whole or not at all: no line is torn.

One run at a time has the lock, `<dead_letter_dir>/_replayed/<topic>.lock.json`, which it replaces
every `BEAT_SECONDS`. A lock that has not changed for `EXPIRY_SECONDS` by the clock of who waits for
it is of a run that was killed, and is taken over.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.files.reading import read_each
from beam_pipeline.storage.paths import ObjectPath
from beam_pipeline.storage.protocol import StorageAwayError
from beam_pipeline.terminal import progress_bar
from beam_pipeline.tools.dlq.replay_journal import (
    JOURNAL_SUFFIX,
    JOURNALS,
    JournalState,
    ReplayJournal,
    another_replay,
    unreadable_journal,
)

BEAT_SECONDS = 5.0
EXPIRY_SECONDS = 30.0
_LOOK_SECONDS = 0.5


class ObjectJournal(ReplayJournal):
    """A journal of objects; see `ReplayJournal`."""

    def __init__(
        self,
        dead_letter_dir: ObjectPath,
        topic: str,
        *,
        beat_seconds: float,
        expiry_seconds: float,
    ) -> None:
        """Name the journal of a topic; entering the context opens it.

        Args:
            dead_letter_dir: the root of the letters.
            topic: the topic.
            beat_seconds, expiry_seconds: see `JournalLock`.
        """
        self._root, self._topic = dead_letter_dir, topic
        self._directory = dead_letter_dir / JOURNALS / topic
        super().__init__(str(self._directory))
        self._run = secrets.token_hex(8)
        self._written = 0
        self._lock = JournalLock(
            dead_letter_dir / JOURNALS / f"{topic}.lock.json",
            another_replay(self.name, topic),
            beat_seconds,
            expiry_seconds,
        )

    def __enter__(self) -> ObjectJournal:
        try:
            self._lock.take()
        except OSError as error:
            raise EnvironmentFailure(f"replay journal {self.name}: {error}") from error
        try:
            paths = journal_objects(self._root, self._topic)
            self.state = _state_of(paths, self.name)
            self._written = max((_number_of(path) for path in paths), default=0)
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lock.release()

    def confirm(self) -> None:
        try:
            self._lock.confirm()
        except OSError as error:
            raise EnvironmentFailure(f"replay journal {self.name}: {error}") from error

    def write(self, lines: bytes) -> None:
        self._written += 1
        path = self._directory / f"{self._written:08d}-{self._run}{JOURNAL_SUFFIX}"
        with tempfile.TemporaryDirectory(prefix="beam-pipeline-") as directory:
            source = Path(directory, path.name)
            source.write_bytes(lines)
            # Only this run gives this name: one that is taken was written by this very call, whose
            # first answer was lost.
            path.storage.put_if_absent(source, path.key)


class JournalLock:
    """A lock that one run holds; a thread renews it."""

    def __init__(
        self,
        path: ObjectPath,
        refusal: EnvironmentFailure,
        beat_seconds: float,
        expiry_seconds: float,
    ) -> None:
        """Describe the lock.

        Args:
            path: its object.
            refusal: what is raised when another run has the lock.
            beat_seconds, expiry_seconds: how often it is renewed, and when it is of a dead run.
        """
        self._path, self._refusal = path, refusal
        self._beat_seconds, self._expiry_seconds = beat_seconds, expiry_seconds
        self._owner = secrets.token_hex(8)
        self._beats = 0
        self._version: str | None = None
        self._beaten_at = 0.0
        self._changing = threading.Lock()
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self) -> None:
        """Take the lock, once it is free or its run is dead.

        Raises:
            EnvironmentFailure: another run has it.
            StorageAwayError: the object store does not answer.
        """
        version = self._version_there()
        if version is not None:
            self._await_expiry(version)
        if not self._replace(version):
            raise self._refusal
        self._thread = threading.Thread(target=self._beat, name="replay-lock", daemon=True)
        self._thread.start()

    def confirm(self) -> None:
        """Check that the lock is still this run's, by a request only when no beat came through.

        Raises:
            EnvironmentFailure: another run has taken it.
            StorageAwayError: the object store does not answer.
        """
        with self._changing:
            if self._version is None:
                raise self._refusal
            if time.monotonic() - self._beaten_at < self._expiry_seconds / 2:
                return
            if not self._replace(self._version):
                raise self._refusal

    def release(self) -> None:
        """Release the lock, unless another run has it."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join()
        with contextlib.suppress(OSError):
            if self._version is not None:
                self._path.storage.delete_if_match(self._path.key, self._version)

    def _version_there(self) -> str | None:
        try:
            return self._path.storage.read(self._path.key).version
        except FileNotFoundError:
            return None

    def _await_expiry(self, version: str) -> None:
        """Wait until the lock has not changed for `expiry_seconds`, or is gone.

        Raises:
            EnvironmentFailure: it changed: its run lives.
        """
        began = time.monotonic()
        what = f"Waiting: the last replay to {self._path.name.partition('.lock')[0]} did not end"
        with progress_bar(what, round(self._expiry_seconds)) as progress:
            shown = 0
            while (waited := time.monotonic() - began) < self._expiry_seconds:
                time.sleep(min(_LOOK_SECONDS, self._expiry_seconds / 10))
                progress(int(waited) - shown)
                shown = int(waited)
                if self._version_there() not in (version, None):
                    raise self._refusal

    def _replace(self, version: str | None) -> bool:
        """Write the next beat in place of a version; return whether the lock is this run's."""
        self._beats += 1
        content = json.dumps(
            {
                "owner": self._owner,
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "beat": self._beats,
            }
        ).encode()
        self._version = self._path.storage.put_if_match(self._path.key, content, version)
        if self._version is None:  # another run's, or the answer to this very call was lost
            with contextlib.suppress(FileNotFoundError):
                present = self._path.storage.read(self._path.key)
                if present.data == content:
                    self._version = present.version
        self._beaten_at = time.monotonic()
        return self._version is not None

    def _beat(self) -> None:
        while not self._ending.wait(self._beat_seconds):
            with self._changing, contextlib.suppress(OSError, EnvironmentFailure):
                # A store that is away for a moment is no reason to stop; `confirm` looks.
                if self._version is None or not self._replace(self._version):
                    return


def journal_objects(dead_letter_dir: ObjectPath, topic: str) -> list[ObjectPath]:
    """Return the objects of a topic's journal in their order, by one listing.

    A file of a journal that was copied from a directory comes first.

    Raises:
        StorageAwayError: the object store does not answer.
    """
    directory = dead_letter_dir / JOURNALS / topic
    file = directory.with_name(f"{topic}{JOURNAL_SUFFIX}")
    paths = [
        ObjectPath(directory.storage, entry.key, entry)
        for entry in directory.storage.objects(directory.key)
        if entry.key == file.key or entry.key.startswith(f"{directory.key}/")
    ]
    return sorted(paths, key=lambda path: (path != file, path.key))


def read_object_journal(dead_letter_dir: ObjectPath, topic: str) -> JournalState:
    """Return the content of a topic's journal, which is empty if there is none.

    Raises:
        EnvironmentFailure: the journal can't be read.
        StorageAwayError: the object store does not answer.
    """
    name = str(dead_letter_dir / JOURNALS / topic)
    return _state_of(journal_objects(dead_letter_dir, topic), name)


def _state_of(paths: list[ObjectPath], name: str) -> JournalState:
    state = JournalState()
    try:
        for _, read in read_each(paths, ObjectPath.read_bytes):
            state.add(read().splitlines(keepends=True))
    except StorageAwayError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise unreadable_journal(name, error) from error
    return state


def _number_of(path: ObjectPath) -> int:
    number = path.name.partition("-")[0]
    return int(number) if number.isdecimal() else 0
