"""Draws the plots of `bench/run.sh curves`, one SVG per series: `python -m bench.plots FILE`."""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from bench.panels import (
    STREAMING,
    STYLES,
    TITLES,
    WHOLE,
    Axis,
    Line,
    Panel,
    axis_of,
    caption_of,
    panels_of,
    short,
)

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")
MARKERS = ("o", "s", "^", "D", "v")
GREY = "#555555"
WIDTH_INCHES = 8.6
ROW_INCHES = 2.5
MARGIN_INCHES = 1.36
X_MARGIN = 0.06
CAPTION_CHARACTERS = 130

STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "svg.hashsalt": "curves",
}


def main() -> int:
    """Draw every series of the results file, next to it."""
    results = Path(sys.argv[1])
    for name, series in json.loads(results.read_bytes())["series"].items():
        path = results.with_name(f"{results.stem}-{name}.svg")
        with mpl.rc_context(STYLE):
            draw(name, series).savefig(path, metadata={"Date": None})
        print(f"drawn: {path}", file=sys.stderr, flush=True)
    return 0


def draw(name: str, series: dict[str, Any]) -> Figure:
    """Return the plot of a series."""
    panels, axis = panels_of(name, series), axis_of(name, series)
    names = list(series["bench"]["titles"])
    looks = {name: (COLORS[i % 5], MARKERS[i % 5]) for i, name in enumerate(names)}
    rows = -(-len(panels) // 2)
    height = MARGIN_INCHES + ROW_INCHES * rows
    figure = Figure(figsize=(WIDTH_INCHES, height), facecolor="white", layout="constrained")
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.set(rect=(0, 0.68 / height, 1, 1 - 1.26 / height), w_pad=0.08, h_pad=0.08)
    for position, panel in enumerate(panels, 1):
        _draw_panel(figure.add_subplot(rows, 2, position), panel, axis, looks)
    top = 1 - 0.06 / height
    figure.text(0.012, top, TITLES[name], fontsize=12, fontweight="bold", va="top")
    figure.legend(
        handles=_legend(panels, series["bench"]["titles"], looks),
        loc="upper left",
        bbox_to_anchor=(0.005, 1 - 0.28 / height),
        ncols=5,
        frameon=False,
        handlelength=2.2,
        columnspacing=1.4,
    )
    caption = textwrap.fill(caption_of(name, series), CAPTION_CHARACTERS)
    figure.text(0.012, 0.08 / height, caption, fontsize=8, color=GREY, va="bottom")
    return figure


def _draw_panel(axes: Axes, panel: Panel, axis: Axis, looks: dict[str, tuple[str, str]]) -> None:
    axes.set_title(panel.title)
    axes.set_xlabel(axis.label)
    axes.set_ylabel(panel.unit)
    for line in panel.lines:
        _draw_line(axes, line, *looks[line.contender])
    if axis.log:
        axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator([place for place, _ in axis.ticks]))
    labels = dict(axis.ticks)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda place, _: labels.get(place, "")))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(*_limits(axis))
    if panel.log:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(0, 1.12 * max(max(line.most) for line in panel.lines))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))


def _limits(axis: Axis) -> tuple[float, float]:
    if axis.log:
        beside = max(1.2, (axis.last / axis.first) ** X_MARGIN)
        return axis.first / beside, axis.last * beside
    beside = max(1.0, (axis.last - axis.first) * X_MARGIN)
    return axis.first - beside, axis.last + beside


def _draw_line(axes: Axes, line: Line, color: str, marker: str) -> None:
    errors = [
        [median - least for median, least in zip(line.medians, line.least, strict=True)],
        [most - median for median, most in zip(line.medians, line.most, strict=True)],
    ]
    axes.errorbar(
        line.xs,
        line.medians,
        yerr=errors if any(map(any, errors)) else None,
        color=color,
        marker=marker,
        markersize=5 if line.is_main else 3.5,
        markerfacecolor="white" if line.is_other_schema else color,
        linestyle="-" if line.is_main else "--",
        linewidth=1.6 if line.is_main else 1.0,
        elinewidth=0.8,
        capsize=2,
    )


def _legend(
    panels: list[Panel], titles: dict[str, str], looks: dict[str, tuple[str, str]]
) -> list[Line2D]:
    shown = {line.contender for panel in panels for line in panel.lines}
    handles = [
        Line2D([], [], color=color, marker=marker, markersize=5, linewidth=1.6, label=titles[name])
        for name, (color, marker) in looks.items()
        if name in shown
    ]
    styles = {STREAMING: ("-", 1.6), WHOLE: ("--", 1.0)}
    handles += [
        Line2D([], [], color=GREY, linestyle=style, linewidth=width, label=STYLES[figure])
        for figure, (style, width) in styles.items()
    ]
    return handles


if __name__ == "__main__":
    sys.exit(main())
