"""The view of a run: a live view on a terminal, a line every five seconds in a log."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timezone
from types import TracebackType

import pyarrow as pa
from rich.console import Console
from rich.live import Live

from beam_pipeline.commands.live.board import Board, Figure, FileLine, PartitionLine, board_text
from beam_pipeline.files.footer import FileFooter, FooterError, read_footer
from beam_pipeline.files.names import PARQUET_SUFFIX, OutputFile
from beam_pipeline.files.reading import read_each
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.kafka.log_ends import LogEnds
from beam_pipeline.offset_sets import TopicPartition
from beam_pipeline.runtime.run_status import RunStatus
from beam_pipeline.storage.paths import StoredPath
from beam_pipeline.terminal import printable

LINE_SECONDS = 5.0
RATE_WINDOW_SECONDS = 5.0
REFRESH_SECONDS = 1.0
LIVE_RATE_SECONDS = 10.0
_FILES_KEPT = 10
_RATED = ("read", "valid", "dead")
_log = logging.getLogger(__name__)


class RunView:
    """Shows a `RunStatus` as it changes; a context manager.

    A view that fails never ends the run: the first failure is logged, and the run goes on.
    """

    def __init__(
        self,
        title: str,
        console: Console,
        connection: KafkaConnection,
    ) -> None:
        """Describe the view; nothing is shown yet.

        Args:
          title: the topics.
          console: where to print; one that is no terminal gets lines.
          connection: the cluster, for the end offsets that a terminal shows.
        """
        self._title = title
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._ends = LogEnds(connection)
        self._stack = ExitStack()
        self._started = time.monotonic()
        self._next_line = 0.0
        self._counts: deque[tuple[float, Counter[str]]] = deque()
        self._notices_shown = 0
        self._has_failed = False
        self._files: deque[FileLine] = deque(maxlen=_FILES_KEPT)
        self._landed_to: dict[TopicPartition, datetime] = {}

    def show(self, status: RunStatus, produced: int | None = None) -> None:
        """Update the view; `produced` is the count of the demo's producer.

        Raises nothing.
        """
        with self._failures_logged_once():
            self._show(status, produced)

    def _show(self, status: RunStatus, produced: int | None) -> None:
        for notice in status.notices[self._notices_shown :]:
            self._console.print(printable(notice), markup=False, highlight=False, soft_wrap=True)
        self._notices_shown = len(status.notices)
        now = time.monotonic()
        if self._console.is_terminal:
            if now >= self._next_line:
                self._next_line = now + REFRESH_SECONDS
                self._take_counts(now, status, LIVE_RATE_SECONDS)
                self._ends.watch(list(status.starts))
                self._take_files(status)
                self._draw(status, produced)
            return
        self._take_counts(now, status, RATE_WINDOW_SECONDS)
        if now >= self._next_line:
            self._next_line = now + LINE_SECONDS
            line = "  ".join(f"{name} {value}" for name, value in self._facts(status, produced))
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    @contextlib.contextmanager
    def _failures_logged_once(self) -> Iterator[None]:
        try:
            yield
        except (Exception, SystemExit) as error:  # rich 15 exits on a closed pipe
            if not self._has_failed:
                self._has_failed = True
                kind = type(error).__name__
                _log.warning("the view of the run failed, and the run goes on: %s: %s", kind, error)
                _log.debug("where the view failed", exc_info=True)

    def _take_counts(self, now: float, status: RunStatus, seconds: float) -> None:
        self._counts.append((now, Counter({name: status.counters[name] for name in _RATED})))
        while now - self._counts[0][0] > seconds:
            self._counts.popleft()

    def _rate(self, name: str) -> float:
        """Return how much a counter rises a second."""
        if len(self._counts) < 2:
            return 0.0
        (first_at, first), (last_at, last) = self._counts[0], self._counts[-1]
        return max((last[name] - first[name]) / (last_at - first_at), 0.0)

    def _facts(self, status: RunStatus, produced: int | None) -> list[tuple[str, str]]:
        counters = status.counters
        facts = [("state", _state_text(status))]
        if produced is not None:
            facts.append(("produced", f"{produced:,}"))
        facts += [(name, f"{counters[name]:,}") for name in ("read", "valid", "dead")]
        facts += [("files", f"{status.files:,}"), ("rate", f"{self._rate('read'):,.1f}/s")]
        if counters["late"]:
            facts.append(("late", late_text(counters)))
        if status.remaining is not None:
            waits = f" ({status.waits_for})" if status.waits_for else ""
            facts.append(("remaining", f"{status.remaining:,}{waits}"))
        if status.refused_letters:
            facts.append(("dlq_topic_refused", f"{status.refused_letters:,}"))
        if status.table is not None:
            facts.append(("table", status.table.text))
        if status.restarts:
            facts.append(("restarts", str(status.restarts)))
        return facts

    def _draw(self, status: RunStatus, produced: int | None) -> None:
        size = self._console.size
        board = self._board(status, produced)
        # One line is left for the cursor, which is below the last one.
        self._live.update(board_text(board, size.width, size.height - 1), refresh=True)

    def _board(self, status: RunStatus, produced: int | None) -> Board:
        counters = status.counters
        figures = [Figure("produced", produced)] if produced is not None else []
        figures += [Figure(name, counters[name], self._rate(name)) for name in _RATED]
        share = _late_share(counters) if counters["late"] else None
        figures += [Figure("late", counters["late"], share=share), Figure("files", status.files)]
        if status.remaining is not None:
            figures.append(Figure("remaining", status.remaining))
        if status.refused_letters:
            figures.append(Figure("refused", status.refused_letters))
        if status.table is not None:
            figures.append(Figure("in table", status.table.records))
        return Board(
            title=self._title,
            state=status.waits_for or _state_text(status),
            elapsed_seconds=time.monotonic() - self._started,
            restarts=status.restarts,
            figures=figures,
            partitions=list(self._partitions(status)),
            dead=sorted(
                (name.removeprefix("dead."), count)
                for name, count in counters.items()
                if name.startswith("dead.") and count
            ),
            files=list(self._files),
            now=datetime.now(timezone.utc),
        )

    def _partitions(self, status: RunStatus) -> Iterator[PartitionLine]:
        ends = self._ends.ends()
        has_one_topic = len({topic for topic, _ in status.starts}) == 1
        for key in sorted(status.starts):
            topic, partition = key
            start, end = status.starts[key], ends.get(key)
            goal = end if end is None else min(end, status.ends.get(key, end))
            yield PartitionLine(
                name=str(partition) if has_one_topic else f"{topic}/{partition}",
                position=status.covered.prefix_end(topic, partition, start),
                end=end,
                lag=None if goal is None else status.covered.missing(*key, start, goal),
                rate=self._ends.rate(key),
                landed_to=self._landed_to.get(key),
            )

    def _take_files(self, status: RunStatus) -> None:
        """Read the footers of new files: sizes, and the newest window of each partition."""
        if not status.new_files:
            return
        paths = [status.new_files.popleft() for _ in range(len(status.new_files))]
        for path, look in read_each(paths, _look_at):
            name = OutputFile.parse(path)
            if name is None:
                continue
            rows = None
            is_parquet = name.suffix == PARQUET_SUFFIX
            size_bytes, footer = look()
            if footer is not None:
                rows = footer.rows
                for topic, partitions in footer.offsets.items():
                    for partition in partitions:
                        self._note_landed(TopicPartition(topic, partition), name.window_end)
            kind = "rows" if is_parquet else "dead letters"
            self._files.appendleft(
                FileLine(name.topic, name.window_start, name.window_end, kind, rows, size_bytes)
            )

    def _note_landed(self, key: TopicPartition, window_end: datetime) -> None:
        self._landed_to[key] = max(self._landed_to.get(key, window_end), window_end)

    def __enter__(self) -> RunView:
        if self._console.is_terminal:
            with self._failures_logged_once(), ExitStack() as stack:
                stack.enter_context(self._ends)
                stack.enter_context(self._live)
                self._draw(RunStatus(), None)
                self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._failures_logged_once():
            self._stack.close()


def _look_at(path: StoredPath) -> tuple[int | None, FileFooter | None]:
    """Return the size and the footer of a file, as far as they can be read."""
    size_bytes = None
    try:
        size_bytes = path.stat().st_size
        return size_bytes, read_footer(path) if path.suffix == PARQUET_SUFFIX else None
    except (OSError, FooterError, pa.ArrowException):  # replaced or deleted meanwhile
        return size_bytes, None


def _state_text(status: RunStatus) -> str:
    """Return the state, and since when the broker has been away if it is."""
    since = status.broker_away_since
    if since is None:
        return status.state
    state = status.state if "broker" in status.state else f"{status.state}, broker away"
    return f"{state} since {since:%H:%M:%S} UTC"


def late_text(counters: Counter[str]) -> str:
    """Return how many rows were late, with their share.

    >>> late_text(Counter(late=5, valid=20))
    '5 (25.0% of valid)'
    """
    return f"{counters['late']:,} ({_late_share(counters):.1%} of valid)"


def _late_share(counters: Counter[str]) -> float:
    """Return the share of the valid rows that came to Kafka after their window had closed."""
    return counters["late"] / max(counters["valid"], counters["late"], 1)
