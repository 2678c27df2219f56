"""An even rate that doesn't drift, or the rhythm that the records had."""

from __future__ import annotations

import orjson

from beam_pipeline.times import parse_rfc3339

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


class Rhythm:
    """When each record is due by the times that the records carry themselves.

    The first time is the start; from there on the records' time runs `speed` times as fast as the
    clock. A record without a time, or with one before that of the record ahead of it, is due at
    once.

    Args:
        time_field: the field with the time, dotted when nested: RFC 3339, or milliseconds since
            1970.
        speed: 1 keeps the pace, 60 sends an hour in a minute.
    """

    def __init__(self, time_field: str, speed: float) -> None:
        self._time_field = time_field
        self._speed = speed
        self._first: float | None = None
        self._due = 0.0

    def due(self, value: bytes | None) -> float:
        """When the record with this value is due, in seconds since the start."""
        moment = time_in(value, self._time_field)
        if moment is not None:
            if self._first is None:
                self._first = moment
            self._due = max(self._due, (moment - self._first) / self._speed)
        return self._due


def time_in(value: bytes | None, time_field: str) -> float | None:
    """The time in a JSON value, in seconds since 1970; None where there is none."""
    try:
        found = orjson.loads(value or b"")
    except ValueError:
        return None
    for step in time_field.split("."):
        found = found.get(step) if isinstance(found, dict) else None
    if isinstance(found, str):
        try:
            moment = parse_rfc3339(found)
            return moment.timestamp() if moment.tzinfo else None
        except (ValueError, OverflowError):
            return None
    if isinstance(found, int | float) and not isinstance(found, bool):
        return found / 1000
    return None
