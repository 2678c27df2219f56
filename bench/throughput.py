"""How fast the pipeline is, beside others that do the same work: the table of `bench/run.sh`.

Fills a topic with synthetic events, then lets each contender land all of it, in turn, several times
over. Every output is compared with that of the pipeline on Prism, row for row, before a figure is
printed: same work or no figure.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from beam_pipeline import resources
from beam_pipeline.errors import EnvironmentFailure, PipelineError, UsageError
from beam_pipeline.io.kafka_admin import TopicSpec, create_topics
from beam_pipeline.io.kafka_connection import KafkaConnection
from beam_pipeline.runtime.broker import EmbeddedBroker
from beam_pipeline.runtime.java import fetch_jars, find_java
from beam_pipeline.runtime.processes import run_to_end
from beam_pipeline.runtime.progress import SetupProgress
from beam_pipeline.runtime.resume import ends_of
from beam_pipeline.schemas import load_contract
from beam_pipeline.schemas.contract import file_schema
from beam_pipeline.transforms import Enrich, Normalize
from bench.compare import OutputReader, differences, incompleteness, visible_files
from bench.lineup import Contender, Workload, lineup
from bench.measure import FirstFetch, Usage, run_measured

TOPIC = "bench"
OURS = "prism"
MEGABYTE = 1_000_000

RESULTS = Path(__file__).resolve().parent / "results" / "latest.json"
BENCH_PYTHON = Path(__file__).resolve().parent / ".venv" / "bin" / "python"

say = partial(print, file=sys.stderr, flush=True)


class DifferentWorkError(Exception):
    """An output that is not the same as ours; the message tells what differs."""


@dataclass(frozen=True, slots=True)
class Run:
    """The figures of one run.

    Attributes:
        events_per_second: all records over the time from the start of the process until its last
            file was complete.
        streaming_events_per_second: the same, but from the first read of the topic's log on; None
            where the file system does not tell.
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


