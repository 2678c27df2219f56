"""What the leases of directories and of object stores have in common."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from beam_pipeline.errors import EnvironmentFailure

LEASE_FILE = Path("_ledger", "lease.json")


class LeaseTimes(NamedTuple):
    """How long the steps of a lease take, in seconds.

    Attributes:
      heartbeat: the holder renews the lease this often.
      expiry: a lease that has not changed for so long may be taken over.
      settle: of machines that write a lease file at the same time the last one has it. Each waits
        this long after its write, then looks whether it was the last.
      torn: a lease file that is not whole is read again for so long: its owner may be writing it.
    """

    heartbeat: float = 5.0
    expiry: float = 30.0
    settle: float = 2.0
    torn: float = 1.0

    @property
    def look(self) -> float:
        """Return how long to wait between two looks at another one's lease."""
        return self.heartbeat / 5


DEFAULT_TIMES = LeaseTimes()


class LeaseLostError(EnvironmentFailure):
    """Another pipeline has the directory now; this one must write nothing more."""


class Holder(NamedTuple):
    """Who holds a lease."""

    host: str
    pid: int

    @property
    def name(self) -> str:
        """Return the process and its host, for people."""
        return f"process {self.pid or '?'} on {self.host}"


class Lease(Protocol):
    """A lease that this process holds."""

    def beat(self) -> None:
        """Renew the lease when that is due; call it more often than the heartbeat.

        Raises:
          LeaseLostError: another pipeline took the lease over.
          EnvironmentFailure: the directory or the object is gone.
        """

    def confirm(self) -> None:
        """Check that this process still owns the lease.

        Raises:
          LeaseLostError: another pipeline took the lease over.
          EnvironmentFailure: the directory or the object is gone.
          StorageAwayError: the object store has not answered for as long as a lease lasts.
        """

    def release(self) -> None:
        """Release the lease, unless another pipeline has it."""


class Watch:
    """Tells whether another one's lease goes on, by this machine's monotonic clock alone.

    No two clocks are compared: a lease has expired once it has not changed for so long.
    """

    def __init__(self, version: object, seconds: float) -> None:
        self._version = version
        self._deadline = time.monotonic() + seconds
        self._was_over = False

    def begin_look(self) -> None:
        """Note that the lease is read from now on."""
        self._was_over = time.monotonic() >= self._deadline

    def has_changed(self, version: object) -> bool:
        """Return whether the lease has another content than at first."""
        return version != self._version

    @property
    def has_expired(self) -> bool:
        """Whether the time was over when the last look began; it may not have changed since."""
        return self._was_over


@dataclass(frozen=True)
class LeasedPlace:
    """A directory or the prefix of an object store, and the flag that names it, for messages."""

    flag: str
    place: str

    def __str__(self) -> str:
        return f"{self.flag}={self.place}"

    def waiting(self, holder: str, seconds: float) -> str:
        """Return the notice of a start that waits for the end of another one's lease."""
        return (
            f"{self}: {holder} has not released it; waiting up to {seconds:g} s to see whether it "
            "still writes there"
        )

    def taken(self, holder: str) -> EnvironmentFailure:
        """Return the refusal of a start while another pipeline holds the lease."""
        return EnvironmentFailure(
            f"{self} is being written by another pipeline ({holder}); stop that one, or give this "
            "one a directory of its own"
        )

    def lost(self, holder: str, seconds: float) -> LeaseLostError:
        """Return the error of a holder whose lease another pipeline has taken over."""
        return LeaseLostError(
            f"{self}: another pipeline ({holder}) took the lease over, because this one stood "
            f"still for {seconds:g} s; this one has stopped. Nothing is lost: the other one "
            "resumes from the files"
        )

    def vanished(self) -> EnvironmentFailure:
        """Return the error of a holder whose lease is gone."""
        return EnvironmentFailure(
            f"{self} has vanished, or its lease with it; nothing more is written. Bring it back "
            "and start again: what is in its files is not read twice"
        )
