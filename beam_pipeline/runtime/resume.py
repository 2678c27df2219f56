"""Where a new epoch starts reading: behind what the files cover, nothing skipped in silence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pyroaring import BitMap64

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.files.ledger import Ledger
from beam_pipeline.kafka.admin import topic_ids, watermarks
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.kafka.log_reader import READ_UNCOMMITTED, find_records
from beam_pipeline.offset_sets import TopicPartition

Ends = Mapping[TopicPartition, int]
"""Per partition an offset, exclusive: everything before it."""

NO_TOPIC_ID = "AAAAAAAAAAAAAAAAAAAAAA"
"""What brokers older than Kafka 2.8 give for a topic's id (a zero UUID, base64)."""


@dataclass(frozen=True)
class ResumePoint:
    """Per partition the offset to read from; `notices` are for the user's eyes."""

    starts: dict[TopicPartition, int]
    notices: list[str]


def find_resume_point(
    connection: KafkaConnection, topics: Sequence[str], ledger: Ledger
) -> ResumePoint:
    """The end of each partition's contiguous prefix of covered offsets, over holes in the log.

    Holes that are found (compacted records, transaction markers) are added to `ledger.covered`:
    there will never be a record at them.

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
    notices = []
    for (topic, partition), (low, high) in logs.items():
        first, last = ledger.covered.bounds(topic, partition) or (low, low)
        if last > high:
            raise EnvironmentFailure(_another_log(topic, f"partition {partition} ends at {high}"))
        expired = ledger.covered.missing(topic, partition, first, low)
        if expired:
            notices.append(
                f"{topic}/{partition}: {expired} offsets before {low} have expired by the topic's "
                "retention before they were landed; they are lost to this pipeline"
            )
    cover_offset_gaps(connection, ledger, {key: (low, None) for key, (low, _) in logs.items()})
    starts = {
        key: ledger.covered.prefix_end(key.topic, key.partition, low)
        for key, (low, _) in logs.items()
    }
    return ResumePoint(starts, notices)


def cover_offset_gaps(
    connection: KafkaConnection,
    ledger: Ledger,
    spans: Mapping[TopicPartition, tuple[int, int | None]],
) -> int:
    """Adds to `ledger.covered` the uncovered offsets at which the log has no record.

    `spans` are first offset and end per partition; None ends at the last covered offset. Returns
    how many offsets were holes.
    """
    uncovered: dict[TopicPartition, BitMap64] = {}
    for key, (first, end) in spans.items():
        bounds = ledger.covered.bounds(key.topic, key.partition)
        last = end if end is not None else bounds[1] if bounds else first
        gaps = ledger.covered.gaps(key.topic, key.partition, first, last)
        if gaps:
            uncovered[key] = gaps
    isolation_level = connection.properties.get("isolation.level", READ_UNCOMMITTED)
    records = find_records(connection, uncovered, isolation_level) if uncovered else {}
    holes = 0
    for key, gaps in uncovered.items():
        without_record = gaps - records[key]
        ledger.add_holes(key.topic, key.partition, without_record)
        holes += len(without_record)
    return holes


def ends_of(connection: KafkaConnection, topics: Sequence[str]) -> dict[TopicPartition, int]:
    """Where the topics end now."""
    return {
        TopicPartition(topic, partition): high
        for topic in topics
        for partition, (_, high) in watermarks(connection, topic).items()
    }


def _refuse_another_topic(ids: Mapping[str, str], ledger: Ledger) -> None:
    for topic, identity in ids.items():
        if identity == NO_TOPIC_ID:
            continue
        known = ledger.topic_ids.setdefault(topic, identity)
        if known != identity:
            raise EnvironmentFailure(
                _another_log(topic, f"its id was {known} and is {identity} now")
            )


def _another_log(topic: str, evidence: str) -> str:
    return (
        f"topic {topic} is not the one that the files are from ({evidence}): it was deleted and "
        "made anew, or this is another cluster, and its offsets start over. Give --output_dir and "
        "--dead_letter_dir of their own, or move the old files and _ledger away"
    )
