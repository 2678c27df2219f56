"""Checks of the user's own Flink cluster; each failure is one line with its remedy."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Mapping, Sequence

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.files.mounts import file_system_of, is_local
from beam_pipeline.runtime.flink.rest import ClusterOverview, FlinkRest
from beam_pipeline.storage.paths import ObjectPath, StoredPath

FLINK_VERSION = "1.19"
_LOCALHOST = ("localhost", "127.0.0.1", "::1")
_CONNECT_SECONDS = 3.0


def check_cluster(rest: FlinkRest, parallelism: int, worker_pool: str) -> None:
    """Check version, free slots and worker pools.

    Raises:
      EnvironmentFailure: a check fails.
    """
    overview = check_version(rest)
    check_slots(rest, overview, parallelism)
    check_worker_pools(rest, worker_pool)


def check_version(rest: FlinkRest) -> ClusterOverview:
    """Check that the cluster answers and has the version that Beam's runner is made for.

    Raises:
      EnvironmentFailure: it does not answer, or has another version.
    """
    overview = rest.overview()
    if not overview.version.startswith(f"{FLINK_VERSION}."):
        raise EnvironmentFailure(
            f"--flink_master={rest.master}: runs Flink {overview.version}, and Beam's runner here "
            f"is made for {FLINK_VERSION}"
        )
    return overview


def check_slots(rest: FlinkRest, overview: ClusterOverview, parallelism: int) -> None:
    """Check that enough task slots are free.

    Raises:
      EnvironmentFailure: too few are free.
    """
    if overview.free_slots < parallelism:
        raise EnvironmentFailure(
            f"--flink_master={rest.master}: {overview.free_slots} of {overview.slots} task slots "
            f"are free, and --parallelism={parallelism} needs as many; end a job, add a "
            "TaskManager, or lower --parallelism"
        )


def check_worker_pools(rest: FlinkRest, worker_pool: str) -> list[str]:
    """Check that every worker pool accepts connections; return their addresses.

    Raises:
      EnvironmentFailure: a pool does not.
    """
    addresses = pool_addresses(worker_pool, task_manager_hosts(rest))
    for address in addresses:
        if not _accepts(address):
            host, _, port = address.rpartition(":")
            reach = "" if is_this_machine(host) else " --service_host=0.0.0.0"
            raise EnvironmentFailure(
                f"--worker_pool={worker_pool}: nothing listens at {address}; start, beside each "
                "TaskManager and with its python first on PATH: python -m "
                f"beam_pipeline.worker_pool --service_port={port}{reach}"
            )
    return addresses


def unshared(hosts: Sequence[str], directories: Mapping[str, StoredPath]) -> Iterator[str]:
    """Yield a warning for each directory that workers on other machines probably don't share.

    An object store is shared by all.

    A warning is no proof: a local directory may be exported to the workers or mounted into their
    containers, and no worker runs before the job.

    Args:
      hosts: the hosts of the workers.
      directories: directories by flag.
    """
    elsewhere = [host for host in hosts if not is_this_machine(host)]
    if not elsewhere:
        return
    for flag, directory in directories.items():
        if isinstance(directory, ObjectPath):
            continue
        kind = file_system_of(directory)
        if kind is not None and is_local(kind):
            yield (
                f"{flag}={directory} is on this machine's own storage ({kind}), and workers run on "
                f"{', '.join(elsewhere)}: what they write is found here only if they have that "
                "directory too, under the same path"
            )


def task_manager_hosts(rest: FlinkRest) -> list[str]:
    """Return the hosts of the TaskManagers, each once.

    Their path is `pekko.tcp://flink@HOST:PORT/user/rpc/taskmanager_0`.
    """
    paths = [manager["path"] for manager in rest.task_managers()]
    return sorted({match[1] for path in paths if (match := re.search(r"@(.+):\d+/", path))})


def pool_addresses(worker_pool: str, task_manager_hosts: Sequence[str]) -> list[str]:
    """Return where worker pools must listen: for a loopback address on each TaskManager's host."""
    host, _, port = worker_pool.rpartition(":")
    if host not in _LOCALHOST:
        return [worker_pool]
    return [f"{manager}:{port}" for manager in task_manager_hosts]


def needs_jars(rest: FlinkRest) -> bool:
    """Return whether the cluster lacks Beam's jars, so that each job has to bring them."""
    return "beam-runners-flink" not in rest.class_path()


def is_this_machine(host: str) -> bool:
    """Return whether a host is this machine: only then a socket can be bound to its address."""
    try:
        addresses = socket.getaddrinfo(host.strip("[]"), 0, type=socket.SOCK_STREAM)
    except OSError:
        return False
    for family, kind, protocol, _, address in addresses:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.bind(address)
                return True
        except OSError:
            continue
    return False


def _accepts(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except OSError:
        return False
    return True
