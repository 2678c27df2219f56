"""Beam's pool of Python workers, on loopback unless told otherwise.

A pool runs whatever a runner sends it, so it must not be reached from elsewhere. Run as
`python -m beam_pipeline.worker_pool --service_port=PORT`.

Beam 2.73, `worker_pool_main`: its server listens on all interfaces and takes no address, a runner
waits without end for a worker that dies before its first call, nobody reads what workers print,
and their command can't be changed (`worker_start`). Remove this module when none of this holds.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import subprocess
import threading
from collections import Counter
from typing import Any

import grpc
from apache_beam.options.pipeline_options import PipelineOptions, WorkerOptions
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc
from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer
from apache_beam.utils.thread_pool_executor import shared_unbounded_instance

from beam_pipeline.runtime.processes import LOOPBACK

MAX_REVIVALS = 3
LOOK_SECONDS = 1.0
_log = logging.getLogger(__name__)
# As in BeamFnExternalWorkerPoolServicer.start.
_GRPC_OPTIONS = (("grpc.http2.max_pings_without_data", 0), ("grpc.http2.max_ping_strikes", 0))


class _Servicer(BeamFnExternalWorkerPoolServicer):
    """Starts workers by `worker_start`, and those that ended unasked once more."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._revivals: Counter[str] = Counter()
        self._lock = threading.Lock()

    def StartWorker(self, start_worker_request: Any, unused_context: Any) -> Any:
        worker_id = start_worker_request.worker_id
        with self._lock:
            self._revivals.pop(worker_id, None)
            if not self._use_process:
                return super().StartWorker(start_worker_request, unused_context)
            command = [
                *("python", "-m", "beam_pipeline.worker_start"),
                f"--control_endpoint={start_worker_request.control_endpoint.url}",
                f"--worker_id={worker_id}",
                f"--pool_pid={os.getpid()}",
                f"--state_cache_bytes={self._state_cache_size}",
            ]
            _log.warning("starting worker %s", worker_id)
            try:
                self._worker_processes[worker_id] = _started(command)
            except OSError as error:
                return beam_fn_api_pb2.StartWorkerResponse(error=f"{command[0]}: {error}")
            return beam_fn_api_pb2.StartWorkerResponse()

    def StopWorker(self, stop_worker_request: Any, unused_context: Any) -> Any:
        with self._lock:
            return super().StopWorker(stop_worker_request, unused_context)

    def revive(self) -> None:
        """Start each worker process that ended unasked again, under the same id.

        Beam 2.70, ExternalEnvironmentFactory: a runner waits without limit for a worker's first
        call. When a worker has called before, the runner notices its death and asks to stop it;
        the new process has done nothing until then.
        """
        with self._lock:
            for worker_id, process in self._worker_processes.items():
                code = process.poll()
                if code is None or self._revivals[worker_id] == MAX_REVIVALS:
                    continue
                self._revivals[worker_id] += 1
                _log.warning("worker %s ended with %d; starting it again", worker_id, code)
                self._worker_processes[worker_id] = _started(process.args)


def _started(command: Any) -> subprocess.Popen[bytes]:
    """Start a worker that prints to the pool's log; nobody reads the pipe that Beam gives it."""
    return subprocess.Popen(command, close_fds=True)


class WorkerPool:
    """A running pool; its workers are threads of this process, or processes."""

    def __init__(
        self,
        options: PipelineOptions,
        *,
        host: str = LOOPBACK,
        port: int = 0,
        use_process: bool,
    ) -> None:
        """Start the pool.

        Args:
            options: give the size of the workers' state cache.
            host: address to listen on.
            port: 0 takes a free one.
            use_process: each worker is a process, started with the first `python` on PATH.
        """
        cache_mb = options.view_as(WorkerOptions).max_cache_memory_usage_mb
        self._servicer = _Servicer(use_process=use_process, state_cache_size=cache_mb << 20)
        self._server = grpc.server(shared_unbounded_instance(), options=_GRPC_OPTIONS)
        self.endpoint = f"{host}:{self._server.add_insecure_port(f'{host}:{port}')}"
        beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(
            self._servicer, self._server
        )
        self._server.start()

    def serve(self, stop: threading.Event) -> None:
        """Start dead worker processes again until `stop` is set."""
        while not stop.wait(LOOK_SECONDS):
            self._servicer.revive()


def main() -> None:
    """Run a pool of processes until a signal; its workers end with their process group."""
    parser = argparse.ArgumentParser(prog="beam_pipeline.worker_pool", description=__doc__)
    parser.add_argument("--service_port", type=int, required=True, help="port to listen on")
    parser.add_argument(
        "--service_host",
        default=LOOPBACK,
        help="address to listen on (default: %(default)s); whoever reaches it can run code",
    )
    own, beam_arguments = parser.parse_known_args()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    options = PipelineOptions(beam_arguments)
    pool = WorkerPool(options, host=own.service_host, port=own.service_port, use_process=True)
    print(f"workers are started at {pool.endpoint}", flush=True)
    pool.serve(stop)


if __name__ == "__main__":
    main()
