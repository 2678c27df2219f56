"""Charts as inline SVG: stacked columns over time, and bars in the cells of a table.

The SVG contains shapes only and stretches to the available width. Axes are HTML beside it, so text
has the same size on every screen. Each chart has a table of its values.
"""

from __future__ import annotations

from beam_pipeline.terminal import plural
from beam_pipeline.tools.report.markup import Element, foreign, tag
from beam_pipeline.tools.report.time_bins import OTHERS, Bars
from beam_pipeline.tools.report.units import between, instant, span, step_length, utc

_GAP = 0.14
_DAY = 86_400
# The widest column, so that a few columns do not fill the page.
_BAR_REM = 5
_LEAST_REM = 20


def columns_chart(bars: Bars, noun: str, description: str) -> Element:
    """Return stacked columns with axes, a table, and a legend if there are several series.

    Args:
        bars: the columns.
        noun: what is counted, in the singular.
        description: the chart's text alternative.
    """
    top = nice_ceiling(bars.highest)
    figure = tag("figure", class_="chart")
    if len(bars.names) > 1:
        figure.append(_legend(bars))
    figure.append(
        tag(
            "div",
            tag(
                "div",
                *(tag("span", f"{value:,}") for value in _ticks(top)),
                class_="y",
                aria_hidden="true",
            ),
            tag("div", _plot(bars, top, noun, description), class_="plot"),
            tag(
                "div",
                *(tag("span", label) for label in _time_labels(bars)),
                class_="x",
                aria_hidden="true",
            ),
            class_="axes",
            style=f"max-width:{max(_LEAST_REM, len(bars.counts) * _BAR_REM):g}rem",
        )
    )
    figure.append(tag("figcaption", _caption(bars, noun)))
    figure.append(_table(bars, noun))
    return figure


def bar(part: float, whole: float, tone: str = "s0") -> Element:
    """Return a bar as wide as `part` is of `whole`, hidden from screen readers."""
    width = 0.0 if whole <= 0 else max(0.0, min(1.0, part / whole)) * 100
    if part > 0:
        width = max(width, 0.8)
    return tag(
        "svg",
        tag("rect", width=100, height=1, class_="track"),
        tag("rect", width=f"{width:.2f}", height=1, class_=tone),
        class_="bar",
        viewBox="0 0 100 1",
        preserveAspectRatio="none",
        aria_hidden="true",
    )


def nice_ceiling(value: int) -> int:
    """Return the smallest round even number that is not below `value`.

    >>> [nice_ceiling(value) for value in (0, 3, 7, 110, 999)]
    [2, 4, 8, 120, 1000]
    """
    if value <= 2:
        return 2
    power: int = 10 ** (len(str(value)) - 1)
    return next(
        factor * power // 10
        for factor in (10, 12, 14, 16, 18, 20, 24, 30, 40, 50, 60, 80, 100)
        if factor * power >= 10 * value and (factor * power) % 20 == 0
    )


def _ticks(top: int) -> tuple[int, int, int]:
    return top, top // 2, 0


def _plot(bars: Bars, top: int, noun: str, description: str) -> Element:
    drawing = tag(
        "svg",
        tag("title", description),
        viewBox=f"0 0 {len(bars.counts)} 100",
        preserveAspectRatio="none",
        role="img",
        aria_label=description,
    )
    for height in (0, 50, 100):
        drawing.append(tag("line", x1=0, x2=len(bars.counts), y1=height, y2=height, class_="grid"))
    for place, counts in enumerate(bars.counts):
        group = tag("g")
        base = 100.0
        for series, count in enumerate(counts):
            if count:
                tall = 100 * count / top
                base -= tall
                group.append(
                    tag(
                        "rect",
                        x=f"{place + _GAP / 2:g}",
                        y=f"{base:.3f}",
                        width=f"{1 - _GAP:g}",
                        height=f"{tall:.3f}",
                        class_=f"s{series}",
                    )
                )
        if len(group):
            title = tag("title", _hover_text(bars, place, noun))
            hit = tag("rect", title, x=place, y=0, width=1, height=100, class_="hit")
            group.append(hit)
            drawing.append(group)
    return drawing


def _hover_text(bars: Bars, place: int, noun: str) -> str:
    counts = bars.counts[place]
    text = f"{_bar_span(bars, place)}: {plural(sum(counts), noun)}"
    if len(bars.names) > 1:
        parts = (f"{name} {count:,}" for name, count in _named(bars, counts) if count)
        text += f" ({', '.join(parts)})"
    return text


def _named(bars: Bars, counts: tuple[int, ...]) -> zip[tuple[str, int]]:
    return zip(bars.names, counts, strict=True)


def _bar_span(bars: Bars, place: int) -> str:
    start = bars.start + place * bars.step
    if bars.step % _DAY:
        return span(instant(start), instant(start + bars.step))
    first, last = (utc(instant(at))[:10] for at in (start, start + bars.step - 1))
    return first if first == last else between(first, last)


def _legend(bars: Bars) -> Element:
    totals = [sum(column) for column in zip(*bars.counts, strict=True)]
    return tag(
        "ul",
        *(
            tag(
                "li",
                tag("i", class_=f"s{series}"),
                tag("span", OTHERS) if name == OTHERS else foreign(name, 60),
                tag("b", f"{totals[series]:,}"),
            )
            for series, name in enumerate(bars.names)
        ),
        class_="legend",
    )


def _time_labels(bars: Bars) -> tuple[str, ...]:
    moments = [utc(instant(at)) for at in (bars.start, (bars.start + bars.end) // 2, bars.end)]
    if bars.step % _DAY == 0:
        return tuple(moment[:10] for moment in moments)
    if moments[0][:10] == moments[2][:10]:
        cut = slice(11, 16) if bars.step % 60 == 0 else slice(11, 19)
        return tuple(moment[cut] for moment in moments)
    return tuple(moment[5:16] for moment in moments)


def _caption(bars: Bars, noun: str) -> str:
    day = utc(instant(bars.start))[:10]
    one_day = bars.step % _DAY and day == utc(instant(bars.end))[:10]
    text = f"{day + ', ' if one_day else ''}UTC. One column is {step_length(bars.step)}."
    for count, where in ((bars.before, "earlier"), (bars.after, "later")):
        if count:
            text += f" {plural(count, noun)} far {where} not drawn."
    return text


def _table(bars: Bars, noun: str) -> Element:
    several = len(bars.names) > 1
    heads = ["time (UTC)", f"{noun}s"]
    rows = []
    for place, counts in enumerate(bars.counts):
        if total := sum(counts):
            cells = [tag("th", _bar_span(bars, place), scope="row"), tag("td", f"{total:,}")]
            if several:
                cells += [tag("td", f"{count:,}") for count in counts]
            rows.append(tag("tr", *cells))
    head = tag("tr", *(tag("th", name, scope="col") for name in heads))
    if several:
        for name in bars.names:
            head.append(tag("th", OTHERS if name == OTHERS else foreign(name, 60), scope="col"))
    return tag(
        "details",
        tag("summary", "As a table"),
        tag(
            "div",
            tag("table", tag("thead", head), tag("tbody", *rows), class_="plain"),
            class_="scroll",
            role="region",
            tabindex=0,
            aria_label=f"{noun}s over time, as a table",
        ),
    )
