"""How values are spread: percentiles and classes, counted by weight. Pure, no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DELAY_EDGES = (
    *(1, 2, 3, 5, 7, 10, 15, 20, 30),
    *(60, 120, 300, 600, 1_800),
    *(3_600, 21_600),
    *(86_400, 7 * 86_400, 30 * 86_400, 365 * 86_400, 3_650 * 86_400),
)
"""Seconds."""

SIZE_EDGES = tuple(4_096 << (2 * power) for power in range(10))
"""Bytes, 4 KiB to 1 GiB."""


@dataclass(frozen=True, slots=True)
class SizeClass:
    """How much lies from `low` up to, not including, `high`; None is open."""

    low: float | None
    high: float | None
    count: int


def classes(
    values: Sequence[float], weights: Sequence[int], edges: Sequence[float]
) -> list[SizeClass]:
    """Sums the weights between the edges; empty classes at both ends are left out."""
    places = np.searchsorted(np.asarray(edges), np.asarray(values, dtype=float), side="right")
    sums = np.bincount(places, np.asarray(weights, dtype=float), len(edges) + 1)
    bounds: list[float | None] = [None, *edges, None]
    found = [
        SizeClass(bounds[place], bounds[place + 1], round(total))
        for place, total in enumerate(sums.tolist())
    ]
    filled = [place for place, one in enumerate(found) if one.count]
    return found[filled[0] : filled[-1] + 1] if filled else []


def percentiles(
    values: Sequence[float], weights: Sequence[int], shares: Sequence[float]
) -> list[float]:
    """The smallest value that at least each share of the weight is no larger than; none of it
    where there is no weight."""
    weighed = np.asarray(weights, dtype=float)
    if not weighed.size or weighed.sum() <= 0:
        return []
    ordered = np.asarray(values, dtype=float)
    order = np.argsort(ordered, kind="stable")
    reached = np.cumsum(weighed[order])
    places = np.searchsorted(reached, np.asarray(shares) * reached[-1], side="left")
    found: list[float] = ordered[order][np.minimum(places, len(order) - 1)].tolist()
    return found
