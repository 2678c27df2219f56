"""The content of the plots of `bench/run.sh curves` as numbers and words; `plots.py` draws it.

Needs neither the pipeline nor matplotlib.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Document = dict[str, Any]

STREAMING = "streaming_events_per_second"
WHOLE = "events_per_second"
STYLES = {STREAMING: "from the first read of the topic", WHOLE: "from the start of the process"}

TITLES = {
    "partitions": "By number of partitions",
    "events": "By number of events",
    "size": "By size of an event",
    "invalid": "By share of broken events",
}
_X_FIELD = {
    "partitions": "partitions",
    "events": "events",
    "size": "event_bytes",
    "invalid": "invalid_ratio",
}
"""What a point's place on the x axis is, by series."""

X_LABELS = {
    "partitions": "partitions of the topic",
    "events": "events in the topic",
    "size": "mean size of a value, bytes",
    "invalid": "broken events, %",
}


@dataclass(frozen=True, slots=True)
class Axis:
    """The x axis, from the first to the last point; ticks are points with enough distance."""

    label: str
    log: bool
    first: float
    last: float
    ticks: list[tuple[float, str]]


@dataclass(frozen=True, slots=True)
class Line:
    """A curve or a single point: median, minimum and maximum over the runs, for each x.

    Attributes:
        contender: the contender's name, which decides the colour.
        is_main: drawn as a solid line, else dashed.
        is_other_schema: measured with another schema than the other lines; drawn hollow.
    """

    contender: str
    xs: list[float]
    medians: list[float]
    least: list[float]
    most: list[float]
    is_main: bool = True
    is_other_schema: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """A figure over x, with its unit."""

    title: str
    unit: str
    lines: list[Line]
    log: bool = False


def axis_of(name: str, series: Document) -> Axis:
    """Return the x axis of a series."""
    log = name != "invalid"
    ticks: list[tuple[float, str]] = []
    places = sorted({x_of(name, point) for point in series["points"]})
    for x in places:
        apart = not ticks or (x / ticks[-1][0] > 1.3 if log else x - ticks[-1][0] > 2)
        if apart:
            ticks.append((x, short(x)))
    return Axis(X_LABELS[name], log, places[0], places[-1], ticks)


def x_of(name: str, point: Document) -> float:
    """Return a point's position on the x axis; shares in percent."""
    return float(point[_X_FIELD[name]]) * (100 if name == "invalid" else 1)


def short(number: float) -> str:
    """Return a number in few characters, such as 300k."""
    for unit, letter in ((1e6, "M"), (1e4, "k")):
        if number >= unit:
            return f"{number / (unit if letter == 'M' else 1e3):.3g}{letter}"
    return f"{number:,.0f}" if number == int(number) or number >= 100 else f"{number:.3g}"


def panels_of(name: str, series: Document) -> list[Panel]:
    """Return the panels of a series' plot that have a line."""

    def lines(figure: str, *, is_main: bool = True, factor: Callable[..., float]) -> list[Line]:
        return _lines(name, series["points"], figure, factor, is_main=is_main)

    def plain(_: Document) -> float:
        return 1.0

    def megabytes(point: Document) -> float:
        return float(point["event_bytes"]) / 1e6

    def per_gigabyte(point: Document) -> float:
        return 1e3 / float(point["event_bytes"])

    is_size = name == "size"
    rates = [*lines(STREAMING, factor=plain), *lines(WHOLE, is_main=False, factor=plain)]
    panels = [Panel("Speed", "events/s", rates, log=is_size)]
    if is_size:
        volumes = [
            *lines(STREAMING, factor=megabytes),
            *lines(WHOLE, is_main=False, factor=megabytes),
        ]
        panels.append(Panel("Volume", "MB of values/s", volumes))
    panels += [
        Panel("Speed of ours over the peer's", "ratio of events/s", _ratios(name, series)),
        Panel("Peak memory, all processes", "RSS, MB", lines("peak_rss_mb", factor=plain)),
        Panel(
            "CPU time, all processes",
            "CPU s per million events",
            lines("cpu_seconds_per_million", factor=plain),
            log=is_size,
        ),
    ]
    if is_size:
        by_volume = lines("cpu_seconds_per_million", factor=per_gigabyte)
        panels.append(Panel("CPU time by volume", "CPU s per GB of values", by_volume))
    return [panel for panel in panels if panel.lines]


