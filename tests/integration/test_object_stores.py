"""The command line on object stores: a demo, runs on Prism, and a Flink cluster without a disk
that is shared. The stores keep objects as files, at which these tests look."""

from __future__ import annotations

import json
import re
import signal
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from flink_clusters import own_flink, require_flink
from integration.pipeline_runs import PipelineRun, running, send, wait_for
from stores import Store

from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.producer.events import EventFactory
from beam_pipeline.producer.source import wall_clock_ms

BROKEN = [b"{", b"[]", b"\xff"]


@pytest.fixture
def run(s3_server: Store, tmp_path: Path) -> PipelineRun:
    return PipelineRun(tmp_path / "run", store=s3_server)


def send_events(kafka: KafkaConnection, topic: str, count: int, partitions: int = 3) -> None:
    """Sends `count` good events and three broken ones to each partition."""
    for partition in range(partitions):
        factory = EventFactory(partition)
        values = [json.dumps(factory.make(wall_clock_ms())).encode() for _ in range(count)]
        send(kafka, topic, [*values, *BROKEN], partition)


def assert_each_once(run: PipelineRun, kafka: KafkaConnection, topic: str, records: int) -> None:
    """By the content of the store's files, and by `reconcile` through the store."""
    placed = run.placed()
    assert placed.total() == len(placed) == records
    at_broker = f"--kafka_bootstrap_servers={kafka.bootstrap_servers}"
    words = [at_broker, f"--input_topics={topic}", *run.place_flags(), "--dead_letter_topic"]
    reconciled = run.finish("reconcile", *words, "--json")
    assert reconciled.code == 0, reconciled.output
    report = json.loads(reconciled.output)
    assert (report["missing"], report["doubled"], report["records"]) == (0, 0, records)


def test_a_demo_on_a_store_of_its_own(tmp_path: Path) -> None:
    run = PipelineRun(tmp_path / "demo")
    finished = run.finish(
        "demo",
        "--embedded_store",
        "--output_dir=s3://demo/events",
        "--demo_seconds=5",
        "--events_per_second=40",
        timeout_seconds=400,
    )
    assert finished.code == 0, finished.output
    assert "produced 200 = in the topic 200" in finished.output
    assert "holds" in finished.output
    assert "read_parquet('s3://demo/events/dt=*/hour=*/*.parquet')" in finished.output
    assert re.search(r"requests to the object store: .*PUT \d+", finished.output)
    objects = run.directory / "data" / "store" / "buckets" / "demo"
    assert list(objects.glob("events/dt=*/hour=*/*.parquet"))
    assert list(objects.glob("events-dead/dt=*/hour=*/*.jsonl"))
    (secret,) = re.findall(
        "aws_secret_access_key = (.*)", (objects.parents[1] / "credentials").read_text()
    )
    logs = [path.read_text(errors="replace") for path in run.directory.rglob("*.log")]
    assert not any(secret in text for text in [finished.output, *logs])
    assert run.processes() == {}


def test_a_topic_is_landed_once_over_two_runs(
    run: PipelineRun, kafka: KafkaConnection, fresh_topic: Callable[..., str]
) -> None:
    topic = fresh_topic(partitions=3)
    for records in (43 * 3, 86 * 3):
        send_events(kafka, topic, 40)
        run.catch_up(kafka, topic)
        assert_each_once(run, kafka, topic, records)
    output, dead = run.place_flags()
    for words in (
        ["inspect", output.partition("=")[2]],
        ["dlq", "stats", dead],
        ["report", output, dead],
        ["doctor", output, dead, f"--kafka_bootstrap_servers={kafka.bootstrap_servers}"],
    ):
        finished = run.finish(*words)
        assert "Traceback" not in finished.output
        if words[0] != "doctor":
            assert finished.code == 0, finished.output
    assert not list(run.output_dir.glob("_tmp/*/*"))


def test_a_second_run_is_refused_while_the_first_one_beats(
    run: PipelineRun, kafka: KafkaConnection, fresh_topic: Callable[..., str]
) -> None:
    topic = fresh_topic()
    send_events(kafka, topic, 10, partitions=1)
    words = run.run_words(kafka, topic)
    with running(run, words, signal.SIGTERM):
        wait_for(lambda: list(run.output_dir.glob("dt=*/hour=*/*.parquet")), "a file")
        second = run.finish(*words)
    assert second.code == 1, second.output
    assert "is being written by another pipeline" in second.output.splitlines()[-1]


@pytest.mark.parametrize("server", ["gcs_server", "azure_server"])
def test_other_stores(
    server: str,
    request: pytest.FixtureRequest,
    kafka: KafkaConnection,
    fresh_topic: Callable[..., str],
    tmp_path: Path,
) -> None:
    store: Store = request.getfixturevalue(server)
    run = PipelineRun(tmp_path / "run", store=store)
    topic = fresh_topic()
    for records in (13, 26):
        send_events(kafka, topic, 10, partitions=1)
        run.catch_up(kafka, topic)
        at_broker = f"--kafka_bootstrap_servers={kafka.bootstrap_servers}"
        words = [at_broker, f"--input_topics={topic}", *run.place_flags(), "--json"]
        reconciled = run.finish("reconcile", *words)
        assert reconciled.code == 0, reconciled.output
        report = json.loads(reconciled.output)
        assert (report["missing"], report["doubled"], report["records"]) == (0, 0, records)


def test_flink_workers_that_share_no_disk(
    run: PipelineRun, kafka: KafkaConnection, fresh_topic: Callable[..., str], tmp_path: Path
) -> None:
    """Large parts go through the store, and the workers have a temporary directory of their own."""
    assert run.store is not None
    scratch = tmp_path / "scratch-of-the-workers"
    scratch.mkdir()
    topic = fresh_topic(partitions=3)
    send_events(kafka, topic, 8_000)
    parts: set[str] = set()
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.05):
            parts.update(path.name for path in run.output_dir.glob("_tmp/*/*.arrow"))

    environment = {**run.store.environment, "TMPDIR": str(scratch)}
    tools = require_flink()
    with own_flink(tools, tmp_path / "flink", 2, worker_environment=environment) as cluster:
        watcher = threading.Thread(target=look)
        watcher.start()
        try:
            run.catch_up(kafka, topic, *cluster.flags, "--checkpointing_interval=2000")
        finally:
            ended.set()
            watcher.join()
        assert_each_once(run, kafka, topic, 8_003 * 3)
        assert parts
        assert not [path for path in scratch.rglob("*") if path.suffix in (".arrow", ".part")]
    counts = Counter(path.suffix for path in run.output_dir.rglob("*.*") if path.is_file())
    assert counts[".parquet"] >= 1
