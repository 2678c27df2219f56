"""What a process of this project does before it runs bundles as a Python worker.

On Flink the worker pool starts `python -m beam_pipeline.worker_start`, which is one worker. On
Prism the job's process is the worker, and calls `tune_garbage_collector` itself. The public
transforms do not: they leave such settings to the pipeline that uses them.
"""

from __future__ import annotations

import argparse
import gc
import os
import threading
import time

from apache_beam.runners.worker.sdk_worker import SdkHarness

import beam_pipeline.io  # noqa: F401 - what bundles use is imported before the freeze

_GC_THRESHOLDS = (100_000, 20, 100)
"""A bundle's records are tens of thousands of objects without a reference cycle. With Python's
threshold of 700 the collector takes a fifteenth of the worker's time."""

_LOOK_SECONDS = 1.0


def tune_garbage_collector() -> None:
    """Have the garbage collector of this process run less often, and leave out what it has now."""
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)


def end_with_pool(pool_pid: int) -> None:
    """End this process soon after its parent, the worker pool, is gone.

    A worker whose runner dies before it has answered waits for it without end (Beam 2.73). The
    kernel's death signal is no help: it comes when the thread of the pool ends that began the
    process.
    """

    def watch() -> None:
        while os.getppid() == pool_pid:
            time.sleep(_LOOK_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="end-with-pool", daemon=True).start()


def main(arguments: list[str] | None = None) -> None:
    """Run one worker until the runner ends the connection."""
    parser = argparse.ArgumentParser(prog="beam_pipeline.worker_start", description=__doc__)
    parser.add_argument("--control_endpoint", required=True, help="host:port of the runner")
    parser.add_argument("--worker_id", required=True, help="as the runner knows this worker")
    parser.add_argument("--pool_pid", type=int, required=True, help="process that started this")
    parser.add_argument("--state_cache_bytes", type=int, default=0, help="size of the state cache")
    flags = parser.parse_args(arguments)
    end_with_pool(flags.pool_pid)
    tune_garbage_collector()
    SdkHarness(
        flags.control_endpoint,
        worker_id=flags.worker_id,
        state_cache_size=flags.state_cache_bytes,
    ).run()


if __name__ == "__main__":
    main()
