"""A lease on an output directory: two pipelines writing the same one would count records twice."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from beam_pipeline.errors import EnvironmentFailure

LEASE_FILE = Path("_ledger", "lease.json")
HEARTBEAT_SECONDS = 5.0
EXPIRY_SECONDS = 30.0


class Lease:
    """A held lease. On one machine the kernel frees it with its owner's death; between machines
    on shared storage it expires when its heartbeat stops."""

    def __init__(self, directory: Path, handle: IO[str], owner: dict[str, Any]) -> None:
        self._directory = directory
        self._handle = handle
        self._owner = owner
        self._beat_at = 0.0

    def beat(self) -> None:
        """Renews the lease when it is due; call it more often than `HEARTBEAT_SECONDS`.

        Raises:
          EnvironmentFailure: the directory is gone.
        """
        if time.monotonic() < self._beat_at:
            return
        self._beat_at = time.monotonic() + HEARTBEAT_SECONDS
        if not (self._directory / LEASE_FILE).exists():
            raise EnvironmentFailure(
                f"{self._directory} has vanished, or its lease with it; nothing more is written. "
                "Bring it back and start again: what is in its files is not read twice"
            )
        # On a full disk the flock still holds here; elsewhere the lease expires.
        with contextlib.suppress(OSError):
            self._handle.seek(0)
            self._handle.truncate()
            json.dump({**self._owner, "heartbeat": time.time()}, self._handle)
            self._handle.flush()


@contextlib.contextmanager
def hold_lease(directory: Path, flag: str) -> Iterator[Lease]:
    """Holds the lease on `directory` for the time of the block.

    Raises:
      EnvironmentFailure: another pipeline holds it, or the directory can't be written.
    """
    path = directory / LEASE_FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise EnvironmentFailure(
            f"{flag}={directory}: {error.strerror}; give a directory that can be written"
        ) from None
    with handle:
        host = socket.gethostname()
        handle.seek(0)
        holder = _read(handle)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise _taken(directory, flag, holder) from None
        elsewhere = holder.get("host") not in (None, host)
        if elsewhere and time.time() - holder.get("heartbeat", 0.0) < EXPIRY_SECONDS:
            raise _taken(directory, flag, holder)
        lease = Lease(directory, handle, {"host": host, "pid": os.getpid()})
        lease.beat()
        try:
            yield lease
        finally:
            with contextlib.suppress(OSError):
                handle.truncate(0)


def _read(handle: IO[str]) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.load(handle)
    except ValueError:
        return {}
    return found


def _taken(directory: Path, flag: str, holder: dict[str, Any]) -> EnvironmentFailure:
    owner = f"process {holder.get('pid', '?')} on {holder.get('host', '?')}"
    return EnvironmentFailure(
        f"{flag}={directory} is being written by another pipeline ({owner}); "
        "stop that one, or give this one a directory of its own"
    )
