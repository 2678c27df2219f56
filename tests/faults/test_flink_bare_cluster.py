"""Flink clusters that lack jars: Beam's, which each job brings along, or the project's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faults.scenario import Scenario
from faults.test_flink_many_jobs import land_events
from flink_clusters import OwnCluster, own_flink, require_flink
from integration.pipeline_runs import PipelineRun

from beam_pipeline.kafka.admin import TopicSpec, create_topics


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


@pytest.fixture
def cluster_of_beam_alone(tmp_path: Path) -> Iterator[OwnCluster]:
    with own_flink(require_flink(), tmp_path / "flink", 2, with_own=False) as cluster:
        yield cluster


@pytest.mark.faults
def test_without_the_projects_jar_a_plain_source_reads(
    scenario: Callable[..., Scenario], cluster_of_beam_alone: OwnCluster
) -> None:
    """Its classes may be part of a checkpoint, and Flink restores that with Beam's class loader."""
    scene = scenario("Flink without the project's jar")
    flags = cluster_of_beam_alone.flags
    land_events(scene, 20)
    first = scene.run.catch_up(scene.kafka, scene.topic, *flags)
    assert "warning: the cluster lacks " in first.output
    placed = scene.run.placed()
    assert placed.total() == len(placed) == 60

    stamped_by_producers = f"{scene.topic}-create-time"
    create_topics(scene.kafka, [TopicSpec(stamped_by_producers, 1)])
    other = PipelineRun(scene.run.directory.with_name("other"))
    refused = other.finish(*other.run_words(scene.kafka, stamped_by_producers, *flags))
    assert refused.code == 2, refused.output
    assert "Traceback" not in refused.output
    assert "run `flink jars` again" in refused.output.splitlines()[-1]
