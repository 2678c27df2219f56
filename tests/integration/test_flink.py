"""The same pipeline on a real Flink cluster, started here or named by the user."""

from __future__ import annotations

import json
import re
import signal
import stat
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flink_clusters import OwnCluster, own_flink, require_flink
from integration.pipeline_runs import (
    Finished,
    PipelineRun,
    running,
    send,
    wait_for,
)
from scrapes import Values, fetch, scrape, scrape_if_served

from beam_pipeline.commands.metrics.catalogue import DETACHED, RUN
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.producer.events import EventFactory
from beam_pipeline.producer.source import wall_clock_ms
from beam_pipeline.runtime.flink.engine import FlinkTools
from beam_pipeline.runtime.processes import free_port
from beam_pipeline.tools.reconcile.run import reconcile

SLOTS = 3


@pytest.fixture(scope="module")
def flink_tools() -> FlinkTools:
    return require_flink()


@pytest.fixture(scope="module")
def own_cluster(
    flink_tools: FlinkTools, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OwnCluster]:
    with own_flink(flink_tools, tmp_path_factory.mktemp("flink"), SLOTS) as cluster:
        yield cluster


def mixed_values(count: int, seed: int) -> list[bytes | None]:
    """Events, and a value in ten that is none."""
    factory = EventFactory(seed)
    return [
        b"{broken" if number % 10 == 9 else json.dumps(factory.make(wall_clock_ms())).encode()
        for number in range(count)
    ]


def as_set(rows: list[dict[str, Any]]) -> set[str]:
    """Rows, provenance included, as a set; fails when one is there twice."""
    texts = {json.dumps(row, default=str, sort_keys=True) for row in rows}
    assert len(texts) == len(rows)
    return texts


def letters_as_set(run: PipelineRun) -> set[str]:
    """Dead letters without what is the submission's own."""
    own = ("failed_at", "epoch")
    letters = [{k: v for k, v in letter.items() if k not in own} for letter in run.letters()]
    for letter in letters:
        letter["error"].pop("stacktrace", None)
    return as_set(letters)


