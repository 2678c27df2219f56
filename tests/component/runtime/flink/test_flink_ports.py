"""A local Flink cluster starts again although another program has taken its ports meanwhile."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from beam_pipeline.runtime.flink.cluster import (
    JOB_MANAGER,
    TASK_MANAGER,
    ClusterSettings,
    FlinkCluster,
)
from beam_pipeline.runtime.flink.distribution import FlinkDistribution

# Answers as BashJavaUtils does, and runs on as a JobManager and a TaskManager do.
JAVA = """#!/bin/sh
case "$*" in
*BashJavaUtils*)
  echo "BASH_JAVA_UTILS_EXEC_RESULT:-Xmx64m"
  echo "BASH_JAVA_UTILS_EXEC_RESULT:-D a.b=1" ;;
*) echo "$@"; exec sleep 60 ;;
esac
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[FlinkCluster]:
    java = tmp_path / "java"
    java.write_text(JAVA)
    java.chmod(0o755)
    made = FlinkCluster(
        FlinkDistribution(tmp_path / "flink"),
        java,
        [],
        tmp_path / "cluster",
        ClusterSettings(slots=1, prometheus=True),
        {name: tmp_path / f"{name}.log" for name in (JOB_MANAGER, TASK_MANAGER)},
    )
    yield made
    made.stop(0)


def addresses(cluster: FlinkCluster) -> dict[str, str]:
    """Each address that the cluster gives, by what it is for."""
    config = yaml.safe_load((cluster.directory / "conf" / "config.yaml").read_text())
    return {
        "rest in the file": config["rest.port"],
        "rest": cluster.rest.master.rpartition(":")[2],
        "rpc": config["jobmanager.rpc.port"],
        "metrics": cluster.metrics_address.rpartition(":")[2],
    }


def test_ports_that_were_taken_meanwhile_are_replaced(cluster: FlinkCluster) -> None:
    announced = cluster.rest.master
    cluster.start()
    first = addresses(cluster)
    assert cluster.rest.master == announced
    assert first["rest in the file"] == first["rest"]
    cluster.stop(0)
    with ExitStack() as stack:
        for port in {*first.values()}:
            stack.enter_context(socket.create_server(("127.0.0.1", int(port))))
        cluster.start()
        second = addresses(cluster)
        assert not {*first.values()} & {*second.values()}
        assert second["rest in the file"] == second["rest"]


def test_ports_that_are_still_free_are_kept(cluster: FlinkCluster) -> None:
    cluster.start()
    first = addresses(cluster)
    cluster.stop(0)
    cluster.start()
    assert addresses(cluster) == first
