"""Checks that a storage honours the conditions of writes; some stores ignore them in silence."""

from __future__ import annotations

import contextlib
import tempfile
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.storage.protocol import Storage, StorageAwayError

_THREADS = 8
_RACES = 3


def probe(storage: Storage, prefix: str = "_ledger") -> None:
    """Write a few small objects with and without a right to, and remove them.

    Args:
        storage: the storage to check.
        prefix: the key below which they are, each named `probe-` and a random id.

    Raises:
        EnvironmentFailure: a write was made whose condition did not hold, or what a user has to
            mend, as any call to a storage.
        StorageAwayError: the storage is away.
    """
    name = f"{prefix}/probe-{uuid.uuid4().hex}"
    slots = [f"{name}-{number}" for number in range(_RACES)]
    replaced = f"{name}-replaced"
    try:
        with tempfile.TemporaryDirectory(prefix="probe-") as directory:
            for slot in slots:
                _race(storage, slot, Path(directory))
            _take_again(storage, slots[0], Path(directory))
        _replace_stale(storage, replaced)
    except BaseException:
        with contextlib.suppress(StorageAwayError, EnvironmentFailure):
            storage.delete([*slots, replaced])
        raise
    storage.delete([*slots, replaced])


def _race(storage: Storage, key: str, directory: Path) -> None:
    """Take a key in several threads at once. None may win: an answer may have been lost."""
    barrier = Barrier(_THREADS)

    def contend(number: int) -> bool:
        source = directory / f"{number}"
        source.write_bytes(b"%d" % number)
        barrier.wait()
        return storage.put_if_absent(source, key)

    with ThreadPoolExecutor(_THREADS) as pool:
        won = [
            number for number, has_won in enumerate(pool.map(contend, range(_THREADS))) if has_won
        ]
    if len(won) > 1:
        raise _refusal(storage, f"{len(won)} of {_THREADS} writers made the same new object")
    if won and storage.read(key).data != b"%d" % won[0]:
        raise _refusal(storage, "a new object has the content of a writer that was refused")


def _take_again(storage: Storage, key: str, directory: Path) -> None:
    before = storage.read(key)
    source = directory / "again"
    source.write_bytes(b"again")
    if storage.put_if_absent(source, key) or storage.read(key) != before:
        raise _refusal(storage, "it replaced an object that was to be made only if absent")


def _replace_stale(storage: Storage, key: str) -> None:
    storage.put(key, b"1")
    first = storage.read(key).version
    storage.put(key, b"2")
    if storage.read(key).data != b"2":
        raise _refusal(storage, "it gave an old content after a write")
    if storage.put_if_match(key, b"3", first) is not None or storage.read(key).data != b"2":
        raise _refusal(storage, "it replaced an object that had another version than was asked for")


def _refusal(storage: Storage, what: str) -> EnvironmentFailure:
    return EnvironmentFailure(
        f"{storage.url}: this store does not honour conditional writes: {what}. Records would be "
        "lost or doubled; use a store that honours them, see docs/object-stores.md"
    )
