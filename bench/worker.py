"""Measures the worker's CPU time a record, stage by stage: one process, no runner, no broker.

The stages are the functions that the pipeline calls, on packs of synthetic events. As in a run, the
compiled contract proves rows if its kernel is in the cache. With `--baseline` another checkout does
the same in turn, and the table has the ratio of both.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
from rich.console import Console
from rich.table import Table

from beam_pipeline import resources
from beam_pipeline.compiled.kernel import Kernel, KernelLibrary
from beam_pipeline.compiled.plan import compile_plan
from beam_pipeline.config import ValidationRules, Windowing
from beam_pipeline.covered_offsets import CoveredOffsets
from beam_pipeline.errors import EnvironmentFailure, PipelineError, UsageError
from beam_pipeline.files.names import OutputFile
from beam_pipeline.files.parts import PartRef
from beam_pipeline.io.dead_letters import JsonLinesFormat
from beam_pipeline.io.parquet import ParquetFormat
from beam_pipeline.io.windowed_files import MAX_OPEN_BYTES, FileFormat, Shard
from beam_pipeline.producer.source import SourceRecord, synthetic
from beam_pipeline.records import MAX_BATCH_RECORDS
from beam_pipeline.runtime.programs.kernel import look_for_kernel
from beam_pipeline.schemas import ColumnBuilder, Contract, load_contract
from beam_pipeline.schemas.contract import RECORD_SCHEMA, file_schema
from beam_pipeline.transforms import DeadLetters, Enrich, Normalize
from beam_pipeline.transforms.validate import RecordValidator, Validated
from beam_pipeline.transforms.windowing import cut_by_window, cut_letters_by_window, late_rows
from bench.landing import NumberFlag, add_numbers, machine, say, work_directory

RESULTS = Path(__file__).resolve().parent / "results" / "worker.json"
TOPIC = "commerce"
EPOCH = "bench"
PARTITIONS = 4
EVENTS_PER_SECOND = 50_000
APPEND_DELAY_MS = 20
LATE_RATIO = 0.02
WINDOW_SECONDS = 10
START_MS = 1_790_000_000_000
AGE_AND_SKEW_SECONDS = (7 * 24 * 3600, 300)
"""The defaults of `--max_event_age_seconds` and `--max_event_skew_seconds`."""

BUNDLE_BYTES = 8 * 1024 * 1024
"""How many bytes a bundle of a source has on Prism
(docs/design/0022-prism-with-a-patch.md)."""

TOTAL = "sum"
STAGES = (
    "validate",
    "normalize",
    "enrich",
    "windows",
    "shards",
    "parts",
    "files",
    "letters",
)
"""What the worker does, in order; their sum is the figure."""

PARTS_OF_VALIDATE = ("kernel", "decode", "verdict", "explain", "columns")
"""What validation is made of, measured once more beside it, and in no sum.

