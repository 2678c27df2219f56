"""The protocol of an engine: a runner and the services that a job needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

LogFile = Callable[[str], Path]
"""Returns the path of the log file for a process of that name."""


@dataclass(frozen=True)
class EngineStatus:
    """The state of an engine and its job.

    Attributes:
      failure: why the job must be submitted again; None while it need not be.
      repairs: what was started again without a new submission, since the last status.
      counters: the job's counters; None where the engine does not know them.
      runs_alone: whether the process that submitted the job is no longer needed.
    """

    failure: str | None = None
    repairs: Sequence[str] = ()
    counters: Counter[str] | None = None
    runs_alone: bool = False


class Engine(Protocol):
    """A runner that can be started, watched, and started again after a failure.

    Attributes:
      name: for messages.
      restores_checkpoints: whether a job may be restored from a checkpoint, so that it writes files
        of its epoch again.
    """

    name: str
    restores_checkpoints: bool

    def start(self, epoch: str) -> None:
        """Start what a job of `epoch` needs; return before it is ready.

        Raises:
          EnvironmentFailure: a program is missing or refuses its configuration.
          OSError: a file can't be written, for example on a full disk.
        """

    def job_flags(self) -> list[str]:
        """Return the flags with which a job runs on the started engine."""

    def status(self) -> EngineStatus:
        """Return the status, and repair what can be repaired; call it several times a second."""

    def checkpoint(self) -> str | None:
        """Return the checkpoint from which the next job of this epoch is restored, if any."""

    def stop(self) -> None:
        """End the job and everything that was started."""

    def leave(self) -> None:
        """Leave a job that runs alone running, and end everything else."""
