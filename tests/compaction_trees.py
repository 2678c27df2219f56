"""Trees of small Parquet files with all that their names and footers say, for compaction."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from output_trees import footer_for, kafka_columns

from beam_pipeline.files.footer import FOOTER_KEY
from beam_pipeline.files.names import OutputFile

Placed = tuple[str, int, int]
"""Topic, partition and offset."""


@dataclass
class CompactionTree:
    """Writes files below `root/output`, their windows counted from noon."""

    root: Path
    files: int = 0

    @property
    def output_dir(self) -> Path:
        return self.root / "output"

    @property
    def start(self) -> datetime:
        return datetime(2026, 11, 23, 12, tzinfo=timezone.utc)

    def __post_init__(self) -> None:
        self.output_dir.mkdir(exist_ok=True)

    def write(
        self,
        topic: str,
        window_seconds: int,
        sources: Sequence[tuple[int, int]],
        *,
        claim: Sequence[tuple[int, int]] | None = None,
        epoch: str = "20261124T133350Zx3f9a",
        schema_sha256: str = "ab" * 32,
        column: str = "n",
        **columns: pa.Array,
    ) -> OutputFile:
        """Writes a row for each (partition, offset); the footer claims `claim` instead, if given.

        The window of 10 s begins so many seconds after noon; each file has a pane of its own.
        """
        start = self.start + timedelta(seconds=window_seconds)
        file = OutputFile(
            topic, start, start + timedelta(seconds=10), 0, epoch, self.files, ".parquet"
        )
        self.files += 1
        rows = [(topic, *source) for source in sources]
        table = pa.table(
            {column: pa.array(range(len(rows)), pa.int64()), **columns, **kafka_columns(rows)}
        )
        claimed = rows if claim is None else [(topic, *source) for source in claim]
        footer = footer_for(file, claimed)
        footer = dataclasses.replace(footer, schema_sha256=schema_sha256)
        path = self.output_dir / file.relative_path()
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.replace_schema_metadata({FOOTER_KEY: footer.to_json()}), path)
        return file


def placed(output_dir: Path) -> Counter[Placed]:
    """How often each record is in a file in place, as a reader of the dataset sees it."""
    counts: Counter[Placed] = Counter()
    for path in sorted(output_dir.glob("dt=*/hour=*/*.parquet")):
        names = ["kafka_topic", "kafka_partition", "kafka_offset"]
        table = pq.read_table(path, columns=names, partitioning=None)
        counts.update(zip(*(table.column(name).to_pylist() for name in names), strict=True))
    return counts
