"""`beam-pipeline flink`: status, savepoint and cancel of the job that writes a directory."""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

from rich.console import Console

from beam_pipeline.errors import EnvironmentFailure, UsageError
from beam_pipeline.files.left_out import left_out_text, load_left_out
from beam_pipeline.files.parts import parts_below
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.runtime.flink.cluster import jars_without_flink
from beam_pipeline.runtime.flink.engine import end_job, find_flink_tools
from beam_pipeline.runtime.flink.job_record import FlinkJobRecord, job_records
from beam_pipeline.runtime.flink.metrics import job_counters
from beam_pipeline.runtime.flink.rest import FlinkJob, FlinkRest
from beam_pipeline.runtime.programs.jvm import LOOPBACK_RULE
from beam_pipeline.settings.config import metrics_settings
from beam_pipeline.settings.flags import (
    add_kafka_flags,
    add_metrics_flags,
    add_shared,
    topic_names,
)
from beam_pipeline.settings.places import place_of
from beam_pipeline.storage.config import read_storage_config
from beam_pipeline.storage.paths import ObjectPath, StoredPath
from beam_pipeline.storage.urls import absolute, is_url, stored_path

ACTIONS = ("status", "savepoint", "cancel", "jars", "serve-metrics")
DEFAULT_METRICS_PORT = 9464
METRICS_FETCH_SECONDS = 1.0

