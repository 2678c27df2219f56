"""Measures loading the ledger with many old files, with a snapshot and without.

Makes `--files` Parquet files of ten rows, then loads the ledger as a start does: before a snapshot,
after it, and with `--new` files since.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from beam_pipeline.files.footer import FOOTER_KEY, FileFooter
from beam_pipeline.files.ledger import load_ledger
from beam_pipeline.files.names import PARQUET_SUFFIX, OutputFile

ROWS = 10
EPOCH = "20260101T000000Zx0000"
FIRST_WINDOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
WINDOW = timedelta(seconds=10)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--files", type=int, default=10_000, help="files of the past")
    parser.add_argument("--new", type=int, default=20, help="files since the snapshot")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        output_dir = Path(directory, "output")
        for number in range(args.files):
            write_file(output_dir, number)
        print(f"{args.files:,} files, no snapshot: {start_up_seconds(directory):.2f} s")
        print(f"{args.files:,} files, snapshot: {start_up_seconds(directory):.2f} s")
        for number in range(args.files, args.files + args.new):
            write_file(output_dir, number)
        print(f"{args.new} more since the snapshot: {start_up_seconds(directory):.2f} s")


def start_up_seconds(directory: str) -> float:
    """Load the ledger and save its snapshot, as each start does."""
    started = time.monotonic()
    ledger = load_ledger(Path(directory, "output"), Path(directory, "dead"))
    ledger.save()
    return time.monotonic() - started


def write_file(output_dir: Path, number: int) -> None:
    start = FIRST_WINDOW + number * WINDOW
    target = OutputFile("orders", start, start + WINDOW, 0, EPOCH, 0, PARQUET_SUFFIX)
    first = number * ROWS
    footer = FileFooter(
        topic=target.topic,
        window_start=target.window_start,
        window_end=target.window_end,
        shard=target.shard,
        epoch=target.epoch,
        pane=target.pane,
        rows=ROWS,
        schema_id=None,
        schema_sha256="0" * 64,
        offsets={target.topic: {0: [(first, first + ROWS - 1)]}},
    )
    table = pa.table({"offset": range(first, first + ROWS)})
    path = output_dir / target.relative_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata({FOOTER_KEY: footer.to_json()}), path)


if __name__ == "__main__":
    main()
