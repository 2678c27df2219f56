"""The lease on an output directory: one writer at a time, or records would be written twice.

On one machine the lease is an flock, which the kernel releases when its owner dies. Machines that
share the storage may not share its flocks. Between them the lease is its content: the owner and a
heartbeat. It expires when the heartbeat stops, and whoever takes it over becomes the owner. So the
owner reads the file before each heartbeat, and stops when it finds another owner there.

`lease.json` is a JSON object with `host`, `pid`, `id` and `heartbeat` (Unix time in seconds), and
`{}` once it was released. It is written in place, in one call and at one length, because a rename
would leave the flock behind and a full disk must not tear it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.files.mounts import file_system_of, is_local
from beam_pipeline.storage.paths import StoredPath

LEASE_FILE = Path("_ledger", "lease.json")
HEARTBEAT_SECONDS = 5.0
EXPIRY_SECONDS = 30.0
SETTLE_SECONDS = 2.0
"""Of machines that start at the same time the last one to write has the lease. Each waits this long
after its write, then looks whether it was the last."""
TORN_SECONDS = 1.0
"""How long a lease that is not whole is read again: its owner may be writing it."""
_LENGTH = 256


class LeaseLostError(EnvironmentFailure):
    """Another pipeline has the directory now; this one must write nothing more."""


@dataclass(frozen=True)
class LeaseRecord:
    """What a lease that is held says; `heartbeat` is a Unix time in seconds."""

    host: str
    pid: int
    heartbeat: float
    id: str = ""

    @property
    def name(self) -> str:
        """Return the process and its host, for people."""
        return f"process {self.pid or '?'} on {self.host}"

    def is_held_elsewhere(self, host: str, now: float) -> bool:
        """Return whether another machine holds the lease, and its heartbeat has not expired.

        For a process of this machine, `host`, the flock has the answer.
        """
        return self.host != host and now - self.heartbeat < EXPIRY_SECONDS


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


class Lease:
    """A lease that is held by this process; made by `hold_lease`."""

    def __init__(self, directory: Path, flag: str, descriptor: int) -> None:
        self._directory = directory
        self._flag = flag
        self._descriptor = descriptor
        self._id = secrets.token_hex(8)
        self._is_shared = _is_shared(directory)
        self._next_beat = self._next_beat_unix = 0.0

    def take(self) -> None:
        """Become the owner of a lease that is free.

        Raises:
          EnvironmentFailure: another machine took it at the same time.
          OSError: it can't be written.
        """
        self._write_heartbeat()
        if self._is_shared:
            time.sleep(SETTLE_SECONDS)
            holder = _read(self._directory / LEASE_FILE)
            if holder is None or holder.id != self._id:
                raise _taken(self._directory, self._flag, holder)

    def beat(self) -> None:
        """Renew the lease when that is due; call it more often than `HEARTBEAT_SECONDS`.

        Raises:
          LeaseLostError: another pipeline took the lease over.
          EnvironmentFailure: the directory is gone.
        """
        # The monotonic clock may stand still while a virtual machine is paused.
        if time.monotonic() < self._next_beat and time.time() < self._next_beat_unix:
            return
        self.confirm()
        # A disk that is full or away for a moment is no reason to stop; if the lease expires
        # meanwhile and is taken over, the next `confirm` finds that.
        with contextlib.suppress(OSError):
            self._write_heartbeat()

    def confirm(self) -> None:
        """Check that this process still owns the lease.

        Raises:
          LeaseLostError: another pipeline took the lease over.
          EnvironmentFailure: the directory is gone.
        """
        where = f"{self._flag}={self._directory}"
        try:
            holder = _read(self._directory / LEASE_FILE)
        except (FileNotFoundError, NotADirectoryError):
            raise EnvironmentFailure(
                f"{where} has vanished, or its lease with it; nothing more is written. "
                "Bring it back and start again: what is in its files is not read twice"
            ) from None
        except OSError:
            return  # storage that does not answer now takes no files either
        if holder is None or holder.id != self._id:
            raise LeaseLostError(
                f"{where}: another pipeline ({_name_of(holder)}) took the lease over, because this "
                f"one stood still for {EXPIRY_SECONDS:g} s; this one has stopped. Nothing is lost: "
                "the other one resumes from the files"
            )

    def release(self) -> None:
        """Release the lease, unless another pipeline has it."""
        with contextlib.suppress(OSError, EnvironmentFailure):
            self.confirm()
            self._write(b"{}")

    def _write_heartbeat(self) -> None:
        self._next_beat = time.monotonic() + HEARTBEAT_SECONDS
        self._next_beat_unix = time.time() + HEARTBEAT_SECONDS
        record = LeaseRecord(socket.gethostname(), os.getpid(), time.time(), self._id)
        self._write(json.dumps(asdict(record)).encode())

    def _write(self, content: bytes) -> None:
        padded = content.ljust(_LENGTH)
        os.pwrite(self._descriptor, padded, 0)
        os.ftruncate(self._descriptor, len(padded))
        if self._is_shared:
            os.fsync(self._descriptor)  # or other machines see it half a minute later


@contextlib.contextmanager
def hold_lease(directory: Path, flag: str) -> Iterator[Lease]:
    """Hold the lease on `directory` for the time of the block.

    Args:
      directory: an output or dead-letter directory; made when missing.
      flag: the flag that names it, for messages.

    Raises:
      EnvironmentFailure: another pipeline holds it, or the directory can't be written.
    """
    path = directory / LEASE_FILE
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, is_new = _open(path)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            holder = None if is_new else _read(path)
        except BlockingIOError:
            raise _taken(directory, flag, _read(path)) from None
        except OSError as error:
            raise _unwritable(directory, flag, error) from None
        if holder is not None and holder.is_held_elsewhere(socket.gethostname(), time.time()):
            raise _taken(directory, flag, holder)
        lease = Lease(directory, flag, descriptor)
        try:
            lease.take()
        except OSError as error:
            raise _unwritable(directory, flag, error) from None
        stack.callback(lease.release)
        yield lease


def holder_of(directory: StoredPath) -> LeaseRecord | None:
    """Return who holds a directory now; None if nobody does. Takes no lock.

    The owner of a lease that expired, or a process of this machine that has ended, holds nothing.
    """
    try:
        record = parse_lease((directory / LEASE_FILE).read_bytes())
    except (OSError, ValueError):
        return None
    if record is None or time.time() - record.heartbeat >= EXPIRY_SECONDS:
        return None
    if record.host == socket.gethostname() and not _is_alive(record.pid):
        return None
    return record


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


def _read(path: Path) -> LeaseRecord | None:
    """Read a lease by opening it anew: a network file system looks for news only then.

    One that is not whole is read again for a while. If it stays so, its owner is unknown, and its
    heartbeat is the time of the file's last change.
    """
    give_up = time.monotonic() + TORN_SECONDS
    while True:
        try:
            return parse_lease(path.read_bytes())
        except ValueError:
            changed = path.stat().st_mtime
        if time.monotonic() >= give_up or time.time() - changed > EXPIRY_SECONDS:
            return LeaseRecord("an unknown host", 0, changed)
        time.sleep(0.05)


def _is_shared(directory: Path) -> bool:
    """Return whether other machines may see the directory too."""
    kind = file_system_of(directory)
    return kind is None or not is_local(kind)


def _name_of(holder: LeaseRecord | None) -> str:
    return holder.name if holder else "process unknown"


def _taken(directory: Path, flag: str, holder: LeaseRecord | None) -> EnvironmentFailure:
    return EnvironmentFailure(
        f"{flag}={directory} is being written by another pipeline ({_name_of(holder)}); "
        "stop that one, or give this one a directory of its own"
    )


def _unwritable(directory: Path, flag: str, error: OSError) -> EnvironmentFailure:
    return EnvironmentFailure(
        f"{flag}={directory}: {error.strerror}; give a directory that can be written"
    )
