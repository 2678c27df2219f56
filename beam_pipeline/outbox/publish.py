"""Sends the letters of one dead-letter file to their topic, and says what became of each."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import orjson
from confluent_kafka import KafkaError

from beam_pipeline.files.sent_notes import RefusedLetter, SentNote
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.kafka.delivery import Delivery
from beam_pipeline.outbox.topic_record import REFUSALS, TopicRecord, next_form, record_of
from beam_pipeline.storage.paths import ObjectPath, ObjectStatus, StoredPath

_CHUNK_LETTERS = 1_000
_CHUNK_BYTES = 16 * 1024 * 1024
_SETTINGS: dict[str, str | int | float | bool] = {
    "compression.type": "zstd",
    # As in Kafka's Java clients: a key has the same partition.
    "partitioner": "murmur2_random",
    # Few retries, so that the reason of a failure is known; the whole file is tried again.
    "message.send.max.retries": 5,
    "message.timeout.ms": 20_000,
    "topic.metadata.propagation.max.ms": 10_000,
}
_SINGLY: dict[str, str | int | float | bool] = {
    **_SETTINGS,
    # A broker refuses a whole batch for one record in it.
    "batch.num.messages": 1,
    # After each refused batch an idempotent client waits for a new id of its own.
    "enable.idempotence": False,
}


class TopicUnavailable(Exception):
    """Letters could not be sent, for a reason that is not theirs; they can be later."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class FileInUse(Exception):
    """Another process sends this file now."""


class BrokenLetter(ValueError):
    """A line is not a dead letter."""


@dataclass
class FileProgress:
    """What became of the letters of a file so far; kept over the tries of one process.

    Attributes:
        identity: inode (0 for an object), size and time of change of the file that it is about.
        done: the places of the lines whose letter was acknowledged or refused for good.
        changed: how many letters the topic has in another form.
        refused: the letters that the topic refused in every form.
    """

    identity: tuple[int, int, int] | None = None
    done: set[int] = field(default_factory=set)
    changed: int = 0
    refused: list[RefusedLetter] = field(default_factory=list)

    def begin(self, identity: tuple[int, int, int]) -> None:
        """Start anew if the file has been replaced."""
        if identity != self.identity:
            self.identity = identity
            self.done.clear()
            self.refused.clear()
            self.changed = 0


class _Entry(NamedTuple):
    """A letter on its way: its place in the file, its topic of origin, its record."""

    place: int
    source: dict[str, Any]
    record: TopicRecord


