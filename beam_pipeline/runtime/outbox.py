"""The supervisor's look at the dead-letter topic: sends what the job's workers did not send.

Workers send the files that they put in place. What is left over, because they were killed or
because an earlier run was, is sent from here: at the start, every half a minute, and at the end.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.files.sent_notes import (
    SentNote,
    accept_as_sent,
    letter_paths,
    noted_files,
    read_note,
    remove_stale_notes,
)
from beam_pipeline.outbox.publisher import OutboxSettings, Publisher
from beam_pipeline.storage.durable import open_private
from beam_pipeline.storage.paths import ObjectPath, StoredPath
from beam_pipeline.storage.protocol import StorageAwayError

LOOK_SECONDS = 10.0
# On an object store a look costs a request for each thousand keys: about twelve a minute at most.
OBJECTS_LOOK_SECONDS = 30.0
OBJECTS_LOOK_SECONDS_A_KEY = 0.005
MAX_LISTING_SHARE = 0.05
# A file this old that is not sent is no longer a worker's.
LEFT_OVER_SECONDS = 30.0
NOTICES_OF_REFUSALS = 10


@dataclass(frozen=True)
class Unsent:
    """Dead letters that are in files, and not in their topic."""

    files: int = 0
    letters: int = 0


class Outbox:
    """The dead-letter files of a run, and which of them their topic has."""

    def __init__(
        self, settings: OutboxSettings, say: Callable[[str], object], log_file: Path
    ) -> None:
        """Describe the outbox; nothing is read or sent yet.

        Args:
            settings: where the files are and go.
            say: called with one line for the user.
            log_file: gets one line for each letter that is refused from here.
        """
        self._settings = settings
        self._say = say
        self._log_file = log_file
        self._publisher = Publisher(settings, say, self._log_refused)
        self._sent: dict[str, tuple[int, int]] = {}
        self._next_look = 0.0
        self._keys = 0
        self._refusals_shown = 0
        self.refused = 0

    @property
    def is_busy(self) -> bool:
        """Whether a file waits or is being sent from here."""
        return self._publisher.is_busy

    @property
    def moved_at(self) -> float:
        """When a letter was acknowledged last, or when there was nothing to send (monotonic)."""
        return self._publisher.moved_at

    @property
    def reason(self) -> str:
        """Why letters could not be sent; empty if that is not known."""
        return self._publisher.reason

    def begin(self) -> None:
        """Send what earlier runs left.

        Raises:
            EnvironmentFailure: the directory can't be read or written.
            StorageAwayError: the object store does not answer.
        """
        directory = self._settings.root
        try:
            accepted = accept_as_sent(directory, private=self._settings.private)
        except OSError as error:
            raise EnvironmentFailure(
                f"--dead_letter_dir={directory}: {error.strerror or error}"
            ) from None
        if accepted:
            self._say(
                f"{accepted:,} files of dead letters are from a version that sent them while it "
                f"ran, and count as sent; to send them again, empty {directory}/_published"
            )
        remove_stale_notes(directory)
        left = self._look(0.0, is_first=True)
        if left:
            self._say(f"sending {len(left):,} files of dead letters that earlier runs left")

    def look(self) -> None:
        """Send what is left over; a listing of many files is slow, and costs on an object store.

        Does nothing within `_look_seconds` of the last look.

        Raises:
            EnvironmentFailure: the directory can't be read.
        """
        started = time.monotonic()
        if started >= self._next_look:
            with contextlib.suppress(StorageAwayError):  # the next look does it
                self._look(LEFT_OVER_SECONDS)
            ended = time.monotonic()
            self._next_look = ended + max(
                self._look_seconds(), (ended - started) / MAX_LISTING_SHARE
            )

    def _look_seconds(self) -> float:
        """Return how long to wait between two looks."""
        if isinstance(self._settings.root, Path):
            return LOOK_SECONDS
        return max(OBJECTS_LOOK_SECONDS, OBJECTS_LOOK_SECONDS_A_KEY * self._keys)

    def send_rest(self) -> None:
        """Send every file in place that is not sent; returns at once.

        Raises:
            EnvironmentFailure: the directory can't be read.
            StorageAwayError: the object store does not answer.
        """
        self._look(0.0)

    def unsent_files(self) -> int:
        """Return how many files in place are not sent, by anybody.

        Raises:
            EnvironmentFailure: the directory can't be read.
            StorageAwayError: the object store does not answer.
        """
        return len(self._unsent_paths(0.0))

    def unsent(self) -> Unsent:
        """Return what is not in the topic, refused letters left out.

        Raises:
            EnvironmentFailure: the directory can't be read.
            StorageAwayError: the object store does not answer.
        """
        paths = self._unsent_paths(0.0)
        return Unsent(len(paths), sum(_line_count(path) for path in paths))

    def stop(self) -> None:
        """End the thread that sends."""
        self._publisher.stop()

    def _look(self, min_age_seconds: float, *, is_first: bool = False) -> list[StoredPath]:
        paths = self._unsent_paths(min_age_seconds, is_first=is_first)
        if paths:
            self._publisher.put(paths)
        return paths

    def _unsent_paths(self, min_age_seconds: float, *, is_first: bool = False) -> list[StoredPath]:
        """Return the files of at least this age that are not sent."""
        directory = self._settings.root
        newest_ns = time.time_ns() - int(min_age_seconds * 1e9)
        paths = letter_paths(directory)
        noted = noted_files(directory)  # after the letters: what was sent meanwhile has a note
        self._keys = len(paths) + len(noted)
        unsent: list[StoredPath] = []
        for path in paths:
            try:
                status = path.stat()
                identity = status.st_size, status.st_mtime_ns
                if self._sent.get(path.name) == identity:
                    continue
                if is_first and path.name in noted and isinstance(path, ObjectPath):
                    self._sent[path.name] = identity  # nobody writes an object again
                    continue
                note = read_note(directory, path.name) if path.name in noted else None
                if note is not None and note.is_of(path):
                    self._sent[path.name] = identity
                    if not is_first:
                        self._count_refused(path, note)
                elif min_age_seconds == 0 or status.st_mtime_ns <= newest_ns:
                    unsent.append(path)
            except StorageAwayError:
                raise
            except OSError:  # superseded or deleted meanwhile
                continue
        return unsent

    def _log_refused(self, line: str) -> None:
        with contextlib.suppress(OSError), open_private(self._log_file, "a") as log:
            log.write(f"{line}\n")

    def _count_refused(self, path: StoredPath, note: SentNote) -> None:
        if not note.refused:
            return
        self.refused += len(note.refused)
        self._refusals_shown += 1
        if self._refusals_shown <= NOTICES_OF_REFUSALS:
            first = note.refused[0]
            self._say(
                f"dlq_topic_refused {len(note.refused):,}: {path.name}, first {first.dlq_id} "
                f"({first.topic}/{first.partition} offset {first.offset}): {first.reason}; the "
                "letters are in their file, and dlq stats counts them"
            )


def _line_count(path: StoredPath) -> int:
    try:
        with path.open("rb") as file:
            return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
    except OSError:
        return 0
