"""The pool of Python workers: one that dies unasked is started again."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc, endpoints_pb2
from integration.pipeline_runs import wait_for

from beam_pipeline.runtime.processes import LOOPBACK, ManagedProcess, free_port
from beam_pipeline.worker_pool import MAX_REVIVALS

WORKER_ID = "1-1"


@pytest.fixture
def runner() -> Iterator[str]:
    """Where a worker finds a runner that never answers."""
    with socket.create_server((LOOPBACK, 0)) as server:
        yield f"{LOOPBACK}:{server.getsockname()[1]}"


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[ManagedProcess]:
    port = free_port()
    command = [sys.executable, "-m", "beam_pipeline.worker_pool", f"--service_port={port}"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    with ManagedProcess("pool", command, tmp_path / "pool.log", env={"PATH": path}) as process:
        wait_for(lambda: process.log_file.read_text(), "the pool's first line")
        yield process


def workers(pool: ManagedProcess) -> list[int]:
    """Living workers of the pool; one that was killed stays as a zombie until the pool looks."""
    children = Path(f"/proc/{pool.pid}/task").glob("*/children")
    pids = [int(pid) for path in children for pid in path.read_text().split()]
    return [pid for pid in pids if Path(f"/proc/{pid}/cmdline").read_bytes()]


def output_of(pid: int) -> Path:
    return Path(f"/proc/{pid}/fd/1").readlink()


def test_a_worker_that_dies_before_its_first_call(pool: ManagedProcess, runner: str) -> None:
    address = pool.log_file.read_text().split()[-1]
    with grpc.insecure_channel(address) as channel:
        stub = beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolStub(channel)
        endpoint = endpoints_pb2.ApiServiceDescriptor(url=runner)
        stub.StartWorker(
            beam_fn_api_pb2.StartWorkerRequest(worker_id=WORKER_ID, control_endpoint=endpoint)
        )
        seen = {wait_for(lambda: workers(pool), "a worker")[0]}
        assert output_of(*seen) == output_of(pool.pid), "a pipe that nobody reads fills up"

        def others() -> Iterator[int]:
            return (pid for pid in workers(pool) if pid not in seen)

        for _ in range(MAX_REVIVALS):
            os.kill(workers(pool)[0], signal.SIGKILL)
            seen.add(wait_for(lambda: next(others(), None), "another worker"))
        assert len(seen) == 1 + MAX_REVIVALS
        stub.StopWorker(beam_fn_api_pb2.StopWorkerRequest(worker_id=WORKER_ID))
        wait_for(lambda: not workers(pool), "the worker's end", 20)
    told = pool.log_file.read_text()
    assert told.count(f"worker {WORKER_ID} ended with -9; starting it again") == MAX_REVIVALS
