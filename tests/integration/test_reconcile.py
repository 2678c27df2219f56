"""The proof against a real log, holes and all."""

from __future__ import annotations

import argparse
import signal
import time
from collections.abc import Callable
from pathlib import Path

import confluent_kafka
import orjson
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from integration.pipeline_runs import PipelineRun, running, wait_for
from output_trees import OutputTree, sources
from scrapes import fetch, scrape_if_served

from beam_pipeline.commands import reconcile as command
from beam_pipeline.commands.metrics.catalogue import PROOF
from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.files.expired import ExpiredNote
from beam_pipeline.kafka.admin import watermarks
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.kafka.log_reader import READ_COMMITTED
from beam_pipeline.offset_sets import TopicPartition
from beam_pipeline.runtime.processes import free_port
from beam_pipeline.tools.reconcile.run import reconcile

FreshTopic = Callable[..., str]


@pytest.fixture
def tree(tmp_path: Path) -> OutputTree:
    return OutputTree(tmp_path)


def fill(connection: KafkaConnection, topic: str, count: int, partition: int = 0) -> None:
    producer = Producer({**connection.for_librdkafka(), "queue.buffering.max.messages": count + 1})
    for number in range(count):
        producer.produce(topic, f"v{number}", partition=partition)
    assert producer.flush(30) == 0


def test_each_record_in_one_place_is_clean(
    kafka: KafkaConnection, fresh_topic: FreshTopic, tree: OutputTree
) -> None:
    topic = fresh_topic(partitions=2)
    fill(kafka, topic, 50, partition=0)
    fill(kafka, topic, 30, partition=1)
    tree.parquet([*sources(topic, 0, range(50)), *sources(topic, 1, range(0, 30, 2))])
    tree.letters(sources(topic, 1, range(1, 30, 2)))
    report = reconcile(kafka, [topic], tree.output_dir, tree.dead_letter_dir)
    assert report.is_clean
    assert report.reconciliation.records == report.reconciliation.covered == 80


def test_a_watch_proves_again_and_serves_what_it_finds(
    kafka: KafkaConnection, fresh_topic: FreshTopic, tree: OutputTree, tmp_path: Path
) -> None:
    topic = fresh_topic(partitions=1)
    fill(kafka, topic, 50)
    tree.parquet(sources(topic, 0, range(40)))
    tree.dead_letter_dir.mkdir(exist_ok=True)
    port = free_port()
    words = [
        *("reconcile", "--watch=0.5", f"--metrics_port={port}", "--up_to=end"),
        f"--kafka_bootstrap_servers={kafka.bootstrap_servers}",
        f"--input_topics={topic}",
        f"--output_dir={tree.output_dir}",
        f"--dead_letter_dir={tree.dead_letter_dir}",
    ]

    def found(metric: str) -> float | None:
        return scrape_if_served(port, PROOF).get((metric, topic))

    with running(PipelineRun(tmp_path / "watch"), words, signal.SIGINT) as process:
        wait_for(lambda: found("reconcile_missing_records") == 10, "what is missing")
        assert fetch(port, "/readyz") == (503, "the last proof is not clean\n")
        tree.parquet(sources(topic, 0, range(40, 50)))
        wait_for(lambda: found("reconcile_rows") == 50, "another proof")
        assert found("reconcile_missing_records") == found("reconcile_doubled_records") == 0
        assert fetch(port, "/readyz") == (200, "ok\n")
    assert process.returncode == 0


