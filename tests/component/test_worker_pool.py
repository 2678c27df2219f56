"""The pool of Python workers: one that dies unasked is started again, and all may print."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc, endpoints_pb2
from integration.pipeline_runs import wait_for

from beam_pipeline.runtime.processes import LOOPBACK, ManagedProcess, free_port
from beam_pipeline.worker_pool import MAX_REVIVALS

WORKER_ID = "1-1"
PRINTED_BYTES = 256 * 1024  # a pipe holds 64 KiB


@pytest.fixture
def runner() -> Iterator[str]:
    """Where a worker finds a runner that never answers."""
    with socket.create_server((LOOPBACK, 0)) as server:
        yield f"{LOOPBACK}:{server.getsockname()[1]}"


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[ManagedProcess]:
    port = free_port()
    command = [sys.executable, "-m", "beam_pipeline.worker_pool", f"--service_port={port}"]
    # A worker that prints more than a pipe holds, as a transform may, before it calls its runner.
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "if 'beam_pipeline.worker_start' in sys.orig_argv:\n"
        f"    print('x' * {PRINTED_BYTES}, flush=True)\n"
        "    print('printed', flush=True)\n"
    )
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    python_path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    environment = {"PATH": path, "PYTHONPATH": python_path}
    with ManagedProcess("pool", command, tmp_path / "pool.log", env=environment) as process:
        wait_for(lambda: process.log_file.read_text(), "the pool's first line")
        yield process


def start_worker(pool: ManagedProcess, runner: str, stack: ExitStack) -> Any:
    """Have the pool start a worker; return the pool's stub."""
    address = pool.log_file.read_text().split()[-1]
    channel = stack.enter_context(grpc.insecure_channel(address))
    stub = beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolStub(channel)
    endpoint = endpoints_pb2.ApiServiceDescriptor(url=runner)
    stub.StartWorker(
        beam_fn_api_pb2.StartWorkerRequest(worker_id=WORKER_ID, control_endpoint=endpoint)
    )
    return stub


def workers(pool: ManagedProcess) -> list[int]:
    """Living workers of the pool; one that was killed stays as a zombie until the pool looks."""
    children = Path(f"/proc/{pool.pid}/task").glob("*/children")
    pids = [int(pid) for path in children for pid in path.read_text().split()]
    return [pid for pid in pids if Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_what_workers_print_is_in_the_pools_log(pool: ManagedProcess, runner: str) -> None:
    def printed(times: int) -> bool:
        return pool.log_file.read_text().split().count("printed") == times

    with ExitStack() as stack:
        start_worker(pool, runner, stack)
        wait_for(lambda: printed(1), "the worker's last line", 20)
        assert "x" * PRINTED_BYTES in pool.log_file.read_text()
        (worker,) = workers(pool)
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda: printed(2), "the last line of the one started again", 20)


def test_a_worker_ends_with_its_pool(pool: ManagedProcess, runner: str) -> None:
    """The runner is gone too, or never answers, so the connection tells the worker nothing."""
    with ExitStack() as stack:
        start_worker(pool, runner, stack)
        wait_for(lambda: "printed" in pool.log_file.read_text(), "the worker's last line", 20)
        (worker,) = workers(pool)
        os.kill(pool.pid, signal.SIGKILL)
        wait_for(lambda: not Path(f"/proc/{worker}").exists(), "the worker's end", 20)


def test_a_worker_that_dies_before_its_first_call(pool: ManagedProcess, runner: str) -> None:
    with ExitStack() as stack:
        stub = start_worker(pool, runner, stack)
        seen = {wait_for(lambda: workers(pool), "a worker")[0]}

        def others() -> Iterator[int]:
            return (pid for pid in workers(pool) if pid not in seen)

        for _ in range(MAX_REVIVALS):
            os.kill(workers(pool)[0], signal.SIGKILL)
            seen.add(wait_for(lambda: next(others(), None), "another worker"))
        assert len(seen) == 1 + MAX_REVIVALS
        stub.StopWorker(beam_fn_api_pb2.StopWorkerRequest(worker_id=WORKER_ID))
        wait_for(lambda: not workers(pool), "the worker's end", 20)
    log = pool.log_file.read_text()
    assert log.count(f"worker {WORKER_ID} ended with -9; starting it again") == MAX_REVIVALS
