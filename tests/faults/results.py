"""What became of each scenario, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Result:
    """One row of the table.

    `restarts` counts those by the supervisor and those of the supervisor itself; `missing` and
    `doubled` are of the independent count over the files.
    """

    scenario: str
    seed: int
    kills: int
    records: int
    restarts: int
    missing: int
    doubled: int
    seconds: int


def markdown(results: Sequence[Result]) -> str:
    """The results as a Markdown table, with a line of totals."""
    names = [field.name for field in fields(Result)]
    rows = [[str(getattr(result, name)) for name in names] for result in results]
    totals = [
        "total" if name == "scenario" else "" if name == "seed" else str(total(results, name))
        for name in names
    ]
    cells = [names, *rows, totals]
    widths = [max(len(row[column]) for row in cells) for column in range(len(names))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "".join(
        "| "
        + " | ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        + " |\n"
        for row in [names, rule, *rows, totals]
    )


def total(results: Sequence[Result], name: str) -> int:
    return sum(getattr(result, name) for result in results)
