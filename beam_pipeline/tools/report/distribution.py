"""Weighted percentiles and classes of values. Pure, no I/O."""

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
"""Edges of the classes of delays, in seconds."""

SIZE_EDGES = tuple(4_096 << (2 * power) for power in range(10))
"""Edges of the classes of file sizes, in bytes: 4 KiB to 1 GiB."""


@dataclass(frozen=True, slots=True)
class SizeClass:
    """The weight of values from `low` up to, but not including, `high`; None is open."""

    low: float | None
    high: float | None
    count: int


def classes(
    values: Sequence[float], weights: Sequence[int], edges: Sequence[float]
) -> list[SizeClass]:
    """Return the sums of weights between the edges, without empty classes at both ends."""
    places = np.searchsorted(np.asarray(edges), np.asarray(values, dtype=float), side="right")
    sums = np.bincount(places, np.asarray(weights, dtype=float), len(edges) + 1)
    bounds: list[float | None] = [None, *edges, None]
    size_classes = [
        SizeClass(bounds[place], bounds[place + 1], round(total))
        for place, total in enumerate(sums.tolist())
    ]
    filled = [place for place, size_class in enumerate(size_classes) if size_class.count]
    return size_classes[filled[0] : filled[-1] + 1] if filled else []


def percentiles(
    values: Sequence[float], weights: Sequence[int], shares: Sequence[float]
) -> list[float]:
    """Return, for each share, the smallest value that this share of the weight does not exceed.

    Return an empty list if there is no weight.

    >>> percentiles([1, 5, 9], [2, 1, 1], [0.5, 0.95])
    [1.0, 9.0]
    """
    weighed = np.asarray(weights, dtype=float)
    if not weighed.size or weighed.sum() <= 0:
        return []
    ordered = np.asarray(values, dtype=float)
    order = np.argsort(ordered, kind="stable")
    reached = np.cumsum(weighed[order])
    places = np.searchsorted(reached, np.asarray(shares) * reached[-1], side="left")
    values_at: list[float] = ordered[order][np.minimum(places, len(order) - 1)].tolist()
    return values_at
