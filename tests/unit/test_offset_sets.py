"""Sets of offsets, and the ranges they are made of."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from beam_pipeline.files.footer import ranges_of
from beam_pipeline.offset_sets import (
    from_ranges,
    interval,
    offset_set,
    range_count,
    ranges,
    repeated,
)

LARGEST = 2**63 - 1
OFFSETS = st.lists(
    st.one_of(
        st.integers(0, 40),
        st.integers(2**16 - 5, 2**16 + 5),
        st.integers(2**32 - 5, 2**32 + 5),
        st.integers(LARGEST - 5, LARGEST),
        st.integers(0, LARGEST),
    ),
    max_size=80,
).map(lambda offsets: np.array(offsets, dtype=np.int64))


@given(OFFSETS)
def test_a_set_holds_each_offset_of_an_array(offsets: np.ndarray) -> None:
    assert list(offset_set(offsets)) == sorted(set(offsets.tolist()))


@given(OFFSETS)
def test_ranges_are_those_of_the_footer(offsets: np.ndarray) -> None:
    found = list(ranges(offset_set(offsets)))
    assert found == ranges_of(offsets)
    assert range_count(offset_set(offsets)) == len(found)
    assert from_ranges(found) == offset_set(offsets)


@given(OFFSETS)
def test_repeated_are_those_that_occur_twice(offsets: np.ndarray) -> None:
    listed = offsets.tolist()
    assert repeated(offsets).tolist() == sorted({x for x in listed if listed.count(x) > 1})


@given(st.integers(0, 200_000), st.integers(0, 200_000))
def test_an_interval_leaves_out_its_end(first: int, end: int) -> None:
    assert set(interval(first, end)) == set(range(first, end))
