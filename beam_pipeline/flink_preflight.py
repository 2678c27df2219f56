"""Checks of a Flink cluster of the user's own: each failure is one line with its remedy."""

from __future__ import annotations

import re
import socket
from pathlib import Path

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.runtime.flink_rest import FlinkRest

FLINK_VERSION = "1.19"
_LOCALHOST = ("localhost", "127.0.0.1", "::1")
_CONNECT_SECONDS = 3.0


def check_cluster(rest: FlinkRest, parallelism: int, worker_pool: str, output_dir: Path) -> None:
    """Checks version, free slots and worker pools.

    Raises:
      EnvironmentFailure: says what is missing.
    """
    overview = rest.overview()
    if not overview.version.startswith(f"{FLINK_VERSION}."):
        raise EnvironmentFailure(
            f"--flink_master={rest.master}: runs Flink {overview.version}, and Beam's runner here "
            f"is made for {FLINK_VERSION}"
        )
    if overview.free_slots < parallelism:
        raise EnvironmentFailure(
            f"--flink_master={rest.master}: {overview.free_slots} of {overview.slots} task slots "
            f"are free, and --parallelism={parallelism} needs as many; end a job, add a "
            "TaskManager, or lower --parallelism"
        )
    for address in pool_addresses(worker_pool, [tm["path"] for tm in rest.task_managers()]):
        if not _accepts(address):
            raise EnvironmentFailure(
                f"--worker_pool={worker_pool}: nothing listens at {address}; start, beside each "
                "TaskManager and with its python first on PATH: python -m "
                "apache_beam.runners.worker.worker_pool_main "
                f"--service_port={address.rpartition(':')[2]}"
            )


def pool_addresses(worker_pool: str, task_manager_paths: list[str]) -> list[str]:
    """Where the worker pools must listen: a loopback address is one on each TaskManager's host.

    A path is `pekko.tcp://flink@HOST:PORT/user/rpc/taskmanager_0`.
    """
    host, _, port = worker_pool.rpartition(":")
    if host not in _LOCALHOST:
        return [worker_pool]
    hosts = {match[1] for path in task_manager_paths if (match := re.search(r"@(.+):\d+/", path))}
    return sorted(f"{found}:{port}" for found in hosts)


def needs_jars(rest: FlinkRest) -> bool:
    """Whether the cluster lacks Beam's jars, so that each job has to bring them along."""
    return "beam-runners-flink" not in rest.class_path()


def _accepts(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except OSError:
        return False
    return True
