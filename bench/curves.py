"""Measures throughput over partitions, events, event size and the share of invalid events.

At each point, a topic on a new broker is filled, and the contenders land it in turn. A figure
counts only if every offset is in the output exactly once and each invalid record is a dead letter.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from beam_pipeline import resources
from beam_pipeline.errors import EnvironmentFailure, PipelineError, UsageError
from beam_pipeline.storage.durable import write_atomically
from bench.compare import Coverage
from bench.landing import (
    BENCH_PYTHON,
    MEGABYTE,
    OURS,
    Brokers,
    DifferentWorkError,
    Filling,
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
from bench.lineup import Contender, lineup
from bench.panels import TITLES, X_LABELS, short, x_of
from bench.sized_events import SMALLEST_READING_BYTES, sized_events

RESULTS = Path(__file__).resolve().parent / "results" / "curves.json"
CONTENDERS = (OURS, "loop")
PARTITIONS = 4
INVALID_RATIO = 0.01
WARM_UP_EVENTS = 10_000
MADE_UP = "default"

DESCRIPTION = """\
Draws curves, not points: how fast the pipeline is, and what it takes, by number of partitions, by
number of events, by their size, and by the share of broken ones. The figures go to a JSON file, a
plot of each series beside it."""

EPILOG = f"""\
series:
  partitions  1, 2, 4, 8 partitions, with --events_per_point events
  events      100,000 to 10,000,000 events in {PARTITIONS} partitions
  size        200 bytes to 10 kB a value, none broken, {PARTITIONS} partitions, --events_per_point
              events or --megabytes_per_point, whichever is less. "default" are the shop's made-up
              events, 500 bytes on average. From 300 bytes on a number means commerce events, filled
              up with text in a field that the schema does not name; below, which such an event
              can't be, readings of bench/reading.schema.json, by ours alone
  invalid     0, 1, 10, 25, 50 % of the records broken, {PARTITIONS} partitions
The others have {INVALID_RATIO:.0%} broken. A point that is in several series is measured once.

Written after each point, so an end in between leaves what is done. A series that is measured takes
the place of its former points; with --append it keeps those at other places.

examples:
  everything (about an hour on 2 cores, 10 GB of disk):
    bench/run.sh curves
  a first look, a few minutes:
    bench/run.sh curves --events_per_point=50000 --events=20000,50000,100000
  one series again:
    bench/run.sh curves --only=invalid --repeats=3
  one more point of a series:
    bench/run.sh curves --only=events --events=10000000 --append
  the plots again, from the figures that are there:
    bench/run.sh curves --plot_only
