"""CPU of many commits in a row to an embedded table, and the size of its metadata.

    python -m bench.table_commits FILE.parquet [COMMITS]

Each commit adds four files with the columns of FILE, the first 40 rows of it. After each the
committer merges small files, if there are enough of them.
"""

from __future__ import annotations

import logging
import shutil
import sys
import tempfile
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from beam_pipeline.files.footer import FOOTER_KEY, FileFooter
from beam_pipeline.files.names import OutputFile
from beam_pipeline.settings.table import TableJob, TableSettings
from beam_pipeline.tables.committer import Committer

FILES, ROWS, SHOWN = 4, 40, 20
START = datetime(2026, 11, 23, tzinfo=timezone.utc)


def land(output_dir: Path, number: int, rows: pa.Table) -> None:
    """Write a file with offsets that no other has."""
    start = START + timedelta(seconds=10 * number)
    file = OutputFile("bench", start, start + timedelta(seconds=10), 0, "e1", 0, ".parquet")
    first = number * ROWS
    footer = FileFooter(
        topic=file.topic,
        window_start=file.window_start,
        window_end=file.window_end,
        shard=0,
        epoch="e1",
        pane=0,
        rows=rows.num_rows,
        schema_id=None,
        schema_sha256="",
        offsets={"bench": {0: [(first, first + rows.num_rows - 1)]}},
    )
    origins = {
        "kafka_topic": pa.array(["bench"] * rows.num_rows),
        "kafka_partition": pa.array([0] * rows.num_rows, pa.int32()),
        "kafka_offset": pa.array(range(first, first + rows.num_rows), pa.int64()),
    }
    for name, column in origins.items():
        rows = rows.set_column(rows.schema.get_field_index(name), name, column)
    path = output_dir / file.relative_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows.replace_schema_metadata({FOOTER_KEY: footer.to_json()}), path)


def main() -> None:
    """Print a line for each `SHOWN` commits."""
    logging.disable(logging.CRITICAL)
    pa.set_cpu_count(1)
    rows = pq.read_table(sys.argv[1], partitioning=None).slice(0, ROWS)
    commits = int(sys.argv[2]) if len(sys.argv) > 2 else 120
    root = Path(tempfile.mkdtemp(prefix="table-commits-"))
    (root / "dead").mkdir()
    job = TableJob(
        TableSettings("bench.events", None, 60.0), str(root / "output"), str(root / "dead")
    )
    committer = Committer(job)
    metadata = root / "output/_table/bench/events/metadata"
    cpu_s, merge_cpu_s = [], []
    print(
        "| commit | CPU ms, mean of the last 20 | CPU ms of merges, mean and most of the last 20 "
        "| files | metadata.json, KiB | manifests |"
    )
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for commit in range(commits):
        for file in range(FILES):
            land(root / "output", commit * FILES + file, rows)
        began = time.process_time()
        if not committer.round():
            raise SystemExit(committer.progress.failure)
        committed = time.process_time()
        cpu_s.append(committed - began)
        for _ in committer.compaction():
            pass
        merge_cpu_s.append(time.process_time() - committed)
        if (commit + 1) % SHOWN == 0:
            table = committer.tables[0].table.catalog.load_table(job.table.name)
            snapshot = table.current_snapshot()
            newest = max(metadata.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
            print(
                f"| {commit + 1} | {1000 * sum(cpu_s[-SHOWN:]) / SHOWN:.0f} "
                f"| {1000 * sum(merge_cpu_s[-SHOWN:]) / SHOWN:.0f}, "
                f"{1000 * max(merge_cpu_s[-SHOWN:]):.0f} "
                f"| {len(committer.tables[0].table.held.files)} "
                f"| {newest.stat().st_size // 1024} "
                f"| {len(snapshot.manifests(table.io)) if snapshot else 0} |",
                flush=True,
            )
    shutil.rmtree(root)


if __name__ == "__main__":
    main()
