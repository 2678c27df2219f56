"""Numbers, times and sizes as text for people."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from beam_pipeline.terminal import plural
from beam_pipeline.times import EPOCH

_LENGTHS = (
    (365 * 86_400, "y"),
    (86_400, "d"),
    (3_600, "h"),
    (60, "min"),
)


def instant(seconds: float) -> datetime:
    """Return seconds since 1970 as a UTC time, limited to the years 1 to 9999."""
    try:
        return EPOCH + timedelta(seconds=seconds)
    except OverflowError:
        edge = datetime.min if seconds < 0 else datetime.max
        return edge.replace(tzinfo=timezone.utc)


def utc(moment: datetime) -> str:
    """Return a time such as `2026-11-24 21:02:10`."""
    return moment.astimezone(timezone.utc).isoformat(" ", "seconds")[:19]


def between(first: str, last: str) -> str:
    """Return the two ends of a range with a dash."""
    return f"{first} \N{EN DASH} {last}"


def span(start: datetime, end: datetime) -> str:
    """Return the two times with a dash; the second has no date if it is the same."""
    first, last = utc(start), utc(end)
    return between(first, last[11:] if first[:10] == last[:10] else last)


def duration(seconds: float) -> str:
    """Return seconds in a readable unit.

    >>> [duration(seconds) for seconds in (0.56, 12.4, 210, 7200, 438_000_000)]
    ['0.56 s', '12.4 s', '3.5 min', '2 h', '13.9 y']
    """
    for length, unit in _LENGTHS:
        if abs(seconds) >= length:
            return f"{_short(seconds / length)} {unit}"
    return f"{seconds:.2f} s" if 0 < abs(seconds) < 1 else f"{_short(seconds)} s"


def step_length(seconds: int) -> str:
    """Return whole seconds in the largest unit that they are a multiple of.

    >>> step_length(10), step_length(3600)
    ('10 seconds', '1 hour')
    """
    for length, unit in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds % length == 0:
            return plural(seconds // length, unit)
    return plural(seconds, "second")


def size(count: float) -> str:
    """Return bytes in powers of 1000.

    >>> size(812), size(15_900), size(1.2e9)
    ('812 B', '15.9 kB', '1.2 GB')
    """
    for factor, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= factor:
            return f"{_short(count / factor)} {unit}"
    return f"{count:,.0f} B"


def binary_size(count: float) -> str:
    """Return bytes in powers of 1024.

    >>> binary_size(4096), binary_size(2**30)
    ('4 KiB', '1 GiB')
    """
    for factor, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if count >= factor:
            return f"{count / factor:g} {unit}"
    return f"{count:g} B"


def share(part: int, whole: int) -> str:
    """Return a share in percent; only exact values become `0%` and `100%`.

    >>> share(79, 1000), share(0, 5), share(99_999, 100_000)
    ('7.9%', '0%', '99.9%')
    """
    if not part or not whole:
        return "0%"
    if part == whole:
        return "100%"
    percent = 100 * part / whole
    return f"{percent:.2f}%" if percent < 0.1 else f"{min(percent, 99.9):.1f}%"


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}".removesuffix(".0")
