"""`beam-pipeline run` against a real broker, on a real Prism."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, cast

import duckdb
import jsonschema
import pyarrow.dataset
import pytest
from confluent_kafka import Consumer, Message, TopicPartition
from integration.pipeline_runs import PipelineRun, running, send, wait_for

from beam_pipeline.kafka.admin import TopicSpec, create_topics, watermarks
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.producer.events import EventFactory
from beam_pipeline.producer.source import wall_clock_ms
from beam_pipeline.resources import dead_letter_schema_path
from beam_pipeline.settings.config import default_consumer_group
from beam_pipeline.tools.reconcile.run import reconcile


@pytest.fixture
def run(tmp_path: Path) -> PipelineRun:
    return PipelineRun(tmp_path / "run")


def events(count: int, seed: int = 1) -> list[bytes | None]:
    factory = EventFactory(seed)
    return [json.dumps(factory.make(wall_clock_ms())).encode() for _ in range(count)]


def assert_each_once(run: PipelineRun, kafka: KafkaConnection, *topics: str) -> None:
    """By the files' content alone, and by `reconcile`."""
    expected = Counter(
        (topic, partition, offset)
        for topic in topics
        for partition, (low, high) in watermarks(kafka, topic).items()
        for offset in range(low, high)
    )
    assert run.placed() == expected
    report = reconcile(kafka, topics, run.output_dir, run.dead_letter_dir)
    assert report.is_clean
    assert report.reconciliation.missing == report.reconciliation.doubled == 0


def group_offsets(run: PipelineRun, kafka: KafkaConnection, topic: str) -> dict[int, int]:
    """The offsets of the run's own consumer group, as a lag exporter sees them."""
    group = default_consumer_group(str(run.output_dir))
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap_servers, "group.id": group})
    try:
        wanted = [TopicPartition(topic, partition) for partition in watermarks(kafka, topic)]
        return {found.partition: found.offset for found in consumer.committed(wanted, timeout=10)}
    finally:
        consumer.close()


def test_a_topic_is_landed_once_over_two_runs_and_reads_as_one_dataset(
    run: PipelineRun, kafka: KafkaConnection, fresh_topic: Callable[..., str]
) -> None:
    topic = fresh_topic(partitions=3)
    for partition in range(3):
        send(kafka, topic, events(40, seed=partition), partition)
    finished = run.catch_up(kafka, topic, "--num_shards=2")
    assert "read 120, valid 120, dead 0, files" in finished.output
    assert_each_once(run, kafka, topic)
    assert group_offsets(run, kafka, topic) == {0: 40, 1: 40, 2: 40}
    first_files = {path.name for path in run.output_dir.glob("dt=*/hour=*/*")}

    send(kafka, topic, [*events(30, seed=9), b"{"], 1)
    run.catch_up(kafka, topic, "--num_shards=2")
    assert_each_once(run, kafka, topic)
    assert first_files < {path.name for path in run.output_dir.glob("dt=*/hour=*/*")}
    assert run.processes() == {}

    dataset = pyarrow.dataset.dataset(run.output_dir, partitioning="hive")
    assert dataset.count_rows() == 150
    assert all("_tmp" not in file and file.endswith(".parquet") for file in dataset.files)
    relation = duckdb.sql(
        "SELECT count(*), count(DISTINCT kafka_partition), count(DISTINCT dt) FROM read_parquet("
        f"'{run.output_dir}/dt=*/hour=*/*.parquet', hive_partitioning = true)"
    )
    assert relation is not None
    ((rows, partitions, days),) = relation.fetchall()
    assert (rows, partitions) == (150, 3)
    assert days >= 1
    assert not any(run.output_dir.glob("_tmp/*"))


BAD_INPUT: list[tuple[str, bytes | None, str | None]] = [
    ("empty value", b"", "MALFORMED_JSON"),
    ("tombstone", None, "NULL_VALUE"),
    ("not UTF-8", b'{"a":"\xff\xfe"}', "NOT_UTF8"),
    ("truncated", b'{"event_id":', "MALFORMED_JSON"),
    ("top-level number", b"5", "SCHEMA_VIOLATION"),
    ("NaN", b"NaN", "MALFORMED_JSON"),
    ("1e400", b'{"a":1e400}', "MALFORMED_JSON"),
    ("nested brackets", b"[" * 50_000 + b"]" * 50_000, "TOO_DEEP"),
    ("900 kB string", json.dumps("x" * 900_000).encode(), "SCHEMA_VIOLATION"),
    ("lone surrogate", b'{"a":"\\ud800"}', "MALFORMED_JSON"),
]