def test_what_is_wrong_is_told_with_ranges_and_files(
    kafka: KafkaConnection,
    fresh_topic: FreshTopic,
    tree: OutputTree,
    capsys: pytest.CaptureFixture[str],
) -> None:
    topic = fresh_topic(partitions=1)
    fill(kafka, topic, 100)
    rows = [offset for offset in range(80) if offset not in (7, 20, 21, 22)]
    first = tree.parquet(sources(topic, 0, rows))
    second = tree.parquet(sources(topic, 0, range(75, 90)))
    letters = tree.letters(sources(topic, 0, range(89, 100)))
    arguments = [
        f"--kafka_bootstrap_servers={kafka.bootstrap_servers}",
        f"--input_topics={topic}",
        f"--output_dir={tree.output_dir}",
        f"--dead_letter_dir={tree.dead_letter_dir}",
    ]
    parser = argparse.ArgumentParser()
    command.add_flags(parser)

    assert command.run(parser.parse_args([*arguments, "--json"])) == 1
    found = orjson.loads(capsys.readouterr().out)
    assert (found["clean"], found["missing"], found["doubled"], found["in_both"]) == (
        False,
        4,
        6,
        1,
    )
    [partition] = found["partitions"]
    assert partition["missing"]["ranges"] == [[7, 7], [20, 22]]
    assert partition["doubled_in_parquet"]["ranges"] == [[75, 79]]
    assert partition["in_both"]["ranges"] == [[89, 89]]
    assert {file["path"]: file["offsets"]["ranges"] for file in found["files_at_fault"]} == {
        str(first): [[75, 79]],
        str(second): [[75, 79], [89, 89]],
        str(letters): [[89, 89]],
    }

    assert command.run(parser.parse_args(arguments)) == 1
    text = " ".join(capsys.readouterr().out.split())
    assert f"{topic}/0: in no file: 4 offsets: 7, 20-22" in text
    assert "NOT clean: 4 missing, 6 doubled" in text


def test_transaction_markers_are_no_loss(
    kafka: KafkaConnection, fresh_topic: FreshTopic, tree: OutputTree
) -> None:
    topic = fresh_topic(partitions=1)
    producer = Producer({**kafka.for_librdkafka(), "transactional.id": topic})
    producer.init_transactions(30)
    for commit in (True, False, True):
        producer.begin_transaction()
        for number in range(5):
            producer.produce(topic, f"v{number}", partition=0)
        assert producer.flush(30) == 0
        producer.commit_transaction(30) if commit else producer.abort_transaction(30)
    assert watermarks(kafka, topic) == {0: (0, 18)}
    markers, aborted = [5, 11, 17], [6, 7, 8, 9, 10]

    tree.parquet(sources(topic, 0, [0, 1, 2, 3, 4]))
    tree.letters(sources(topic, 0, [12, 13, 14, 15, 16]))
    [found] = reconcile(
        kafka, [topic], tree.output_dir, tree.dead_letter_dir
    ).reconciliation.partitions
    assert (list(found.missing), list(found.offset_gaps), found.records) == (aborted, markers, 15)

    # A reader of committed records is not given those of the aborted transaction.
    committed = reconcile(
        kafka, [topic], tree.output_dir, tree.dead_letter_dir, isolation_level=READ_COMMITTED
    )
    [found] = committed.reconciliation.partitions
    assert committed.is_clean
    assert (list(found.offset_gaps), found.records) == (sorted(markers + aborted), 10)

    tree.parquet(sources(topic, 0, aborted))
    assert reconcile(kafka, [topic], tree.output_dir, tree.dead_letter_dir).is_clean


def test_compacted_records_are_no_loss(
    kafka: KafkaConnection, fresh_topic: FreshTopic, tree: OutputTree
) -> None:
    topic = fresh_topic(
        partitions=1,
        cleanup_policy="compact",
        segment_ms="100",
        min_cleanable_dirty_ratio="0.001",
        max_compaction_lag_ms="100",
    )
    producer = Producer(kafka.for_librdkafka())
    for number in range(40):
        producer.produce(topic, f"v{number}", key=f"k{number % 4}", partition=0)
    assert producer.flush(30) == 0
    tree.parquet(sources(topic, 0, [0, 39]))

    # The cleaner leaves the active segment alone: a record now and then rolls it.
    deadline = time.monotonic() + 60
    while True:
        time.sleep(0.5)
        producer.produce(topic, "roll", key="roll", partition=0)
        assert producer.flush(30) == 0
        [found] = reconcile(
            kafka, [topic], tree.output_dir, tree.dead_letter_dir
        ).reconciliation.partitions
        # What is read while the cleaner is at work may lack its later part alone.
        if set(range(1, 36)) <= set(found.offset_gaps):
            break
        assert time.monotonic() < deadline, f"the broker compacted {found.offset_gaps}"
    assert found.covered == 2
    assert {36, 37, 38} <= set(found.missing)
    assert found.high > 40


