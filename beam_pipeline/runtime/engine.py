"""The protocol of an engine: a runner and the services a job needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

LogFile = Callable[[str], Path]
"""The path of the log file for a process of that name."""


@dataclass(frozen=True)
class EngineStatus:
    """How the job's engine is now.

    `failure` is why the job must be submitted again; `repairs` what was started again without that,
    since the last look; `counters` the job's, where the engine knows them; `runs_alone` whether
    the process that submitted the job is no longer needed.
    """

    failure: str | None = None
    repairs: Sequence[str] = ()
    counters: Counter[str] | None = None
    runs_alone: bool = False


class Engine(Protocol):
    """A runner that can be started, watched, and started again after it died."""

    name: str
    restores_checkpoints: bool

    def start(self, epoch: str) -> None:
        """Starts what a job of `epoch` needs; returns before it is ready."""

    def job_flags(self) -> list[str]:
        """The flags that make a job run here."""

    def status(self) -> EngineStatus:
        """Looks after the job; to be called several times a second."""

    def checkpoint(self) -> str | None:
        """The checkpoint that the next job should be restored from, to go on in its epoch."""

    def stop(self) -> None:
        """Ends the job and what was started."""

    def leave(self) -> None:
        """Leaves a job that runs alone to itself."""