def write_transform(directory: Path) -> None:
    """A user's module: a column more, and an event type that it refuses."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "mine.py").write_text(
        "import pyarrow as pa\n"
        "def mark(batch):\n"
        "    if 'add_to_cart' in batch.column('event_type').to_pylist():\n"
        "        raise ValueError('no carts')\n"
        "    marks = pa.array(['seen'] * batch.num_rows, pa.string())\n"
        "    return batch.append_column('mark', marks)\n"
    )


def refused_by_transform(run: PipelineRun) -> int:
    """How many letters the transform made; all rows have its column."""
    assert {row["mark"] for row in run.rows()} == {"seen"}
    letters = [letter for letter in run.letters() if letter["stage"] == "transform_1"]
    assert {letter["error"]["message"] for letter in letters} <= {"no carts"}
    return len(letters)


def flink(run: PipelineRun, action: str, *flags: str) -> Finished:
    return run.finish("flink", action, f"--output_dir={run.output_dir}", *flags)


def landing(port: int) -> Values | None:
    """The metrics of a run that has landed all, at a look at the logs."""
    values = scrape_if_served(port, RUN)
    lags = [value for key, value in values.items() if key[0] == "lag_records"]
    return values if lags and not any(lags) else None


def assert_each_once(run: PipelineRun, kafka: KafkaConnection, topic: str, count: int) -> None:
    placed = run.placed()
    assert placed.total() == len(placed) == count
    assert reconcile(kafka, [topic], run.output_dir, run.dead_letter_dir).is_clean


@pytest.mark.slow
def test_the_demo_on_a_cluster_of_its_own(flink_tools: FlinkTools, tmp_path: Path) -> None:
    """With a transform from the directory that it is started in."""
    run = PipelineRun(tmp_path / "demo")
    write_transform(run.directory)
    finished, seen, commands = run.watch(
        "demo",
        "--engine=flink",
        "--transform=mine:mark",
        "--demo_seconds=8",
        "--events_per_second=50",
        "--invalid_ratio=0.1",
        "--late_ratio=0.05",
        f"--output_dir={run.output_dir}",
        f"--dead_letter_dir={run.dead_letter_dir}",
        f"--log_dir={run.directory / 'logs'}",
        timeout_seconds=240,
    )
    assert finished.code == 0, finished.output
    placed = run.placed()
    assert placed.total() == len(placed) == 400
    assert f"= valid {len(run.rows())} + dead {len(run.letters())}: holds" in finished.output
    assert "Flink's web UI: http://127.0.0.1:" in finished.output
    assert "restarts" not in finished.output
    assert refused_by_transform(run) > 0
    assert not [commands[found.pid] for found in seen if not found.on_loopback]
    listening = " ".join(commands[listener.pid] for listener in seen)
    for name in (
        *("kafka.Kafka", "SessionClusterEntrypoint", "beam_pipeline.worker_pool"),
        *("LoopbackExpansion", "FlinkJobServerDriver", "TaskManagerRunner"),
    ):
        assert name in listening
    assert run.processes() == {}


@pytest.mark.slow
def test_ctrl_c_ends_every_process(flink_tools: FlinkTools, tmp_path: Path) -> None:
    run = PipelineRun(tmp_path / "demo")
    words = [
        *("demo", "--engine=flink"),
        f"--output_dir={run.output_dir}",
        f"--dead_letter_dir={run.dead_letter_dir}",
        f"--log_dir={run.directory / 'logs'}",
    ]

    def taskmanager_runs() -> bool:
        return any("TaskManagerRunner" in command for command in run.processes().values())

    with running(run, words, signal.SIGINT):
        wait_for(taskmanager_runs, "the TaskManager", 60)
        wait_for(lambda: len(run.processes()) >= 8, "every process of the demo", 60)
    assert run.processes() == {}


@pytest.mark.slow
def test_rows_and_letters_are_those_of_prism(
    own_cluster: OwnCluster,
    kafka: KafkaConnection,
    fresh_topic: Callable[..., str],
    tmp_path: Path,
) -> None:
    """With more slots than partitions too, where a part of the source has nothing to read, and with
    a transform from the PYTHONPATH of the cluster's workers."""
    topic = fresh_topic(partitions=2)
    for partition in range(2):
        send(kafka, topic, mixed_values(150, seed=partition), partition)
    on_prism, on_flink = PipelineRun(tmp_path / "prism"), PipelineRun(tmp_path / "flink")
    for directory in (on_prism.directory, on_flink.directory, own_cluster.modules):
        write_transform(directory)
    own = "--transform=mine:mark"
    on_prism.catch_up(kafka, topic, own)
    on_flink.catch_up(kafka, topic, own, *own_cluster.flags, f"--parallelism={SLOTS}")
    refused = refused_by_transform(on_flink)
    assert refused > 0
    assert len(on_flink.rows()) == 270 - refused
    assert as_set(on_flink.rows()) == as_set(on_prism.rows())
    assert letters_as_set(on_flink) == letters_as_set(on_prism)
    letters = list(on_flink.dead_letter_dir.rglob("*.jsonl"))
    assert {stat.S_IMODE(path.stat().st_mode) for path in letters} == {0o600}
    assert {stat.S_IMODE(path.parent.stat().st_mode) for path in letters} == {0o700}
    assert [job.is_over for job in own_cluster.rest.jobs()].count(False) == 0


