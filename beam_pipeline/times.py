"""RFC 3339 texts of times, as dead letters, footers and events have them."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


TIME_UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000}
"""How many units of an event time that is a number make a second."""

DEFAULT_TIME_UNIT = "ms"


def parse_rfc3339(text: str) -> datetime:
    """Return the time that an RFC 3339 text gives.

    A date alone, or a time without an offset, becomes a naive time.

    >>> parse_rfc3339("2026-11-23T20:28:30Z")
    datetime.datetime(2026, 11, 23, 20, 28, 30, tzinfo=datetime.timezone.utc)

    Raises:
        TypeError: `text` is not a string.
        ValueError: `text` is not a time.
    """
    if not isinstance(text, str):
        raise TypeError(f"not a text: {text!r}")
    # Before Python 3.11, datetime.fromisoformat does not take the suffix Z.
    return datetime.fromisoformat(text.upper().replace("Z", "+00:00"))


def rfc3339(moment: datetime, *, separator: str = "T", timespec: str = "auto") -> str:
    """Return a time as text; the suffix is `Z` for UTC.

    >>> rfc3339(datetime(2026, 11, 23, 20, 28, 30, tzinfo=timezone.utc))
    '2026-11-23T20:28:30Z'
    >>> rfc3339(datetime(2026, 11, 23, 20, 28, 30), separator=" ", timespec="milliseconds")
    '2026-11-23 20:28:30.000'
    """
    return moment.isoformat(separator, timespec).replace("+00:00", "Z")


def rfc3339_of_ms(timestamp_ms: int) -> str | None:
    """Return the text of milliseconds since 1970, or None outside the years 1 to 9999.

    RFC 3339 can't write other years.

    >>> rfc3339_of_ms(1_000)
    '1970-01-01T00:00:01.000Z'
    >>> rfc3339_of_ms(10**18) is None
    True
    """
    try:
        moment = EPOCH + timedelta(milliseconds=timestamp_ms)
    except OverflowError:
        return None
    return rfc3339(moment, timespec="milliseconds")


def ms_of_rfc3339(text: str) -> int:
    """Return the milliseconds since 1970 of an RFC 3339 text with an offset.

    >>> ms_of_rfc3339("1970-01-01T00:00:01.500Z")
    1500

    Raises:
        TypeError, ValueError: `text` is not such a text.
    """
    return ms_of(parse_rfc3339(text))


def ms_of(moment: datetime) -> int:
    """Return the milliseconds since 1970 of an aware time, rounded down.

    >>> ms_of(datetime(1970, 1, 1, 0, 0, 1, tzinfo=timezone.utc))
    1000
    """
    return (moment - EPOCH) // timedelta(milliseconds=1)
