"""Measures the delay from the end of a window to its file, and how many windows get a second file.

Starts an embedded Kafka and the pipeline as a user would (`python -m beam_pipeline run`) and
produces at an even rate without late events. The time of a file is its inode's change time, which
the committing rename sets.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from beam_pipeline import resources
from beam_pipeline.errors import PipelineError
from beam_pipeline.files.footer import read_footer
from beam_pipeline.files.names import OutputFile
from beam_pipeline.kafka.admin import TopicSpec, create_topics
from beam_pipeline.runtime.processes import ManagedProcess
from beam_pipeline.runtime.programs.broker import EmbeddedBroker
from beam_pipeline.runtime.programs.java import fetch_jars, find_java
from beam_pipeline.runtime.programs.progress import SetupProgress
from bench.landing import machine

TOPIC, IDLE_TOPIC = "latency", "idle"
FILES = "out/dt=*/hour=*/*.parquet"
WARM_UP_EVENTS = 100
SETTLE_SECONDS = 120.0
STOP_SECONDS = 15.0
POLL_SECONDS = 0.5
MAX_MEDIAN_SECONDS = 2.0
MAX_P99_SECONDS = 5.0
MAX_SECOND_PANE_SHARE = 0.02

RESULTS = Path(__file__).parent / "results"
ENGINES = ("prism", "flink")


@dataclass(frozen=True, slots=True)
class WindowFiles:
    """The files of one window and shard.

    `delay_seconds` runs from the window's end plus the watermark delay to its first file.
    """

    window_end: str
    shard: int
    delay_seconds: float
    panes: int


@dataclass(frozen=True, slots=True)
class Latency:
    """The results over all windows and shards that lie completely within the measured time."""

    windows: int
    median_seconds: float
    p90_seconds: float
    p99_seconds: float
    max_seconds: float
    second_pane_share: float

    @property
    def is_within_limits(self) -> bool:
        """Return whether reconcile is clean."""
        return (
            self.median_seconds <= MAX_MEDIAN_SECONDS
            and self.p99_seconds <= MAX_P99_SECONDS
            and self.second_pane_share < MAX_SECOND_PANE_SHARE
        )


def main() -> int:
    """Run the benchmark; return 0 if every record is covered and the limits hold, else 1."""
    args = _parse_flags()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    directory = Path(tempfile.mkdtemp(prefix="beam-pipeline-latency-"))
    try:
        started, ended, clean = _measure(args, directory)
        windows = window_files(directory.glob(FILES), args.watermark_delay_seconds, started, ended)
    except PipelineError as error:
        print(f"latency: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    if not windows:
        print(f"latency: --seconds={args.seconds:g}: no whole window lies in it", file=sys.stderr)
        return 2
    latency = latency_of(windows)
    _write_results(args, windows, latency, clean)
    Console().print(_table(args, latency, clean))
    return 0 if clean and latency.is_within_limits else 1


def window_files(
    paths: Iterable[Path], watermark_delay_seconds: float, started: float, ended: float
) -> list[WindowFiles]:
    """Return the windows of some files that lie completely between two Unix times (seconds)."""
    appeared: dict[tuple[datetime, int], list[float]] = defaultdict(list)
    for path in paths:
        file = OutputFile.parse(path)
        if (
            file
            and started <= file.window_start.timestamp()
            and file.window_end.timestamp() <= ended
        ):
            appeared[file.window_end, file.shard].append(path.stat().st_ctime)
    return [
        WindowFiles(
            window_end=end.isoformat(),
            shard=shard,
            delay_seconds=min(times) - end.timestamp() - watermark_delay_seconds,
            panes=len(times),
        )
        for (end, shard), times in sorted(appeared.items())
    ]


def latency_of(windows: list[WindowFiles]) -> Latency:
    """Return the distribution over at least one window."""
    delays = [window.delay_seconds for window in windows]
    median, p90, p99, most = np.percentile(delays, [50, 90, 99, 100]).tolist()
    return Latency(
        windows=len(windows),
        median_seconds=median,
        p90_seconds=p90,
        p99_seconds=p99,
        max_seconds=most,
        second_pane_share=sum(window.panes > 1 for window in windows) / len(windows),
    )


def _parse_flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    flags: list[tuple[str, type, float, str]] = [
        ("--events_per_second", float, 1000.0, "rate of the producer"),
        ("--seconds", float, 90.0, "how long is produced and measured"),
        ("--window_seconds", int, 5, "length of a window"),
        ("--watermark_delay_seconds", int, 2, "the pipeline's flag of that name"),
        ("--num_shards", int, 1, "files per window"),
        ("--partitions", int, 4, "partitions that get events"),
        ("--idle_partitions", int, 0, "partitions of another topic, which gets none"),
    ]
    for name, kind, default, text in flags:
        parser.add_argument(name, type=kind, default=default, help=f"{text} (default: {default:g})")
    parser.add_argument(
        "--engine", choices=ENGINES, default=ENGINES[0], help="what it runs on (default: prism)"
    )
    parser.add_argument(
        "--results",
        type=Path,
        metavar="FILE",
        help="JSON file for the numbers (default: bench/results/latency-ENGINE.json)",
    )
    args = parser.parse_args()
    args.results = args.results or RESULTS / f"latency-{args.engine}.json"
    return args


def _measure(args: argparse.Namespace, directory: Path) -> tuple[float, float, bool]:
    """Run broker, pipeline and producer in `directory` until every record is in a file.

    Returns:
        When producing began and ended (Unix time, seconds), and whether reconcile was clean.
    """
    with SetupProgress() as progress:
        java = find_java(progress)
        jars = fetch_jars(resources.java_lock_path("kafka"), progress)
    broker = EmbeddedBroker(
        directory / "kafka", java=java, jars=jars, log_file=directory / "broker.log"
    )
    with Console(stderr=True).status("starting Kafka") as status, broker:
        config = {"message.timestamp.type": "LogAppendTime"}
        topics = [TopicSpec(TOPIC, args.partitions, config)]
        if args.idle_partitions:
            topics.append(TopicSpec(IDLE_TOPIC, args.idle_partitions, config))
        create_topics(broker.connection, topics)
        bench = _Bench(args, directory, broker.bootstrap)
        status.update("starting the pipeline")
        with bench.pipeline() as pipeline:
            warm_up = bench.produce(pipeline, f"--events={WARM_UP_EVENTS}", events_per_second=0)
            bench.wait_for_rows(pipeline, warm_up)
            status.update(f"producing {args.events_per_second:g} events/s for {args.seconds:g} s")
            started = time.time()
            produced = bench.produce(
                pipeline, f"--seconds={args.seconds}", events_per_second=args.events_per_second
            )
            ended = time.time()
            status.update("waiting for the last file")
            bench.wait_for_rows(pipeline, warm_up + produced)
            code = pipeline.terminate(STOP_SECONDS)
        if code != 0:
            raise pipeline.failure(f"ended with exit code {code} on SIGTERM")
        status.update("reconciling")
        return started, ended, bench.reconcile()


def _topics(args: argparse.Namespace) -> str:
    return f"{TOPIC},{IDLE_TOPIC}" if args.idle_partitions else TOPIC


class _Bench:
    """The project's commands on one broker and one directory."""

    def __init__(self, args: argparse.Namespace, directory: Path, bootstrap: str) -> None:
        self._args = args
        self._directory = directory
        self._bootstrap = bootstrap

    def pipeline(self) -> ManagedProcess:
        """Start the pipeline."""
        args = self._args
        command = self._command(
            *("run", f"--engine={args.engine}", f"--input_topics={_topics(args)}", *self._files()),
            f"--window_seconds={args.window_seconds}",
            f"--watermark_delay_seconds={args.watermark_delay_seconds}",
            f"--num_shards={args.num_shards}",
            f"--log_dir={self._directory / 'logs'}",
        )
        return ManagedProcess("pipeline", command, self._directory / "run.log")

    def produce(self, pipeline: ManagedProcess, limit: str, *, events_per_second: float) -> int:
        """Produce up to the limit while the pipeline runs; return how many were acknowledged.

        Raises:
            EnvironmentFailure: the producer failed, or the pipeline ended.
        """
        report = self._directory / "producer.json"
        command = self._command(
            *("produce", f"--topic={TOPIC}", limit, f"--events_per_second={events_per_second}"),
            *("--quiet", f"--status_file={report}"),
        )
        with ManagedProcess("producer", command, self._directory / "producer.log") as producer:
            while producer.wait(POLL_SECONDS) is None:
                if not pipeline.alive:
                    raise pipeline.failure("ended")
        if producer.returncode != 0:
            raise producer.failure(f"ended with exit code {producer.returncode}")
        return int(json.loads(report.read_bytes())["acked"])

    def wait_for_rows(self, pipeline: ManagedProcess, count: int) -> None:
        """Wait until the files hold `count` rows.

        Raises:
            EnvironmentFailure: `SETTLE_SECONDS` passed, or the pipeline ended.
        """
        deadline = time.monotonic() + SETTLE_SECONDS
        while (rows := self._rows()) < count:
            if not pipeline.alive:
                raise pipeline.failure("ended")
            if time.monotonic() > deadline:
                raise pipeline.failure(
                    f"has {rows} of {count} records in files after {SETTLE_SECONDS:g} s"
                )
            time.sleep(POLL_SECONDS)

    def reconcile(self) -> bool:
        """Return whether every record is in exactly one place."""
        command = self._command("reconcile", f"--input_topics={TOPIC}", *self._files(), "--json")
        return subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode == 0

    def _command(self, *words: str) -> list[str]:
        cluster = f"--kafka_bootstrap_servers={self._bootstrap}"
        return [sys.executable, "-m", "beam_pipeline", *words, cluster]

    def _files(self) -> list[str]:
        return [
            f"--output_dir={self._directory / 'out'}",
            f"--dead_letter_dir={self._directory / 'dead'}",
        ]

    def _rows(self) -> int:
        return sum(read_footer(path).rows for path in self._directory.glob(FILES))


