"""A Flink cluster without Beam's jars: each job brings them along."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faults.scenario import Scenario
from faults.test_flink_many_jobs import land_events
from flink_clusters import OwnCluster, own_flink, require_flink


@pytest.fixture
def bare_cluster(tmp_path: Path) -> Iterator[OwnCluster]:
    with own_flink(require_flink(), tmp_path / "flink", 2, with_beam=False) as cluster:
        yield cluster


@pytest.mark.faults
def test_jars_are_shipped(scenario: Callable[..., Scenario], bare_cluster: OwnCluster) -> None:
    scene = scenario("Flink without Beam's jars")
    for job in range(1, 3):
        land_events(scene, 20)
        scene.run.catch_up(scene.kafka, scene.topic, *bare_cluster.flags)
        placed = scene.run.placed()
        assert placed.total() == len(placed) == 60 * job
