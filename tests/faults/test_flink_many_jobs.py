"""Many jobs on one Flink cluster: what they leave behind, and whether parallelism matters."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faults.scenario import Scenario
from flink_clusters import OwnCluster, own_flink, require_flink
from integration.pipeline_runs import PipelineRun, send, wait_for

from beam_pipeline.producer.events import EventFactory
from beam_pipeline.producer.source import wall_clock_ms

JOBS = 10
PARALLELISMS = (1, 2, 4)
METRICS = ("Status.JVM.Memory.Metaspace.Used", "Status.JVM.Threads.Count")
METASPACE_BYTES_A_JOB = 4 * 1024 * 1024
THREADS_A_JOB = 3
"""Two of them stay for good: each Java harness in the TaskManager has one that never ends
(FinalizeBundleHandler of Beam 2.70)."""
IDLE_SECONDS = 90.0
"""The threads of Java's cached pools end after 60 s without work."""


@pytest.fixture
def own_cluster(tmp_path: Path) -> Iterator[OwnCluster]:
    with own_flink(require_flink(), tmp_path / "flink", max(PARALLELISMS)) as cluster:
        yield cluster


def land_events(scenario: Scenario, count: int) -> None:
    factory = EventFactory(1)
    values: list[bytes | None] = [
        json.dumps(factory.make(wall_clock_ms())).encode() for _ in range(count)
    ]
    for partition in range(3):
        send(scenario.kafka, scenario.topic, values, partition)


@pytest.mark.faults
def test_ten_jobs_one_after_another_leave_nothing_behind(
    scenario: Callable[..., Scenario], own_cluster: OwnCluster
) -> None:
    """No growth that would end an eleventh; the figures are printed."""
    scene = scenario("ten jobs on one cluster")
    figures = []

    def look() -> list[int]:
        (manager,) = own_cluster.rest.task_managers()
        found = own_cluster.rest.metrics(f"/taskmanagers/{manager['id']}", ",".join(METRICS))
        return [int(found[name]) for name in METRICS]

    for number in range(JOBS):
        land_events(scene, 20)
        scene.run.catch_up(scene.kafka, scene.topic, *own_cluster.flags)
        figures.append(look())
        print(f"job {number + 1}: metaspace {figures[-1][0]:,} bytes, threads {figures[-1][1]}")
    placed = scene.run.placed()
    assert placed.total() == len(placed) == 60 * JOBS
    assert figures[-1][0] - figures[1][0] < METASPACE_BYTES_A_JOB * (JOBS - 2), figures
    limit = figures[0][1] + THREADS_A_JOB * (JOBS - 1)
    wait_for(lambda: look()[1] < limit, f"fewer than {limit} threads, {figures}", IDLE_SECONDS)
    print(f"idle: threads {look()[1]}")
    assert workers_of(own_cluster.pool_pid) == 0


@pytest.mark.faults
def test_parallelism_does_not_matter(
    scenario: Callable[..., Scenario], own_cluster: OwnCluster, tmp_path: Path
) -> None:
    scene = scenario("parallelism 1, 2 and 4")
    land_events(scene, 200)
    rows = []
    for parallelism in PARALLELISMS:
        run = PipelineRun(tmp_path / f"run-{parallelism}")
        run.catch_up(scene.kafka, scene.topic, *own_cluster.flags, f"--parallelism={parallelism}")
        rows.append({json.dumps(row, default=str, sort_keys=True) for row in run.rows()})
    assert len(rows[0]) == 600
    assert rows[0] == rows[1] == rows[2]


def workers_of(pool_pid: int) -> int:
    """Python workers that the pool has not ended."""
    children = Path(f"/proc/{pool_pid}/task/{pool_pid}/children").read_text().split()
    return len(children)
