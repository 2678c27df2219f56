"""The lease on a prefix of an object store, by compare-and-swap.

`_ledger/lease.json` is replaced only in the version that its writer has read. Its holder replaces
it each heartbeat; whoever sees it unchanged for the time of expiry may take it over. The holder's
next replace then fails, and it stops. A thread renews the lease, since a listing or the reading of
many footers takes longer than the lease lasts.

The object is JSON: `host`, `pid`, `boot`, `pid_namespace` and `started` of the holder's process,
`nonce`, `generation` (how often the lease was taken) and `beat`; only `generation` once it was
released. Nonce and beat make each content new: where versions are hashes of the content, an old
one never comes back.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.runtime.lease_terms import LEASE_FILE, Holder, LeasedPlace, LeaseTimes, Watch
from beam_pipeline.storage.paths import ObjectPath
from beam_pipeline.storage.protocol import Content, StorageAwayError
from beam_pipeline.storage.urls import storage_of

_UNKNOWN = "an unknown host"


@dataclass(frozen=True)
class HeldLease:
    """The content of a lease that is held.

    Attributes:
        host, pid: of its holder, for people.
        boot, pid_namespace: pids mean the same where both are the same. Empty where that is
            unknown.
        started: when the process of the pid was started, in clock ticks since the boot.
        nonce: a random text of the holder.
        generation: how often the lease was taken.
        beat: how often this holder has renewed it.
    """

    host: str
    pid: int
    boot: str
    pid_namespace: str
    started: str
    nonce: str
    generation: int
    beat: int = 0

    @property
    def holder(self) -> Holder:
        """The process that holds it."""
        return Holder(self.host, self.pid)

    def to_json(self) -> bytes:
        """Return the content of the object."""
        return orjson.dumps(asdict(self))

    @property
    def is_of_dead_process(self) -> bool:
        """Whether its process has ended. Only where pids mean the same as for this process."""
        return (
            self._shares_pids and _start_of_process(self.pid) != self.started and bool(self.started)
        )

    @property
    def is_of_live_process(self) -> bool:
        """Whether its process runs on this machine."""
        return self._shares_pids and _start_of_process(self.pid) == self.started

    @property
    def _shares_pids(self) -> bool:
        return bool(self.boot) and (self.boot, self.pid_namespace) == (_boot(), _pid_namespace())


@dataclass(frozen=True)
class FreeLease:
    """The content of a lease that was released."""

    generation: int = 0

    def to_json(self) -> bytes:
        """Return the content of the object."""
        return orjson.dumps(asdict(self))


def parse_store_lease(content: bytes) -> HeldLease | FreeLease:
    """Return what the object says; a holder who is unknown where it says something else."""
    try:
        fields: dict[str, Any] = orjson.loads(content)
        lease = FreeLease(**fields) if set(fields) == {"generation"} else HeldLease(**fields)
        if not isinstance(lease.generation, int):
            raise TypeError
    except (ValueError, TypeError):
        return HeldLease(_UNKNOWN, 0, "", "", "", "", 0)
    return lease


class StoreLease:
    """A lease on a prefix; made by `hold_lease`."""

    def __init__(
        self,
        root: ObjectPath,
        flag: str,
        times: LeaseTimes,
        say: Callable[[str], object] = lambda text: None,
    ) -> None:
        self._place = LeasedPlace(flag, str(root))
        self._storage, self._key = storage_of(root / LEASE_FILE)
        self._times = times
        self._say = say
        pid = os.getpid()
        self._mine = HeldLease(
            host=socket.gethostname(),
            pid=pid,
            boot=_boot(),
            pid_namespace=_pid_namespace(),
            started=_start_of_process(pid),
            nonce=secrets.token_hex(16),
            generation=0,
        )
        self._version = ""
        self._lock = threading.Lock()
        self._confirmed = self._tried = _Moment.now()
        self._failure: EnvironmentFailure | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"lease {flag}", daemon=True)

    def take(self) -> None:
        """Become the owner of the lease, and renew it from a thread from then on.

        A lease that was not released is waited for until it has not changed for the time of
        expiry. Where its holder's process has ended on this machine, it is free at once.

        Raises:
          EnvironmentFailure: another pipeline holds it.
          StorageAwayError: the store does not answer.
        """
        watch: Watch | None = None
        while not self._try_to_take(watch):
            if watch is None:
                content = self._read()
                if content is None:
                    continue
                watch = Watch(content.version, self._times.expiry)
                lease = parse_store_lease(content.data)
                if isinstance(lease, HeldLease) and not lease.is_of_dead_process:
                    self._say(self._place.waiting(lease.holder.name, self._times.expiry))
            time.sleep(self._times.look)
        self._thread.start()

    def _try_to_take(self, watch: Watch | None) -> bool:
        """Take the lease if it is free now; return whether it is this process's.

        Raises:
          EnvironmentFailure: its holder has renewed it since the watch began.
        """
        if watch:
            watch.begin_look()
        asked = _Moment.now()
        content = self._read()
        lease = parse_store_lease(content.data) if content else FreeLease()
        if isinstance(lease, HeldLease) and not lease.is_of_dead_process:
            if watch is None or content is None:
                return False
            if watch.has_changed(content.version):
                raise self._place.taken(lease.holder.name)
            if not watch.has_expired:
                return False
        mine = replace(self._mine, generation=lease.generation + 1)
        version = self._storage.put_if_match(
            self._key, mine.to_json(), content.version if content else None
        )
        if version is None:  # another one was faster, or the answer was lost
            content = self._read()
            if content is None or content.data != mine.to_json():
                return False
            version = content.version
        self._mine, self._version, self._confirmed = mine, version, asked
        return True

    def beat(self) -> None:
        """Raise what the thread has found, or renew the lease where the thread stood still.

        Raises:
          LeaseLostError: another pipeline took the lease over.
          EnvironmentFailure: the object is gone, or can't be written.
        """
        stood_still = self._tried.age() > self._times.expiry and not self._lock.locked()
        if self._failure is None and stood_still:
            with contextlib.suppress(StorageAwayError):
                self._renew()
        if self._failure is not None:
            raise self._failure

    def confirm(self) -> None:
        """Renew the lease now.

        Raises:
          LeaseLostError: another pipeline took the lease over.
          EnvironmentFailure: the object is gone, or can't be written.
          StorageAwayError: the store has not answered for as long as a lease lasts.
        """
        try:
            self._renew()
        except StorageAwayError:
            if self._confirmed.age() >= self._times.expiry:
                raise
        if self._failure is not None:
            raise self._failure

    def release(self) -> None:
        """Release the lease, unless another pipeline has it."""
        self._stopped.set()
        with self._lock, contextlib.suppress(OSError, EnvironmentFailure):
            if self._failure is None:
                free = FreeLease(self._mine.generation)
                self._storage.put_if_match(self._key, free.to_json(), self._version)

    def _run(self) -> None:
        while not self._stopped.wait(self._times.heartbeat):
            # A store that is away is no reason to stop; if the lease expires meanwhile and is
            # taken over, the next renewal finds that.
            with contextlib.suppress(OSError):
                self._renew()
            if self._failure is not None:
                return

    def _renew(self) -> None:
        """Replace the lease by one with the next beat; keep a failure for `beat` to raise."""
        with self._lock:
            asked = self._tried = _Moment.now()
            if self._failure is not None or self._stopped.is_set():
                return
            mine = replace(self._mine, beat=self._mine.beat + 1)
            try:
                version = self._storage.put_if_match(self._key, mine.to_json(), self._version)
                if version is None:
                    mine, version = self._settled()
            except EnvironmentFailure as failure:
                self._failure = failure
                return
            finally:
                self._tried = _Moment.now()
            self._mine, self._version, self._confirmed = mine, version, asked

    def _settled(self) -> tuple[HeldLease, str]:
        """Find out by reading what a refused replace means; return the lease and its version.

        Raises:
          LeaseLostError: it is another one's.
          EnvironmentFailure: it is gone.
        """
        content = self._read()
        if content is None:
            raise self._place.vanished()
        lease = parse_store_lease(content.data)
        if isinstance(lease, FreeLease):
            raise self._place.lost(Holder(_UNKNOWN, 0).name, self._times.expiry)
        if lease.nonce != self._mine.nonce:
            raise self._place.lost(lease.holder.name, self._times.expiry)
        return lease, content.version  # an answer was lost

    def _read(self) -> Content | None:
        try:
            return self._storage.read(self._key)
        except FileNotFoundError:
            return None


def store_holder_of(root: ObjectPath, times: LeaseTimes) -> Holder | None:
    """Return who holds a prefix now; None if nobody does.

    The process of this machine is looked for. Of another one, the next heartbeat is waited for.

    Raises:
      StorageAwayError: the store does not answer.
    """
    storage, key = storage_of(root / LEASE_FILE)
    watch: Watch | None = None
    while True:
        try:
            if watch:
                watch.begin_look()
            content = storage.read(key)
        except FileNotFoundError:
            return None
        lease = parse_store_lease(content.data)
        if isinstance(lease, FreeLease) or lease.is_of_dead_process:
            return None
        if lease.is_of_live_process or (watch and watch.has_changed(content.version)):
            return lease.holder
        if watch and watch.has_expired:
            return None
        watch = watch or Watch(content.version, 2 * times.heartbeat + times.look)
        time.sleep(times.look)


@dataclass(frozen=True)
class _Moment:
    """A moment, by both clocks: the monotonic one may stand still while a machine is paused."""

    monotonic: float
    unix: float

    @staticmethod
    def now() -> _Moment:
        return _Moment(time.monotonic(), time.time())

    def age(self) -> float:
        """Return the seconds since then."""
        return max(time.monotonic() - self.monotonic, time.time() - self.unix)


def _boot() -> str:
    """Return the id of this boot of the machine; empty where the kernel tells none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _pid_namespace() -> str:
    """Return the namespace in which pids of this process count; empty where none is told."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _start_of_process(pid: int) -> str:
    """Return when a process was started, field 22 of proc(5)'s stat; empty where none runs."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return ""
    state, *fields = status.rpartition(")")[2].split()
    return "" if state in "ZX" else fields[18]  # ended, and not waited for yet
