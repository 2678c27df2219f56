"""Covered offsets, by topic and partition, as compressed bitmaps."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from pyroaring import BitMap64

from beam_pipeline.offset_sets import TopicPartition


class CoveredOffsets:
    """The offsets of each partition that files hold already. Picklable.

    >>> covered = CoveredOffsets()
    >>> covered.add_range("orders", 0, 5, 7)
    >>> covered.prefix_end("orders", 0, 5), covered.missing("orders", 0, first=0, end=10)
    (8, 7)
    """

    def __init__(self) -> None:
        self._bitmaps: dict[TopicPartition, BitMap64] = {}
        self._starts: dict[TopicPartition, int] = {}

    def add_range(self, topic: str, partition: int, first: int, last: int) -> None:
        """Add the offsets from `first` to `last`, both inclusive."""
        if first <= last:
            self._bitmaps.setdefault(TopicPartition(topic, partition), BitMap64()).add_range(
                first, last + 1
            )

    def add(self, topic: str, partition: int, offsets: BitMap64) -> None:
        """Add all of `offsets`."""
        if offsets:
            bitmap = self._bitmaps.setdefault(TopicPartition(topic, partition), BitMap64())
            bitmap |= offsets

    def update(self, other: CoveredOffsets) -> None:
        """Add all offsets of `other`."""
        for (topic, partition), bitmap in other._bitmaps.items():
            self.add(topic, partition, bitmap)

    def bounds(self, topic: str, partition: int) -> tuple[int, int] | None:
        """Return the first covered offset and the one after the last, or None if there is none."""
        bitmap = self._bitmaps.get(TopicPartition(topic, partition))
        return (bitmap.min(), bitmap.max() + 1) if bitmap else None

    def gaps(self, topic: str, partition: int, first: int, end: int) -> BitMap64:
        """Return the offsets from `first` to before `end` that are not covered."""
        gaps = BitMap64()
        if end > first:
            gaps.add_range(first, end)
            gaps -= self._bitmaps.get(TopicPartition(topic, partition), BitMap64())
        return gaps

    @property
    def is_empty(self) -> bool:
        """Whether no offset is covered."""
        return not any(self._bitmaps.values())

    @property
    def count(self) -> int:
        """How many offsets are covered."""
        return sum(map(len, self._bitmaps.values()))

    def of(self, key: TopicPartition) -> BitMap64:
        """Return a copy of the covered offsets of a partition."""
        return self._bitmaps.get(key, BitMap64()).copy()

    def partitions(self) -> Iterator[TopicPartition]:
        """Yield each (topic, partition) with covered offsets, sorted."""
        return iter(sorted(self._bitmaps))

    def prefix_end(self, topic: str, partition: int, start: int) -> int:
        """Return the first offset from `start` on that is not covered."""
        bitmap = self._bitmaps.get(TopicPartition(topic, partition))
        if bitmap is None or start not in bitmap:
            return start
        low, high = start, bitmap.max()
        while low < high:
            middle = (low + high + 1) // 2
            if bitmap.range_cardinality(start, middle + 1) == middle + 1 - start:
                low = middle
            else:
                high = middle - 1
        return low + 1

    def missing(self, topic: str, partition: int, first: int, end: int) -> int:
        """Return how many offsets from `first` to before `end` are not covered."""
        bitmap = self._bitmaps.get(TopicPartition(topic, partition))
        if end <= first:
            return 0
        if bitmap is None:
            return end - first
        return end - first - bitmap.range_cardinality(first, end)

    def includes(self, other: CoveredOffsets) -> bool:
        """Return whether all offsets of `other` are covered.

        >>> covered, part = CoveredOffsets(), CoveredOffsets()
        >>> covered.add_range("orders", 0, 0, 9)
        >>> part.add_range("orders", 0, 5, 7)
        >>> covered.includes(part), part.includes(covered)
        (True, False)
        """
        return all(
            bitmap <= self._bitmaps.get(key, BitMap64()) for key, bitmap in other._bitmaps.items()
        )

    def overlaps(self, other: CoveredOffsets) -> bool:
        """Return whether any offset of `other` is covered."""
        return any(
            bitmap.intersect(self._bitmaps[key])
            for key, bitmap in other._bitmaps.items()
            if key in self._bitmaps
        )

    def without(self, other: CoveredOffsets) -> CoveredOffsets:
        """Return the covered offsets that `other` does not cover.

        >>> covered, part = CoveredOffsets(), CoveredOffsets()
        >>> covered.add_range("orders", 0, 0, 9)
        >>> part.add_range("orders", 0, 5, 9)
        >>> covered.without(part).bounds("orders", 0)
        (0, 5)
        """
        rest = CoveredOffsets()
        for key, bitmap in self._bitmaps.items():
            rest.add(*key, bitmap - other._bitmaps.get(key, BitMap64()))
        return rest

    def copy(self) -> CoveredOffsets:
        """Return a copy that later changes of this one don't reach."""
        copied = CoveredOffsets()
        copied.update(self)
        return copied

    def beyond(self, starts: Mapping[TopicPartition, int]) -> CoveredOffsets:
        """Return what a reader that begins at `starts` skips.

        That is the covered offsets from each partition's start on, which the reader gets again, and
        for `which` all offsets before the start: a reader that begins too early finds those.
        """
        covered = CoveredOffsets()
        covered._starts = {key: start for key, start in starts.items() if start}
        for key, bitmap in self._bitmaps.items():
            ahead = bitmap.copy()
            ahead.remove_range(0, starts.get(key, 0))
            if ahead:
                covered._bitmaps[key] = ahead
        return covered

    def skipped_partitions(self) -> list[TopicPartition]:
        """Return each partition of which `which` may say that an offset is covered, sorted."""
        return sorted(self._bitmaps.keys() | self._starts.keys())

    def which(self, topic: str, partition: int, offsets: Sequence[int]) -> list[bool]:
        """Return for each of `offsets` whether it is covered, or before the start of a reader."""
        key = TopicPartition(topic, partition)
        start, bitmap = self._starts.get(key, 0), self._bitmaps.get(key)
        if bitmap is None:
            return [offset < start for offset in offsets]
        return [offset < start or offset in bitmap for offset in offsets]

    def end(self, topic: str, partition: int) -> int:
        """Return an offset from which on `which` says of none that it is covered."""
        key = TopicPartition(topic, partition)
        bitmap = self._bitmaps.get(key)
        return max(self._starts.get(key, 0), bitmap.max() + 1 if bitmap else 0)

    def to_json(self) -> list[dict[str, Any]]:
        """Return JSON data; the bitmaps are base64 text of the portable Roaring format."""
        return [
            {
                "topic": key.topic,
                "partition": key.partition,
                **({"before": self._starts[key]} if key in self._starts else {}),
                "offsets": base64.b64encode(self._bitmaps.get(key, BitMap64()).serialize()).decode(
                    "ascii"
                ),
            }
            for key in self.skipped_partitions()
        ]

    @staticmethod
    def from_json(entries: Iterable[Mapping[str, Any]]) -> CoveredOffsets:
        """Return the offsets that `to_json` returned."""
        covered = CoveredOffsets()
        for entry in entries:
            key = TopicPartition(entry["topic"], int(entry["partition"]))
            covered.add(*key, BitMap64.deserialize(base64.b64decode(entry["offsets"])))
            if "before" in entry:
                covered._starts[key] = int(entry["before"])
        return covered


def without_covered(
    records: pa.RecordBatch, covered: CoveredOffsets, topic: str | None = None
) -> pa.RecordBatch:
    """Return the rows whose offsets are not covered, of a batch with the Kafka columns.

    Args:
        records: the rows.
        covered: the offsets.
        topic: that of all rows; None takes it from the column `kafka_topic`.
    """
    covered_partitions = covered.skipped_partitions()
    if not covered_partitions or not records.num_rows:
        return records
    topics = (
        records.column("kafka_topic").to_numpy(zero_copy_only=False) if topic is None else topic
    )
    partitions = records.column("kafka_partition").to_numpy()
    offsets = records.column("kafka_offset").to_numpy()
    fresh = np.ones(records.num_rows, bool)
    for covered_topic, partition in covered_partitions:
        (rows,) = np.nonzero((partitions == partition) & (topics == covered_topic))
        if rows.size and offsets[rows].min() < covered.end(covered_topic, partition):
            fresh[rows] = np.invert(covered.which(covered_topic, partition, offsets[rows].tolist()))
    return records if fresh.all() else records.filter(pa.array(fresh))
