"""Where a new epoch starts to read: at the end of what the files cover without a gap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from pyroaring import BitMap64

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.files.ledger import Ledger
from beam_pipeline.kafka.admin import (
    LogBounds,
    alter_group_offsets,
    cluster_reachable,
    commit_group_offsets,
    create_time_topics,
    log_bounds,
    offsets_at,
    stable_ends,
    topic_ids,
    watermarks,
)
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.kafka.log_reader import (
    READ_COMMITTED,
    READ_UNCOMMITTED,
    find_records,
    timestamps_at,
)
from beam_pipeline.offset_sets import OffsetSets, TopicPartition, interval
from beam_pipeline.times import rfc3339_of_ms

Ends = Mapping[TopicPartition, int]
"""An offset of each partition, exclusive: everything before it."""

Spans = Mapping[TopicPartition, tuple[int, int | None]]
"""First offset and end of each partition; the end None is the end of what is covered."""

NO_TOPIC_ID = "AAAAAAAAAAAAAAAAAAAAAA"
"""The id of every topic on brokers older than Kafka 2.8 (a zero UUID, base64)."""

_REACHABLE_SECONDS = 2.0
_LOG_BOUNDS_SECONDS = 2.0
_LAST_RECORDS_SECONDS = 15.0


@dataclass(frozen=True)
class ResumePoint:
    """The offset to read from in each partition, and the first offset of its log."""

    starts: dict[TopicPartition, int]
    log_starts: dict[TopicPartition, int]


class Source(Protocol):
    """What the supervisor needs of the input topics."""

    def is_reachable(self) -> bool:
        """Return whether a broker answers now."""

    def find_resume_point(self, ledger: Ledger) -> ResumePoint:
        """Return where to start reading; see `find_resume_point` of this module."""

    def set_group_offsets(self, starts: Ends) -> None:
        """Set the offsets from which the consumer group reads on."""

    def commit(self, landed_to: Ends) -> None:
        """Set the group's offsets for those who watch it; asks once, and not for long."""

    def cover_offset_gaps(self, ledger: Ledger, spans: Spans) -> int:
        """Cover offsets without a record; see `cover_offset_gaps` of this module."""

    def find_gaps(self, offsets: OffsetSets) -> OffsetSets:
        """Return those of some offsets that will never have a record."""

    def log_bounds(self) -> LogBounds:
        """Return the bounds of each partition that there is now; asks once, and not for long."""

    def create_time_topics(self) -> tuple[str, ...]:
        """Return those of the topics whose records are stamped by their producers."""

    def offsets_at(self, time_ms: int | None) -> Ends:
        """Return the first offset of each partition that Kafka stamped at that time or later.

        It is the end of the log where there is none, and for None.
        """

    def with_topics(self, topics: Sequence[str]) -> Source:
        """Return the source with other topics."""


@dataclass(frozen=True)
class KafkaSource:
    """Topics of a Kafka cluster, read by a consumer group.

    Each method but `is_reachable` raises `EnvironmentFailure` when the cluster does not answer or
    refuses.
    """

    connection: KafkaConnection
    topics: Sequence[str]
    consumer_group: str

    def is_reachable(self) -> bool:
        return cluster_reachable(self.connection, _REACHABLE_SECONDS)

    def find_resume_point(self, ledger: Ledger) -> ResumePoint:
        return find_resume_point(self.connection, self.topics, ledger)

    def set_group_offsets(self, starts: Ends) -> None:
        alter_group_offsets(self.connection, self.consumer_group, starts)

    def commit(self, landed_to: Ends) -> None:
        commit_group_offsets(self.connection, self.consumer_group, landed_to)

    def cover_offset_gaps(self, ledger: Ledger, spans: Spans) -> int:
        return cover_offset_gaps(self.connection, ledger, spans)

    def find_gaps(self, offsets: OffsetSets) -> OffsetSets:
        return find_gaps(self.connection, offsets)

    def log_bounds(self) -> LogBounds:
        return log_bounds(self.connection, self.topics, _LOG_BOUNDS_SECONDS)

    def create_time_topics(self) -> tuple[str, ...]:
        return create_time_topics(self.connection, self.topics)

    def offsets_at(self, time_ms: int | None) -> Ends:
        if time_ms is None:
            return ends_of(self.connection, self.topics)
        return {
            TopicPartition(topic, partition): offset
            for topic in self.topics
            for partition, offset in offsets_at(self.connection, topic, time_ms).items()
        }

    def with_topics(self, topics: Sequence[str]) -> KafkaSource:
        return replace(self, topics=topics)


def find_resume_point(
    connection: KafkaConnection, topics: Sequence[str], ledger: Ledger
) -> ResumePoint:
    """Return the end of each partition's contiguous covered offsets, gaps in the log included.

    What `--start` left out is passed over. Offsets without a record (compacted, transaction
    markers) are added to `ledger.covered`.

    Raises:
      EnvironmentFailure: the files belong to another topic of the same name, or the cluster
        refused.
    """
    _refuse_another_topic(topic_ids(connection, topics), ledger)
    logs = {
        TopicPartition(topic, partition): bounds
        for topic in topics
        for partition, bounds in watermarks(connection, topic).items()
    }
    for (topic, partition), (low, high) in logs.items():
        _, last = ledger.covered.bounds(topic, partition) or (low, low)
        if last > high:
            raise EnvironmentFailure(_another_log(topic, f"partition {partition} ends at {high}"))
    _refuse_shrunk_topic(topics, logs, ledger)
    _refuse_rewritten_log(connection, logs, ledger)
    cover_offset_gaps(connection, ledger, {key: (low, None) for key, (low, _) in logs.items()})
    starts = {key: ledger.passed_to(key, low) for key, (low, _) in logs.items()}
    return ResumePoint(starts, {key: low for key, (low, _) in logs.items()})


