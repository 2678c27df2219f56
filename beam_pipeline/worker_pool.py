"""Beam's pool of Python workers, on loopback unless told otherwise.

A pool runs whatever a runner sends it, so it must not be reached from elsewhere. Beam 2.73,
worker_pool_main: its own server listens on all interfaces and takes no address, and a worker that
dies before it has called the runner is waited for without end; remove this module when neither
holds. Run as `python -m beam_pipeline.worker_pool --service_port=PORT`.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from typing import IO, Any

import grpc
from apache_beam.options.pipeline_options import PipelineOptions, WorkerOptions
from apache_beam.portability.api import beam_fn_api_pb2_grpc
from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer
from apache_beam.utils.thread_pool_executor import shared_unbounded_instance

from beam_pipeline.runtime.processes import LOOPBACK

MAX_REVIVALS = 3
LOOK_SECONDS = 1.0
_log = logging.getLogger(__name__)
# As in BeamFnExternalWorkerPoolServicer.start.
_GRPC_OPTIONS = (("grpc.http2.max_pings_without_data", 0), ("grpc.http2.max_ping_strikes", 0))


class _Servicer(BeamFnExternalWorkerPoolServicer):
    """Knows which workers nobody has asked to stop, and starts those again."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._revivals: Counter[str] = Counter()
        self._lock = threading.Lock()

    def StartWorker(self, start_worker_request: Any, unused_context: Any) -> Any:
        with self._lock:
            worker_id = start_worker_request.worker_id
            self._revivals.pop(worker_id, None)
            response = super().StartWorker(start_worker_request, unused_context)
            if (process := self._worker_processes.get(worker_id)) is not None:
                _print_output_of(process)
            return response

    def StopWorker(self, stop_worker_request: Any, unused_context: Any) -> Any:
        with self._lock:
            return super().StopWorker(stop_worker_request, unused_context)

    def revive(self) -> None:
        """Starts each worker process that ended unasked, under the same id.

        Beam 2.70, ExternalEnvironmentFactory: a runner waits for a worker's first call for as long
        as it takes. For one that had called, the runner notices the death itself, and asks to stop
        the worker; the new process has done nothing until then.
        """
        with self._lock:
            for worker_id, process in self._worker_processes.items():
                code = process.poll()
                if code is None or self._revivals[worker_id] == MAX_REVIVALS:
                    continue
                self._revivals[worker_id] += 1
                _log.warning("worker %s ended with %d; starting it again", worker_id, code)
                # Without a pipe: it prints where the pool prints.
                self._worker_processes[worker_id] = subprocess.Popen(process.args, close_fds=True)


def _print_output_of(process: subprocess.Popen[bytes]) -> None:
    """Print what a worker prints, in a thread.

    Beam 2.73, BeamFnExternalWorkerPoolServicer.StartWorker: a worker's standard output is a pipe
    that nobody reads, so a worker that prints 64 KiB stands still.
    """

    def copy(output: IO[bytes]) -> None:
        while piece := os.read(output.fileno(), 65536):
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()

    if process.stdout is not None:
        threading.Thread(target=copy, args=(process.stdout,), daemon=True).start()


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
        """Starts the pool.

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
        """Looks after the worker processes until `stop` is set."""
        while not stop.wait(LOOK_SECONDS):
            self._servicer.revive()


def main() -> None:
    """Runs a pool of processes until a signal; its workers end with their process group."""
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
