"""The progress line of a producer on a terminal."""

from __future__ import annotations

import time
from collections import deque
from types import TracebackType

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from beam_pipeline.producer.status import ProduceStatus

_RATE_REPORTS = 7  # the rate of the last three seconds, at two reports per second


class ProduceProgress:
    """A context manager that shows counts and rate on standard error.

    It shows nothing if standard error is not a terminal, or if `quiet`.
    """

    def __init__(self, topic: str, *, quiet: bool, console: Console | None = None) -> None:
        console = console or Console(stderr=True)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            refresh_per_second=4,
            disable=quiet or not console.is_terminal,
        )
        self._topic = topic
        self._task = self._progress.add_task(f"Connecting to {topic}", total=None)
        self._recent: deque[tuple[float, int]] = deque(maxlen=_RATE_REPORTS)

    def report(self, status: ProduceStatus) -> None:
        """Show the counts; a `Report`."""
        self._recent.append((time.monotonic(), status.produced))
        (first_time, first_count), (last_time, last_count) = self._recent[0], self._recent[-1]
        rate = (last_count - first_count) / (last_time - first_time or 1)
        self._progress.update(
            self._task,
            description=(
                f"{status.produced:,} to {self._topic}, {rate:,.1f}/s, "
                f"{status.acked:,} acknowledged, {status.invalid.total():,} invalid, "
                f"{status.late:,} late"
            ),
        )

    def __enter__(self) -> ProduceProgress:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()
