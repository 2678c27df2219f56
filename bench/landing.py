"""Shared by the benchmarks that land a topic: filling it, running a contender, its figures."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from beam_pipeline import resources
from beam_pipeline.errors import EnvironmentFailure, UsageError
from beam_pipeline.kafka.admin import TopicSpec, create_topics
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.producer.send import produce
from beam_pipeline.producer.source import SourceRecord, synthetic
from beam_pipeline.runtime.programs.broker import EmbeddedBroker
from beam_pipeline.runtime.programs.java import fetch_jars, find_java
from beam_pipeline.runtime.programs.progress import SetupProgress
from beam_pipeline.runtime.resume import ends_of
from beam_pipeline.schemas import load_contract
from bench.compare import visible_files
from bench.lineup import Contender, Workload
from bench.measure import FirstFetch, Usage, run_measured

TOPIC = "bench"
OURS = "prism"
MEGABYTE = 1_000_000

BENCH_PYTHON = Path(__file__).resolve().parent / ".venv" / "bin" / "python"

say = partial(print, file=sys.stderr, flush=True)


class DifferentWorkError(Exception):
    """An output with the wrong content; the message says what is wrong."""


@dataclass(frozen=True, slots=True)
class Run:
    """The figures of one run.

    Attributes:
        events_per_second: all records over the time from the start of the process until its last
            file was complete.
        streaming_events_per_second: the same from the first read of the topic's log on; None if
            the file system has no access times.
        seconds_to_first_read: from the start of the process to that read; None likewise.
        peak_rss_mb: memory of all processes together, in 10^6 bytes.
        cpu_seconds_per_million: CPU time of all processes for a million records.
        output_bytes: size of the Parquet files and of the dead-letter files.
    """

    events_per_second: float
    streaming_events_per_second: float | None
    seconds_to_first_read: float | None
    peak_rss_mb: float
    cpu_seconds_per_million: float
    output_bytes: float


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, minimum and maximum of a figure over the runs."""

    median: float
    least: float
    most: float


def spread_of(runs: Sequence[Run], figure: str) -> Spread | None:
    """Return the spread of a figure; None if a run does not have the figure."""
    values = [getattr(run, figure) for run in runs]
    if not values or None in values:
        return None
    return Spread(median(values), min(values), max(values))


class Brokers:
    """Makes embedded brokers; Java and the jars are looked up once."""

    def __init__(self) -> None:
        with SetupProgress() as progress:
            self._java = find_java(progress)
            self._jars = fetch_jars(resources.java_lock_path("kafka"), progress)

    def make(self, directory: Path) -> EmbeddedBroker:
        """Return a broker, not started yet, with its data in `kafka` below a directory."""
        return EmbeddedBroker(
            directory / "kafka",
            java=self._java,
            jars=self._jars,
            log_file=directory / "broker.log",
        )


@dataclass(frozen=True, slots=True)
class Filling:
    """The content of a filled topic: total bytes of the values, and how many are invalid."""

    workload: Workload
    value_bytes: int
    broken: int


def commerce_events(seed: int, invalid_ratio: float) -> Iterator[SourceRecord]:
    """Return the synthetic events of `beam-pipeline produce`."""
    contract = load_contract(resources.event_schema_path())
    return synthetic(seed=seed, contract=contract, invalid_ratio=invalid_ratio)


def fill(
    connection: KafkaConnection,
    source: Iterator[SourceRecord],
    *,
    events: int,
    partitions: int,
    window_seconds: int,
    schema: Path | None = None,
) -> Filling:
    """Create the topic and produce `events` records at full speed.

    Args:
        connection: the cluster.
        source: the records.
        events: how many records to take.
        partitions: how many partitions the topic has.
        window_seconds: the length of a window.
        schema: the records' JSON Schema; None means that of the commerce events.
    """
    say(f"filling a topic with {events:,} events ...")
    config = {"message.timestamp.type": "LogAppendTime"}
    create_topics(connection, [TopicSpec(TOPIC, partitions, config)])
    value_bytes = 0

    def weighed() -> Iterator[SourceRecord]:
        nonlocal value_bytes
        for record in source:
            value_bytes += len(record.value or b"")
            yield record

    status = produce(weighed(), connection, TOPIC, max_events=events)
    ends = {partition: end for (_, partition), end in ends_of(connection, (TOPIC,)).items()}
    workload = Workload(connection.bootstrap_servers, TOPIC, ends, window_seconds, schema)
    return Filling(workload, value_bytes, status.invalid.total())