def main() -> int:
    """Runs the bench; 0 when every output was the same, 1 when not, 2 for a wrong flag."""
    args = _parse_flags()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    directory = Path(tempfile.mkdtemp(prefix="beam_pipeline_bench_"))
    try:
        results = _bench(args, directory)
    except PipelineError as error:
        say(f"bench: {error}")
        return error.exit_code
    except DifferentWorkError as error:
        say(f"bench: not the same work, so no figures: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        if args.keep:
            say(f"files and logs are in {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)
    Console(width=None if sys.stdout.isatty() else 160).print(results_table(results, args))
    args.results.parent.mkdir(parents=True, exist_ok=True)
    args.results.write_text(json.dumps(results_json(results, args), indent=2) + "\n")
    return 0


def _parse_flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench/run.sh", description=__doc__.partition("\n")[0] if __doc__ else None
    )
    flags: list[tuple[str, type, float, str]] = [
        ("--events", int, 1_000_000, "records in the topic"),
        ("--repeats", int, 3, "runs of each contender"),
        ("--partitions", int, 4, "partitions of the topic"),
        ("--invalid_ratio", float, 0.01, "share of records, 0 to 1, that are broken on purpose"),
        ("--window_seconds", int, 10, "length of a window"),
        ("--seed", int, 1, "the same seed makes the same events"),
        ("--timeout_seconds", float, 1800, "the longest that one run may take"),
    ]
    for name, kind, default, text in flags:
        parser.add_argument(
            name, type=kind, default=default, metavar="N", help=f"{text} (default: {default:,})"
        )
    parser.add_argument(
        "--only",
        metavar="NAME,…",
        help="contenders to run, of prism, flink, loop, bytewax, quixstreams (default: all)",
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=RESULTS,
        metavar="FILE",
        help="JSON file for the figures (default: bench/results/latest.json)",
    )
    parser.add_argument(
        "--bench_python",
        type=Path,
        default=BENCH_PYTHON,
        metavar="FILE",
        help="Python that has the other contenders' packages (default: bench/.venv/bin/python)",
    )
    parser.add_argument("--keep", action="store_true", help="keep topic, outputs and logs")
    args = parser.parse_args()
    if min(args.events, args.repeats, args.partitions, args.window_seconds) < 1:
        parser.error("--events, --repeats, --partitions and --window_seconds must be 1 or more")
    return args


def _bench(args: argparse.Namespace, directory: Path) -> dict[Contender, list[Run]]:
    contenders = _chosen(args)
    with SetupProgress() as progress:
        java = find_java(progress)
        jars = fetch_jars(resources.java_lock_path("kafka"), progress)
    broker = EmbeddedBroker(
        directory / "kafka", java=java, jars=jars, log_file=directory / "broker.log"
    )
    with broker:
        workload = _fill(args, broker.connection, directory)
        segments = sorted((directory / "kafka").rglob(f"{TOPIC}-*/*.log"))
        bench = _Bench(args, directory, workload, segments)
        bench.make_reference(contenders[0] if contenders[0].name == OURS else _ours(args))
        results: dict[Contender, list[Run]] = {contender: [] for contender in contenders}
        for repeat in range(1, args.repeats + 1):
            for contender in contenders:
                say(f"run {repeat} of {args.repeats}: {contender.title} ...")
                results[contender].append(bench.run(contender))
    return results


def _chosen(args: argparse.Namespace) -> list[Contender]:
    """The contenders that run: those named, without the ones that can't, of which it tells.

    Raises:
        UsageError: an unknown name, or one whose contender can't run here.
        EnvironmentFailure: none can run.
    """
    contenders = lineup(args.bench_python.absolute())
    known = [contender.name for contender in contenders]
    named = [name.strip() for name in (args.only or "").split(",") if name.strip()]
    for name in named:
        if name not in known:
            raise UsageError(f"--only={args.only}: no contender {name!r}; there are {known}")
    chosen = []
    for contender in contenders:
        if named and contender.name not in named:
            continue
        missing = contender.missing()
        if missing is None:
            chosen.append(contender)
        elif named:
            raise UsageError(f"--only={args.only}: {contender.name} can't run: {missing}")
        else:
            say(f"{contender.name} is left out: {missing}")
    return chosen


def _ours(args: argparse.Namespace) -> Contender:
    return next(one for one in lineup(args.bench_python) if one.name == OURS)


def _fill(args: argparse.Namespace, connection: KafkaConnection, directory: Path) -> Workload:
    """Makes the topic and produces its records."""
    say(f"filling a topic with {args.events:,} events ...")
    config = {"message.timestamp.type": "LogAppendTime"}
    create_topics(connection, [TopicSpec(TOPIC, args.partitions, config)])
    command = [
        *(sys.executable, "-m", "beam_pipeline", "produce", f"--topic={TOPIC}"),
        f"--kafka_bootstrap_servers={connection.bootstrap_servers}",
        *(f"--events={args.events}", "--events_per_second=0", "--quiet"),
        *(f"--invalid_ratio={args.invalid_ratio}", f"--seed={args.seed}"),
    ]
    log_file = directory / "producer.log"
    if run_to_end("producer", command, log_file) != 0:
        raise EnvironmentFailure(f"the producer failed: {log_file.read_text()[-500:]}")
    ends = {partition: end for (_, partition), end in ends_of(connection, (TOPIC,)).items()}
    return Workload(connection.bootstrap_servers, TOPIC, ends, args.window_seconds)


class _Bench:
    """Runs contenders on one filled topic and holds their outputs against the first of ours."""

    def __init__(
        self, args: argparse.Namespace, directory: Path, workload: Workload, segments: list[Path]
    ) -> None:
        self._args = args
        self._directory = directory
        self._workload = workload
        self._segments = segments
        self._schema = _row_schema()
        self._runs = 0
        self._reference: OutputReader | None = None

    def make_reference(self, ours: Contender) -> None:
        """Lets ours run once, unmeasured: what the others must equal; it warms the caches too.

        Raises:
            DifferentWorkError: a record is lost or doubled.
        """
        say(f"reference: {ours.title}, not measured ...")
        directory, _, _ = self._launch(ours)
        self._reference = self._reader(directory)
        for partition, end in self._workload.ends.items():
            wrong = incompleteness(self._reference.read(partition), end)
            if wrong:
                raise DifferentWorkError(f"{ours.name}, partition {partition}: {'; '.join(wrong)}")

    def run(self, contender: Contender) -> Run:
        """Runs a contender once.

        Raises:
            DifferentWorkError: its output is not the reference's.
        """
        directory, usage, first_read_ns = self._launch(contender)
        self._compare(contender, directory)
        outputs = [path.stat() for path in _output_files(directory)]
        shutil.rmtree(directory)
        return figures(
            self._workload.records,
            usage,
            first_read_ns,
            last_file_ns=max(output.st_ctime_ns for output in outputs),
            output_bytes=sum(output.st_size for output in outputs),
        )

    def _launch(self, contender: Contender) -> tuple[Path, Usage, int | None]:
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
            timeout_seconds=self._args.timeout_seconds,
        )
        if usage.exit_code != 0:
            raise EnvironmentFailure(
                f"{contender.name} ended with exit code {usage.exit_code}: "
                f"{log_file.read_text(errors='replace')[-1000:]}"
            )
        return directory, usage, fetch.time_ns()

    def _compare(self, contender: Contender, directory: Path) -> None:
        assert self._reference is not None
        for partition in self._workload.ends:
            try:
                theirs = self._reader(directory).read(partition)
            except (KeyError, ValueError) as error:  # of which Arrow's errors are
                raise DifferentWorkError(f"{contender.name}: {error}") from error
            wrong = differences(self._reference.read(partition), theirs)
            if wrong:
                raise DifferentWorkError(
                    f"{contender.name}, partition {partition}: {'; '.join(wrong)}"
                )

    def _reader(self, directory: Path) -> OutputReader:
        return OutputReader(self._schema, directory / "out", directory / "dead")


