"""Beam's pool of Python workers, on loopback only.

A pool runs whatever a runner sends it, so it must not be reached from elsewhere. Beam 2.73,
worker_pool_main: its own server listens on all interfaces and takes no address; remove this module
when it does. Run as `python -m beam_pipeline.worker_pool --service_port=PORT`.
"""

from __future__ import annotations

import argparse
import signal
import threading

import grpc
from apache_beam.options.pipeline_options import PipelineOptions, WorkerOptions
from apache_beam.portability.api import beam_fn_api_pb2_grpc
from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer
from apache_beam.utils.thread_pool_executor import shared_unbounded_instance

from beam_pipeline.runtime.processes import LOOPBACK

# As in BeamFnExternalWorkerPoolServicer.start.
_GRPC_OPTIONS = (("grpc.http2.max_pings_without_data", 0), ("grpc.http2.max_ping_strikes", 0))


class LoopbackPool:
    """A running pool; its workers are threads of this process, or processes."""

    def __init__(self, options: PipelineOptions, *, port: int = 0, use_process: bool) -> None:
        """Starts the pool.

        Args:
            options: give the size of the workers' state cache.
            port: loopback port; 0 takes a free one.
            use_process: each worker is a process, started with the first `python` on PATH.
        """
        cache_mb = options.view_as(WorkerOptions).max_cache_memory_usage_mb
        self._servicer = BeamFnExternalWorkerPoolServicer(
            use_process=use_process, state_cache_size=cache_mb << 20
        )
        self._server = grpc.server(shared_unbounded_instance(), options=_GRPC_OPTIONS)
        self.endpoint = f"{LOOPBACK}:{self._server.add_insecure_port(f'{LOOPBACK}:{port}')}"
        beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(
            self._servicer, self._server
        )
        self._server.start()


def main() -> None:
    """Runs a pool of processes until a signal; its workers end with their process group."""
    parser = argparse.ArgumentParser(prog="beam_pipeline.worker_pool")
    parser.add_argument("--service_port", type=int, required=True)
    own, beam_arguments = parser.parse_known_args()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    pool = LoopbackPool(PipelineOptions(beam_arguments), port=own.service_port, use_process=True)
    print(f"workers are started at {pool.endpoint}", flush=True)
    stop.wait()


if __name__ == "__main__":
    main()
