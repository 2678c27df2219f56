"""An even rate that doesn't drift."""

from __future__ import annotations

# How far behind the end of its time a schedule may run to send the records due before it.
_CATCH_UP_SECONDS = 0.5


class Schedule:
    """When each record is due, in seconds since the start.

    Record i is due at i / rate: a late wake-up is made up for by the next record and never adds
    up. Without a rate everything is due at once.

    Args:
        events_per_second: the rate; 0 means as fast as it goes.
        max_events: end after so many records; None for no such end.
        max_seconds: end before this time; None for no such end.
    """

    def __init__(
        self, events_per_second: float, max_events: int | None, max_seconds: float | None
    ) -> None:
        self._rate = events_per_second
        self._max_events = max_events
        self._max_seconds = max_seconds

    def due(self, index: int) -> float:
        """When record `index`, counted from 0, is due."""
        return index / self._rate if self._rate else 0.0

    def ends_before(self, index: int, now: float) -> bool:
        """Whether record `index` is no longer to be sent at `now`, in seconds since the start."""
        if self._max_events is not None and index >= self._max_events:
            return True
        if self._max_seconds is None:
            return False
        if not self._rate:
            return now >= self._max_seconds
        behind = now - self._max_seconds
        return self.due(index) >= self._max_seconds or behind >= _CATCH_UP_SECONDS
