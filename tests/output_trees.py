"""Trees of output files made by hand, for the tests of what reads them."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet

from beam_pipeline.files.footer import FOOTER_KEY, FileFooter, LastRecords, ranges_of
from beam_pipeline.files.names import OutputFile

Source = tuple[str, int, int]
"""Topic, partition, offset."""

NOON = datetime(2026, 11, 23, 12, tzinfo=timezone.utc)


@dataclass
class OutputTree:
    """Writes files below `root/output` and `root/dead`, each in a window of its own.

    Files are of the epoch `epoch`.
    """

    root: Path
    files: int = 0
    epoch: str = "20261124T133350Zx3f9a"
    output_dir: Path = field(init=False)
    dead_letter_dir: Path = field(init=False)

    def __post_init__(self) -> None:
        self.output_dir, self.dead_letter_dir = self.root / "output", self.root / "dead"
        self.output_dir.mkdir(parents=True)
        self.dead_letter_dir.mkdir()

    def parquet(
        self,
        sources: Sequence[Source],
        claim: Sequence[Source] | None = None,
        table: pa.Table | None = None,
        row_group_size: int | None = None,
        last_records: LastRecords | None = None,
    ) -> Path:
        """Writes rows of the sources; the footer claims `claim`, by default what is true."""
        path, file = self._next(self.output_dir, sources, ".parquet")
        if table is None:
            table = pa.table({"n": range(len(sources)), **kafka_columns(sources)})
        footer = footer_for(file, sources if claim is None else claim, last_records)
        table = table.replace_schema_metadata({FOOTER_KEY: footer.to_json()})
        pyarrow.parquet.write_table(table, path, row_group_size=row_group_size)
        return path

    def letters(self, sources: Sequence[Source]) -> Path:
        """Writes a letter for each source, of a record without a timestamp."""
        return self.raw_letters([dead_letter(*source, timestamp=None) for source in sources])

    def raw_letters(self, letters: Sequence[dict[str, Any]]) -> Path:
        """Writes letters as they are."""
        sources = [("orders", 0, 0)] if not letters else [_source_of(letters[0])]
        path, _ = self._next(self.dead_letter_dir, sources, ".jsonl")
        path.write_bytes(b"".join(orjson.dumps(letter) + b"\n" for letter in letters))
        return path

    def _next(self, root: Path, sources: Sequence[Source], suffix: str) -> tuple[Path, OutputFile]:
        start = NOON + timedelta(seconds=10 * self.files)
        self.files += 1
        file = OutputFile(
            topic=sources[0][0] if sources else "orders",
            window_start=start,
            window_end=start + timedelta(seconds=10),
            shard=0,
            epoch=self.epoch,
            pane=0,
            suffix=suffix,
        )
        path = root / file.relative_path()
        path.parent.mkdir(parents=True, exist_ok=True)
        return path, file


def kafka_columns(sources: Sequence[Source]) -> dict[str, pa.Array]:
    """The columns that tell where rows are from."""
    return {
        "kafka_topic": pa.array([topic for topic, _, _ in sources], pa.string()),
        "kafka_partition": pa.array([partition for _, partition, _ in sources], pa.int32()),
        "kafka_offset": pa.array([offset for _, _, offset in sources], pa.int64()),
        "kafka_timestamp": pa.array([NOON] * len(sources), pa.timestamp("ms", "UTC")),
    }


def footer_for(
    file: OutputFile, sources: Iterable[Source], last_records: LastRecords | None = None
) -> FileFooter:
    """A footer that claims the sources."""
    listed = list(sources)
    by_partition: dict[str, dict[int, list[int]]] = {}
    for topic, partition, offset in listed:
        by_partition.setdefault(topic, {}).setdefault(partition, []).append(offset)
    return FileFooter(
        topic=file.topic,
        window_start=file.window_start,
        window_end=file.window_end,
        shard=file.shard,
        epoch=file.epoch,
        pane=file.pane,
        rows=len(listed),
        schema_id="https://example.com/order.json",
        schema_sha256="ab" * 32,
        offsets={
            topic: {partition: ranges_of(offsets) for partition, offsets in partitions.items()}
            for topic, partitions in by_partition.items()
        },
        last_records=last_records or {},
    )


def dead_letter(
    topic: str = "orders",
    partition: int = 0,
    offset: int = 0,
    *,
    code: str = "SCHEMA_VIOLATION",
    violations: Sequence[tuple[str, str]] = (("pattern", "/currency"),),
    failed_at: str = "2026-11-23T12:00:05.000Z",
    key: bytes | None = b"key",
    value: bytes | None = b'{"currency":"euro"}',
    headers: Sequence[tuple[str, bytes | None]] = (),
    attempt: int = 1,
    timestamp: str | None = "2026-11-23T12:00:04.500Z",
) -> dict[str, Any]:
    """A dead letter as a line of a file has it; `violations` are (keyword, instance path)."""
    identity = f"{topic}\0{partition}\0{offset}\0validate"
    return {
        "dlq_id": hashlib.sha256(identity.encode()).hexdigest(),
        "failed_at": failed_at,
        "stage": "validate",
        "error": {
            "code": code,
            "class": "ValidationError",
            "message": "'euro' does not match '^[A-Z]{3}$'",
            "stacktrace": None,
            "violations": [
                {
                    "keyword": keyword,
                    "instance_path": path,
                    "schema_path": f"/properties{path}/{keyword}",
                    "message": "does not match",
                }
                for keyword, path in violations
            ],
        },
        "source": {
            "topic": topic,
            "partition": partition,
            "offset": offset,
            "timestamp": timestamp,
            "timestamp_type": "LOG_APPEND_TIME",
        },
        "key_b64": _base64(key),
        "value_b64": _base64(value),
        "value_text": None if value is None else value.decode("utf-8", "replace"),
        "headers": [{"key": name, "value_b64": _base64(content)} for name, content in headers],
        "schema": {"id": "https://example.com/order.json", "sha256": "ab" * 32},
        "epoch": "20261124T133350Zx3f9a",
        "attempt": attempt,
    }


def sources(topic: str, partition: int, offsets: Iterable[int]) -> list[Source]:
    """The sources of some offsets of one partition."""
    return [(topic, partition, offset) for offset in offsets]


def _source_of(letter: dict[str, Any]) -> Source:
    return letter["source"]["topic"], letter["source"]["partition"], letter["source"]["offset"]


def _base64(content: bytes | None) -> str | None:
    return None if content is None else base64.b64encode(content).decode()
