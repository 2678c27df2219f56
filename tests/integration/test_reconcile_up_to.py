"""Reconciling while a pipeline runs: up to what should be landed, or up to a time."""

from __future__ import annotations

import argparse
import json
import os
import socket
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from output_trees import NOON, OutputTree, sources

from beam_pipeline.commands import reconcile as command
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.runtime.held_columns import COLUMNS_NOTE
from beam_pipeline.runtime.lease import hold_lease
from beam_pipeline.times import ms_of
from beam_pipeline.tools.reconcile import run as run_module
from beam_pipeline.tools.reconcile.compare import PartitionReconciliation, ReconcileReport
from beam_pipeline.tools.reconcile.run import reconcile
from beam_pipeline.tools.reconcile.up_to import Until, UpTo

FreshTopic = Callable[..., str]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OutputTree:
    """A directory whose late panes need no wait."""
    monkeypatch.setattr(run_module, "LATE_FILE_SECONDS", 0.0)
    tree = OutputTree(tmp_path)
    note(tree)
    return tree


def note(tree: OutputTree, early_pane_seconds: float = 0) -> None:
    """Note the settings of the run that landed the files."""
    path = tree.output_dir / COLUMNS_NOTE
    path.parent.mkdir(exist_ok=True)
    settings = {
        "max_event_skew_seconds": 10,
        "late_pane_seconds": 0,
        "early_pane_seconds": early_pane_seconds,
        "window_seconds": 10,
        "watermark_delay_seconds": 0,
    }
    path.write_text(json.dumps({"version": 1, "columns": {}, "settings": settings}))


@pytest.fixture
def topic(kafka: KafkaConnection, fresh_topic: FreshTopic) -> str:
    """A topic of forty records, stamped from noon on, a second apart; windows have ten seconds."""
    name = fresh_topic(partitions=1, message_timestamp_type="CreateTime", retention_ms="-1")
    producer = Producer(kafka.for_librdkafka())
    for offset in range(40):
        producer.produce(name, b"{}", partition=0, timestamp=ms_of(NOON) + 1000 * offset)
    assert producer.flush(30) == 0
    return name


def compare(
    kafka: KafkaConnection, topic: str, tree: OutputTree, up_to: UpTo
) -> tuple[ReconcileReport, PartitionReconciliation]:
    report = reconcile(kafka, [topic], tree.output_dir, tree.dead_letter_dir, up_to=up_to)
    [found] = report.reconciliation.partitions
    return report, found


def test_records_of_open_windows_are_not_missing_and_a_lost_one_is(
    kafka: KafkaConnection, topic: str, tree: OutputTree
) -> None:
    for first in (0, 10, 20):
        tree.parquet(sources(topic, 0, range(first, first + 10)))
    report, found = compare(kafka, topic, tree, Until.LANDED)
    assert report.is_clean
    assert (found.high, report.behind) == (20, 20)
    assert not compare(kafka, topic, tree, Until.END)[0].is_clean


def test_a_record_in_the_middle_that_is_lost_is_found(
    kafka: KafkaConnection, topic: str, tree: OutputTree
) -> None:
    tree.parquet(sources(topic, 0, [0, 1, 2, 3, 5, 6, 7, 8, 9]))
    tree.parquet(sources(topic, 0, range(10, 20)))
    tree.parquet(sources(topic, 0, range(20, 30)))
    report, found = compare(kafka, topic, tree, Until.LANDED)
    assert not report.is_clean
    assert list(found.missing) == [4]


