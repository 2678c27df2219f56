"""Sets of Kafka offsets as compressed bitmaps: a hundred million of them take some megabytes."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap64

OffsetArray = npt.NDArray[np.int64]


class TopicPartition(NamedTuple):
    """A partition of a topic; sorts by topic, then number."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}"


OffsetSets = Mapping[TopicPartition, BitMap64]


def offset_set(offsets: OffsetArray) -> BitMap64:
    """The distinct offsets of an int64 array of any order; none may be negative."""
    # pyroaring 1.2.0 takes a buffer in one call only from `array`; any other sequence, NumPy's
    # included, is copied value by value at three times the cost.
    return BitMap64(array("Q", offsets.tobytes()))


def interval(first: int, end: int) -> BitMap64:
    """The offsets from `first` up to, not including, `end`."""
    return BitMap64(range(first, end)) if first < end else BitMap64()


def from_ranges(ranges: Iterable[tuple[int, int]]) -> BitMap64:
    """The offsets of inclusive ranges."""
    offsets = BitMap64()
    for first, last in ranges:
        offsets.add_range(first, last + 1)
    return offsets


def ranges(offsets: BitMap64) -> Iterator[tuple[int, int]]:
    """The inclusive ranges a set is made of, rising; the cost is by the range, not the offset."""
    firsts = offsets - offsets.shift(1)
    lasts = offsets - offsets.shift(-1)
    return zip(firsts, lasts, strict=True)


def range_count(offsets: BitMap64) -> int:
    """How many ranges `ranges` would give."""
    return len(offsets - offsets.shift(1))


def repeated(offsets: OffsetArray) -> OffsetArray:
    """The values that occur more than once in an array."""
    ordered = np.sort(offsets)
    return np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