def test_bad_input_is_a_row_or_a_dead_letter_with_its_bytes(
    run: PipelineRun, kafka: KafkaConnection, fresh_topic: Callable[..., str]
) -> None:
    topic = fresh_topic()
    event = EventFactory(3).make(wall_clock_ms(), event_type="page_view")
    text = json.dumps(event)
    rows = [
        json.dumps({**event, "referrer": "a\0b"}).encode(),
        (text[:-1] + ', "campaign": 1, "campaign": 2}').encode(),
        (text[:-1] + ', "campaign": 123456789012345678901234567890}').encode(),
    ]
    values = [value for _, value, _ in BAD_INPUT] + rows
    send(kafka, topic, values, key=b"\xffkey", headers=[("h", b"\x00\xff"), ("none", None)])

    run.catch_up(kafka, topic)

    assert_each_once(run, kafka, topic)
    letters = {letter["source"]["offset"]: letter for letter in run.letters()}
    contract = json.loads(dead_letter_schema_path().read_text())
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    on_topic = _records(kafka, f"{topic}.dlq")
    for offset, (name, value, code) in enumerate(BAD_INPUT):
        letter = letters[offset]
        jsonschema.Draft202012Validator(contract, format_checker=checker).validate(letter)
        assert letter["error"]["code"] == code, name
        assert _bytes(letter["value_b64"]) == value, name
        assert _bytes(letter["key_b64"]) == b"\xffkey"
        headers = [(item["key"], _bytes(item["value_b64"])) for item in letter["headers"]]
        assert headers == [("h", b"\x00\xff"), ("none", None)]
        record = on_topic[letter["dlq_id"].encode()]
        assert (record.value(), record.key()) == (value, b"\xffkey"), name
        assert _headers(record)["dlq.error.code"] == str(code).encode()
        assert _headers(record)["h"] == b"\x00\xff"
    assert len(letters) == len(on_topic) == len(BAD_INPUT)
    extras = {row["kafka_offset"]: row["extra"] for row in run.rows()}
    assert json.loads(extras[len(BAD_INPUT) + 1]) == {"campaign": 2}
    assert json.loads(extras[len(BAD_INPUT) + 2]) == {"campaign": 123456789012345678901234567890}
    assert [row["referrer"] for row in run.rows()].count("a\0b") == 1


def test_records_of_every_form_come_side_by_side(
    run: PipelineRun, kafka: KafkaConnection, fresh_topic: Callable[..., str]
) -> None:
    """With and without key, value and headers, in one partition: they travel packed together."""
    topic = fresh_topic()
    forms: list[tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]]]] = [
        (
            None if number % 2 else b"key %d" % number,
            None if number % 5 == 0 else b"broken %d" % number * number,
            [("h\u00e9", None), ("n", b"%d" % number), ("n", b"")][: number % 4],
        )
        for number in range(60)
    ]
    for key, value, headers in forms:
        send(kafka, topic, [value], key=key, headers=headers)

    run.catch_up(kafka, topic)

    assert_each_once(run, kafka, topic)
    letters = sorted(run.letters(), key=lambda letter: letter["source"]["offset"])
    assert len(letters) == len(forms)
    for letter, (key, value, headers) in zip(letters, forms, strict=True):
        assert (_bytes(letter["key_b64"]), _bytes(letter["value_b64"])) == (key, value)
        found = [(item["key"], _bytes(item["value_b64"])) for item in letter["headers"]]
        assert found == headers


def test_a_run_with_a_goal_does_not_wait_for_its_panes(
    run: PipelineRun, kafka: KafkaConnection, fresh_topic: Callable[..., str]
) -> None:
    """The pane of a day would fire after an hour; the topic has a partition that stays empty."""
    topic = fresh_topic(partitions=3)
    send(kafka, topic, [*events(30), b"{"], 0)
    send(kafka, topic, events(30, seed=2), 1)
    flags = "--window_seconds=86400", "--early_pane_seconds=3600"
    finished = run.catch_up(kafka, topic, *flags)
    assert "read 61, valid 60, dead 1, files" in finished.output
    assert_each_once(run, kafka, topic)