@pytest.mark.slow
def test_detach_savepoint_cancel_and_resume_with_another_parallelism(
    own_cluster: OwnCluster,
    kafka: KafkaConnection,
    fresh_topic: Callable[..., str],
    tmp_path: Path,
) -> None:
    run = PipelineRun(tmp_path / "run")
    topic = fresh_topic(partitions=3)

    def land(seed: int) -> None:
        for partition in range(3):
            send(kafka, topic, mixed_values(50, seed), partition)

    land(1)
    words = run.run_words(kafka, topic, *own_cluster.flags, "--early_pane_seconds=1")
    left = run.finish(*words, "--detach", "--parallelism=1")
    assert left.code == 0, left.output
    assert run.processes() == {}
    job_id = re.search(r"job ([0-9a-f]{32}) runs on http://", left.output)
    assert job_id is not None, left.output

    refused = run.finish(*words)
    assert refused.code == 1
    assert f"is being written by job {job_id[1]} on {own_cluster.rest.master}" in refused.output

    wait_for(lambda: run.placed().total() == 150, "the first records in files")
    wait_for(lambda: "read 150" in flink(run, "status").output, "counters", 30)
    served_by = free_port()
    serving = [
        *("flink", "serve-metrics", f"--output_dir={run.output_dir}"),
        f"--kafka_bootstrap_servers={kafka.bootstrap_servers}",
        f"--metrics_port={served_by}",
    ]
    with running(run, serving, signal.SIGINT) as server:
        wait_for(
            lambda: scrape_if_served(served_by, DETACHED).get(("records_read_total",)) == 150,
            "metrics of the detached job",
        )
        values = scrape(served_by, DETACHED)
        assert fetch(served_by, "/readyz") == (200, "ok\n")
    assert server.returncode == 0
    for partition in range(3):
        number = str(partition)
        assert values["landed_offset", topic, number] == 50
        assert values["log_end_offset", topic, number] == 50
        assert values["lag_seconds", topic, number] == 0
    assert {values["up", name] for name in ("engine", "job", "broker", "storage")} == {1}
    assert values["landed_records_total", "rows"] == 135
    assert values["landed_records_total", "dead_letters"] == 15
    assert values["dead_letters_total", "MALFORMED_JSON"] == 15
    assert values["restarts_total",] == 0
    assert values["watermark_timestamp_seconds", topic] > 0
    assert not list(run.output_dir.glob("dt=*/hour=*/_COMPLETE.json")), "it only reads"

    told = flink(run, "status")
    assert told.code == 0
    assert f"job {job_id[1]}: RUNNING" in told.output
    with urllib.request.urlopen(f"http://{own_cluster.metrics_address}/metrics") as answer:
        metrics = answer.read().decode()
    reads = re.findall(
        rf'operator_beam_pipeline_read{{[^}}]*job_id="{job_id[1]}"[^}}]*}} ([\d.]+)', metrics
    )
    assert sum(map(float, reads)) == 150

    directory = (tmp_path / "savepoints").as_uri()
    saved = flink(run, "savepoint", f"--savepoint_dir={directory}")
    assert saved.code == 0, saved.output
    savepoint = saved.output.rpartition("--from_savepoint=")[2].strip()
    land(2)  # lands in files that the resumed job adopts
    wait_for(lambda: run.placed().total() == 300, "records after the savepoint")
    assert flink(run, "cancel").code == 0
    assert flink(run, "status").code == 1

    land(3)
    resumed = run.catch_up(
        kafka, topic, *own_cluster.flags, "--parallelism=2", f"--from_savepoint={savepoint}"
    )
    assert "restarts 0" in resumed.output
    assert_each_once(run, kafka, topic, 450)
    epochs = {re.search(r"-e(\w+)-p", path.name)[1] for path in run.output_dir.rglob("*.parquet")}  # type: ignore[index]
    assert len(epochs) == 1

    land(4)
    port = free_port()
    flags = ("--early_pane_seconds=1", *own_cluster.flags, f"--metrics_port={port}")
    with running(run, run.run_words(kafka, topic, *flags)):
        wait_for(lambda: run.placed().total() == 600, "the last records in files")
        values = wait_for(lambda: landing(port), "a scrape of a run on Flink")
    assert {values["up", name] for name in ("engine", "job", "broker", "storage")} == {1}
    assert values["records_read_total",] == 150
    assert values["landed_offset", topic, "0"] == values["log_end_offset", topic, "0"] == 200
    assert values["resident_memory_bytes", "supervisor"] > 0
    assert_each_once(run, kafka, topic, 600)
    stale = run.finish(*words, f"--from_savepoint={savepoint}")
    assert stale.code == 1
    assert "not of the job that wrote" in stale.output


def test_a_cluster_that_does_not_serve_is_told(
    own_cluster: OwnCluster,
    kafka: KafkaConnection,
    fresh_topic: Callable[..., str],
    tmp_path: Path,
) -> None:
    run = PipelineRun(tmp_path / "run")
    topic = fresh_topic()

    def refusal(*flags: str) -> str:
        finished = run.finish(*run.run_words(kafka, topic, *flags), timeout_seconds=60)
        assert finished.code == 1
        return str(finished.output.splitlines()[-1])

    nobody = f"127.0.0.1:{free_port()}"
    assert f"Flink at {nobody} does not answer" in refusal(
        "--engine=flink", f"--flink_master={nobody}"
    )
    crowded = refusal(*own_cluster.flags, "--parallelism=99")
    assert f"{SLOTS} of {SLOTS} task slots are free, and --parallelism=99" in crowded
    doctor = run.finish("doctor", *own_cluster.flags, f"--output_dir={run.output_dir}")
    for text in (
        f"{SLOTS} of {SLOTS} are free",
        "worker pools reachable at 127.0.0.1:",
        "1.19.3 at",
    ):
        assert text in doctor.output
    assert "✗" not in doctor.output
    no_pool = refusal(*own_cluster.flags, f"--worker_pool=localhost:{free_port()}")
    assert "nothing listens at 127.0.0.1:" in no_pool
