"""When records are due: at an even rate without drift, or by the times in the records."""

from __future__ import annotations

import orjson

from beam_pipeline.times import parse_rfc3339

# How long after `max_seconds` a late schedule may still send records that were due before.
_CATCH_UP_SECONDS = 0.5


class Schedule:
    """When each record is due, in seconds since the start.

    Record i is due at i / rate, so delays do not add up.

    >>> schedule = Schedule(events_per_second=4, max_events=8, max_seconds=None)
    >>> schedule.due(2), schedule.ends_before(7, now=9.0), schedule.ends_before(8, now=9.0)
    (0.5, False, True)

    Args:
        events_per_second: the rate; 0 means that every record is due at once.
        max_events: how many records there are at most; None for no limit.
        max_seconds: the time of the last record at most; None for no limit.
    """

    def __init__(
        self, events_per_second: float, max_events: int | None, max_seconds: float | None
    ) -> None:
        self._rate = events_per_second
        self._max_events = max_events
        self._max_seconds = max_seconds

    def due(self, index: int) -> float:
        """Return when record `index`, counted from 0, is due."""
        return index / self._rate if self._rate else 0.0

    def ends_before(self, index: int, now: float) -> bool:
        """Return whether record `index` is past the limits at `now` seconds since the start."""
        if self._max_events is not None and index >= self._max_events:
            return True
        if self._max_seconds is None:
            return False
        if not self._rate:
            return now >= self._max_seconds
        behind = now - self._max_seconds
        return self.due(index) >= self._max_seconds or behind >= _CATCH_UP_SECONDS


class Rhythm:
    """When each record is due, by the times in the records themselves.

    The first time is the start; from there the records' time runs `speed` times as fast as the
    clock. A record without a time, or with an earlier time than the one before, is due at once.

    Args:
        time_field: the dotted path of the field with the time: RFC 3339, or milliseconds since
            1970.
        speed: 1 keeps the original pace, 60 sends an hour in a minute.
    """

    def __init__(self, time_field: str, speed: float) -> None:
        self._time_field = time_field
        self._speed = speed
        self._first: float | None = None
        self._due = 0.0

    def due(self, value: bytes | None) -> float:
        """Return when the record with this value is due, in seconds since the start."""
        moment = time_in(value, self._time_field)
        if moment is not None:
            if self._first is None:
                self._first = moment
            self._due = max(self._due, (moment - self._first) / self._speed)
        return self._due


def time_in(value: bytes | None, time_field: str) -> float | None:
    """Return the time in a JSON value, in seconds since 1970; None if it has none."""
    try:
        content = orjson.loads(value or b"")
    except ValueError:
        return None
    for step in time_field.split("."):
        content = content.get(step) if isinstance(content, dict) else None
    if isinstance(content, str):
        try:
            moment = parse_rfc3339(content)
            return moment.timestamp() if moment.tzinfo else None
        except (ValueError, OverflowError):
            return None
    if isinstance(content, int | float) and not isinstance(content, bool):
        return content / 1000
    return None
