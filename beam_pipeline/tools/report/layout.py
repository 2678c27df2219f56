"""The parts that sections of the report are made of: headings, tables, bars."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice

from pyroaring import BitMap64

from beam_pipeline.offset_sets import range_count, ranges
from beam_pipeline.terminal import plural
from beam_pipeline.tools.report.charts import bar
from beam_pipeline.tools.report.distribution import SizeClass
from beam_pipeline.tools.report.markup import Element, prose, tag
from beam_pipeline.tools.report.units import between, share

_RANGES_SHOWN = 3
_WITH_BARS = frozenset({"narrow", "wide"})


def section(identity: str, title: str, lead: str | None, *children: Element | None) -> Element:
    """Return a section with a heading, an introduction and its content."""
    return tag(
        "section",
        tag("h2", title, id=identity),
        tag("p", *prose(lead), class_="lead") if lead else None,
        *children,
        aria_labelledby=identity,
    )


def classes_table(
    caption: str,
    what: str,
    noun: str,
    size_classes: Sequence[SizeClass],
    text_of: Callable[[float], str],
) -> Element:
    """Return a table with a line and a bar for each class; `text_of` writes its bounds."""
    total = sum(size_class.count for size_class in size_classes)
    most = max((size_class.count for size_class in size_classes), default=0)
    return table(
        caption,
        (what, noun, "share"),
        [
            (
                _class_name(size_class, text_of),
                f"{size_class.count:,}",
                with_bar(share(size_class.count, total), size_class.count, most),
            )
            for size_class in size_classes
        ],
        {0: "class", 1: "num", 2: "wide"},
    )


def _class_name(size_class: SizeClass, text_of: Callable[[float], str]) -> str:
    low, high = size_class.low, size_class.high
    if low is None:
        return f"below {text_of(high or 0)}"
    if high is None:
        return f"{text_of(low)} or more"
    return between(text_of(low), text_of(high))


def with_bar(text: str, part: float, whole: float, tone: str = "s0") -> Element:
    """Return a number as text with a bar as wide as `part` is of `whole`."""
    drawn = bar(part, whole, tone) if whole > 0 else None
    return tag("span", drawn, tag("span", text), class_="measure")


def numeric(*places: int) -> dict[int, str]:
    """Return the kinds of columns that hold numbers."""
    return dict.fromkeys(places, "num")


def table(
    caption: str,
    heads: Sequence[str],
    rows: Sequence[Sequence[Element | str]],
    kinds: dict[int, str],
) -> Element:
    """Return a table; `kinds` has the style class of a column by its position.

    On a narrow screen, the rows of a table with more than three columns become blocks. The roles
    keep it a table for screen readers.
    """
    layout = "stack" if len(heads) > 3 else "compact"
    body = tag("tbody", role="rowgroup")
    for row in rows:
        line = tag("tr", role="row")
        for place, cell in enumerate(row):
            name = "th" if place == 0 else "td"
            line.append(
                tag(
                    name,
                    cell,
                    scope="row" if place == 0 else None,
                    role="rowheader" if place == 0 else "cell",
                    class_=kinds.get(place),
                    data_label=heads[place] if place else None,
                )
            )
        body.append(line)
    head = tag(
        "thead",
        tag(
            "tr",
            *(
                tag(
                    "th",
                    # The name stands above the numbers, not above their bars.
                    with_bar(name, 0, 0) if kinds.get(place) in _WITH_BARS else name,
                    scope="col",
                    role="columnheader",
                    class_=kinds.get(place),
                )
                for place, name in enumerate(heads)
            ),
            role="row",
        ),
        role="rowgroup",
    )
    return tag("table", tag("caption", caption), head, body, role="table", class_=layout)


def ranges_text(offsets: BitMap64) -> str:
    """Return the number of offsets and the first ranges, such as `3 offsets: 5, 7-8`."""
    shown = [
        f"{first:,}" if first == last else between(f"{first:,}", f"{last:,}")
        for first, last in islice(ranges(offsets), _RANGES_SHOWN)
    ]
    more = range_count(offsets) - len(shown)
    if more > 0:
        shown.append(f"and {more:,} more ranges")
    return f"{plural(len(offsets), 'offset')}: {', '.join(shown)}"