def _output_files(directory: Path) -> Iterable[Path]:
    yield from visible_files(directory / "out", ".parquet")
    yield from visible_files(directory / "dead", ".jsonl")


def _row_schema() -> Any:
    """Arrow schema of the rows: the event after normalisation and enrichment, and provenance."""
    contract = load_contract(resources.event_schema_path())
    enrich = Enrich(contract, resources.reference_dir())
    normalized = Normalize(contract).output_schema(contract.batch_schema)
    return file_schema(enrich.output_schema(normalized))


def figures(
    records: int,
    usage: Usage,
    first_read_ns: int | None,
    *,
    last_file_ns: int,
    output_bytes: int,
) -> Run:
    """The figures of a run that landed `records`; times in nanoseconds since 1970."""
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


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, least and most of a figure over the runs."""

    median: float
    least: float
    most: float


def spread_of(runs: Sequence[Run], figure: str) -> Spread | None:
    """The spread of a figure; None where a run has none."""
    values = [getattr(run, figure) for run in runs]
    if not values or None in values:
        return None
    return Spread(median(values), min(values), max(values))


def results_json(results: dict[Contender, list[Run]], args: argparse.Namespace) -> dict[str, Any]:
    """The results file: for each contender the medians by figure, and the spreads; `bench` has the
    machine and the flags."""
    document: dict[str, Any] = {}
    for contender, runs in results.items():
        spreads = {field.name: spread_of(runs, field.name) for field in fields(Run)}
        document[contender.name] = {
            **{name: spread and spread.median for name, spread in spreads.items()},
            "spread": {
                name: spread and [spread.least, spread.most] for name, spread in spreads.items()
            },
        }
    document["bench"] = {
        "measured_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": {
            "cpus": os.cpu_count(),
            "platform": platform.platform(),
            "python": platform.python_version(),
            "apache_beam": version("apache-beam"),
        },
        "flags": {
            name: getattr(args, name)
            for name in ("events", "repeats", "partitions", "invalid_ratio", "window_seconds")
        },
    }
    return document


def results_table(results: dict[Contender, list[Run]], args: argparse.Namespace) -> Table:
    """The table; the rate's spread in brackets, the ratio is that of ours to the contender's."""
    table = Table(
        title=f"{args.events:,} events, {args.partitions} partitions, {args.invalid_ratio:.1%} "
        f"invalid, windows of {args.window_seconds} s: medians of {args.repeats} runs",
        title_justify="left",
        caption="events/s: all records over the time from the start of the process until its last "
        "file is complete; (least-most) of the runs. ours/it: how many times as fast ours on Prism "
        "is. streaming: the same from the first read of the topic's log on, by the broker's clock. "
        "RSS, CPU: all its processes, the broker's aside. Every output held the same rows and dead "
        "letters.",
        caption_justify="left",
    )
    for heading in (
        *("contender", "events/s", "ours/it", "streaming events/s", "ours/it", "first read"),
        *("peak RSS", "CPU s/M", "output"),
    ):
        table.add_column(heading, justify="left" if heading == "contender" else "right")
    ours = next((runs for one, runs in results.items() if one.name == OURS), [])
    for contender, runs in results.items():
        first_read = spread_of(runs, "seconds_to_first_read")
        table.add_row(
            contender.title,
            _rate(runs, "events_per_second"),
            _ratio(ours, runs, "events_per_second"),
            _rate(runs, "streaming_events_per_second"),
            _ratio(ours, runs, "streaming_events_per_second"),
            f"{first_read.median:.1f} s" if first_read else "n/a",
            f"{_median(runs, 'peak_rss_mb'):,.0f} MB",
            f"{_median(runs, 'cpu_seconds_per_million'):.1f}",
            f"{_median(runs, 'output_bytes') / MEGABYTE:,.1f} MB",
        )
    return table


def _rate(runs: Sequence[Run], figure: str) -> str:
    rate = spread_of(runs, figure)
    return f"{rate.median:,.0f} ({rate.least:,.0f}-{rate.most:,.0f})" if rate else "n/a"


def _ratio(ours: Sequence[Run], runs: Sequence[Run], figure: str) -> str:
    left, right = spread_of(ours, figure), spread_of(runs, figure)
    return f"{left.median / right.median:.2f}" if left and right else "n/a"


def _median(runs: Sequence[Run], figure: str) -> float:
    spread = spread_of(runs, figure)
    return spread.median if spread else float("nan")


if __name__ == "__main__":
    sys.exit(main())
