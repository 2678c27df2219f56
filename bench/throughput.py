"""Measures the throughput of the pipeline and of others that do the same work.

Fills a topic with synthetic events, then lets each contender land it in turn, several times. Every
output is compared row for row with that of the pipeline on Prism. A contender with another output
gets no figure.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from beam_pipeline import resources
from beam_pipeline.errors import PipelineError
from beam_pipeline.records import PROVENANCE_COLUMNS
from beam_pipeline.schemas import load_contract
from beam_pipeline.schemas.contract import file_schema
from beam_pipeline.transforms import Enrich, Normalize
from bench.compare import Coverage, OutputReader, differences
from bench.landing import (
    BENCH_PYTHON,
    MEGABYTE,
    OURS,
    Brokers,
    DifferentWorkError,
    Lander,
    Landing,
    NumberFlag,
    Run,
    add_numbers,
    choose,
    commerce_events,
    fill,
    machine,
    names_in,
    say,
    spread_of,
    work_directory,
)
from bench.lineup import Contender, Workload, lineup

RESULTS = Path(__file__).resolve().parent / "results" / "latest.json"


def main() -> int:
    """Run the benchmark; return 0 if all outputs are equal, 1 if not, 2 for a wrong flag."""
    args = _parse_flags()
    with work_directory("beam_pipeline_bench_", keep=args.keep) as directory:
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
    Console(width=None if sys.stdout.isatty() else 160).print(results_table(results, args))
    args.results.parent.mkdir(parents=True, exist_ok=True)
    args.results.write_text(json.dumps(results_json(results, args), indent=2) + "\n")
    return 0


def _parse_flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench/run.sh", description=__doc__.partition("\n")[0] if __doc__ else None
    )
    numbers: list[NumberFlag] = [
        ("--events", int, 1_000_000, "records in the topic"),
        ("--repeats", int, 3, "runs of each contender"),
        ("--partitions", int, 4, "partitions of the topic"),
        ("--invalid_ratio", float, 0.01, "share of records, 0 to 1, that are broken on purpose"),
        ("--window_seconds", int, 10, "length of a window"),
        ("--seed", int, 1, "the same seed makes the same events"),
        ("--timeout_seconds", float, 1800, "the longest that one run may take"),
    ]
    add_numbers(parser, numbers)
    parser.add_argument(
        "--only",
        metavar="NAME,…",
        help="contenders to run, of prism, flink, loop, bytewax, pathway and quixstreams "
        "(default: all)",
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
    contenders = choose(
        lineup(args.bench_python.absolute()), names_in(args.only), f"--only={args.only}"
    )
    with Brokers().make(directory) as broker:
        workload = fill(
            broker.connection,
            commerce_events(args.seed, args.invalid_ratio),
            events=args.events,
            partitions=args.partitions,
            window_seconds=args.window_seconds,
        ).workload
        bench = _Bench(Lander(directory, workload, args.timeout_seconds), workload)
        bench.make_reference(
            next(contender for contender in lineup(args.bench_python) if contender.name == OURS)
        )
        results: dict[Contender, list[Run]] = {contender: [] for contender in contenders}
        for repeat in range(1, args.repeats + 1):
            for contender in contenders:
                say(f"run {repeat} of {args.repeats}: {contender.title} ...")
                results[contender].append(bench.run(contender))
    return results


class _Bench:
    """Runs contenders on one filled topic, and compares their outputs with this pipeline's."""

    def __init__(self, lander: Lander, workload: Workload) -> None:
        self._lander = lander
        self._workload = workload
        self._schema = _row_schema()
        self._reference: OutputReader | None = None

    def make_reference(self, ours: Contender) -> None:
        """Run this pipeline once, unmeasured. Its output is the reference, and caches get warm.

        Raises:
            DifferentWorkError: a record is missing or doubled.
        """
        say(f"reference: {ours.title}, not measured ...")
        landing = self._lander.land(ours)
        self._reference = self._reader(landing)
        coverage = Coverage(self._workload.ends)
        coverage.read(landing.output_dir, landing.dead_letter_dir)
        if wrong := coverage.faults():
            raise DifferentWorkError(f"{ours.name}: {'; '.join(wrong)}")

    def run(self, contender: Contender) -> Run:
        """Run a contender once.

        Raises:
            DifferentWorkError: its output differs from the reference.
        """
        landing = self._lander.land(contender)
        self._compare(landing)
        run = landing.figures(self._workload.records)
        landing.remove()
        return run

    def _compare(self, landing: Landing) -> None:
        assert self._reference is not None
        name = landing.contender.name
        for partition in self._workload.ends:
            try:
                theirs = self._reader(landing).read(partition)
            except (KeyError, ValueError) as error:  # of which Arrow's errors are
                raise DifferentWorkError(f"{name}: {error}") from error
            wrong = differences(self._reference.read(partition), theirs)
            if wrong:
                raise DifferentWorkError(f"{name}, partition {partition}: {'; '.join(wrong)}")

    def _reader(self, landing: Landing) -> OutputReader:
        return OutputReader(self._schema, landing.output_dir, landing.dead_letter_dir)


def _row_schema() -> Any:
    """Return the Arrow schema of the rows: the normalised and enriched event, and provenance."""
    contract = load_contract(resources.event_schema_path())
    enrich = Enrich(contract, resources.reference_dir())
    normalized = Normalize(contract).output_schema(contract.batch_schema)
    return file_schema(enrich.output_schema(normalized), PROVENANCE_COLUMNS)


def results_json(results: dict[Contender, list[Run]], args: argparse.Namespace) -> dict[str, Any]:
    """Return the results file: medians and spreads by contender; `bench` has machine and flags."""
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
        "machine": machine(),
        "flags": {
            name: getattr(args, name)
            for name in ("events", "repeats", "partitions", "invalid_ratio", "window_seconds")
        },
    }
    return document


def results_table(results: dict[Contender, list[Run]], args: argparse.Namespace) -> Table:
    """Return the table, with the rate's spread and the ratio of this pipeline to the contender."""
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
    ours = next((runs for contender, runs in results.items() if contender.name == OURS), [])
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