def _lines(
    name: str,
    points: list[Document],
    figure: str,
    factor: Callable[[Document], float],
    *,
    is_main: bool,
) -> list[Line]:
    lines = []
    main = _main_schema(points)
    for schema in sorted({point["schema"] for point in points}):
        for contender in _contenders(points):
            measured = [
                (x_of(name, point), factor(point), spread)
                for point in points
                if point["schema"] == schema
                and (spread := point["contenders"].get(contender, {}).get(figure))
            ]
            if measured:
                medians, least, most = (
                    [spread[key] * by for _, by, spread in measured]
                    for key in ("median", "least", "most")
                )
                xs = [x for x, _, _ in measured]
                lines.append(Line(contender, xs, medians, least, most, is_main, schema != main))
    return lines


def _ratios(name: str, series: Document) -> list[Line]:
    """Return the ratios of the first contender's median to those of the others."""
    lines = []
    ours, *peers = _contenders(series["points"])
    for peer in peers:
        for figure in STYLES:
            ratios = [
                (x_of(name, point), left["median"] / right["median"])
                for point in series["points"]
                if (left := point["contenders"].get(ours, {}).get(figure))
                and (right := point["contenders"].get(peer, {}).get(figure))
            ]
            if ratios:
                values = [ratio for _, ratio in ratios]
                xs = [x for x, _ in ratios]
                lines.append(Line(peer, xs, values, values, values, is_main=figure == STREAMING))
    return lines


def _main_schema(points: list[Document]) -> str | None:
    schemas = [point["schema"] for point in points]
    return max(schemas, key=schemas.count, default=None)


def _contenders(points: list[Document]) -> list[str]:
    return list(dict.fromkeys(name for point in points for name in point["contenders"]))


def caption_of(name: str, series: Document) -> str:
    """Return what was measured, on which machine and when."""
    points, bench = series["points"], series["bench"]
    machine = bench["machine"]
    fixed = [f"windows of {bench['window_seconds']} s"]
    if name != "partitions":
        fixed.insert(0, f"{_range(points, 'partitions')} partitions")
    if name != "events":
        fixed.insert(0, f"{_range(points, 'events')} events a point")
    if name != "invalid":
        share = points[0]["invalid_ratio"]
        fixed.append(f"{100 * share:.3g} % broken" if share else "none broken")
    if name != "size":
        fixed.append(f"values of {_range(points, 'event_bytes')} bytes on average")
    main = _main_schema(points)
    others = sorted({point["schema"] for point in points} - {main})
    runs = _range([spread for point in points for spread in point["contenders"].values()], "runs")
    days = sorted({point["measured_at"][:10] for point in points})
    commits = list(dict.fromkeys(point["commit"] or "unknown" for point in points))
    parts = [
        "; ".join([", ".join(fixed), *(f"hollow: events of {schema}" for schema in others)]),
        f"median of {runs} runs, bars from the least to the most"
        if runs != "1"
        else "one run a point",
        f"{machine['cpus']} CPUs ({machine['cpu'] or 'unknown model'}), "
        f"{machine['memory_gb']:.0f} GB of memory, {machine['platform']}, the broker on the same "
        f"machine",
        f"Python {machine['python']}, Apache Beam {machine['apache_beam']}",
        f"commit {', '.join(commits)}, {' to '.join(dict.fromkeys([days[0], days[-1]]))}",
    ]
    return ". ".join(part[0].upper() + part[1:] for part in parts) + "."


def _range(points: list[Document], field: str) -> str:
    least, most = (short(round(pick(point[field] for point in points))) for pick in (min, max))
    return least if least == most else f"{least} to {most}"
