"""Sets of Kafka offsets as compressed bitmaps; a hundred million offsets take a few megabytes."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap64

OffsetArray = npt.NDArray[np.int64]


class TopicPartition(NamedTuple):
    """A partition of a topic; sorted by topic, then by number."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}"


OffsetSets = Mapping[TopicPartition, BitMap64]


def offset_set(offsets: OffsetArray) -> BitMap64:
    """Return the distinct offsets of an int64 array in any order; none may be negative."""
    # pyroaring 1.2.0 reads a buffer in one call from `array` only. It copies any other sequence,
    # NumPy's too, value by value at three times the cost.
    return BitMap64(array("Q", offsets.tobytes()))


def interval(first: int, end: int) -> BitMap64:
    """Return the offsets from `first` to before `end`."""
    return BitMap64(range(first, end)) if first < end else BitMap64()


def from_ranges(ranges: Iterable[tuple[int, int]]) -> BitMap64:
    """Return the offsets of inclusive ranges."""
    offsets = BitMap64()
    for first, last in ranges:
        offsets.add_range(first, last + 1)
    return offsets


def ranges(offsets: BitMap64) -> Iterator[tuple[int, int]]:
    """Yield a set's inclusive ranges, rising; the cost grows with the ranges, not the offsets.

    >>> list(ranges(BitMap64([3, 4, 5, 9])))
    [(3, 5), (9, 9)]
    """
    firsts = offsets - offsets.shift(1)
    lasts = offsets - offsets.shift(-1)
    return zip(firsts, lasts, strict=True)


def range_count(offsets: BitMap64) -> int:
    """Return how many ranges `ranges` would yield."""
    return len(offsets - offsets.shift(1))


def repeated(offsets: OffsetArray) -> OffsetArray:
    """Return the values that occur more than once in an array, each once."""
    ordered = np.sort(offsets)
    return np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
