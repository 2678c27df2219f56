"""The process that commits landed files to a table; `runtime.table_committer` starts it.

It makes a round at once and then each `--commit_interval`. In between it merges small files, and
leaves off when the next round is due or the run ends. SIGTERM makes it commit what is there, try
again while that fails for now, and end. With `--last` it does only that.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import signal
import sys
import threading
import time
from collections.abc import Generator
from pathlib import Path

import pyarrow as pa

from beam_pipeline.settings.table import TableJob
from beam_pipeline.tables.committer import Committer

_RETRY_SECONDS = 1.0


def main() -> int:
    """Commit until SIGTERM; return 0 once everything that had landed is in the table, else 1."""
    parser = argparse.ArgumentParser(prog="beam_pipeline.tables")
    parser.add_argument("--job_file", type=Path, required=True)
    parser.add_argument("--progress_file", type=Path, required=True)
    parser.add_argument("--last", action="store_true")
    args = parser.parse_args()
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    pa.set_cpu_count(1)  # the machine's cores are the workers'
    ends = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ends.set())
    job = TableJob.read(args.job_file)
    committer = Committer(job)
    is_last: bool = args.last
    merging: Generator[None, None, None] = committer.compaction()
    while True:
        is_done = committer.round()
        with contextlib.suppress(OSError):
            committer.progress.write(args.progress_file)
        if is_last and (is_done or committer.needs_user):
            return 0 if is_done else 1
        if is_last:
            threading.Event().wait(_RETRY_SECONDS)
            continue
        next_round = time.monotonic() + job.table.commit_interval_seconds
        while not ends.is_set() and time.monotonic() < next_round:
            try:
                next(merging)
            except StopIteration:
                merging = committer.compaction()
                with contextlib.suppress(OSError):
                    committer.progress.write(args.progress_file)
                break
        is_last = ends.wait(max(0.0, next_round - time.monotonic()))
        if is_last:
            merging.close()


if __name__ == "__main__":
    sys.exit(main())
