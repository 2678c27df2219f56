"""Waits for a storage that is away."""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from beam_pipeline.storage.protocol import Content, Storage, StorageAwayError, StoredObject, Upload

_Result = TypeVar("_Result")

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 15.0

_log = logging.getLogger(__name__)


def patiently(
    call: Callable[[], _Result], seconds: float, tell: Callable[[StorageAwayError], object]
) -> _Result:
    """Make a call that may be repeated, again and again while the storage is away.

    The pauses double up to `LONGEST_PAUSE_SECONDS`, less a random part.

    Args:
        call: what to do.
        seconds: how long to go on after the first failure.
        tell: called with each failure that is followed by another try.

    Raises:
        StorageAwayError: the storage is still away.
    """
    deadline: float | None = None
    pause = FIRST_PAUSE_SECONDS
    while True:
        try:
            return call()
        except StorageAwayError as error:
            now = time.monotonic()
            deadline = now + seconds if deadline is None else deadline
            if now >= deadline:
                raise
            tell(error)
        time.sleep(pause * random.uniform(0.5, 1.0))
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


@dataclass(frozen=True)
class PatientStorage:
    """A storage whose methods wait while it is away, and log that they do.

    Args:
        storage: the storage.
        seconds: how long a call waits before it raises `StorageAwayError`.
    """

    storage: Storage
    seconds: float

    @property
    def url(self) -> str:
        """The root of the storage."""
        return self.storage.url

    @property
    def requests(self) -> Counter[str]:
        """The requests of the storage."""
        return self.storage.requests

    def put_if_absent(self, source: Path, key: str) -> bool:
        return self._wait(lambda: self.storage.put_if_absent(source, key))

    def put(self, key: str, content: bytes) -> None:
        self._wait(lambda: self.storage.put(key, content))

    def put_file(self, source: Path, key: str) -> None:
        self._wait(lambda: self.storage.put_file(source, key))

    def put_if_match(self, key: str, content: bytes, version: str | None) -> str | None:
        return self._wait(lambda: self.storage.put_if_match(key, content, version))

    def read(self, key: str) -> Content:
        return self._wait(lambda: self.storage.read(key))

    def read_range(self, key: str, start: int, length: int) -> bytes:
        return self._wait(lambda: self.storage.read_range(key, start, length))

    def stat(self, key: str) -> StoredObject:
        return self._wait(lambda: self.storage.stat(key))

    def objects(self, prefix: str = "") -> Iterator[StoredObject]:
        return iter(self._wait(lambda: list(self.storage.objects(prefix))))

    def children(self, key: str = "") -> list[StoredObject | str]:
        return self._wait(lambda: self.storage.children(key))

    def delete(self, keys: Iterable[str]) -> None:
        doomed = list(keys)
        self._wait(lambda: self.storage.delete(doomed))

    def delete_if_match(self, key: str, version: str) -> bool:
        return self._wait(lambda: self.storage.delete_if_match(key, version))

    def uploads(self, prefix: str = "") -> Iterator[Upload]:
        return iter(self._wait(lambda: list(self.storage.uploads(prefix))))

    def abort_upload(self, upload: Upload) -> None:
        self._wait(lambda: self.storage.abort_upload(upload))

    def _wait(self, call: Callable[[], _Result]) -> _Result:
        return patiently(
            call, self.seconds, lambda error: _log.warning("%s; waiting for it", error)
        )