`kernel` takes all records, the others do what the exact path does with all records.
"""

OLDEST_BENCH = "77ac422"
"""The commit whose bench/worker.py measures checkouts that have none."""

Result = TypeVar("Result")
Figures = dict[str, float]


def main() -> int:
    """Run the benchmark; return 0, or 2 for a wrong flag."""
    args = _parse_flags()
    if args.packs is not None:
        print(json.dumps(measured(args.packs, args.passes, args.compiled_contract == "auto")))
        return 0
    with work_directory("beam_pipeline_worker_", keep=False) as directory:
        try:
            checkouts = _checkouts(args.baseline)
            packs = directory / "packs.arrow"
            say(f"making {args.events:,} events ...")
            records = write_packs(packs, args.events, args.invalid_ratio, args.seed)
            figures = _in_turns(checkouts, packs, args)
        except PipelineError as error:
            say(f"worker: {error}")
            return error.exit_code
        except KeyboardInterrupt:
            return 130
    Console(width=None if sys.stdout.isatty() else 120).print(_table(figures, records, args))
    args.results.parent.mkdir(parents=True, exist_ok=True)
    document = {
        **figures,
        "bench": {
            "measured_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "machine": machine(),
            "records": records,
            "flags": {
                name: getattr(args, name)
                for name in (
                    *("events", "invalid_ratio", "repeats", "passes", "seed"),
                    "compiled_contract",
                )
            },
        },
    }
    args.results.write_text(json.dumps(document, indent=2) + "\n")
    return 0


def _parse_flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.worker", description=__doc__.partition("\n")[0] if __doc__ else None
    )
    numbers: list[NumberFlag] = [
        ("--events", int, 200_000, "records, in whole packs"),
        ("--invalid_ratio", float, 0.02, "share of records, 0 to 1, that are broken on purpose"),
        ("--repeats", int, 3, "processes for each checkout; the least time of a stage counts"),
        ("--passes", int, 2, "passes over the records in each process"),
        ("--seed", int, 7, "the same seed makes the same events"),
    ]
    add_numbers(parser, numbers)
    parser.add_argument(
        "--baseline",
        type=Path,
        metavar="DIRECTORY",
        help="another checkout that has bench/worker.py, to be measured in turn with this one",
    )
    parser.add_argument(
        "--compiled_contract",
        choices=("auto", "off"),
        default="auto",
        help="auto: rows are proven by the kernel if it is in the cache; off: never",
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=RESULTS,
        metavar="FILE",
        help="JSON file for the figures (default: bench/results/worker.json)",
    )
    parser.add_argument("--packs", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if min(args.repeats, args.passes) < 1 or args.events < MAX_BATCH_RECORDS * PARTITIONS:
        parser.error(
            f"--repeats and --passes must be 1 or more, --events {MAX_BATCH_RECORDS * PARTITIONS} "
            "or more"
        )
    return args


def _checkouts(baseline: Path | None) -> dict[str, Path]:
    checkouts = {"here": Path(__file__).resolve().parent.parent}
    if baseline is not None:
        if not (baseline / "bench" / "worker.py").is_file():
            raise UsageError(
                f"--baseline={baseline}: there is no bench/worker.py; give the root of a checkout, "
                f"and if its commit is from before {OLDEST_BENCH}, take the file from that one: "
                f"git show {OLDEST_BENCH}:bench/worker.py > {baseline / 'bench' / 'worker.py'}"
            )
        checkouts["baseline"] = baseline.resolve()
    return checkouts


def _in_turns(
    checkouts: dict[str, Path], packs: Path, args: argparse.Namespace
) -> dict[str, Figures]:
    """Return the least CPU time of each stage by checkout, in microseconds a record."""
    least: dict[str, Figures] = {name: {} for name in checkouts}
    for repeat in range(1, args.repeats + 1):
        for name, directory in checkouts.items():
            say(f"run {repeat} of {args.repeats}: {name} ...")
            command = [sys.executable, "-m", "bench.worker", f"--packs={packs}"]
            command.append(f"--passes={args.passes}")
            if _knows_the_kernel(directory):
                command.append(f"--compiled_contract={args.compiled_contract}")
            child = subprocess.run(
                command,
                cwd=directory,
                capture_output=True,
                text=True,
                check=False,
            )
            if child.returncode != 0:
                raise EnvironmentFailure(f"{name} failed in {directory}: {child.stderr[-1000:]}")
            for stage, micros in json.loads(child.stdout).items():
                least[name][stage] = min(least[name].get(stage, micros), micros)
    for figures in least.values():
        figures[TOTAL] = sum(figures[stage] for stage in STAGES)
    return least


def _knows_the_kernel(checkout: Path) -> bool:
    """Return whether the bench of a checkout has the flag for the kernel; older ones do not."""
    return "--compiled_contract" in (checkout / "bench" / "worker.py").read_text()


def _table(figures: dict[str, Figures], records: int, args: argparse.Namespace) -> Table:
    table = Table(
        title=f"{records:,} records, {args.invalid_ratio:.1%} invalid: CPU of the worker, "
        "microseconds a record",
        title_justify="left",
        min_width=80,
        caption=f"the least of {args.repeats} processes with {args.passes} passes each. Indented: "
        "measured once more beside the stage with all records, and in no sum. Without a figure for "
        "kernel, all records took the exact path.",
        caption_justify="left",
    )
    table.add_column("stage")
    for name in figures:
        table.add_column(name, justify="right")
    if len(figures) > 1:
        table.add_column("baseline/here", justify="right")
    shown = [(stage, stage) for stage in STAGES]
    shown[1:1] = [(stage, f"  {stage}") for stage in PARTS_OF_VALIDATE]
    for stage, label in [*shown, (TOTAL, TOTAL)]:
        values = [of_checkout.get(stage) for of_checkout in figures.values()]
        cells = ["n/a" if value is None else f"{value:.2f}" for value in values]
        if len(values) > 1:
            here, baseline = values
            cells.append(f"{baseline / here:.2f}" if here and baseline else "n/a")
        table.add_row(label, *cells, end_section=stage == STAGES[-1])
    return table


def write_packs(path: Path, events: int, invalid_ratio: float, seed: int) -> int:
    """Write whole packs of synthetic events as an Arrow file; return how many records they have.

    A pack is a batch of `RECORD_SCHEMA` with records of one partition, as `ReadRecords` yields it.
    """
    made = 0

    def clock_ms() -> int:
        return START_MS + made * 1000 // EVENTS_PER_SECOND

    source = synthetic(
        seed=seed,
        contract=load_contract(resources.event_schema_path()),
        invalid_ratio=invalid_ratio,
        late_ratio=min(LATE_RATIO, 1 - invalid_ratio),
        clock_ms=clock_ms,
    )
    waiting: list[list[tuple[int, SourceRecord]]] = [[] for _ in range(PARTITIONS)]
    offsets = [0] * PARTITIONS
    records = 0
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, RECORD_SCHEMA) as writer:
        for made in range(events):
            partition = made % PARTITIONS
            waiting[partition].append((clock_ms() + APPEND_DELAY_MS, next(source)))
            if len(waiting[partition]) == MAX_BATCH_RECORDS:
                writer.write_batch(_pack(partition, offsets[partition], waiting[partition]))
                offsets[partition] += MAX_BATCH_RECORDS
                records += MAX_BATCH_RECORDS
                waiting[partition] = []
    return records


def _pack(
    partition: int, first_offset: int, rows: Sequence[tuple[int, SourceRecord]]
) -> pa.RecordBatch:
    count = len(rows)
    columns = [
        pa.repeat(TOPIC, count),
        pa.repeat(pa.scalar(partition, pa.int32()), count),
        pa.array(range(first_offset, first_offset + count), pa.int64()),
        pa.array([append_ms for append_ms, _ in rows], RECORD_SCHEMA.field("kafka_timestamp").type),
        pa.repeat("LOG_APPEND_TIME", count),
        pa.array([record.key for _, record in rows], pa.binary()),
        pa.array([record.value for _, record in rows], pa.binary()),
        pa.nulls(count, RECORD_SCHEMA.field("_headers").type),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=RECORD_SCHEMA)


def measured(path: Path, passes: int, is_compiled: bool) -> Figures:
    """Return the least CPU time of each stage over some passes, in microseconds a record.

    Args:
      path: what `write_packs` wrote.
      passes: how often all packs are landed.
      is_compiled: whether the kernel proves rows if it is in the cache.
    """
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
        packs = [reader.get_batch(number) for number in range(reader.num_record_batches)]
    records = sum(pack.num_rows for pack in packs)
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)  # those of the workers of `run`
    worker = _Worker(look_for_kernel() if is_compiled else None)
    least: Figures = {}
    for _ in range(passes):
        with tempfile.TemporaryDirectory() as directory:
            clock = worker.land(packs, Path(directory))
        worker.take_validation_apart(packs, clock)
        for stage in clock.spent_ns:
            micros = clock.spent_ns[stage] / records / 1_000
            least[stage] = min(least.get(stage, micros), micros)
    worker.close()
    return least


@dataclass
class _Clock:
    """The CPU time of this process, by stage."""

    spent_ns: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))

    def run(self, stage: str, function: Callable[..., Result], *arguments: Any) -> Result:
        started = time.process_time_ns()
        result = function(*arguments)
        self.spent_ns[stage] += time.process_time_ns() - started
        return result


class _Worker:
    """The pipeline's steps for one topic, without Beam."""

    def __init__(self, library: KernelLibrary | None) -> None:
        self._contract: Contract = load_contract(resources.event_schema_path())
        rules = ValidationRules(
            self._contract.event_time_field, *AGE_AND_SKEW_SECONDS, kernel=library
        )
        self._judge = self._contract.judge(rules.max_value_bytes)
        self._columns = ColumnBuilder(self._contract)
        self._validator = RecordValidator(self._contract, rules)
        self._kernel: Kernel | None = None
        if library is not None:
            self._kernel = Kernel(library, compile_plan(self._contract), rules.max_value_bytes)
        self._normalize = Normalize(self._contract).function
        self._enrich = Enrich(self._contract, resources.reference_dir()).function
        self._windowing = Windowing(WINDOW_SECONDS)
        schema = self._enrich(self._normalize(_no_rows(self._contract.batch_schema))).schema
        self._parquet = ParquetFormat(file_schema(schema), 1, self._contract.ref)
        self._json_lines = JsonLinesFormat(EPOCH)

    def land(self, packs: Sequence[pa.RecordBatch], directory: Path) -> _Clock:
        """Write the rows and letters of all packs to files, as the steps of the pipeline do."""
        clock = _Clock()
        rows = _Sink(self._parquet, directory, clock, "parts", "files")
        letters = _Sink(self._json_lines, directory, clock, "letters", "letters")
        for validated in self._validated(packs, clock):
            for batch in validated.batches:
                batch = clock.run("normalize", self._normalize, batch)
                batch = clock.run("enrich", self._enrich, batch)
                for window, piece in clock.run("windows", self._cut, batch):
                    clock.run("shards", rows.add, window, piece)
            clock.run("letters", self._add_letters, letters, validated.dead)
            rows.flush_if_full()
            letters.flush_if_full()
        rows.finish()
        letters.finish()
        return clock

    def _validated(self, packs: Sequence[pa.RecordBatch], clock: _Clock) -> Iterator[Validated]:
        """Yield what becomes of each pack, and, once a bundle, of what is not proven of them."""
        waiting: list[pa.RecordBatch] = []
        bundle_bytes = 0
        for number, pack in enumerate(packs, 1):
            proven, others = clock.run("validate", self._validator.prove, pack)
            yield proven
            waiting.append(others)
            bundle_bytes += pack.nbytes
            are_many = sum(records.num_rows for records in waiting) >= MAX_BATCH_RECORDS
            if are_many or bundle_bytes >= BUNDLE_BYTES or number == len(packs):
                gc.disable()
                yield clock.run("validate", self._judged, waiting)
                gc.enable()
                waiting, bundle_bytes = [], 0

    def _judged(self, waiting: Sequence[pa.RecordBatch]) -> Validated:
        return self._validator.judge(pa.concat_batches(waiting))

    def take_validation_apart(self, packs: Sequence[pa.RecordBatch], clock: _Clock) -> None:
        """Do the parts of validation one after the other, for the times of each."""
        for pack in packs:
            gc.disable()
            self._take_apart(pack, clock)
            gc.enable()

    def close(self) -> None:
        """Give back what is not memory."""
        self._validator.close()

    def _take_apart(self, pack: pa.RecordBatch, clock: _Clock) -> None:
        if self._kernel is not None:
            clock.run("kernel", self._kernel.prove, pack.column("_value"))
        judge = self._judge
        values = pack.column("_value").to_numpy(zero_copy_only=False)
        decoded = clock.run("decode", lambda: [judge.decode(value) for value in values])
        events = [event for event, failure in decoded if failure is None]
        are_valid = clock.run("verdict", lambda: [judge._is_valid(event) for event in events])
        broken = [event for event, valid in zip(events, are_valid, strict=True) if not valid]
        clock.run("explain", lambda: [judge.judge_decoded(event, False) for event in broken])
        valid = [event for event, valid in zip(events, are_valid, strict=True) if valid]
        clock.run("columns", self._columns.build, valid)

    def _cut(self, batch: pa.RecordBatch) -> list[tuple[int, pa.RecordBatch]]:
        late_rows(batch, self._windowing)
        return [
            (time_us // (WINDOW_SECONDS * 1_000_000), piece)
            for time_us, piece in cut_by_window(batch, WINDOW_SECONDS)
        ]

    def _add_letters(self, sink: _Sink, dead: DeadLetters) -> None:
        for time_us, letters in cut_letters_by_window(dead, WINDOW_SECONDS):
            sink.add(time_us // (WINDOW_SECONDS * 1_000_000), letters)


class _Sink:
    """Parts and files of one format, by window."""

    def __init__(
        self, file_format: FileFormat, directory: Path, clock: _Clock, parts: str, files: str
    ) -> None:
        self._format = file_format
        self._directory = directory
        self._clock = clock
        self._parts_stage, self._files_stage = parts, files
        self._open: dict[tuple[int, Shard], list[Any]] = defaultdict(list)
        self._open_bytes = 0
        self._parts: dict[tuple[int, Shard], list[PartRef]] = defaultdict(list)
        self._names = itertools.count()

    def add(self, window: int, element: Any) -> None:
        for piece in self._format.shards_of(element):
            assert not isinstance(piece, DeadLetters), piece
            self._open[window, piece.shard].append(piece.content)
            self._open_bytes += piece.size_bytes

    def flush_if_full(self) -> None:
        if self._open_bytes >= MAX_OPEN_BYTES:
            self._flush()

    def finish(self) -> None:
        self._flush()
        for (window, shard), parts in self._parts.items():
            start, end = (
                datetime.fromtimestamp(number * WINDOW_SECONDS, timezone.utc)
                for number in (window, window + 1)
            )
            target = OutputFile(
                shard.topic, start, end, shard.number, EPOCH, 0, self._format.suffix
            )
            self._clock.run(
                self._files_stage,
                self._format.assemble,
                self._new_path(self._format.suffix),
                target,
                parts,
                CoveredOffsets(),
            )

    def _flush(self) -> None:
        for (window, shard), contents in self._open.items():
            path = self._new_path(self._format.part_suffix)
            part = self._clock.run(
                self._parts_stage, self._format.write_part, path, shard, contents
            )
            self._parts[window, shard].append(part)
        self._open.clear()
        self._open_bytes = 0

    def _new_path(self, suffix: str) -> str:
        return str(self._directory / f"{next(self._names)}{suffix}")


def _no_rows(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([], schema=schema)


if __name__ == "__main__":
    sys.exit(main())
