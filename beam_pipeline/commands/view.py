"""What a run looks like in the terminal: a live table, or a line now and then in a log."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from beam_pipeline.runtime.supervisor import RunStatus

LINE_SECONDS = 5.0
RATE_WINDOW_SECONDS = 5.0


class RunView:
    """Shows a `RunStatus` as it changes; a context manager."""

    def __init__(self, title: str, console: Console | None = None) -> None:
        self._title = title
        self._console = console or Console()
        self._live = Live(console=self._console, refresh_per_second=4, transient=True)
        self._next_line = 0.0
        self._reads: list[tuple[float, int]] = []
        self._told = 0

    def show(self, status: RunStatus, produced: int | None = None) -> None:
        """Brings the view up to date; `produced` where a producer belongs to the run."""
        now = time.monotonic()
        self._reads.append((now, status.counters["read"]))
        self._reads = [(at, read) for at, read in self._reads if now - at <= RATE_WINDOW_SECONDS]
        for notice in status.notices[self._told :]:
            self._console.print(notice, markup=False, highlight=False, soft_wrap=True)
        self._told = len(status.notices)
        if self._console.is_terminal:
            self._live.update(self._table(status, produced))
        elif now >= self._next_line:
            self._next_line = now + LINE_SECONDS
            line = "  ".join(f"{name} {value}" for name, value in self._facts(status, produced))
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _facts(self, status: RunStatus, produced: int | None) -> list[tuple[str, str]]:
        counters = status.counters
        (first_at, first_read), (last_at, last_read) = self._reads[0], self._reads[-1]
        rate = (last_read - first_read) / (last_at - first_at) if last_at > first_at else 0.0
        facts = [("state", status.state)]
        if produced is not None:
            facts.append(("produced", f"{produced:,}"))
        facts += [(name, f"{counters[name]:,}") for name in ("read", "valid", "dead")]
        facts += [("files", f"{status.files:,}"), ("rate", f"{max(rate, 0):,.1f}/s")]
        late = counters["late"]
        if late:
            facts.append(("late", f"{late:,}"))
        if status.remaining is not None:
            facts.append(("remaining", f"{status.remaining:,}"))
        if status.restarts:
            facts.append(("restarts", str(status.restarts)))
        return facts

    def _table(self, status: RunStatus, produced: int | None) -> Table:
        facts = self._facts(status, produced)
        table = Table(title=self._title, title_justify="left", expand=False)
        for name, _ in facts:
            table.add_column(name, justify="right")
        table.add_row(*(value for _, value in facts))
        dead = {
            name.removeprefix("dead."): count
            for name, count in sorted(status.counters.items())
            if name.startswith("dead.") and count
        }
        if dead:
            reasons = "  ".join(f"{code} {count:,}" for code, count in dead.items())
            table.caption = Text(f"dead by reason: {reasons}")
            table.caption_justify = "left"
        return table

    def __enter__(self) -> RunView:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()
