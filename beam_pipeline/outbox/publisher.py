"""A background thread that sends dead-letter files to their topics, and notes what it sent.

Nothing waits for it. While a topic can't be written it tries again with backoff; the letters are
in their files meanwhile. At-least-once: a process that dies between the last acknowledgement and
the note leaves a file that is sent again.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from beam_pipeline.files.names import OutputFile
from beam_pipeline.files.sent_notes import SentNote, read_note, write_note
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.outbox.publish import (
    BrokenLetter,
    FileInUse,
    FileProgress,
    FileSender,
    TopicUnavailable,
)
from beam_pipeline.storage.config import StorageConfig
from beam_pipeline.storage.paths import ObjectPath, StoredPath
from beam_pipeline.storage.urls import stored_path

FIRST_BACKOFF_SECONDS = 1.0
MAX_BACKOFF_SECONDS = 30.0
IN_USE_SECONDS = 0.5
JOIN_SECONDS = 3.0


@dataclass(frozen=True)
class OutboxSettings:
    """What a publisher needs to know; `repr` shows no secret.

    Attributes:
        connection: the cluster.
        topic_suffix: what is put behind the name of the input topic.
        dead_letter_dir: the root of the dead-letter files, a directory or a URL.
        private: whether notes get mode 0600.
        storage: how an object store is reached.
    """

    connection: KafkaConnection
    topic_suffix: str
    dead_letter_dir: str
    private: bool = True
    storage: StorageConfig = field(default_factory=StorageConfig)

    @property
    def root(self) -> StoredPath:
        """Return the root of the dead-letter files."""
        return stored_path(self.dead_letter_dir, self.storage)

    def path_of(self, file: str) -> StoredPath:
        """Return the path of a file below the root; `file` is its path or its URL."""
        root = self.root
        if isinstance(root, ObjectPath):
            return root / file.removeprefix(f"{root}/")
        return Path(file)


@dataclass
class _TopicQueue:
    """The files of one topic that wait, and when the next one may be tried."""

    paths: dict[StoredPath, None] = field(default_factory=dict)
    retry_at: float = 0.0
    backoff: float = 0.0
    failing_since: float | None = None


class Publisher:
    """Sends files in the background, in the order in which they come.

    The thread starts with the first file. A topic that can't be written holds up only its own
    files.
    """

    def __init__(
        self,
        settings: OutboxSettings,
        say: Callable[[str], object],
        log_refused: Callable[[str], object],
    ) -> None:
        """Describe the publisher.

        Args:
            settings: where the files are and go.
            say: called with one line when a topic can't be written, when it can again, and for a
                file that can't be read.
            log_refused: called with one line for each letter that is refused for good.
        """
        self._settings = settings
        self._say = say
        self._log_refused = log_refused
        self._queues: dict[str, _TopicQueue] = {}
        self._progress: dict[StoredPath, FileProgress] = {}
        self._notes: dict[StoredPath, SentNote] = {}
        self._broken: set[StoredPath] = set()
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._sender: FileSender | None = None
        self._moved_at = time.monotonic()
        self._reason = ""

    def put(self, paths: Iterable[StoredPath]) -> None:
        """Have files sent; those that wait already are passed over. Returns at once."""
        with self._changed:
            for path in paths:
                file = OutputFile.parse(path)
                topic = file.topic if file else ""
                queue = self._queues.setdefault(topic, _TopicQueue())
                if path in queue.paths or path in self._broken:
                    continue
                if not self.is_busy:
                    self._moved_at = time.monotonic()
                queue.paths[path] = None
            if self.is_busy and self._thread is None and not self._stopping.is_set():
                self._thread = threading.Thread(
                    target=self._run, name="dead-letter-publisher", daemon=True
                )
                self._thread.start()
            self._changed.notify()

    @property
    def is_busy(self) -> bool:
        """Whether a file waits or is being sent."""
        return any(queue.paths for queue in self._queues.values())

    @property
    def moved_at(self) -> float:
        """When a letter was acknowledged last, or when there was nothing to send (monotonic)."""
        return self._moved_at

    @property
    def broken(self) -> frozenset[StoredPath]:
        """The files that can't be read as dead letters."""
        return frozenset(self._broken)

    @property
    def reason(self) -> str:
        """Why the last try to send failed; empty if it did not."""
        return self._reason

    def stop(self) -> None:
        """End the thread. What was not sent is sent by the next start."""
        self._stopping.set()
        with self._changed:
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(JOIN_SECONDS)

    def _run(self) -> None:
        while not self._stopping.is_set():
            with self._changed:
                name, wait = self._next_topic()
                if name is None:
                    self._changed.wait(wait)
                    continue
                queue = self._queues[name]
                path = next(iter(queue.paths))
            self._attempt(name, queue, path)
        if self._sender is not None:
            self._sender.close()

    def _next_topic(self) -> tuple[str | None, float | None]:
        """Return a topic with a file that is due, or how long to wait for one."""
        now = time.monotonic()
        waiting = {name: queue.retry_at for name, queue in self._queues.items() if queue.paths}
        if not waiting:
            return None, None
        name = min(waiting, key=waiting.__getitem__)
        return (name, 0.0) if waiting[name] <= now else (None, waiting[name] - now)

    def _attempt(self, name: str, queue: _TopicQueue, path: StoredPath) -> None:
        """Send the first file of a topic; it leaves the queue, or goes to its end."""
        try:
            self._send(path)
        except FileNotFoundError:  # superseded or deleted: its letters come again, or are not
            self._leave(queue, path)
        except FileInUse:
            self._put_off(queue, path, IN_USE_SECONDS)
        except BrokenLetter as error:
            self._broken.add(path)
            self._leave(queue, path)
            self._say(f"dead letters can't be sent to their topic: {error}")
        except TopicUnavailable as error:
            if not self._stopping.is_set():
                self._fail(name, queue, path, error.reason)
        except OSError as error:
            self._fail(name, queue, path, f"{error.filename or path}: {error.strerror or error}")
        except Exception as error:  # a bug must not end the thread: rows go on, and so does this
            self._fail(name, queue, path, f"{type(error).__name__}: {error}")
        else:
            self._leave(queue, path)
            self._recover(name, queue)

    def _send(self, path: StoredPath) -> None:
        directory = self._settings.root
        note = read_note(directory, path.name)
        if note is not None and note.is_of(path):
            return
        note = self._notes.get(path)
        if note is None or not note.is_of(path):
            if self._sender is None:
                self._sender = FileSender(
                    self._settings.connection,
                    self._settings.topic_suffix,
                    stop_requested=self._stopping.is_set,
                    on_acknowledged=self._on_acknowledged,
                )
            progress = self._progress.setdefault(path, FileProgress())
            note = self._sender.send_file(path, progress)
            self._notes[path] = note  # in case it can't be written now
            for letter in note.refused:
                self._log_refused(
                    f"dlq_topic_refused: {letter.dlq_id} ({letter.topic}/{letter.partition} "
                    f"offset {letter.offset}): {letter.reason}; it is in {path}"
                )
        write_note(directory, path.name, note, private=self._settings.private)

    def _on_acknowledged(self, letters: int) -> None:
        self._moved_at = time.monotonic()

    def _leave(self, queue: _TopicQueue, path: StoredPath) -> None:
        self._progress.pop(path, None)
        self._notes.pop(path, None)
        with self._changed:
            queue.paths.pop(path)
        self._moved_at = time.monotonic()

    def _put_off(self, queue: _TopicQueue, path: StoredPath, seconds: float) -> None:
        """Put the file at the end of its queue, and wait before the next one."""
        with self._changed:
            queue.paths.pop(path)
            queue.paths[path] = None
            queue.retry_at = time.monotonic() + seconds

    def _fail(self, name: str, queue: _TopicQueue, path: StoredPath, reason: str) -> None:
        self._reason = reason
        if queue.failing_since is None:
            queue.failing_since = time.monotonic()
            self._say(
                f"dead letters can't be sent to {name}{self._settings.topic_suffix}: {reason}; "
                "they are in their files, and are sent when it can be written"
            )
        queue.backoff = min(queue.backoff * 2 or FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS)
        self._put_off(queue, path, queue.backoff)
        if self._sender is not None:
            with contextlib.suppress(Exception):
                self._sender.close()
            self._sender = None

    def _recover(self, name: str, queue: _TopicQueue) -> None:
        if queue.failing_since is None:
            return
        seconds = time.monotonic() - queue.failing_since
        queue.failing_since, queue.backoff, self._reason = None, 0.0, ""
        self._say(
            f"dead letters are sent to {name}{self._settings.topic_suffix} again, "
            f"after {seconds:.0f} s"
        )
