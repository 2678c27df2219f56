"""The circuit breaker: stops a run whose records are mostly dead letters."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping

from beam_pipeline.config import BreakerLimits
from beam_pipeline.runtime.run_events import DeadRatioError

MIN_RECORDS = 100
"""With fewer records in the window the ratio has no meaning."""


class CircuitBreaker:
    """Compares a run's counters, which only rise, over a time window."""

    def __init__(self, limits: BreakerLimits) -> None:
        self._limits = limits
        self._seen: deque[tuple[float, int, int]] = deque()

    def check(self, counters: Mapping[str, int], now: float | None = None) -> None:
        """Take the newest counters, and check the ratio; `now` is the monotonic clock in seconds.

        Raises:
          DeadRatioError: too many of the records read within the window are dead letters.
        """
        now = time.monotonic() if now is None else now
        self._seen.append((now, counters.get("read", 0), counters.get("dead", 0)))
        # The oldest entry kept is the last one from before the window.
        while len(self._seen) > 1 and now - self._seen[1][0] >= self._limits.window_seconds:
            self._seen.popleft()
        (_, first_read, first_dead), (_, read, dead) = self._seen[0], self._seen[-1]
        records, letters = read - first_read, dead - first_dead
        if records >= MIN_RECORDS and letters > self._limits.max_dead_ratio * records:
            raise DeadRatioError(
                f"{letters:,} of the last {records:,} records are dead letters, more than "
                f"--max_dead_ratio={self._limits.max_dead_ratio:g} allows over "
                f"--dead_ratio_window_seconds={self._limits.window_seconds:g}; is --schema the "
                "right one? Records that are in no file yet are read again at the next start. "
                "`beam-pipeline dlq stats` counts the others by reason, and `dlq replay` sends "
                "them again"
            )
