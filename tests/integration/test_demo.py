"""`./run_direct.sh` without a broker of one's own: the demo, start to end."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
from integration.pipeline_runs import PipelineRun, running, wait_for
from pyiceberg.catalog import Catalog, load_catalog
from table_readers import DuckDB
from table_trees import check_snapshots, paths_of, rows_of

from beam_pipeline.cli import main
from beam_pipeline.resources import project_root

LETTERS = "events__dead_letters"


def open_catalog(output_dir: Path) -> Catalog:
    database = output_dir / "_table" / "catalog.db"
    return load_catalog("beam_pipeline", type="sql", uri=f"sqlite:///{database}")


def test_the_demo_places_every_record_once_and_leaves_nothing_behind(
    tmp_path: Path, duckdb: DuckDB
) -> None:
    run = PipelineRun(tmp_path / "demo")
    finished = run.finish(
        "demo",
        "--demo_seconds=8",
        "--events_per_second=50",
        "--invalid_ratio=0.1",
        "--late_ratio=0.05",
        "--table=demo.events",
        "--commit_interval=3",
        f"--output_dir={run.output_dir}",
        f"--dead_letter_dir={run.dead_letter_dir}",
        timeout_seconds=240,
    )
    assert finished.code == 0, finished.output
    placed = run.placed()
    assert placed.total() == len(placed) == 400
    by_partition: dict[int, list[int]] = {}
    for _, partition, offset in placed:
        by_partition.setdefault(partition, []).append(offset)
    for offsets in by_partition.values():
        assert sorted(offsets) == list(range(len(offsets)))
    assert 20 <= len(run.letters()) <= 60  # a tenth of 400, by chance
    assert f"= valid {len(run.rows())} + dead {len(run.letters())}: holds" in finished.output
    catalog = open_catalog(run.output_dir)
    tables = {name: catalog.load_table(f"demo.{name}") for name in ("events", LETTERS)}
    assert sorted([*rows_of(tables["events"]), *rows_of(tables[LETTERS])]) == sorted(placed)
    assert len(tables["events"].history()) > 1
    for table in tables.values():
        check_snapshots(table)
    told = f"table demo.events: {len(run.rows())} rows + demo.{LETTERS}: {len(run.letters())} = 400"
    assert f"{told}: holds" in finished.output
    assert f"report --output_dir={run.output_dir} " in finished.output
    assert run.processes() == {}
    check_queries(run, finished.output, duckdb)
    assert_compacted_to_the_same_rows(run, catalog)


def check_queries(run: PipelineRun, printed: str, duckdb: DuckDB) -> None:
    """Run the commands that a demo prints for its table, and the Python code in docs/tables.md."""
    commands = [shlex.split(line) for line in printed.splitlines() if "_table/" in line]
    (_, _, statements), with_pyiceberg = commands
    (counts,) = duckdb.query(statements.removeprefix("INSTALL iceberg; LOAD iceberg; "))
    assert sum(counts.column(1).to_pylist()) == len(run.rows())
    assert sum(map(int, re.findall(r"'count_all': (\d+)", output_of(with_pyiceberg)))) == len(
        run.rows()
    )

    top = project_root()
    assert top is not None
    page = (top / "docs" / "tables.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    by_duckdb, by_pyiceberg = (
        block.replace("data/output", str(run.output_dir)) for block in blocks
    )
    shown = output_of([sys.executable, "-c", by_duckdb], **duckdb.environment(run.directory))
    assert "page_view" in shown
    assert "SCHEMA_VIOLATION" in shown
    assert "'count_all': " in output_of([sys.executable, "-c", by_pyiceberg])


def output_of(command: list[str], **environment: str) -> str:
    """Run a command; return what it prints."""
    finished = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def assert_compacted_to_the_same_rows(run: PipelineRun, catalog: Catalog) -> None:
    before = contents_of(catalog)
    files = paths_of(catalog.load_table("demo.events"))
    places = f"--output_dir={run.output_dir}", f"--dead_letter_dir={run.dead_letter_dir}"
    assert main(["table", "compact", "--table=demo.events", *places]) == 0
    assert contents_of(catalog) == before
    for name in before:
        check_snapshots(catalog.load_table(f"demo.{name}"))
    assert len(paths_of(catalog.load_table("demo.events"))) < len(files)


def contents_of(catalog: Catalog) -> dict[str, pa.Table]:
    """All columns of the rows of both tables, in the order of their origins."""
    contents = {}
    for name, prefix in (("events", "kafka_"), (LETTERS, "")):
        rows = catalog.load_table(f"demo.{name}").scan().to_arrow_batch_reader().read_all()
        order = [(f"{prefix}partition", "ascending"), (f"{prefix}offset", "ascending")]
        contents[name] = rows.sort_by(order)
    return contents


def test_ctrl_c_ends_a_demo_with_all_its_processes(tmp_path: Path) -> None:
    """Started without any argument, as the README says."""
    run = PipelineRun(tmp_path / "demo")
    with running(run, [], signal.SIGINT):
        wait_for(lambda: len(run.processes()) >= 6, "every process of the demo", 60)
    assert run.processes() == {}
