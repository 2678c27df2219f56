"""A log that has other records at landed offsets is noticed by their timestamps."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import confluent_kafka
import pyarrow as pa
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from output_trees import OutputTree, dead_letter, kafka_columns, sources
from rich.console import Console

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.files.ledger import load_ledger
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.kafka.log_reader import timestamps_at
from beam_pipeline.offset_sets import TopicPartition
from beam_pipeline.runtime.resume import ResumePoint, find_resume_point
from beam_pipeline.times import ms_of, rfc3339_of_ms
from beam_pipeline.tools.reconcile.run import reconcile
from beam_pipeline.tools.reconcile.text import report_text

pytestmark = pytest.mark.field

FreshTopic = Callable[..., str]
LANDED_MS = ms_of(datetime.now(timezone.utc)) // 1000 * 1000


@pytest.fixture
def tree(tmp_path: Path) -> OutputTree:
    return OutputTree(tmp_path)


@pytest.fixture
def topic(kafka: KafkaConnection, fresh_topic: FreshTopic) -> str:
    """A topic of ten records, a second apart."""
    name = fresh_topic(partitions=1, message_timestamp_type="CreateTime")
    producer = Producer(kafka.for_librdkafka())
    for offset in range(10):
        producer.produce(name, b"{}", partition=0, timestamp=LANDED_MS + 1000 * offset)
    assert producer.flush(30) == 0
    return name


def land(tree: OutputTree, topic: str, offsets: range, stamped_ms: int = LANDED_MS) -> None:
    """Land rows of records that were a second apart."""
    rows = sources(topic, 0, offsets)
    moments = [
        datetime.fromtimestamp(stamped_ms / 1000, timezone.utc) + timedelta(seconds=offset)
        for offset in offsets
    ]
    stamps = {"kafka_timestamp": pa.array(moments, pa.timestamp("ms", "UTC"))}
    last = offsets[-1]
    tree.parquet(
        rows,
        table=pa.table({**kafka_columns(rows), **stamps}),
        last_records={topic: {0: (last, stamped_ms + 1000 * last)}},
    )


def resume(kafka: KafkaConnection, topic: str, tree: OutputTree) -> ResumePoint:
    return find_resume_point(kafka, [topic], load_ledger(tree.output_dir, tree.dead_letter_dir))


def text_of(kafka: KafkaConnection, topic: str, tree: OutputTree) -> str:
    console = Console(width=300)
    with console.capture() as capture:
        console.print(report_text(reconcile(kafka, [topic], tree.output_dir, tree.dead_letter_dir)))
    return capture.get()


def test_the_records_that_were_landed_are_resumed_from(
    kafka: KafkaConnection, topic: str, tree: OutputTree
) -> None:
    land(tree, topic, range(5))
    land(tree, topic, range(5, 8))
    assert resume(kafka, topic, tree).starts == {TopicPartition(topic, 0): 8}
    report = reconcile(kafka, [topic], tree.output_dir, tree.dead_letter_dir)
    assert report.reconciliation.rewritten == 0


def test_another_record_at_the_last_landed_offset_is_refused(
    kafka: KafkaConnection, topic: str, tree: OutputTree
) -> None:
    land(tree, topic, range(8), LANDED_MS - 60_000)
    with pytest.raises(EnvironmentFailure) as refusal:
        resume(kafka, topic, tree)
    text = str(refusal.value)
    assert f"topic {topic} is not the one that the files are from" in text
    assert "the record at offset 7 of partition 0 was stamped" in text
    assert "its log was rewritten, as by a broker that is back from an older disk" in text
    assert "Give other --output_dir and --dead_letter_dir" in text
    report = text_of(kafka, topic, tree)
    assert f"{topic}/0: in the log with another timestamp than in files" in report
    assert "NOT clean: 2 missing, 1 rewritten;" in report


def test_files_before_the_last_one_are_compared_too(
    kafka: KafkaConnection, topic: str, tree: OutputTree
) -> None:
    """What was written after the log was rewritten agrees with it."""
    land(tree, topic, range(5), LANDED_MS - 60_000)
    land(tree, topic, range(5, 10))
    [found] = reconcile(
        kafka, [topic], tree.output_dir, tree.dead_letter_dir
    ).reconciliation.partitions
    assert list(found.rewritten) == [4]


def test_dead_letters_tell_their_timestamps(
    kafka: KafkaConnection, topic: str, tree: OutputTree
) -> None:
    land(tree, topic, range(9))
    stamp = rfc3339_of_ms(LANDED_MS + 9000)
    path = tree.raw_letters([dead_letter(topic, 0, 9, timestamp=stamp)])
    assert resume(kafka, topic, tree).starts == {TopicPartition(topic, 0): 10}
    assert reconcile(kafka, [topic], tree.output_dir, tree.dead_letter_dir).is_clean
    path.unlink()
    tree.raw_letters([dead_letter(topic, 0, 9, timestamp="2026-11-23T12:00:04.500Z")])
    with pytest.raises(EnvironmentFailure, match="the record at offset 9 of partition 0"):
        resume(kafka, topic, tree)
    assert not reconcile(kafka, [topic], tree.output_dir, tree.dead_letter_dir).is_clean


def test_a_last_record_that_has_expired_is_passed_over(
    kafka: KafkaConnection, topic: str, tree: OutputTree
) -> None:
    land(tree, topic, range(8), LANDED_MS - 60_000)
    partition = confluent_kafka.TopicPartition(topic, 0, 9)
    admin = AdminClient({**kafka.for_librdkafka()})
    admin.delete_records([partition])[partition].result()
    assert resume(kafka, topic, tree).starts == {TopicPartition(topic, 0): 9}


def test_a_topic_with_fewer_partitions_than_were_landed_is_refused(
    kafka: KafkaConnection, topic: str, tree: OutputTree
) -> None:
    tree.parquet(sources(topic, 3, range(5)))
    with pytest.raises(EnvironmentFailure, match="it has no partition 3 any more"):
        resume(kafka, topic, tree)


def test_offsets_without_a_record_give_no_timestamp(kafka: KafkaConnection, topic: str) -> None:
    key, other = TopicPartition(topic, 0), TopicPartition(topic, 7)
    assert timestamps_at(kafka, {key: 3}, 15.0) == {key: LANDED_MS + 3000}
    assert timestamps_at(kafka, {key: 10}, 15.0) == {}
    assert timestamps_at(kafka, {key: 9, other: 0}, 2.0) == {key: LANDED_MS + 9000}
