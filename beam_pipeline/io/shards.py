"""Cutting batches by the topic and shard of their rows, and their offsets by partition."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beam_pipeline.files.footer import OffsetRange, ranges_of
from beam_pipeline.io.windowed_files import Shard


def cut_by_shard(
    batch: pa.RecordBatch, num_shards: int, default_topic: str
) -> Iterator[tuple[Shard, pa.RecordBatch]]:
    """Yield the rows of each topic and shard. The partition modulo `num_shards` is the shard.

    Rows without `kafka_topic` or `kafka_partition` go to `default_topic` and shard 0.

    >>> batch = pa.RecordBatch.from_pydict({"kafka_partition": pa.array([0, 1, 2], pa.int32())})
    >>> [(shard.number, rows["kafka_partition"].to_pylist())
    ...  for shard, rows in cut_by_shard(batch, 2, "rows")]
    [(0, [0, 2]), (1, [1])]
    """
    names = batch.schema.names
    only = _only_shard(batch, num_shards)
    if only is not None:
        yield Shard(only.topic or default_topic, only.number), batch
        return
    topics, partitions = None, np.zeros(batch.num_rows, np.int64)
    if "kafka_topic" in names:
        topics = pc.fill_null(batch.column("kafka_topic"), default_topic)
    if "kafka_partition" in names:
        partitions = pc.fill_null(batch.column("kafka_partition"), 0).to_numpy()
    shards = partitions % num_shards
    for topic in pc.unique(topics).to_pylist() if topics is not None else [None]:
        of_topic = np.ones(batch.num_rows, bool)
        if topics is not None:
            of_topic = pc.equal(topics, topic).to_numpy(zero_copy_only=False)
        for number in np.unique(shards[of_topic]).tolist():
            chosen = of_topic & (shards == number)
            rows = batch if chosen.all() else batch.filter(pa.array(chosen))
            yield Shard(topic or default_topic, number), rows


def _only_shard(batch: pa.RecordBatch, num_shards: int) -> Shard | None:
    """Return the shard of all rows, as of most batches; None if there may be several."""
    if not batch.num_rows or not {"kafka_topic", "kafka_partition"} <= set(batch.schema.names):
        return None
    topics, partitions = batch.column("kafka_topic"), batch.column("kafka_partition")
    if topics.null_count or partitions.null_count:
        return None
    shards = partitions.to_numpy() % num_shards
    topic = topics[0]
    if (shards != shards[0]).any() or not pc.all(pc.equal(topics, topic)).as_py():
        return None
    return Shard(topic.as_py(), int(shards[0]))


def offsets_of(rows: pa.Table) -> dict[int, list[OffsetRange]]:
    """Return the offset ranges of the rows by partition; empty if they lack the Kafka columns."""
    if not {"kafka_partition", "kafka_offset"} <= set(rows.schema.names):
        return {}
    rows = rows.select(["kafka_partition", "kafka_offset"])
    if any(column.null_count for column in rows.columns):
        rows = rows.drop_null()
    partitions = rows.column("kafka_partition").to_numpy()
    offsets = rows.column("kafka_offset").to_numpy()
    return {
        partition: ranges_of(offsets[partitions == partition]) for partition in distinct(partitions)
    }


def distinct(numbers: npt.NDArray[Any]) -> list[int]:
    """Return the different numbers, rising; those of a small range without sorting all of them.

    >>> distinct(np.array([3, 1, 3], np.int32))
    [1, 3]
    """
    if numbers.size and numbers.min() >= 0 and numbers.max() < _MOST_COUNTED:
        found: list[int] = np.flatnonzero(np.bincount(numbers)).tolist()
        return found
    return [int(number) for number in np.unique(numbers)]


_MOST_COUNTED = 100_000