def test_a_signal_ends_it_in_time_and_a_second_pipeline_is_refused(
    run: PipelineRun, kafka: KafkaConnection, fresh_topic: Callable[..., str]
) -> None:
    topic = fresh_topic(partitions=2)
    send(kafka, topic, events(20))
    words = run.run_words(kafka, topic)
    with running(run, words) as process:
        wait_for(lambda: list(run.output_dir.glob("dt=*/hour=*/*.parquet")), "the first file")
        second = run.finish(*words, timeout_seconds=30)
        assert second.code == 1
        assert f"--output_dir={run.output_dir}" in second.output
        assert f"process {process.pid} " in second.output
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert time.monotonic() - started < 10
    assert run.processes() == {}
    run.catch_up(kafka, topic)
    assert_each_once(run, kafka, topic)


@pytest.mark.parametrize(
    "victim",
    ["prism", "beam_pipeline.job", "LoopbackExpansion"],
)
def test_what_is_killed_is_started_again_and_nothing_is_lost_or_doubled(
    run: PipelineRun, kafka: KafkaConnection, fresh_topic: Callable[..., str], victim: str
) -> None:
    topic = fresh_topic(partitions=2)
    random = Random(victim)
    with running(run, run.run_words(kafka, topic)):
        for batch in range(2):
            send(kafka, topic, events(60, seed=batch), partition=0)
            send(kafka, topic, events(60, seed=batch + 10), partition=1)
            wait_for(lambda: any(victim in command for command in run.processes().values()), victim)
            if batch == 1:
                wait_for(lambda: run.placed().total() >= 100, "rows after the restart", 120)
            time.sleep(random.uniform(0, 4))
            _kill(run.process_of(victim))
    assert run.processes() == {}
    run.catch_up(kafka, topic)
    assert_each_once(run, kafka, topic)


def test_everything_killed_at_once_resumes_from_the_files(
    run: PipelineRun, kafka: KafkaConnection, fresh_topic: Callable[..., str]
) -> None:
    topic = fresh_topic(partitions=2)
    with running(run, run.run_words(kafka, topic)) as process:
        send(kafka, topic, [*events(100), b"{", b"["], partition=1)
        wait_for(lambda: run.placed().total() >= 100, "rows")
        send(kafka, topic, events(100, seed=2), partition=0)
        process.kill()
        process.wait(10)
        wait_for(lambda: not run.processes(), "the end of every process", 10)
    run.catch_up(kafka, topic)
    assert_each_once(run, kafka, topic)


def test_packs_cross_in_files_or_through_the_runner_if_those_cannot_be_written(
    run: PipelineRun, kafka: KafkaConnection, fresh_topic: Callable[..., str]
) -> None:
    topic = fresh_topic()
    with running(run, run.run_words(kafka, topic)):
        send(kafka, topic, events(60))
        wait_for(lambda: run.placed().total() == 60, "rows")
        job = run.process_of("beam_pipeline.job")
        (packs,) = re.findall(r"--packs_dir=(\S+)", run.processes()[job])
        os.kill(job, signal.SIGSTOP)
        send(kafka, topic, events(60, seed=2))
        wait_for(lambda: any(Path(packs).iterdir()), "packs on their way")
        os.kill(job, signal.SIGCONT)
        wait_for(lambda: run.placed().total() == 120, "rows of packs in files")
        assert not any(Path(packs).iterdir())
        Path(packs).rmdir()
        send(kafka, topic, events(60, seed=3))
        wait_for(lambda: run.placed().total() == 180, "rows of packs in elements")
        assert run.process_of("beam_pipeline.job") == job
    (log,) = (run.directory / "logs").glob("*-prism.log")
    assert "packs can't be written to files" in log.read_text()
    assert_each_once(run, kafka, topic)


def test_a_topic_made_anew_is_refused(
    run: PipelineRun, kafka: KafkaConnection, fresh_topic: Callable[..., str]
) -> None:
    from confluent_kafka.admin import AdminClient

    topic = fresh_topic()
    send(kafka, topic, events(5))
    run.catch_up(kafka, topic)
    admin = AdminClient({**kafka.for_librdkafka()})
    admin.delete_topics([topic])[topic].result()
    create_topics(kafka, [TopicSpec(topic, 1, {"message.timestamp.type": "LogAppendTime"})])
    send(kafka, topic, events(9))

    refused = run.finish(*run.run_words(kafka, topic, "--until=caught_up"))

    assert refused.code == 1
    assert f"topic {topic} is not the one that the files are from" in refused.output
    assert len(run.rows()) == 5