"""


@dataclass(frozen=True, slots=True)
class Setting:
    """The settings of a point; `event_size` in bytes, None for the synthetic events as they are."""

    events: int
    partitions: int = PARTITIONS
    invalid_ratio: float = INVALID_RATIO
    event_size: int | None = None


VARIED: dict[str, tuple[str, ...]] = {
    "partitions": ("partitions",),
    "events": ("events",),
    "size": ("event_size", "events", "schema"),
    "invalid": ("invalid_ratio",),
}
"""What differs between the points of a series; the other settings are the same."""

_SETTING_FIELDS = (*(field.name for field in fields(Setting)), "schema")

Document = dict[str, Any]


def main() -> int:
    """Run the benchmark; return 0 if every output is complete, 1 if not, 2 for a wrong flag."""
    args = parse_flags()
    with work_directory("beam_pipeline_curves_", keep=args.keep) as directory:
        try:
            _require_plotter(args.bench_python)
            if not args.plot_only:
                _measure(args, directory)
            elif not args.results.is_file():
                raise UsageError(f"--results={args.results}: there is no such file to plot")
            _plot(args.bench_python, args.results)
        except PipelineError as error:
            say(f"curves: {error}")
            return error.exit_code
        except DifferentWorkError as error:
            say(f"curves: not the same work, so no figures of this point: {error}")
            return 1
        except KeyboardInterrupt:
            return 130
    document = read_results(args.results)
    console = Console(width=None if sys.stdout.isatty() else 140)
    for name, series in document["series"].items():
        if name in args.only or args.plot_only:
            console.print(_table(name, series))
    return 0


def parse_flags(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the parsed flags; exit if they are wrong."""
    parser = argparse.ArgumentParser(
        prog="bench/run.sh curves",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only",
        type=_list_of(_series),
        default=list(VARIED),
        metavar="SERIES,…",
        help="series to measure, of partitions, events, size, invalid (default: all)",
    )
    lists: list[tuple[str, Callable[[str], Any], str, str]] = [
        ("--partitions", _count, "1,2,4,8", "points of the series partitions"),
        (
            "--events",
            _count,
            "100000,300000,1000000,3000000,10000000",
            "points of the series events",
        ),
        ("--sizes", _size, "200,300,default,2000,10000", "points of the series size, in bytes"),
        ("--invalid_ratios", _share, "0,0.01,0.1,0.25,0.5", "points of the series invalid"),
    ]
    for name, kind, points, text in lists:
        parser.add_argument(
            name,
            type=_list_of(kind),
            default=points,
            metavar="N,…",
            help=f"{text} (default: {points})",
        )
    numbers: list[NumberFlag] = [
        ("--events_per_point", _count, 1_000_000, "events of a point, but in the series events"),
        ("--megabytes_per_point", _count, 2_000, "most that the events of a point in size have"),
        ("--repeats", _count, 1, "runs of each contender at each point; the median counts"),
        ("--window_seconds", _count, 10, "length of a window"),
        ("--seed", int, 1, "the same seed makes the same events"),
        ("--timeout_seconds", float, 3600, "the longest that one run may take"),
    ]
    add_numbers(parser, numbers)
    parser.add_argument(
        "--contenders",
        metavar="NAME,…",
        help="who lands the topics, of those of bench/run.sh; prism is one of them "
        f"(default: {','.join(CONTENDERS)})",
    )
    parser.add_argument(
        "--append", action="store_true", help="keep a series' former points at other places"
    )
    parser.add_argument(
        "--plot_only", action="store_true", help="measure nothing, draw what the results hold"
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=RESULTS,
        metavar="FILE",
        help="JSON file for the figures; plots go beside it (default: bench/results/curves.json)",
    )
    parser.add_argument(
        "--bench_python",
        type=Path,
        default=BENCH_PYTHON,
        metavar="FILE",
        help="Python with matplotlib and the others' packages (default: bench/.venv/bin/python)",
    )
    parser.add_argument("--keep", action="store_true", help="keep topics, outputs and logs")
    return parser.parse_args(words)