class FileSender:
    """Sends files, one after another, with one client.

    After `TopicUnavailable` make a new one: a client may not recover from some errors.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        topic_suffix: str,
        *,
        stop_requested: Callable[[], bool],
        on_acknowledged: Callable[[int], object] = lambda letters: None,
    ) -> None:
        """Describe the sender; it connects with the first letter.

        Args:
            connection: the cluster.
            topic_suffix: what is put behind the name of the input topic.
            stop_requested: whether to send no more.
            on_acknowledged: called with how many more letters are done.
        """
        self._connection = connection
        self._topic_suffix = topic_suffix
        self._stop_requested = stop_requested
        self._on_acknowledged = on_acknowledged
        self._batches: Delivery | None = None
        self._single: Delivery | None = None

    def send_file(self, path: StoredPath, progress: FileProgress) -> SentNote:
        """Send the letters that are not done, and return the note on the whole file.

        Args:
            path: the file, or an object. Objects are not locked: of two processes that send one at
                the same time, both send it whole.
            progress: what earlier tries did; it is brought up to date, also when this one fails.

        Raises:
            TopicUnavailable: some letters were not sent.
            FileInUse: another process sends the file.
            BrokenLetter: the file has a line that is no letter.
            OSError: the file can't be read, or is gone.
        """
        outages: list[str] = []
        digest = hashlib.sha256()
        letters = place = size = 0
        chunk: list[_Entry] = []
        if isinstance(path, ObjectPath) and path.listed is None:
            path = ObjectPath(path.storage, path.key, path.storage.stat(path.key))
        with path.open("rb") as file:
            if isinstance(path, ObjectPath):
                status: ObjectStatus | os.stat_result = path.stat()
                progress.begin((0, status.st_size, status.st_mtime_ns))
            else:
                _lock(file.fileno())
                status = os.fstat(file.fileno())
                progress.begin((status.st_ino, status.st_size, status.st_mtime_ns))
            for line in file:
                digest.update(line)
                letters += 1
                if place not in progress.done:
                    chunk.append(_entry(path, place, line))
                    size += len(line)
                place += len(line)
                if len(chunk) >= _CHUNK_LETTERS or size >= _CHUNK_BYTES:
                    outages += self._send_chunk(chunk, progress)
                    chunk, size = [], 0
            outages += self._send_chunk(chunk, progress)
        if outages:
            raise TopicUnavailable(outages[0])
        return SentNote(
            size=status.st_size,
            mtime_ns=status.st_mtime_ns,
            sha256=digest.hexdigest(),
            letters=letters,
            changed=progress.changed,
            refused=tuple(progress.refused),
        )

    def close(self) -> None:
        """Drop what is queued."""
        for delivery in (self._batches, self._single):
            if delivery is not None:
                delivery.fail("closed")
                delivery.finish(grace_seconds=0)
        self._batches = self._single = None

    def _send_chunk(self, entries: list[_Entry], progress: FileProgress) -> list[str]:
        """Send letters, and return why some were not sent.

        Raises:
            TopicUnavailable: not one of them was sent.
        """
        if not entries:
            return []
        if self._batches is None:
            self._batches = self._delivery(_SETTINGS)
        before = len(progress.done)
        errors = self._send(self._batches, entries, progress)
        outages = [error.str() for _, error in errors if error.code() not in REFUSALS]
        refused = [entry for entry, error in errors if error.code() in REFUSALS]
        # The first form once more: another record of its batch may have been at fault.
        while refused:
            if self._single is None:
                self._single = self._delivery(_SINGLY)
            errors = self._send(self._single, refused, progress)
            outages += [error.str() for _, error in errors if error.code() not in REFUSALS]
            refused = []
            for entry, error in errors:
                if error.code() not in REFUSALS:
                    continue
                form = next_form(entry.record, error.code())
                if form is not None:
                    refused.append(entry._replace(record=form))
                else:
                    self._note_refused(entry, error, progress)
        if self._stop_requested():
            raise TopicUnavailable("stopped")
        if outages and len(progress.done) == before:
            raise TopicUnavailable(outages[0])
        return outages

    def _send(
        self, delivery: Delivery, entries: Iterable[_Entry], progress: FileProgress
    ) -> list[tuple[_Entry, KafkaError]]:
        """Send letters and wait for all; return those that failed, with their errors."""
        failed: list[tuple[_Entry, KafkaError]] = []

        def report(entry: _Entry, error: KafkaError | None) -> None:
            if error is not None:
                failed.append((entry, error))
                return
            progress.done.add(entry.place)
            progress.changed += bool(entry.record.changes)
            self._on_acknowledged(1)

        for entry in entries:
            record = entry.record
            delivery.send(
                f"{entry.source['topic']}{self._topic_suffix}",
                record.value,
                record.key,
                partial(report, entry),
                headers=record.headers,
                timestamp=record.timestamp_ms,
            )
        delivery.drain()
        return failed

    def _note_refused(self, entry: _Entry, error: KafkaError, progress: FileProgress) -> None:
        source = entry.source
        progress.done.add(entry.place)
        progress.refused.append(
            RefusedLetter(
                entry.record.dlq_id,
                source["topic"],
                source["partition"],
                source["offset"],
                error.str(),
            )
        )
        self._on_acknowledged(1)

    def _delivery(self, settings: dict[str, str | int | float | bool]) -> Delivery:
        return Delivery(
            self._connection,
            stop_requested=self._stop_requested,
            on_poll=lambda: None,
            settings=settings,
        )


def _entry(path: StoredPath, place: int, line: bytes) -> _Entry:
    try:
        letter = orjson.loads(line)
        return _Entry(place, letter["source"], record_of(letter))
    except (KeyError, TypeError, ValueError) as error:
        raise BrokenLetter(f"{path}, byte {place}: {type(error).__name__}: {error}") from None


def _lock(descriptor: int) -> None:
    """Lock a file against other senders on this machine, until it is closed.

    Raises:
        FileInUse: another sender has it.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise FileInUse from None
    except OSError:
        # A file system without locks: letters may be sent twice, which is allowed.
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
