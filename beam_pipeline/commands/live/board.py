"""The live view as text: each number has a fixed place, so that only numbers change.

Pure: a `Board` and the terminal's size in, lines that fit out. Unknown values are blank.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from beam_pipeline.terminal import printable

_FIGURE_WIDTH = 10
_MAX_WIDTH = 120
_DIM, _BOLD, _BAD = "dim", "bold", "red"
_STATE_STYLES = {"running": "green", "starting": "cyan"}
_LEAST_DETAIL = 3  # a heading and two lines


@dataclass(frozen=True, slots=True)
class Figure:
    """A counter; `rate` is its increase a second, `share` its part of all rows, if it has them."""

    name: str
    count: int
    rate: float | None = None
    share: float | None = None


@dataclass(frozen=True, slots=True)
class PartitionLine:
    """One partition.

    Attributes:
      name: topic and number, or the number alone.
      position: the first offset that is in no file.
      end: the log's end offset.
      lag: how many offsets before the end are in no file.
      rate: records appended to the log a second.
      landed_to: end of the newest window with a record of this partition in a Parquet file of this
        run. It takes the place of a watermark.
    """

    name: str
    position: int
    end: int | None = None
    lag: int | None = None
    rate: float | None = None
    landed_to: datetime | None = None


@dataclass(frozen=True, slots=True)
class FileLine:
    """A file of this run; `kind` is "rows" or "dead letters", `rows` their number if known."""

    topic: str
    window_start: datetime
    window_end: datetime
    kind: str
    rows: int | None = None
    size_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Board:
    """Everything that the view shows.

    `partitions` and `dead` (counts by reason) have a fixed order; `files` has the newest first.
    """

    title: str
    state: str
    elapsed_seconds: float
    restarts: int
    figures: Sequence[Figure]
    partitions: Sequence[PartitionLine]
    dead: Sequence[tuple[str, int]]
    files: Sequence[FileLine]
    now: datetime


def board_text(board: Board, width: int, height: int) -> Text:
    """Format at most `height` lines of at most `width` cells; drop the least urgent parts first."""
    width = min(width, _MAX_WIDTH)
    head = [_title(board, width), *_figures(board, width)]
    room = height - len(head)
    shown = len(board.partitions)
    table_height = shown + 3  # a blank line, the heading, the total
    detail = min(max(_LEAST_DETAIL, height // 5, room - table_height - 1), 11)
    if table_height + 1 + detail > room:
        shown = max(0, room - detail - 1 - 3)
    lines = head
    if shown and room >= 4:
        lines += [Text(), *_partitions(board, width, shown)]
    left = height - len(lines) - 1
    if left >= _LEAST_DETAIL:
        lines += [Text(), *_details(board, width, min(left, detail))]
    for line in lines:
        line.truncate(width)
    text = Text("\n").join(lines[:height])
    text.no_wrap = True
    return text


def count_text(count: float) -> str:
    """Format a count in at most nine characters: `1,234,567`, `12.3M`."""
    for limit, factor, unit in ((1e7, 1, ""), (1e10, 1e6, "M"), (1e13, 1e9, "G")):
        if abs(count) < limit:
            return f"{count:,.0f}" if not unit else f"{count / factor:,.1f}{unit}"
    return f"{count:.1e}"


def rate_text(rate: float) -> str:
    """Format a rate a second in at most nine characters."""
    return f"{rate:.1f}/s" if rate < 100 else f"{count_text(rate)}/s"


def age_text(seconds: float) -> str:
    """Format an age in at most seven characters: `12 s`, `3 min`, `5 h`, `12 d`."""
    for length, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * length:
            return f"{min(seconds // length, 9_999):.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def clock_text(seconds: float) -> str:
    """Format a duration: `0:01:23`, `26:00:00`."""
    whole = int(seconds)
    return f"{whole // 3_600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _title(board: Board, width: int) -> Text:
    state = printable(board.state)
    right = f"{state}  {clock_text(board.elapsed_seconds)}  restarts {board.restarts:,}"
    room = max(0, width - cell_len(right) - 2)
    text = Text(set_cell_size(_shortened(board.title, room), room), _BOLD)
    text.append("  ")
    text.append(state, _STATE_STYLES.get(board.state, "yellow"))
    text.append(right[len(state) :], _BAD if board.restarts else _DIM)
    return text


def _figures(board: Board, width: int) -> list[Text]:
    shown = board.figures[: max(1, width // _FIGURE_WIDTH)]
    names = "".join(f"{figure.name:>{_FIGURE_WIDTH}}" for figure in shown)
    counts = "".join(f"{count_text(figure.count):>{_FIGURE_WIDTH}}" for figure in shown)
    rates = "".join(f"{_below(figure):>{_FIGURE_WIDTH}}" for figure in shown)
    return [Text(names, _DIM), Text(counts, _BOLD), Text(rates, _DIM)]


def _below(figure: Figure) -> str:
    """Format what stands below a counter."""
    if figure.share is not None:
        return f"{figure.share:.1%}"
    return "" if figure.rate is None else rate_text(figure.rate)


@dataclass(frozen=True, slots=True)
class _Column:
    heading: str
    width: int
    cell: Callable[[PartitionLine, datetime], str]


def _optional(value: float | None, shown: Callable[[float], str]) -> str:
    return "" if value is None else shown(value)


# The first ones stay when there is less room.
_COLUMNS = (
    _Column("lag", 11, lambda line, now: _optional(line.lag, count_text)),
    _Column("position", 14, lambda line, now: f"{line.position:,}"),
    _Column("delay", 9, lambda line, now: _age(line.landed_to, now)),
    _Column("landed to", 12, lambda line, now: _moment(line.landed_to, now)),
    _Column("end", 14, lambda line, now: _optional(line.end, lambda end: f"{end:,.0f}")),
    _Column("in", 10, lambda line, now: _optional(line.rate, rate_text)),
)
_ORDER = ("position", "end", "lag", "in", "landed to", "delay")
_NAME_WIDTH = 10


def _partitions(board: Board, width: int, shown: int) -> list[Text]:
    columns: list[_Column] = []
    left = width - _NAME_WIDTH
    for column in _COLUMNS:
        if column.width <= left:
            columns.append(column)
            left -= column.width
    columns.sort(key=lambda column: _ORDER.index(column.heading))
    longest = max(cell_len(printable(partition.name)) for partition in board.partitions) + 2
    name_width = min(max(_NAME_WIDTH, longest), width - sum(column.width for column in columns))
    heading = set_cell_size("partition", name_width) + "".join(
        f"{column.heading:>{column.width}}" for column in columns
    )
    lines = [Text(heading, _DIM)]
    for partition in board.partitions[:shown]:
        name = set_cell_size(_shortened(partition.name, name_width - 1), name_width)
        cells = "".join(
            f"{column.cell(partition, board.now):>{column.width}}" for column in columns
        )
        lines.append(Text(name + cells))
    lines.append(_total(board, columns, name_width, shown))
    return lines


def _total(board: Board, columns: Sequence[_Column], name_width: int, shown: int) -> Text:
    """Format the line of sums; a sum with an unknown part is blank."""
    lag = _sum([partition.lag for partition in board.partitions])
    rate = _sum([partition.rate for partition in board.partitions])
    sums = {"lag": _optional(lag, count_text), "in": _optional(rate, rate_text)}
    hidden = len(board.partitions) - shown
    name = f"all {len(board.partitions):,}" if hidden > 0 else "all"
    cells = "".join(f"{sums.get(column.heading, ''):>{column.width}}" for column in columns)
    return Text(set_cell_size(name, name_width) + cells, _BOLD)


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None


def _details(board: Board, width: int, height: int) -> list[Text]:
    """Format dead letters by reason on the left, the newest files on the right."""
    reasons = 30 if width >= 72 else 0
    files = width - reasons
    left = [Text(set_cell_size("dead by reason", reasons), _DIM)] if reasons else [Text()]
    right = [Text(set_cell_size("newest files, window in UTC", files), _DIM)]
    dead = _most_frequent(board.dead, height - 1)
    for place in range(height - 1):
        reason = ""
        if reasons and place < len(dead):
            code, count = dead[place]
            reason = f"{set_cell_size(printable(code), 18)}{count_text(count):>9}"
        left.append(Text(set_cell_size(reason, reasons)))
        line = _file_line(board.files[place], files, board.now) if place < len(board.files) else ""
        right.append(Text(line))
    return [Text.assemble(*pair) for pair in zip(left, right, strict=True)]


def _most_frequent(dead: Sequence[tuple[str, int]], lines: int) -> list[tuple[str, int]]:
    """Return the most frequent reasons in the given order, and the rest as "others"."""
    if len(dead) <= lines:
        return list(dead)
    frequent = sorted(dead, key=lambda reason: -reason[1])[: lines - 1]
    rest = sum(count for _, count in dead) - sum(count for _, count in frequent)
    return [*(reason for reason in dead if reason in frequent), ("others", rest)]


def _file_line(file: FileLine, width: int, now: datetime) -> str:
    start, end = _moment(file.window_start, now), _moment(file.window_end, now)
    window = f"{start} - {end}" if len(start) == len(end) == len("12:00:00") else f"from {start}"
    kind = file.kind.removesuffix("s") if file.rows == 1 else file.kind
    rows = kind if file.rows is None else f"{count_text(file.rows)} {kind}"
    stored = _optional(file.size_bytes, lambda size: f"{count_text(size / 1_000)} kB")
    line = f"{window:<20}{rows:>18}"
    if width >= 50:
        line += f"{stored:>12}"
    if width >= 64:
        line += f"  {printable(file.topic)}"
    return set_cell_size(_cut(line, width), width)


def _moment(moment: datetime | None, now: datetime) -> str:
    """Format a time: `21:04:10` today, else `11-23 21:04` this year, else the date."""
    if moment is None:
        return ""
    utc, today = (time.astimezone(timezone.utc).isoformat() for time in (moment, now))
    if utc[:10] == today[:10]:
        return utc[11:19]
    return f"{utc[5:10]} {utc[11:16]}" if utc[:4] == today[:4] else utc[:10]


def _age(moment: datetime | None, now: datetime) -> str:
    return "" if moment is None else age_text((now - moment).total_seconds())


def _shortened(name: str, width: int) -> str:
    """Shorten a name in its middle: the end of a name distinguishes partitions."""
    name = printable(name)
    if cell_len(name) <= width:
        return name
    if width < 3:
        return name[:width]
    kept = (width - 1) // 3
    return f"{name[:kept]}…{name[-(width - 1 - kept) :]}"


def _cut(line: str, width: int) -> str:
    return line if cell_len(line) <= width else f"{set_cell_size(line, max(0, width - 1))}…"
