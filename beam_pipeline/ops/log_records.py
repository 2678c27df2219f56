"""Where in a Kafka log there is a record at all.

Offsets without one are ordinary: records that compaction took away, the markers that end
transactions and, for a reader of committed records, all that was aborted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from pyroaring import BitMap64

from beam_pipeline.io.kafka_connection import KafkaConnection
from beam_pipeline.ops.log_reader import LogReader
from beam_pipeline.ops.offsets import OffsetSets, TopicPartition, offset_set, ranges

# To read on over fewer offsets than these costs less than to begin anew behind them.
_WORTH_A_JUMP = 50_000


def find_records(
    connection: KafkaConnection,
    wanted: OffsetSets,
    isolation_level: str,
    progress: Callable[[int], object] = lambda offsets: None,
) -> dict[TopicPartition, BitMap64]:
    """Reads the log to find which of some offsets hold a record.

    Args:
        connection: the cluster.
        wanted: the offsets to look at.
        isolation_level: `read_uncommitted` or `read_committed`, as the reader in question has it.
        progress: is told how many more of the wanted offsets have been dealt with.

    Returns:
        Of each partition, those of the wanted offsets that are records.

    Raises:
        EnvironmentFailure: the cluster refuses, or says nothing for a minute.
    """
    if not any(wanted.values()):
        return {partition: BitMap64() for partition in wanted}
    with LogReader(connection, isolation_level) as reader:
        return {
            partition: _find_in_partition(reader, partition, offsets, progress)
            for partition, offsets in sorted(wanted.items())
        }


def _find_in_partition(
    reader: LogReader,
    partition: TopicPartition,
    wanted: BitMap64,
    progress: Callable[[int], object],
) -> BitMap64:
    found = BitMap64()
    for first, end in _stretches(wanted):
        position = first
        for messages in reader.read(partition, first, end):
            offsets = np.array([message.offset() for message in messages], dtype=np.int64)
            found |= offset_set(offsets) & wanted
            if offsets.size:
                reached = int(offsets[-1]) + 1
                progress(wanted.range_cardinality(position, reached))
                position = reached
        progress(wanted.range_cardinality(position, end))
    return found


def _stretches(wanted: BitMap64) -> Iterator[tuple[int, int]]:
    """Stretches of the log, first offset and end, that hold all wanted ones."""
    first: int | None = None
    end = 0
    for range_first, range_last in ranges(wanted):
        if first is not None and range_first - end >= _WORTH_A_JUMP:
            yield first, end
            first = None
        first = range_first if first is None else first
        end = range_last + 1
    if first is not None:
        yield first, end
