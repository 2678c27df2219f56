"""The lease on an output directory: one writer at a time, or records would be written twice.

On one machine the lease is an flock, which the kernel releases when its owner dies. Machines that
share the storage may not share its flocks. Between them the lease is its content: the owner and a
heartbeat. It expires when the content has not changed for a while by the clock of the machine that
looks, and whoever takes it over becomes the owner. So the owner reads the file before each
heartbeat, and stops when it finds another owner there.

`lease.json` is a JSON object with `host`, `pid`, `id` and `heartbeat` (Unix time in seconds), and
`{}` once it was released. It is written in place, in one call and at one length, because a rename
would leave the flock behind and a full disk must not tear it.

An object store has a lease of its own kind (`runtime.store_lease`).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.files.mounts import file_system_of, is_local
from beam_pipeline.runtime.lease_terms import (
    DEFAULT_TIMES,
    LEASE_FILE,
    Holder,
    Lease,
    LeasedPlace,
    LeaseTimes,
    Watch,
)
from beam_pipeline.runtime.store_lease import StoreLease, store_holder_of
from beam_pipeline.storage.paths import StoredPath

_LENGTH = 256


@dataclass(frozen=True)
class LeaseRecord:
    """What a lease that is held says; `heartbeat` is a Unix time in seconds."""

    host: str
    pid: int
    heartbeat: float
    id: str = ""

    @property
    def holder(self) -> Holder:
        """Return the process that holds it."""
        return Holder(self.host, self.pid)


def parse_lease(content: bytes) -> LeaseRecord | None:
    """Parse the content of a lease; None for one that was released.

    Raises:
      ValueError: it is empty, torn, or something else.
    """
    fields = json.loads(content)
    if fields == {}:
        return None
    try:
        record = LeaseRecord(
            fields["host"], fields["pid"], fields["heartbeat"], fields.get("id", "")
        )
    except (LookupError, TypeError, AttributeError):
        raise ValueError("not a lease") from None
    if not (isinstance(record.host, str) and isinstance(record.heartbeat, float | int)):
        raise ValueError("not a lease")
    return record


class DirectoryLease:
    """A lease on a directory that is held by this process; made by `hold_lease`."""

    def __init__(self, directory: Path, flag: str, descriptor: int, times: LeaseTimes) -> None:
        self._path = directory / LEASE_FILE
        self._place = LeasedPlace(flag, str(directory))
        self._descriptor = descriptor
        self._times = times
        self._id = secrets.token_hex(8)
        self._is_shared = _is_shared(directory)
        self._next_beat = self._next_beat_unix = 0.0

    def await_expiry(self, say: Callable[[str], object]) -> None:
        """Wait until another machine's lease is free, or has not changed for the time of expiry.

        For a process of this machine, the flock has the answer.

        Raises:
          EnvironmentFailure: it is renewed.
          OSError: it can't be read.
        """
        holder, content = _read(self._path, self._times.torn)
        watch = Watch(content, self._times.expiry)
        is_told = False
        while holder is not None and holder.host != socket.gethostname():
            if watch.has_changed(content):
                raise self._place.taken(holder.holder.name)
            if watch.has_expired:
                return
            if not is_told:
                is_told = True
                say(self._place.waiting(holder.holder.name, self._times.expiry))
            time.sleep(self._times.look)
            watch.begin_look()
            holder, content = _read(self._path, self._times.torn)

    def take(self) -> None:
        """Become the owner of a lease that is free.

        Raises:
          EnvironmentFailure: another machine took it at the same time.
          OSError: it can't be written.
        """
        self._write_heartbeat()
        if self._is_shared:
            time.sleep(self._times.settle)
            holder, _ = _read(self._path, self._times.torn)
            if holder is None or holder.id != self._id:
                raise self._place.taken(_name_of(holder))

    def beat(self) -> None:
        # The monotonic clock may stand still while a virtual machine is paused.
        if time.monotonic() < self._next_beat and time.time() < self._next_beat_unix:
            return
        self.confirm()
        # A disk that is full or away for a moment is no reason to stop; if the lease expires
        # meanwhile and is taken over, the next `confirm` finds that.
        with contextlib.suppress(OSError):
            self._write_heartbeat()

    def confirm(self) -> None:
        try:
            holder, _ = _read(self._path, self._times.torn)
        except (FileNotFoundError, NotADirectoryError):
            raise self._place.vanished() from None
        except OSError:
            return  # storage that does not answer now takes no files either
        if holder is None or holder.id != self._id:
            raise self._place.lost(_name_of(holder), self._times.expiry)

    def release(self) -> None:
        with contextlib.suppress(OSError, EnvironmentFailure):
            self.confirm()
            self._write(b"{}")

    def _write_heartbeat(self) -> None:
        self._next_beat = time.monotonic() + self._times.heartbeat
        self._next_beat_unix = time.time() + self._times.heartbeat
        record = LeaseRecord(socket.gethostname(), os.getpid(), time.time(), self._id)
        self._write(json.dumps(asdict(record)).encode())

    def _write(self, content: bytes) -> None:
        padded = content.ljust(_LENGTH)
        os.pwrite(self._descriptor, padded, 0)
        os.ftruncate(self._descriptor, len(padded))
        if self._is_shared:
            os.fsync(self._descriptor)  # or other machines see it half a minute later


@contextlib.contextmanager
def hold_lease(
    place: StoredPath,
    flag: str,
    times: LeaseTimes = DEFAULT_TIMES,
    say: Callable[[str], object] = lambda text: None,
) -> Iterator[Lease]:
    """Hold the lease on a directory or a prefix of an object store for the time of the block.

    A lease that another machine has not released is waited for until it has expired.

    Args:
      place: an output or dead-letter directory, made when missing; or a prefix.
      flag: the flag that names it, for messages.
      times: how long the steps take.
      say: called with one line when the end of another one's lease is waited for.

    Raises:
      EnvironmentFailure: another pipeline holds it, or it can't be written.
      StorageAwayError: the object store does not answer.
    """
    with contextlib.ExitStack() as stack:
        lease: DirectoryLease | StoreLease
        if isinstance(place, Path):
            lease = _locked(place, flag, times, say, stack)
        else:
            lease = StoreLease(place, flag, times, say)
            lease.take()
        stack.callback(lease.release)
        yield lease


def _locked(
    directory: Path,
    flag: str,
    times: LeaseTimes,
    say: Callable[[str], object],
    stack: contextlib.ExitStack,
) -> DirectoryLease:
    """Return a lease that is taken; `stack` closes its file."""
    path, place = directory / LEASE_FILE, LeasedPlace(flag, str(directory))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, is_new = _open(path)
        stack.callback(os.close, descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        lease = DirectoryLease(directory, flag, descriptor, times)
        if not is_new:
            lease.await_expiry(say)
        lease.take()
    except BlockingIOError:
        holder, _ = _read(path, times.torn)
        raise place.taken(_name_of(holder)) from None
    except OSError as error:
        raise EnvironmentFailure(
            f"{place}: {error.strerror}; give a directory that can be written"
        ) from None
    return lease


def holder_of(place: StoredPath, times: LeaseTimes = DEFAULT_TIMES) -> Holder | None:
    """Return who holds a directory or a prefix now; None if nobody does. Takes no lock.

    The owner of a lease that expired, or a process of this machine that has ended, holds nothing.

    Raises:
      StorageAwayError: the object store does not answer.
    """
    if not isinstance(place, Path):
        return store_holder_of(place, times)
    try:
        record = parse_lease((place / LEASE_FILE).read_bytes())
    except (OSError, ValueError):
        return None
    if record is None or time.time() - record.heartbeat >= times.expiry:
        return None
    if record.host == socket.gethostname() and not _is_alive(record.pid):
        return None
    return record.holder


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def _open(path: Path) -> tuple[int, bool]:
    """Open a lease; return the descriptor, and whether this call made the file."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), True
    except FileExistsError:
        return os.open(path, os.O_RDWR), False


def _read(path: Path, torn_seconds: float) -> tuple[LeaseRecord | None, bytes]:
    """Read a lease by opening it anew: a network file system looks for news only then.

    One that is not whole is read again for a while. If it stays so, its owner is unknown.

    Returns:
      what it says, and its content.
    """
    give_up = time.monotonic() + torn_seconds
    while True:
        content = path.read_bytes()
        with contextlib.suppress(ValueError):
            return parse_lease(content), content
        if time.monotonic() >= give_up:
            return LeaseRecord("an unknown host", 0, 0.0), content
        time.sleep(0.05)


def _is_shared(directory: Path) -> bool:
    """Return whether other machines may see the directory too."""
    kind = file_system_of(directory)
    return kind is None or not is_local(kind)


def _name_of(record: LeaseRecord | None) -> str:
    return record.holder.name if record else "process unknown"