def _write_results(
    args: argparse.Namespace, windows: list[WindowFiles], latency: Latency, clean: bool
) -> None:
    results: dict[str, Any] = {
        "measured_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(),
        "flags": {name: value for name, value in vars(args).items() if name != "results"},
        "latency": asdict(latency),
        "reconcile_clean": clean,
        "windows": [asdict(window) for window in windows],
    }
    args.results.parent.mkdir(parents=True, exist_ok=True)
    args.results.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def _table(args: argparse.Namespace, latency: Latency, clean: bool) -> Table:
    table = Table(
        title=f"{args.engine}, {args.events_per_second:g} events/s, windows of "
        f"{args.window_seconds} s: from the "
        f"window's end + {args.watermark_delay_seconds} s to its file",
        title_justify="left",
    )
    cells = {
        "windows": str(latency.windows),
        "median": f"{latency.median_seconds:.2f} s",
        "p90": f"{latency.p90_seconds:.2f} s",
        "p99": f"{latency.p99_seconds:.2f} s",
        "max": f"{latency.max_seconds:.2f} s",
        "second panes": f"{latency.second_pane_share:.1%}",
        "reconcile": "clean" if clean else "NOT CLEAN",
    }
    for name in cells:
        table.add_column(name, justify="right")
    table.add_row(*cells.values())
    table.caption = (
        f"limits: median {MAX_MEDIAN_SECONDS:g} s, p99 {MAX_P99_SECONDS:g} s, second panes under "
        f"{MAX_SECOND_PANE_SHARE:.0%}: "
        f"{'kept' if latency.is_within_limits else 'NOT KEPT'}"
    )
    table.caption_justify = "left"
    return table


if __name__ == "__main__":
    sys.exit(main())
