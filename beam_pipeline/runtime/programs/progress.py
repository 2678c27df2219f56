"""Show the progress of slow steps of a first start: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)

LINE_SECONDS = 20.0


class SetupProgress:
    """Shows any number of steps at once; a context manager, safe to use from several threads.

    On a terminal each step is a live line that is removed at the end. Elsewhere (a log, CI) a step
    is one line at its begin, one every `LINE_SECONDS`, and one at its end. Nothing is shown before
    the first step.
    """

    def __init__(self, console: Console | None = None) -> None:
        """Prepare the progress; `console` is standard error by default."""
        self._console = console or Console(stderr=True)
        self._lock = threading.Lock()
        self._progress: Progress | None = None

    @contextlib.contextmanager
    def step(self, description: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        """Show a step while the block runs.

        Args:
            description: the step, for example "Fetching jars".
            total: the number of parts; None shows a spinner with the time.

        Yields:
            a function to call with how many more parts are done.
        """
        started = time.monotonic()
        if not self._console.is_terminal:
            self._console.print(f"{description} ...", highlight=False)
            with self._lines(description, started):
                yield lambda parts: None
        else:
            progress = self._live()
            task = progress.add_task(description, total=total)
            try:
                yield lambda parts: progress.advance(task, parts)
            finally:
                progress.remove_task(task)
        seconds = time.monotonic() - started
        self._console.print(f"{description}: done in {seconds:.1f} s", highlight=False)

    @contextlib.contextmanager
    def _lines(self, description: str, started: float) -> Iterator[None]:
        """Print a line now and then while the block runs."""
        ended = threading.Event()

        def tell() -> None:
            while not ended.wait(LINE_SECONDS):
                seconds = time.monotonic() - started
                self._console.print(f"{description}: {seconds:.0f} s so far", highlight=False)

        teller = threading.Thread(target=tell, name="setup-progress", daemon=True)
        teller.start()
        try:
            yield
        finally:
            ended.set()
            teller.join()

    def _live(self) -> Progress:
        with self._lock:
            if self._progress is None:
                self._progress = Progress(
                    SpinnerColumn(),
                    TextColumn("{task.description}"),
                    BarColumn(bar_width=30),
                    TaskProgressColumn(),
                    TimeElapsedColumn(),
                    console=self._console,
                    transient=True,
                )
                self._progress.start()
            return self._progress

    def __enter__(self) -> SetupProgress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