def _list_of(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    def parse(text: str) -> list[Any]:
        items = [kind(name) for name in names_in(text)]
        if not items:
            raise argparse.ArgumentTypeError("give at least one")
        return list(dict.fromkeys(items))

    return parse


def _series(text: str) -> str:
    if text not in VARIED:
        raise argparse.ArgumentTypeError(f"no series {text!r}; there are {list(VARIED)}")
    return text


def _count(text: str) -> int:
    if not text.replace("_", "").isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


def _size(text: str) -> int | None:
    if text == MADE_UP:
        return None
    if (size := _count(text)) < SMALLEST_READING_BYTES:
        raise argparse.ArgumentTypeError(
            f"{text!r}: an event has {SMALLEST_READING_BYTES} bytes at least"
        )
    return size


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share from 0 to 1, such as 0.1")
    return share


def plan(args: argparse.Namespace) -> dict[str, list[Setting]]:
    """Return the points of each requested series."""
    events = args.events_per_point
    series = {
        "partitions": [Setting(events, partitions=count) for count in args.partitions],
        "events": [Setting(count) for count in args.events],
        "size": [
            Setting(
                min(events, args.megabytes_per_point * MEGABYTE // size) if size else events,
                invalid_ratio=0.0,
                event_size=size,
            )
            for size in args.sizes
        ],
        "invalid": [Setting(events, invalid_ratio=share) for share in args.invalid_ratios],
    }
    return {name: settings for name, settings in series.items() if name in args.only}


def read_results(path: Path) -> Document:
    """Return the results so far; without any series if there is no file.

    Raises:
        UsageError: the file has other content.
    """
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {"series": {}}
    except (OSError, ValueError) as error:
        raise UsageError(f"--results={path}: can't be read: {error}") from error
    if not isinstance(document, dict) or "series" not in document:
        raise UsageError(f"--results={path}: holds no curves; give another file")
    return dict(document)


def merged(former: Sequence[Document], new: Iterable[Document], name: str) -> list[Document]:
    """Return the points of a series in order: new ones, and old ones with other settings."""
    points = {_settings_of(point): point for point in (*former, *new)}
    return sorted(points.values(), key=lambda point: x_of(name, point))


def check_appendable(name: str, former: Document, bench: Document, new: Document) -> None:
    """Check that a new point fits the curve of an existing series.

    Raises:
        UsageError: the series was measured on another machine, or with other settings.
    """
    for key, value in bench.items():
        if former["bench"][key] != value:
            raise UsageError(
                f"--append: the series {name} has {key} {former['bench'][key]}, not {value}; "
                "measure it as a whole, without --append"
            )
    for point in former["points"]:
        for field in _SETTING_FIELDS:
            if field not in VARIED[name] and point[field] != new[field]:
                raise UsageError(
                    f"--append: the series {name} has {field} {point[field]}, not {new[field]}; "
                    "give the same, or measure it as a whole, without --append"
                )


def _settings_of(point: Document) -> tuple[Any, ...]:
    return tuple(point[field] for field in _SETTING_FIELDS)


def point_json(
    setting: Setting, filling: Filling, runs: Mapping[str, Sequence[Run]], commit: str | None
) -> Document:
    """Return a point of the results file: settings, and each figure's spread by contender."""
    schema = filling.workload.schema
    return {
        **asdict(setting),
        "schema": schema.name if schema else resources.event_schema_path().name,
        "event_bytes": filling.value_bytes / filling.workload.records,
        "dead_letters": filling.broken,
        "measured_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit,
        "contenders": {
            name: {
                "runs": len(its_runs),
                **{
                    field.name: (spread := spread_of(its_runs, field.name)) and asdict(spread)
                    for field in fields(Run)
                },
            }
            for name, its_runs in runs.items()
        },
    }


def _measure(args: argparse.Namespace, directory: Path) -> None:
    contenders = choose(
        lineup(args.bench_python.absolute()),
        names_in(args.contenders),
        f"--contenders={args.contenders}",
        CONTENDERS,
    )
    if contenders[0].name != OURS:
        raise UsageError(f"--contenders={args.contenders}: name {OURS} too, for the ratio to it")
    series = plan(args)
    settings = list(dict.fromkeys(setting for some in series.values() for setting in some))
    document = read_results(args.results)
    bench = {
        "machine": machine(),
        "window_seconds": args.window_seconds,
        "seed": args.seed,
        "titles": {contender.name: contender.title for contender in contenders},
    }
    if args.append:
        _check_append(document, series, bench)
    else:
        document["series"] = {
            name: its for name, its in document["series"].items() if name not in series
        }
    commit = _commit()
    curves = _Curves(args, directory, contenders, Brokers())
    say(f"warming up with {WARM_UP_EVENTS:,} events, not measured ...")
    curves.measure(Setting(WARM_UP_EVENTS), repeats=1)
    for number, setting in enumerate(settings, 1):
        names = [name for name, its_settings in series.items() if setting in its_settings]
        say(f"point {number} of {len(settings)} ({', '.join(names)}): {_in_words(setting)}")
        filling, runs = curves.measure(setting, args.repeats)
        point = point_json(setting, filling, runs, commit)
        for name in names:
            former = document["series"].get(name, {"points": []})["points"]
            document["series"][name] = {"bench": bench, "points": merged(former, [point], name)}
        _write(args.results, document)


def _check_append(
    document: Document, series: Mapping[str, Sequence[Setting]], bench: Document
) -> None:
    for name, settings in series.items():
        if name in document["series"]:
            new = {**asdict(settings[0]), "schema": resources.event_schema_path().name}
            check_appendable(name, document["series"][name], bench, new)


class _Curves:
    """Measures points, each on its own broker."""

    def __init__(
        self,
        args: argparse.Namespace,
        directory: Path,
        contenders: Sequence[Contender],
        brokers: Brokers,
    ) -> None:
        self._args = args
        self._directory = directory
        self._contenders = contenders
        self._brokers = brokers
        self._points = 0

    def measure(self, setting: Setting, repeats: int) -> tuple[Filling, dict[str, list[Run]]]:
        """Fill a topic, let the contenders land it in turn, and return the runs by contender.

        Raises:
            DifferentWorkError: an output is incomplete.
        """
        self._points += 1
        directory = self._directory / f"point{self._points}"
        directory.mkdir()
        with self._brokers.make(directory) as broker:
            if setting.event_size is None:
                source, schema = commerce_events(self._args.seed, setting.invalid_ratio), None
            else:
                source, schema = sized_events(setting.event_size, self._args.seed)
            filling = fill(
                broker.connection,
                source,
                events=setting.events,
                partitions=setting.partitions,
                window_seconds=self._args.window_seconds,
                schema=schema,
            )
            lander = Lander(directory, filling.workload, self._args.timeout_seconds)
            runs: dict[str, list[Run]] = {contender.name: [] for contender in self._able(schema)}
            for repeat in range(1, repeats + 1):
                for contender in self._able(schema):
                    say(f"run {repeat} of {repeats}: {contender.title} ...")
                    run = self._run(lander, contender, filling)
                    say(f"  {run.events_per_second:,.0f} events/s from the start of the process")
                    runs[contender.name].append(run)
        if not self._args.keep:
            shutil.rmtree(directory)
        return filling, runs

    def _able(self, schema: Path | None) -> list[Contender]:
        """Return the contenders that know the schema."""
        return [
            contender for contender in self._contenders if schema is None or contender.name == OURS
        ]

    def _run(self, lander: Lander, contender: Contender, filling: Filling) -> Run:
        landing = lander.land(contender)
        _check(landing, filling)
        run = landing.figures(filling.workload.records)
        if not self._args.keep:
            landing.remove()
        return run


def _check(landing: Landing, filling: Filling) -> None:
    name = landing.contender.name
    coverage = Coverage(filling.workload.ends)
    try:
        coverage.read(landing.output_dir, landing.dead_letter_dir)
    except (KeyError, ValueError) as error:  # of which Arrow's errors are
        raise DifferentWorkError(f"{name}: {error}") from error
    if faults := coverage.faults():
        raise DifferentWorkError(f"{name}: {'; '.join(faults)}")
    if coverage.letters != filling.broken:
        raise DifferentWorkError(
            f"{name}: {coverage.letters:,} dead letters of {filling.broken:,} broken records"
        )


def _in_words(setting: Setting) -> str:
    size = f" of {setting.event_size:,} bytes" if setting.event_size else ""
    return (
        f"{setting.events:,} events{size}, {setting.partitions} partitions, "
        f"{setting.invalid_ratio:.3g} invalid"
    )


def _write(path: Path, document: Document) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = json.dumps(document, indent=2).encode() + b"\n"
    write_atomically(path, content, durable=False, private=False)


def _commit() -> str | None:
    """Return the checkout's commit, with a + if files other than results differ from it."""
    root = Path(__file__).resolve().parents[1]

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", ".", ":!bench/results")
        return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _require_plotter(bench_python: Path) -> None:
    command = [str(bench_python), "-c", "import matplotlib"]
    try:
        subprocess.run(command, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        raise UsageError(
            f"--bench_python={bench_python}: has no matplotlib; bench/run.sh curves makes an "
            "environment with it"
        ) from None


def _plot(bench_python: Path, results: Path) -> None:
    command = [str(bench_python.absolute()), "-m", "bench.plots", str(results.absolute())]
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(command, cwd=root, env={**os.environ, "PYTHONPATH": str(root)})
    if done.returncode != 0:
        raise EnvironmentFailure(f"the plots failed, with exit code {done.returncode}")


def _table(name: str, series: Document) -> Table:
    table = Table(title=TITLES[name], title_justify="left")
    for heading in (
        X_LABELS[name],
        "contender",
        "events/s",
        "streaming",
        "peak RSS",
        "CPU s/M",
        "ours/it, streaming",
    ):
        table.add_column(heading, justify="left" if heading == "contender" else "right")
    for point in series["points"]:
        ours = point["contenders"].get(OURS)
        for contender, figures in point["contenders"].items():
            table.add_row(
                short(x_of(name, point)),
                contender,
                _cell(figures["events_per_second"]),
                _cell(figures["streaming_events_per_second"]),
                _cell(figures["peak_rss_mb"], " MB"),
                _cell(figures["cpu_seconds_per_million"], digits=1),
                _ratio(ours, figures),
            )
    return table


def _cell(spread: Document | None, unit: str = "", digits: int = 0) -> str:
    return f"{spread['median']:,.{digits}f}{unit}" if spread else "n/a"


def _ratio(ours: Document | None, theirs: Document) -> str:
    left = ours and ours["streaming_events_per_second"]
    right = theirs["streaming_events_per_second"]
    return f"{left['median'] / right['median']:.2f}" if left and right else "n/a"


if __name__ == "__main__":
    sys.exit(main())
