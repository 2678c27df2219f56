"""Read ranges of a Kafka log without a consumer group, and find which offsets hold a record.

Offsets without a record are ordinary: compaction has removed it, the offset is the marker at the
end of a transaction, or, for a reader of committed records, the transaction was aborted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType

import confluent_kafka
import numpy as np
from confluent_kafka import Consumer, KafkaError, Message
from pyroaring import BitMap64

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.kafka.connection import KafkaConnection, librdkafka_logger
from beam_pipeline.offset_sets import OffsetSets, TopicPartition, offset_set, ranges

READ_UNCOMMITTED = "read_uncommitted"
READ_COMMITTED = "read_committed"

_MESSAGES_AT_A_TIME = 5_000
# Reading over fewer offsets than these is quicker than a seek behind them.
_WORTH_A_SEEK = 50_000
# librdkafka waits this long for `_MESSAGES_AT_A_TIME`, even where there are fewer.
_POLL_SECONDS = 0.1
_SILENCE_SECONDS = 60.0
_FIRST_RECORD_SECONDS = 0.5
# librdkafka retries after all other errors: a broker that is away, a topic so new that not every
# broker knows it.
_FINAL_ERRORS = (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.UNSUPPORTED_VERSION)


class LogReader:
    """A consumer without a group; it commits nothing. A context manager, closed at its end."""

    def __init__(
        self, connection: KafkaConnection, isolation_level: str = READ_UNCOMMITTED
    ) -> None:
        """Make the consumer; `isolation_level` is `read_uncommitted` or `read_committed`."""
        self._last_error = "is the broker up?"
        self._consumer = Consumer(
            {
                **connection.for_librdkafka(),
                # librdkafka requires one; `assign` without a commit creates no group.
                "group.id": "beam-pipeline-log-reader",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "enable.partition.eof": True,
                "isolation.level": isolation_level,
                "queued.max.messages.kbytes": 16_384,
                # The topic's own limit applies.
                "receive.message.max.bytes": 1_000_000_000,
            },
            logger=librdkafka_logger(),
        )

    def read(self, partition: TopicPartition, first: int, end: int) -> Iterator[list[Message]]:
        """Yield lists of the records from offset `first` to before `end`, or to the log's end.

        Raises:
            EnvironmentFailure: the cluster refuses, or no record comes for a minute.
        """
        if first >= end:
            return
        self._consumer.assign(
            [confluent_kafka.TopicPartition(partition.topic, partition.partition, first)]
        )
        give_up = time.monotonic() + _SILENCE_SECONDS
        while time.monotonic() < give_up:
            messages, at_end = self._poll(partition)
            if messages:
                yield [message for message in messages if first <= _offset(message) < end]
                at_end = at_end or _offset(messages[-1]) >= end - 1
                give_up = time.monotonic() + _SILENCE_SECONDS
            if at_end:
                return
        raise EnvironmentFailure(
            f"Kafka: no record of {partition} came for {_SILENCE_SECONDS:g} s: {self._last_error}"
        )

    def first_records(self, offsets: Mapping[TopicPartition, int]) -> list[Message]:
        """Return some of the next records, or ends of partitions, from these offsets on.

        Raises:
            EnvironmentFailure: the cluster refuses.
        """
        self._consumer.assign(
            [confluent_kafka.TopicPartition(*key, offset) for key, offset in offsets.items()]
        )
        messages = []
        for message in self._consumer.consume(len(offsets), _FIRST_RECORD_SECONDS):
            error = message.error()
            if error is None or error.code() == KafkaError._PARTITION_EOF:
                messages.append(message)
            elif error.code() in _FINAL_ERRORS:
                raise EnvironmentFailure(f"Kafka: reading {message.topic()}: {error.str()}")
        return messages

    def _poll(self, partition: TopicPartition) -> tuple[list[Message], bool]:
        """Return the next records, and whether the log ends after them."""
        records, at_end = [], False
        for message in self._consumer.consume(_MESSAGES_AT_A_TIME, _POLL_SECONDS):
            error = message.error()
            if error is None:
                records.append(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                at_end = True
            elif error.code() in _FINAL_ERRORS:
                raise EnvironmentFailure(f"Kafka: reading {partition}: {error.str()}")
            else:
                self._last_error = error.str()
        return records, at_end

    def __enter__(self) -> LogReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._consumer.close()


def _offset(message: Message) -> int:
    # An offset is None only for an event that is no record.
    return message.offset() or 0


def timestamps_at(
    connection: KafkaConnection, offsets: Mapping[TopicPartition, int], timeout_seconds: float
) -> dict[TopicPartition, int]:
    """Return the timestamps of the records at some offsets, in milliseconds since 1970.

    Left out are partitions where the log has no record at the offset, whose record has no
    timestamp, or that give no answer within the time.

    Args:
        connection: the cluster.
        offsets: one offset of each partition.
        timeout_seconds: for all partitions together.

    Raises:
        EnvironmentFailure: the cluster refuses.
    """
    timestamps: dict[TopicPartition, int] = {}
    waiting = dict(offsets)
    give_up = time.monotonic() + timeout_seconds
    with LogReader(connection) as reader:
        while waiting and time.monotonic() < give_up:
            for message in reader.first_records(waiting):
                key = TopicPartition(message.topic() or "", message.partition() or 0)
                wanted = waiting.pop(key, None)
                if message.error() is not None or _offset(message) != wanted:
                    continue
                kind, timestamp_ms = message.timestamp()
                if kind != confluent_kafka.TIMESTAMP_NOT_AVAILABLE:
                    timestamps[key] = timestamp_ms
    return timestamps


def find_records(
    connection: KafkaConnection,
    wanted: OffsetSets,
    isolation_level: str,
    progress: Callable[[int], object] = lambda offsets: None,
) -> dict[TopicPartition, BitMap64]:
    """Read the log to find which of some offsets hold a record.

    Args:
        connection: the cluster.
        wanted: the offsets to look at.
        isolation_level: that of the reader in question, `read_uncommitted` or `read_committed`.
        progress: called with how many more of the wanted offsets are done.

    Returns:
        the wanted offsets that hold a record, by partition.

    Raises:
        EnvironmentFailure: the cluster refuses, or no record comes for a minute.
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
    with_record = BitMap64()
    for first, end in _ranges_to_read(wanted):
        position = first
        for messages in reader.read(partition, first, end):
            offsets = np.array([message.offset() for message in messages], dtype=np.int64)
            with_record |= offset_set(offsets) & wanted
            if offsets.size:
                reached = int(offsets[-1]) + 1
                progress(wanted.range_cardinality(position, reached))
                position = reached
        progress(wanted.range_cardinality(position, end))
    return with_record


def _ranges_to_read(wanted: BitMap64) -> Iterator[tuple[int, int]]:
    """Yield ranges of the log, first offset and end, that contain all wanted offsets."""
    first: int | None = None
    end = 0
    for range_first, range_last in ranges(wanted):
        if first is not None and range_first - end >= _WORTH_A_SEEK:
            yield first, end
            first = None
        first = range_first if first is None else first
        end = range_last + 1
    if first is not None:
        yield first, end