def test_the_breaker_stops_a_run_with_the_wrong_schema(
    run: PipelineRun, kafka: KafkaConnection, fresh_topic: Callable[..., str], tmp_path: Path
) -> None:
    topic = fresh_topic()
    schema = tmp_path / "wrong.json"
    schema.write_text(
        json.dumps({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]})
    )
    send(kafka, topic, events(300))
    told = tmp_path / "told"
    flags = (
        *(f"--schema={schema}", "--window_by=append_time", "--max_dead_ratio=0.5"),
        f"--on_event=sh -c 'cat >> {told}'",
    )
    stopped = run.finish(*run.run_words(kafka, topic, "--window_seconds=3600", *flags))
    assert stopped.code == 1
    assert "--max_dead_ratio=0.5" in stopped.output
    tripped, given_up = map(json.loads, told.read_text().splitlines())
    assert (tripped["event"], given_up["event"]) == ("dead_ratio_tripped", "given_up")
    assert tripped["output_dir"] == str(run.output_dir)
    assert run.processes() == {}


def test_records_stamped_by_their_producer_are_landed_by_create_time(
    run: PipelineRun, kafka: KafkaConnection, fresh_topic: Callable[..., str]
) -> None:
    # Retention goes by the same time: the broker would delete the records at its next look.
    topic = fresh_topic(message_timestamp_type="CreateTime", retention_ms="-1")
    send(kafka, topic, events(20), timestamp=1_000_000_000_000)
    run.catch_up(kafka, topic, "--window_by=create_time")
    assert_each_once(run, kafka, topic)
    assert {path.parent.parent.name for path in run.output_dir.glob("dt=*/hour=*/*")} == {
        "dt=2001-09-09"
    }


@pytest.mark.slow
def test_history_that_is_read_as_a_backlog_has_one_file_a_window(
    run: PipelineRun, kafka: KafkaConnection, fresh_topic: Callable[..., str]
) -> None:
    """Every row is late: event times of an hour, in any order, that Kafka got just now."""
    topic, windows, random = fresh_topic(partitions=4), 30, Random(4)
    factory, start_ms = EventFactory(6), wall_clock_ms() // 3_600_000 * 3_600_000 - 7_200_000
    padding = "x" * 4_000
    for partition in range(4):
        values: list[bytes | None] = []
        for _ in range(7_000):
            event = factory.make(start_ms + random.randrange(windows * 60_000))
            values.append(json.dumps({**event, "note": padding}).encode())
        send(kafka, topic, values, partition)
    time.sleep(6)  # a backlog is older than --late_pane_seconds
    finished = run.catch_up(kafka, topic, "--window_seconds=60")
    assert "late 28,000 (100.0% of valid)" in finished.output
    assert_each_once(run, kafka, topic)
    files = list(run.output_dir.glob("dt=*/hour=*/*.parquet"))
    assert windows <= len(files) < windows * 1.5, "a pause of seconds splits a window's pane"


def _records(kafka: KafkaConnection, topic: str) -> dict[bytes, Message]:
    """The records of a dead-letter topic by their `dlq.id`."""
    consumer = Consumer(
        {**kafka.for_librdkafka(), "group.id": "test", "fetch.max.bytes": 50_000_000}
    )
    records: dict[bytes, Message] = {}
    for partition, (low, high) in watermarks(kafka, topic).items():
        consumer.assign([TopicPartition(topic, partition, low)])
        for _ in range(high - low):
            record = consumer.poll(20)
            assert record is not None
            assert record.error() is None
            records[_headers(record)["dlq.id"]] = record
    consumer.close()
    return records


def _headers(record: Message) -> dict[str, Any]:
    return dict(cast("list[tuple[str, bytes | None]]", record.headers()))


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)


def _kill(pid: int) -> None:
    import os

    os.kill(pid, signal.SIGKILL)


def test_late_events_never_stop_the_windows(
    run: PipelineRun, kafka: KafkaConnection, fresh_topic: Callable[..., str]
) -> None:
    """Prism 2.73 stalls the triggers of a GroupByKey for good on late data; ours is not to."""
    topic = fresh_topic(partitions=4)
    produce = [
        "produce",
        f"--kafka_bootstrap_servers={kafka.bootstrap_servers}",
        f"--topic={topic}",
        "--events=900",
        "--events_per_second=45",
        "--late_ratio=0.5",
        "--late_seconds=12",
        "--quiet",
    ]
    with running(run, run.run_words(kafka, topic, "--window_seconds=2", "--late_pane_seconds=1")):
        assert run.finish(*produce).code == 0
        wait_for(lambda: run.placed().total() == 900, "every record in a file", 60)
    assert_each_once(run, kafka, topic)