def test_retention_is_no_loss_but_what_it_took_unread_is_told(
    kafka: KafkaConnection, fresh_topic: FreshTopic, tree: OutputTree
) -> None:
    topic = fresh_topic(partitions=1)
    fill(kafka, topic, 30)
    admin = AdminClient({**kafka.for_librdkafka()})
    admin.delete_records([confluent_kafka.TopicPartition(topic, 0, 20)])[
        confluent_kafka.TopicPartition(topic, 0)
    ].result()
    tree.parquet(sources(topic, 0, [*range(5, 15), *range(20, 30)]))
    report = reconcile(kafka, [topic], tree.output_dir, tree.dead_letter_dir)
    [found] = report.reconciliation.partitions
    assert not report.is_clean
    assert (found.low, found.high, found.records, found.expired) == (20, 30, 10, 10)
    assert list(found.expired_unread) == [15, 16, 17, 18, 19]

    note = ExpiredNote()
    note.without_record.add_range(topic, 0, 15, 16)
    note.accepted.add_range(topic, 0, 17, 18)
    note.save(tree.output_dir)
    [found] = reconcile(
        kafka, [topic], tree.output_dir, tree.dead_letter_dir
    ).reconciliation.partitions
    assert (list(found.expired_accepted), list(found.expired_unread)) == ([17, 18], [19])

    accepted = reconcile(kafka, [topic], tree.output_dir, tree.dead_letter_dir, accept_expired=True)
    assert accepted.is_clean
    assert accepted.reconciliation.expired_accepted == 3


def test_a_large_gap_is_jumped_to_and_read(
    kafka: KafkaConnection, fresh_topic: FreshTopic, tree: OutputTree
) -> None:
    topic = fresh_topic(partitions=1)
    fill(kafka, topic, 120_000)
    missing = [3, 60_000, 119_999]
    tree.parquet(sources(topic, 0, sorted(set(range(120_000)) - set(missing))))
    [found] = reconcile(
        kafka, [topic], tree.output_dir, tree.dead_letter_dir
    ).reconciliation.partitions
    assert list(found.missing) == missing


def test_files_of_a_topic_that_was_made_anew_are_not_taken_for_this_one(
    kafka: KafkaConnection, fresh_topic: FreshTopic, tree: OutputTree
) -> None:
    topic = fresh_topic(partitions=1)
    fill(kafka, topic, 5)
    tree.parquet(sources(topic, 0, range(9)))
    report = reconcile(kafka, [topic], tree.output_dir, tree.dead_letter_dir)
    assert not report.is_clean
    assert list(report.reconciliation.partitions[0].beyond_end) == [5, 6, 7, 8]
    assert [list(overlap.offsets) for overlap in report.overlaps] == [[5, 6, 7, 8]]


def test_two_topics_in_one_tree_are_told_apart(
    kafka: KafkaConnection, fresh_topic: FreshTopic, tree: OutputTree
) -> None:
    one, other = fresh_topic(partitions=1), fresh_topic(partitions=1)
    fill(kafka, one, 10)
    fill(kafka, other, 20)
    tree.parquet(sources(one, 0, range(10)))
    tree.parquet(sources(other, 0, range(15)))
    report = reconcile(kafka, [one, other], tree.output_dir, tree.dead_letter_dir)
    missing = {found.partition: list(found.missing) for found in report.reconciliation.partitions}
    assert missing == {
        TopicPartition(one, 0): [],
        TopicPartition(other, 0): [15, 16, 17, 18, 19],
    }


def test_a_missing_topic_is_one_clear_line(kafka: KafkaConnection, tree: OutputTree) -> None:
    with pytest.raises(EnvironmentFailure, match=r"^topic nowhere doesn't exist"):
        reconcile(kafka, ["nowhere"], tree.output_dir, tree.dead_letter_dir)
