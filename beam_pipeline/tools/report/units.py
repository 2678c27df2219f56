"""Numbers, times and sizes as people read them."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from beam_pipeline.times import EPOCH

_LENGTHS = (
    (365 * 86_400, "y"),
    (86_400, "d"),
    (3_600, "h"),
    (60, "min"),
)


def instant(seconds: float) -> datetime:
    """Seconds since 1970 as a UTC time, held to the years 1 to 9999."""
    try:
        return EPOCH + timedelta(seconds=seconds)
    except OverflowError:
        edge = datetime.min if seconds < 0 else datetime.max
        return edge.replace(tzinfo=timezone.utc)


def utc(moment: datetime) -> str:
    """`2026-11-24 21:02:10`."""
    return moment.astimezone(timezone.utc).isoformat(" ", "seconds")[:19]


def between(first: str, last: str) -> str:
    """Two ends of a range, with a dash."""
    return f"{first} \N{EN DASH} {last}"


def span(start: datetime, end: datetime) -> str:
    """`2026-11-24 21:02:10` to `21:02:20` with a dash, the date once where it is one."""
    first, last = utc(start), utc(end)
    return between(first, last[11:] if first[:10] == last[:10] else last)


def duration(seconds: float) -> str:
    """`0.56 s`, `12.4 s`, `3.5 min`, `2 h`, `13.9 y`."""
    for length, unit in _LENGTHS:
        if abs(seconds) >= length:
            return f"{_short(seconds / length)} {unit}"
    return f"{seconds:.2f} s" if 0 < abs(seconds) < 1 else f"{_short(seconds)} s"


def step_length(seconds: int) -> str:
    """`10 seconds`, `1 hour`: whole seconds in the largest unit they are a multiple of."""
    for length, unit in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds % length == 0:
            return plural(seconds // length, unit)
    return plural(seconds, "second")


def size(count: float) -> str:
    """`812 B`, `15.9 kB`, `1.2 GB`, in powers of 1000."""
    for factor, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= factor:
            return f"{_short(count / factor)} {unit}"
    return f"{count:,.0f} B"


def binary_size(count: float) -> str:
    """`4 KiB`, `1 GiB`: the edges of classes, which are powers of 2."""
    for factor, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if count >= factor:
            return f"{count / factor:g} {unit}"
    return f"{count:g} B"


def share(part: int, whole: int) -> str:
    """`7.9%`; `0%` and `100%` are exactly that."""
    if not part or not whole:
        return "0%"
    if part == whole:
        return "100%"
    percent = 100 * part / whole
    return f"{percent:.2f}%" if percent < 0.1 else f"{min(percent, 99.9):.1f}%"


def plural(count: int, noun: str) -> str:
    """`1 row`, `2,000 rows`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}".removesuffix(".0")