def test_a_late_record_that_comes_into_a_file_meanwhile_is_not_missing(
    kafka: KafkaConnection, topic: str, tree: OutputTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree.parquet(sources(topic, 0, [0, 1, 2, 3, 5, 6, 7, 8, 9]))
    tree.parquet(sources(topic, 0, range(10, 20)))
    tree.parquet(sources(topic, 0, range(20, 30)))

    def late_pane(seconds: float) -> None:
        tree.parquet(sources(topic, 0, [4]))

    monkeypatch.setattr("beam_pipeline.tools.reconcile.run.time.sleep", late_pane)
    report, found = compare(kafka, topic, tree, Until.LANDED)
    assert report.is_clean
    assert (found.records, found.covered) == (20, 19)


def test_a_partition_whose_backlog_is_not_read_yet_is_compared_as_far_as_it_landed(
    kafka: KafkaConnection, topic: str, tree: OutputTree
) -> None:
    tree.parquet(sources(topic, 0, range(5)))
    tree.parquet(sources("another", 0, range(5)))
    tree.parquet(sources("another", 0, range(5)))
    tree.parquet(sources("another", 0, range(5)))
    _, found = compare(kafka, topic, tree, Until.LANDED)
    assert found.high == 5


def test_early_files_prove_no_more_than_what_is_there_without_a_gap(
    kafka: KafkaConnection, topic: str, tree: OutputTree
) -> None:
    note(tree, early_pane_seconds=5)
    for offsets in (range(8), range(12, 28)):
        tree.parquet(sources(topic, 0, offsets))
    report, found = compare(kafka, topic, tree, Until.LANDED)
    assert (report.is_clean, found.high, report.behind) == (True, 7, 33)
    tree.parquet(sources(topic, 0, [30]))
    report, found = compare(kafka, topic, tree, Until.LANDED)
    assert list(found.missing) == [8, 9], "windows of what was stamped a window before have closed"


def test_a_partition_that_is_not_read_at_all_is_found(
    kafka: KafkaConnection, fresh_topic: FreshTopic, tree: OutputTree
) -> None:
    name = fresh_topic(partitions=2, message_timestamp_type="CreateTime", retention_ms="-1")
    producer = Producer(kafka.for_librdkafka())
    for number in range(20):
        producer.produce(name, b"{}", partition=number % 2, timestamp=ms_of(NOON) + number)
    assert producer.flush(30) == 0
    tree.parquet(sources(name, 0, range(10)))
    report = reconcile(kafka, [name], tree.output_dir, tree.dead_letter_dir, up_to=Until.LANDED)
    read, unread = report.reconciliation.partitions
    assert read.is_clean
    assert list(unread.missing) == list(range(10))


def test_old_events_that_are_landed_to_the_end_of_the_log_are_compared(
    kafka: KafkaConnection, topic: str, tree: OutputTree
) -> None:
    """The windows of old events say nothing of the watermark; it follows the clock here."""
    tree.parquet(sources(topic, 0, [number for number in range(40) if number != 7]))
    report, found = compare(kafka, topic, tree, Until.LANDED)
    assert (list(found.missing), report.behind) == ([7], 0)


def test_a_late_file_at_the_end_of_the_log_does_not_close_open_windows(
    kafka: KafkaConnection, fresh_topic: FreshTopic, tree: OutputTree
) -> None:
    name = fresh_topic()
    producer = Producer(kafka.for_librdkafka())
    for _ in range(20):
        producer.produce(name, b"{}", partition=0)
    assert producer.flush(30) == 0
    tree.parquet(sources(name, 0, [0, 1, 2, 19]))
    report, _ = compare(kafka, name, tree, Until.LANDED)
    assert (report.is_clean, report.behind) == (True, 20)


def test_nothing_that_is_landed_proves_nothing(
    kafka: KafkaConnection, topic: str, tree: OutputTree
) -> None:
    report, _ = compare(kafka, topic, tree, Until.LANDED)
    assert (report.is_clean, report.behind) == (True, 40)


def test_all_that_was_stamped_before_a_time_must_be_in_files(
    kafka: KafkaConnection, topic: str, tree: OutputTree
) -> None:
    for first in (0, 10, 20):
        tree.parquet(sources(topic, 0, range(first, first + 10)))
    assert compare(kafka, topic, tree, NOON + timedelta(seconds=30))[0].is_clean
    report, found = compare(kafka, topic, tree, NOON + timedelta(seconds=33))
    assert list(found.missing) == [30, 31, 32]
    assert report.behind == 7
    assert compare(kafka, topic, tree, NOON + timedelta(days=1))[1].high == 40


def arguments(kafka: KafkaConnection, topic: str, tree: OutputTree, *more: str) -> Any:
    parser = argparse.ArgumentParser()
    command.add_flags(parser)
    return parser.parse_args(
        [
            f"--kafka_bootstrap_servers={kafka.bootstrap_servers}",
            f"--input_topics={topic}",
            f"--output_dir={tree.output_dir}",
            f"--dead_letter_dir={tree.dead_letter_dir}",
            *more,
        ]
    )


def test_while_a_pipeline_holds_the_directory_what_is_landed_is_compared(
    kafka: KafkaConnection, topic: str, tree: OutputTree, capsys: pytest.CaptureFixture[str]
) -> None:
    for first in (0, 10, 20):
        tree.parquet(sources(topic, 0, range(first, first + 10)))
    with hold_lease(tree.output_dir, "--output_dir"):
        assert command.run(arguments(kafka, topic, tree)) == 0
        text = capsys.readouterr().out
        assert f"process {os.getpid()} on {socket.gethostname()} writes to" in text
        assert "20 offsets behind it are not compared" in " ".join(text.split())
        assert command.run(arguments(kafka, topic, tree, "--up_to=end")) == 1
    assert command.run(arguments(kafka, topic, tree)) == 1
    capsys.readouterr()
    time_flag = "--up_to=2026-11-23T12:00:30Z"
    assert command.run(arguments(kafka, topic, tree, time_flag, "--json")) == 0
    assert json.loads(capsys.readouterr().out)["behind"] == 10


@pytest.mark.parametrize("value", ["noon", "2026-11-23T12:00:30", "landed,end"])
def test_a_wrong_value_is_refused(
    value: str, tree: OutputTree, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        arguments(KafkaConnection("127.0.0.1:9"), "orders", tree, f"--up_to={value}")
    assert "is neither end, landed nor a time with its offset" in capsys.readouterr().err