def cover_offset_gaps(connection: KafkaConnection, ledger: Ledger, spans: Spans) -> int:
    """Add to `ledger.covered` the uncovered offsets of `spans` at which the log has no record.

    Offsets below the start of the log are left out: they may have had a record, which has expired.

    Returns:
      how many offsets were added.

    Raises:
      EnvironmentFailure: the cluster refuses, or does not answer for a minute.
    """
    uncovered: dict[TopicPartition, BitMap64] = {}
    for key, (first, end) in spans.items():
        bounds = ledger.covered.bounds(key.topic, key.partition)
        last = end if end is not None else bounds[1] if bounds else first
        offsets = ledger.uncovered(key, first, last)
        if offsets:
            uncovered[key] = offsets
    added = 0
    for key, gaps in find_gaps(connection, uncovered).items():
        ledger.add_offset_gaps(key.topic, key.partition, gaps)
        added += len(gaps)
    return added


def find_gaps(connection: KafkaConnection, offsets: OffsetSets) -> dict[TopicPartition, BitMap64]:
    """Read the log; return those of some offsets at which there will never be a record.

    Left out are offsets below the start of the log, which may have had a record, and for a reader
    of committed records those of transactions that are open.

    Raises:
      EnvironmentFailure: the cluster refuses, or does not answer for a minute.
    """
    if not any(offsets.values()):
        return {}
    isolation_level = connection.properties.get("isolation.level", READ_UNCOMMITTED)
    is_committed = isolation_level == READ_COMMITTED
    ends = stable_ends(connection, offsets) if is_committed else {}
    records = find_records(connection, offsets, isolation_level)
    # Fetched after the log was read: what expires meanwhile has no record there either.
    log_begins = {
        TopicPartition(topic, partition): low
        for topic in {key.topic for key in offsets}
        for partition, (low, _) in watermarks(connection, topic).items()
    }
    gaps = {}
    for key, wanted in offsets.items():
        without_record = wanted - records[key]
        without_record.remove_range(0, log_begins.get(key, 0))
        if is_committed:
            without_record &= interval(0, ends.get(key, 0))
        gaps[key] = without_record
    return gaps


def ends_of(connection: KafkaConnection, topics: Sequence[str]) -> dict[TopicPartition, int]:
    """Return the end offset of each partition now.

    Raises:
      EnvironmentFailure: a topic is missing, or the cluster refused.
    """
    return {
        TopicPartition(topic, partition): high
        for topic in topics
        for partition, (_, high) in watermarks(connection, topic).items()
    }


def _refuse_another_topic(ids: Mapping[str, str], ledger: Ledger) -> None:
    for topic, topic_id in ids.items():
        if topic_id == NO_TOPIC_ID:
            continue
        known = ledger.topic_ids.setdefault(topic, topic_id)
        if known != topic_id:
            raise EnvironmentFailure(
                _another_log(topic, f"its id was {known} and is {topic_id} now")
            )


def _refuse_shrunk_topic(
    topics: Sequence[str], logs: Mapping[TopicPartition, tuple[int, int]], ledger: Ledger
) -> None:
    for key in ledger.covered.partitions():
        if key.topic in topics and key not in logs:
            raise EnvironmentFailure(
                _another_log(key.topic, f"it has no partition {key.partition} any more")
            )


def _refuse_rewritten_log(
    connection: KafkaConnection,
    logs: Mapping[TopicPartition, tuple[int, int]],
    ledger: Ledger,
) -> None:
    """Compare the last landed record of each partition with the log's at the same offset."""
    landed = {
        key: record
        for key, record in ledger.last_records.items()
        if key in logs and logs[key][0] <= record.offset < logs[key][1]
    }
    if not landed:
        return
    offsets = {key: record.offset for key, record in landed.items()}
    for key, timestamp_ms in timestamps_at(connection, offsets, _LAST_RECORDS_SECONDS).items():
        offset, landed_ms = landed[key]
        if timestamp_ms != landed_ms:
            raise EnvironmentFailure(
                _another_log(
                    key.topic,
                    f"the record at offset {offset} of partition {key.partition} was stamped "
                    f"{rfc3339_of_ms(landed_ms)} when it was landed, and the one there now "
                    f"{rfc3339_of_ms(timestamp_ms)}",
                )
            )


def _another_log(topic: str, evidence: str) -> str:
    return (
        f"topic {topic} is not the one that the files are from ({evidence}): it was deleted and "
        "created again, its log was rewritten, as by a broker that is back from an older disk, or "
        "this is another cluster, and other records have the same offsets. Give other "
        "--output_dir and --dead_letter_dir, or move the old files and _ledger away"
    )
