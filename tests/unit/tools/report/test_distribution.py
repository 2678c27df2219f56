"""Percentiles and classes go by weight."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from beam_pipeline.tools.report.distribution import DELAY_EDGES, SizeClass, classes, percentiles

weighed = st.lists(st.tuples(st.floats(-1e6, 1e12), st.integers(0, 1_000)), min_size=1)


@given(weighed)
def test_classes_keep_the_sum(found: list[tuple[float, int]]) -> None:
    values, weights = zip(*found, strict=True)
    counted = classes(values, weights, DELAY_EDGES)
    assert sum(one.count for one in counted) == sum(weights)
    assert all(left.high == right.low for left, right in itertools.pairwise(counted))


def test_the_lower_edge_belongs_to_a_class() -> None:
    assert classes([0, 1, 9, 10, 30], [1, 2, 3, 4, 0], [1, 10, 20]) == [
        SizeClass(None, 1, 1),
        SizeClass(1, 10, 5),
        SizeClass(10, 20, 4),
    ]


@given(weighed, st.floats(0.01, 1))
def test_a_percentile_is_one_of_the_values_and_has_its_share(
    found: list[tuple[float, int]], share: float
) -> None:
    values, weights = zip(*found, strict=True)
    reached = percentiles(values, weights, [share])
    if not sum(weights):
        assert reached == []
        return
    (value,) = reached
    assert value in values
    below = sum(weight for one, weight in found if one <= value)
    assert below >= share * sum(weights) - 1e-6


def test_percentiles_by_weight() -> None:
    assert percentiles([5, 1, 3], [1, 98, 1], [0.5, 0.99, 1.0]) == [1, 3, 5]
    assert percentiles([], [], [0.5]) == []