_DESCRIPTION = """\
Manages the Flink job that writes an output directory. A record in _ledger below the directory
identifies it.

  status     print its state, checkpoints and counters; exit code 1 if it does not run
  savepoint  take a savepoint, from which --from_savepoint resumes
  cancel     end a detached job; a later start resumes from the files
  jars       copy Beam's jars to --lib_dir, the lib directory of your own Flink
  serve-metrics
             serve metrics of a detached job for Prometheus, until Ctrl-C; it only reads, and needs
             --kafka_bootstrap_servers
"""
_EPILOG = """\
examples:
  ./run_flink.sh status --output_dir=lake/orders
  ./run_flink.sh savepoint --output_dir=lake/orders --savepoint_dir=file:///shared/savepoints
  ./run_flink.sh cancel --output_dir=lake/orders
  ./run_flink.sh jars --lib_dir=/opt/flink/lib
  ./run_flink.sh serve-metrics --output_dir=lake/orders --kafka_bootstrap_servers=localhost:9092
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `flink`, its description and its examples to `parser`."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("action", choices=ACTIONS, metavar="ACTION", help=", ".join(ACTIONS))
    add_shared(parser, "output_dir", "storage_config")
    parser.add_argument(
        "--savepoint_dir",
        metavar="URI",
        help="directory of the savepoints, as the cluster sees it (default: the cluster's "
        "state.savepoints.dir; for a cluster that run_flink.sh started: _flink/savepoints below "
        "--output_dir, which must be a directory)",
    )
    parser.add_argument(
        "--lib_dir",
        metavar="DIR",
        type=Path,
        help="the directory that `jars` copies to",
    )
    served = parser.add_argument_group("serve-metrics")
    add_kafka_flags(served)
    served.add_argument(
        "--input_topics",
        type=topic_names,
        metavar="TOPIC[,…]",
        help="the topics that the job reads (default: those noted beside the files, once it has "
        "written one)",
    )
    add_metrics_flags(served)


def run(args: argparse.Namespace) -> int:
    """Carry out the action and return the exit code.

    Raises:
      UsageError: `jars` without --lib_dir; `savepoint` without --savepoint_dir where it has no
        default.
      EnvironmentFailure: there is no job, or the cluster refuses.
    """
    console = Console(soft_wrap=True, highlight=False, markup=False)
    if args.action == "jars":
        return _copy_jars(args.lib_dir, console)
    output_dir = place_of(args, "output_dir")
    if args.action == "serve-metrics":
        return _serve_metrics(args, output_dir, console)
    records = job_records(output_dir)
    if not records:
        raise EnvironmentFailure(f"--output_dir={output_dir}: no Flink job is recorded for it")
    record = records[0]
    job = record.running_job()
    if args.action == "status":
        return _status(record, job, args, console)
    if job is None:
        raise EnvironmentFailure(f"job {record.job_name} does not run on {record.master}")
    if args.action == "savepoint":
        _savepoint(record, job, output_dir, args.savepoint_dir, console)
    else:
        end_job(FlinkRest(record.master), job.id)
        console.print(f"job {job.id} is cancelled; a later start resumes from the files")
    return 0


def _serve_metrics(args: argparse.Namespace, output_dir: StoredPath, console: Console) -> int:
    # Imported here, so that help is immediate.
    from beam_pipeline.commands.launch import stop_on_signals
    from beam_pipeline.commands.metrics.detached import POLL_SECONDS, DetachedJob, DetachedPlace
    from beam_pipeline.commands.metrics.server import MetricsServer

    if args.metrics_port is None:
        args.metrics_port = DEFAULT_METRICS_PORT
    settings = metrics_settings(vars(args))
    assert settings is not None
    config = read_storage_config(args.storage_config)

    def dead_letter_dir(text: str) -> StoredPath:
        return stored_path(text, config) if is_url(text) else Path(text)

    connection = KafkaConnection.from_flags(args.kafka_bootstrap_servers, args.kafka_config)
    if not job_records(output_dir):
        raise EnvironmentFailure(f"--output_dir={output_dir}: no Flink job is recorded for it")
    place = DetachedPlace(output_dir, dead_letter_dir, connection, args.input_topics or ())
    job, stop = DetachedJob(place), stop_on_signals()
    with MetricsServer(settings, job.look()) as server:
        console.print(f"metrics: {server.url}")
        while not stop.wait(POLL_SECONDS):
            server.show(job.look())
    return 0


def _copy_jars(directory: Path | None, console: Console) -> int:
    if directory is None:
        raise UsageError("--lib_dir is missing: name the directory that the jars are copied to")
    jars = jars_without_flink(find_flink_tools(with_cluster=False).jars)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for file in (*jars, LOOPBACK_RULE):
            shutil.copy(file, directory)
    except OSError as error:
        raise EnvironmentFailure(f"--lib_dir={directory}: {error.strerror}") from None
    console.print(f"{len(jars)} jars in {directory}")
    return 0


def _status(
    record: FlinkJobRecord, job: FlinkJob | None, args: argparse.Namespace, console: Console
) -> int:
    if job is None:
        console.print(f"job {record.job_name} does not run on {record.master}")
        return 1
    rest = FlinkRest(record.master)
    # Flink answers with what it fetched at the request before, and only then fetches again.
    job_counters(rest, job.id)
    time.sleep(METRICS_FETCH_SECONDS)
    checkpoints, counters = rest.checkpoints(job.id), job_counters(rest, job.id)
    latest = (
        f"; the last one {checkpoints.latest_bytes:,} bytes in "
        f"{checkpoints.latest_duration_ms:,} ms, {checkpoints.latest_path}"
    )
    counts = [f"{name} {count:,}" for name, count in sorted(counters.items()) if count]
    console.print(
        f"job {job.id}: {job.state}, epoch {record.epoch}\n"
        f"web UI: {rest.web_url}/#/job/running/{job.id}\n"
        f"checkpoints: {checkpoints.completed} completed, {checkpoints.failed} failed, "
        f"{checkpoints.restored} restored{latest if checkpoints.completed else ''}\n"
        f"since the last restore: {', '.join(counts) or 'nothing counted yet'}"
    )
    if left_out := load_left_out(place_of(args, "output_dir")).note.ranges:
        console.print(f"left out: {left_out_text(left_out)}")
    if record.detached:  # otherwise the command that watches the job sweeps
        config = read_storage_config(args.storage_config)
        for root in (args.output_dir, record.dead_letter_dir):
            parts = parts_below(absolute(root), record.epoch, config, record.parts_dir)
            parts.sweep(record.part_retention_seconds)
    return 0


def _default_savepoint_dir(output_dir: StoredPath) -> str:
    """Return where a cluster that was started here writes its savepoints.

    Raises:
      UsageError: the output is in an object store.
    """
    if isinstance(output_dir, ObjectPath):
        raise UsageError(
            "--savepoint_dir is missing: Flink itself writes savepoints, and the cluster that "
            f"run_flink.sh started has no file system for --output_dir={output_dir}; give a "
            "directory, such as file:///shared/savepoints"
        )
    return (output_dir.absolute() / "_flink" / "savepoints").as_uri()


def _savepoint(
    record: FlinkJobRecord,
    job: FlinkJob,
    output_dir: StoredPath,
    directory: str | None,
    console: Console,
) -> None:
    if directory is None and record.local:
        directory = _default_savepoint_dir(output_dir)
    path = FlinkRest(record.master).savepoint(job.id, directory)
    record.with_savepoint(path).save(output_dir)
    console.print(f"savepoint {path}; resume from it with --from_savepoint={path}")