@dataclass(frozen=True, slots=True)
class Landing:
    """A successful run of a contender; its output is in `directory`."""

    contender: Contender
    directory: Path
    usage: Usage
    first_read_ns: int | None

    @property
    def output_dir(self) -> Path:
        """The directory of the Parquet files."""
        return self.directory / "out"

    @property
    def dead_letter_dir(self) -> Path:
        """The directory of the dead-letter files."""
        return self.directory / "dead"

    def figures(self, records: int) -> Run:
        """Return the figures of the run, which landed `records`."""
        files = [
            *visible_files(self.output_dir, ".parquet"),
            *visible_files(self.dead_letter_dir, ".jsonl"),
        ]
        if not files:
            raise DifferentWorkError(f"{self.contender.name}: there are no files")
        outputs = [path.stat() for path in files]
        return figures(
            records,
            self.usage,
            self.first_read_ns,
            last_file_ns=max(output.st_ctime_ns for output in outputs),
            output_bytes=sum(output.st_size for output in outputs),
        )

    def remove(self) -> None:
        """Remove the output."""
        shutil.rmtree(self.directory)


class Lander:
    """Runs contenders on a filled topic; the broker's data is below `directory`."""

    def __init__(self, directory: Path, workload: Workload, timeout_seconds: float) -> None:
        self._directory = directory
        self._workload = workload
        self._timeout_seconds = timeout_seconds
        self._segments = sorted((directory / "kafka").rglob(f"{TOPIC}-*/*.log"))
        self._runs = 0

    def land(self, contender: Contender) -> Landing:
        """Run a contender to its end.

        Raises:
            EnvironmentFailure: the contender failed or took too long.
        """
        self._runs += 1
        directory = self._directory / f"run{self._runs}_{contender.name}"
        directory.mkdir()
        launch = contender.launch(self._workload, directory)
        log_file = self._directory / f"{directory.name}.log"
        fetch = FirstFetch(self._segments)
        usage = run_measured(
            contender.name,
            launch.command,
            log_file,
            env=launch.env,
            cwd=directory,
            timeout_seconds=self._timeout_seconds,
        )
        if usage.exit_code != 0:
            raise EnvironmentFailure(
                f"{contender.name} ended with exit code {usage.exit_code}: "
                f"{log_file.read_text(errors='replace')[-1000:]}"
            )
        return Landing(contender, directory, usage, fetch.time_ns())


def figures(
    records: int,
    usage: Usage,
    first_read_ns: int | None,
    *,
    last_file_ns: int,
    output_bytes: int,
) -> Run:
    """Return the figures of a run that landed `records`; times in nanoseconds since 1970."""
    streaming, to_first_read = None, None
    if first_read_ns is not None:
        streaming = records * 1e9 / (last_file_ns - first_read_ns)
        to_first_read = (first_read_ns - usage.started_ns) / 1e9
    return Run(
        events_per_second=records * 1e9 / (last_file_ns - usage.started_ns),
        streaming_events_per_second=streaming,
        seconds_to_first_read=to_first_read,
        peak_rss_mb=usage.peak_rss_bytes / MEGABYTE,
        cpu_seconds_per_million=usage.cpu_seconds * 1e6 / records,
        output_bytes=output_bytes,
    )


NumberFlag = tuple[str, Callable[[str], Any], float, str]
"""Name, conversion, default and help of a flag that takes a number."""


def add_numbers(parser: argparse.ArgumentParser, numbers: Iterable[NumberFlag]) -> None:
    """Add flags, each with its default in its help."""
    for name, kind, default, text in numbers:
        parser.add_argument(
            name, type=kind, default=default, metavar="N", help=f"{text} (default: {default:,})"
        )


@contextmanager
def work_directory(prefix: str, *, keep: bool) -> Iterator[Path]:
    """Yield a temporary directory, which is removed at the end and by SIGTERM, unless kept."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    directory = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield directory
    finally:
        if keep:
            say(f"files and logs are in {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)


def names_in(text: str | None) -> list[str]:
    """Return the names in a comma-separated list; none for an empty text."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def choose(
    contenders: Iterable[Contender], named: Sequence[str], flag: str, default: Sequence[str] = ()
) -> list[Contender]:
    """Return the contenders to run; print those that can't run.

    Args:
        contenders: all contenders.
        named: the names given in `flag`; an empty list means the default.
        flag: the flag with its value, for messages.
        default: the default names; an empty list means all.

    Raises:
        UsageError: a name is unknown, or a named contender can't run here.
        EnvironmentFailure: no contender can run.
    """
    by_name = {contender.name: contender for contender in contenders}
    for name in named:
        if name not in by_name:
            raise UsageError(f"{flag}: no contender {name!r}; there are {list(by_name)}")
    wanted = named or default or list(by_name)
    chosen = []
    for name, contender in by_name.items():
        if name not in wanted:
            continue
        missing = contender.missing()
        if missing is None:
            chosen.append(contender)
        elif named:
            raise UsageError(f"{flag}: {name} can't run: {missing}")
        else:
            say(f"{name} is left out: {missing}")
    if not chosen:
        raise EnvironmentFailure("no contender can run here")
    return chosen


def machine() -> dict[str, Any]:
    """Return what the benchmark runs on; memory in 10^9 bytes."""
    return {
        "cpu": _cpu_model(),
        "cpus": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "apache_beam": version("apache-beam"),
    }


def _cpu_model() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None
    )
