"""A Flink cluster that the pipeline did not start, with a worker pool beside it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.runtime.flink.cluster import (
    JOB_MANAGER,
    TASK_MANAGER,
    ClusterSettings,
    FlinkCluster,
    jars_without_flink,
)
from beam_pipeline.runtime.flink.engine import FlinkTools, find_flink_tools
from beam_pipeline.runtime.flink.rest import FlinkRest
from beam_pipeline.runtime.processes import ManagedProcess, free_port


def require_flink() -> FlinkTools:
    """Return Flink, fetched if it is not in the cache.

    Where it can't be fetched, the test fails if `CI` is set and is skipped otherwise.
    """
    try:
        return find_flink_tools(with_cluster=True)
    except EnvironmentFailure as error:
        reason = f"Flink can't be fetched: {error}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


@dataclass
class OwnCluster:
    """Where it is."""

    rest: FlinkRest
    metrics_address: str
    worker_pool: str
    pool_pid: int
    modules: Path
    """On the workers' PYTHONPATH."""

    @property
    def flags(self) -> tuple[str, ...]:
        return (
            "--engine=flink",
            f"--flink_master={self.rest.master}",
            f"--worker_pool={self.worker_pool}",
        )


@contextmanager
def own_flink(
    tools: FlinkTools,
    directory: Path,
    slots: int,
    *,
    with_beam: bool = True,
    with_own: bool = True,
    worker_environment: Mapping[str, str] | None = None,
) -> Iterator[OwnCluster]:
    """The cluster, ready, for the time of the block.

    `with_beam` and `with_own` say whether Beam's jars and the project's are in its class path.
    The Python workers have `worker_environment` beside the usual variables.
    """
    assert tools.distribution is not None
    *beam_jars, _ = tools.jars
    jars = list(tools.jars) if with_own else beam_jars
    cluster = FlinkCluster(
        tools.distribution,
        tools.java,
        jars_without_flink(jars) if with_beam else [],
        directory,
        ClusterSettings(slots=slots, prometheus=True),
        {name: directory / f"{name}.log" for name in (JOB_MANAGER, TASK_MANAGER)},
    )
    port = free_port()
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = ["-m", "beam_pipeline.worker_pool", f"--service_port={port}"]
    cluster.start()
    try:
        modules = directory / "modules"
        modules.mkdir()
        on_path = os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(modules)])
        environment = {"PATH": path, "PYTHONPATH": on_path, **(worker_environment or {})}
        with ManagedProcess(
            "pool", [sys.executable, *command], directory / "pool.log", env=environment
        ) as pool:
            cluster.wait_ready()
            pool.wait_for_port(port)
            yield OwnCluster(
                cluster.rest, cluster.metrics_address, f"localhost:{port}", pool.pid, modules
            )
    finally:
        cluster.stop()
