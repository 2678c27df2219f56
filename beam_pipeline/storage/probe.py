"""Checks that a storage honours the conditions of conditional writes: some ignore them silently."""

from __future__ import annotations

import contextlib
import tempfile
import uuid
from pathlib import Path

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.storage.protocol import Storage

_PREFIX = "_ledger/probe-"


def probe(storage: Storage) -> None:
    """Write an object below `_ledger/` under conditions that must not hold, and remove it.

    Raises:
        EnvironmentFailure: the storage ignores a condition, or can't be used.
        StorageAwayError: it does not answer.
    """
    key = f"{_PREFIX}{uuid.uuid4().hex}"
    try:
        with tempfile.TemporaryDirectory(prefix="beam-pipeline-") as directory:
            for number in range(2):
                source = Path(directory, str(number))
                source.write_bytes(b"%d" % number)
                storage.put_if_absent(source, key)
        if storage.read(key).data != b"0":
            raise _ignores(storage, "an object that must not exist yet was overwritten")
        stale = storage.read(key).version
        storage.put_if_match(key, b"2", stale)
        storage.put_if_match(key, b"3", stale)
        if storage.read(key).data != b"2":
            raise _ignores(storage, "an object was overwritten under the version of an older one")
    finally:
        with contextlib.suppress(OSError):
            storage.delete([key])


def _ignores(storage: Storage, evidence: str) -> EnvironmentFailure:
    return EnvironmentFailure(
        f"{storage.url}: this store ignores the conditions of writes ({evidence}), so records "
        "could be lost or doubled; use a store that honours If-None-Match and If-Match"
    )
