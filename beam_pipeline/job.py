"""One submission of the pipeline: build the graph, run it, report its counters, end on SIGTERM.

Run as `python -m beam_pipeline.job FLAGS`. The runner and the expansion service are started by
whoever starts this process. The flags are Beam's, so the runner is whatever they name, and those of
the pipeline (`IngestOptions`). The command line gives `--job_file` instead of the latter.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import signal
import socket
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import apache_beam as beam
from apache_beam.metrics.monitoring_infos import (
    NAME_LABEL,
    NAMESPACE_LABEL,
    PTRANSFORM_LABEL,
    USER_COUNTER_URN,
    extract_counter_value,
)
from apache_beam.options.pipeline_options import DebugOptions, PipelineOptions, PortableOptions
from apache_beam.portability.api import beam_job_api_pb2
from apache_beam.runners.runner import PipelineResult, PipelineState

from beam_pipeline.config import IngestConfig
from beam_pipeline.errors import EnvironmentFailure, PipelineError
from beam_pipeline.job_file import COLUMNS_FILE, JobFile
from beam_pipeline.kafka.admin import create_time_topics, partition_counts
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.landed_columns import landed_columns
from beam_pipeline.options import IngestOptions
from beam_pipeline.pipeline import build_pipeline
from beam_pipeline.records import METRICS_NAMESPACE
from beam_pipeline.runtime.programs.kernel import look_for_kernel
from beam_pipeline.storage.durable import write_atomically
from beam_pipeline.worker_pool import WorkerPool
from beam_pipeline.worker_start import tune_garbage_collector

STATUS_INTERVAL_SECONDS = 0.5
PARTITIONS_AT_A_TIME = 16
ENDPOINT_TIMEOUT_SECONDS = 60.0

_log = logging.getLogger(__name__)


def main(arguments: list[str] | None = None) -> int:
    """Run the job until it ends or gets a signal; return 0 after a signal."""
    parser = argparse.ArgumentParser(prog="beam_pipeline.job", add_help=False)
    parser.add_argument("--job_file", type=Path)
    parser.add_argument("--detach", action="store_true", help="the job outlives this process")
    own, beam_arguments = parser.parse_known_args(arguments)
    job_file = JobFile.read(own.job_file) if own.job_file else None
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        options = PipelineOptions(beam_arguments, streaming=True)
        ingest_options = options.view_as(IngestOptions)
        if job_file:
            config = job_file.ingest_config(ingest_options.expansion_service)
        else:
            config = ingest_options.ingest_config()
        pool = loopback_pool(options)  # ends when nothing refers to it
        config = replace(
            config, plain_source=ingest_options.plain_source, packs_dir=ingest_options.packs_dir
        )
        config = with_kernel(config)
        config = with_readers(config, options.view_as(PortableOptions))
        config = with_create_time_topics(config)
        config = with_fair_turns(config)
        await_endpoints(config.expansion_service, options.view_as(PortableOptions).job_endpoint)
        pipeline = beam.Pipeline(options=options)
        build_pipeline(pipeline, config)
        if job_file:
            write_columns(Path(job_file.status_file).with_name(COLUMNS_FILE), config)
        if pool:
            tune_garbage_collector()
        result = pipeline.run()
    except PipelineError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    status_file = Path(job_file.status_file) if job_file else None
    code = _watch(result, stop, status_file, own.detach)
    del pool
    return code


def with_kernel(config: IngestConfig) -> IngestConfig:
    """Return the settings with the kernel of the compiled contract, if it is in the cache.

    It travels with the transforms, so workers on other machines need no file.
    """
    if not config.compiled_contract:
        return config
    return replace(config, rules=replace(config.rules, kernel=look_for_kernel()))


def with_readers(config: IngestConfig, options: PortableOptions) -> IngestConfig:
    """Return the settings with the number of worker processes that share the partitions."""
    if config.goal is None:
        return config
    processes = int(options.sdk_worker_parallelism)  # a text where the option is given
    return replace(config, goal=replace(config.goal, readers=processes))


def with_create_time_topics(config: IngestConfig) -> IngestConfig:
    """Return the settings with the topics whose records are stamped by their producers.

    The watermark of such topics follows another rule, and a topic may have been altered since the
    last epoch.

    Raises:
      EnvironmentFailure: a topic is missing, or the cluster refused.
    """
    if not config.follow_append_time:
        return config
    connection = KafkaConnection.of_java(config.client_properties)
    topics = create_time_topics(connection, config.input_topics)
    return replace(config, create_time=replace(config.create_time, topics=topics))


def with_fair_turns(config: IngestConfig) -> IngestConfig:
    """Return the settings with how long a turn of the reader at a partition takes.

    Prism reads `PARTITIONS_AT_A_TIME`. Of more partitions each waits for those before it, so turns
    are shorter and come round in the same time. One without a record is shorter still: many idle
    partitions must not hold up a busy one.

    Raises:
      EnvironmentFailure: the cluster refused.
    """
    connection = KafkaConnection.of_java(config.client_properties)
    partitions = sum(partition_counts(connection, config.input_topics).values())
    rounds = max(1.0, partitions / PARTITIONS_AT_A_TIME)
    return replace(config, turns=config.turns.shared_by(rounds))


def loopback_pool(options: PipelineOptions) -> WorkerPool | None:
    """Start the worker pool for `--environment_type=LOOPBACK` and name it in `options`.

    The pool that Beam would start in this process listens on all interfaces.
    """
    portable = options.view_as(PortableOptions)
    if portable.environment_type != "LOOPBACK":
        return None
    pool = WorkerPool(options, use_process=False)
    portable.environment_type, portable.environment_config = "EXTERNAL", pool.endpoint
    # Beam would list this environment's packages (pip freeze), for workers elsewhere.
    options.view_as(DebugOptions).add_experiment("disable_logging_submission_environment")
    return pool


def await_endpoints(*endpoints: str | None) -> None:
    """Wait until each host:port accepts connections; they start while this process imports Beam.

    Raises:
      EnvironmentFailure: an endpoint does not within `ENDPOINT_TIMEOUT_SECONDS`.
    """
    deadline = time.monotonic() + ENDPOINT_TIMEOUT_SECONDS
    for endpoint in filter(None, endpoints):
        host, _, port = endpoint.rpartition(":")
        while True:
            try:
                socket.create_connection((host, int(port)), timeout=1.0).close()
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise EnvironmentFailure(f"{endpoint} can't be reached: {error}") from None
                time.sleep(0.05)


def _watch(
    result: PipelineResult, stop: threading.Event, status_file: Path | None, detach: bool
) -> int:
    """Wait for the job's end or the signal, and write the status regularly.

    No status is written for a job that outlives this process: Beam's job server does not know its
    counters.
    """
    if detach:
        status_file = None
    while not stop.wait(STATUS_INTERVAL_SECONDS):
        if PipelineState.is_terminal(result.state):
            print(f"the job failed: {reason_of(result)}", file=sys.stderr)
            return 1
        if status_file:
            write_status(status_file, result)
    if detach:
        return 0
    if status_file:
        write_status(status_file, result)
    result.cancel()
    return 0


def reason_of(result: PipelineResult) -> str:
    """Return why a job ended: the last exception that its messages name."""
    try:
        result.wait_until_finish()
    except RuntimeError as error:
        exceptions = re.findall(r"(?:\w+\.)*\w*(?:Error|Exception|Failure): [^\n\\]+", str(error))
        return str(exceptions[-1] if exceptions else error)[:500]
    return f"it ended by itself in state {result.state}"


def write_columns(path: Path, config: IngestConfig) -> None:
    """Write the columns of the files for the supervisor, which notes them once rows have landed."""
    columns = landed_columns(
        config.contract, config.reference_dir, config.transforms, config.kafka_columns
    )
    write_atomically(path, json.dumps(columns).encode(), durable=False, private=False)


def write_status(path: Path, result: PipelineResult) -> None:
    """Write `{"state": …, "counters": {name: count}}` atomically."""
    try:
        counters = counters_of(result)
    except Exception as error:  # the runner may be gone; the state will tell
        _log.warning("no counters from the runner: %s", error)
        return
    content = json.dumps({"state": result.state, "counters": counters}).encode()
    write_atomically(path, content, durable=False, private=False)


def counters_of(result: PipelineResult) -> dict[str, int]:
    """Return the pipeline's own counters, summed over its steps.

    This sends the request of `PortableResult.metrics` (Beam 2.73) directly. That method caches its
    first answer, and makes an object of every metric of every step, which takes 65 ms.
    """
    answer = result._job_service.GetJobMetrics(  # type: ignore[attr-defined]
        beam_job_api_pb2.GetJobMetricsRequest(job_id=result._job_id)  # type: ignore[attr-defined]
    )
    by_step: dict[tuple[str, str], int] = {}
    for info in (*answer.metrics.attempted, *answer.metrics.committed):
        if info.urn != USER_COUNTER_URN or info.labels[NAMESPACE_LABEL] != METRICS_NAMESPACE:
            continue
        by_step[info.labels[PTRANSFORM_LABEL], info.labels[NAME_LABEL]] = extract_counter_value(
            info
        )
    counters: Counter[str] = Counter()
    for (_, name), count in by_step.items():
        counters[name] += count
    return counters


if __name__ == "__main__":
    # os._exit: Beam's gRPC threads may keep the interpreter alive after the runner is gone.
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
