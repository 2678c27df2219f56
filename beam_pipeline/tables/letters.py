"""Dead letters as rows of a table: a small Parquet file of each file of JSON lines."""

from __future__ import annotations

import io
import uuid
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.io import FileIO

from beam_pipeline.covered_offsets import CoveredOffsets
from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.files.footer import FOOTER_KEY, FileFooter
from beam_pipeline.files.ledger import content_of
from beam_pipeline.files.names import OutputFile
from beam_pipeline.files.tree import json_lines
from beam_pipeline.offset_sets import ranges
from beam_pipeline.storage.paths import StoredPath
from beam_pipeline.tables.plan import LandedFile
from beam_pipeline.times import ms_of_rfc3339

LETTERS_SCHEMA = pa.schema(
    [
        pa.field("topic", pa.string()),
        pa.field("partition", pa.int32()),
        pa.field("offset", pa.int64()),
        pa.field("kafka_timestamp", pa.timestamp("ms", "UTC")),
        pa.field("failed_at", pa.timestamp("ms", "UTC")),
        pa.field("stage", pa.string()),
        pa.field("code", pa.string()),
        pa.field("message", pa.string()),
        pa.field("window_start", pa.timestamp("ms", "UTC")),
        pa.field("window_end", pa.timestamp("ms", "UTC")),
        pa.field("epoch", pa.string()),
        pa.field("letter", pa.string()),
    ]
)
"""The table of dead letters; `letter` is the whole letter as JSON text."""


def describe_letters(path: StoredPath) -> LandedFile:
    """Return what a file of dead letters covers.

    Raises:
        FileNotFoundError: it is gone.
        EnvironmentFailure: it can't be read.
    """
    name = OutputFile.parse(path)
    if name is None:
        raise EnvironmentFailure(f"{path}: not the name of a file of dead letters")
    covered = content_of(path).covered
    window = name.window_start, name.window_end
    return LandedFile(str(path), name.name, name.epoch, covered, window, covered.count)


def write_letters(path: StoredPath, file: LandedFile, files: FileIO, directory: str) -> str:
    """Write the Parquet file of a file of dead letters below a URI; return its own URI.

    Its name has a nonce, so that two tries never write the same file.

    Raises:
        FileNotFoundError: the file is gone.
        EnvironmentFailure, OSError: it can't be read, or the other one can't be written.
    """
    name = OutputFile.parse(path)
    if name is None:
        raise EnvironmentFailure(f"{path}: not the name of a file of dead letters")
    nonce = uuid.uuid4().hex
    rows = [_row(letter, name) for letter in json_lines(path)]
    table = pa.Table.from_pylist(rows, schema=LETTERS_SCHEMA)
    footer = FileFooter(
        topic=name.topic,
        window_start=name.window_start,
        window_end=name.window_end,
        shard=name.shard,
        epoch=name.epoch,
        pane=name.pane,
        rows=table.num_rows,
        schema_id=None,
        schema_sha256="",
        offsets=_ranges_of(file.covered),
        nonce=nonce,
    )
    content = io.BytesIO()
    with pq.ParquetWriter(content, table.schema, compression="zstd", store_schema=False) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({FOOTER_KEY: footer.to_json()})
    day = f"{name.window_start:%Y-%m-%d}"
    uri = f"{directory}/{day}/{path.stem[:200]}-{nonce}.parquet"
    with files.new_output(uri).create() as output:
        output.write(content.getvalue())
    return uri


def _row(letter: dict[str, Any], name: OutputFile) -> dict[str, Any]:
    source, error = letter["source"], letter["error"]
    return {
        "topic": source["topic"],
        "partition": source["partition"],
        "offset": source["offset"],
        "kafka_timestamp": _ms(source.get("timestamp")),
        "failed_at": _ms(letter.get("failed_at")),
        "stage": letter.get("stage"),
        "code": error.get("code"),
        "message": error.get("message"),
        "window_start": name.window_start,
        "window_end": name.window_end,
        "epoch": letter.get("epoch"),
        "letter": orjson.dumps(letter).decode(),
    }


def _ms(text: str | None) -> int | None:
    return None if text is None else ms_of_rfc3339(text)


def _ranges_of(covered: CoveredOffsets) -> dict[str, dict[int, list[tuple[int, int]]]]:
    offsets: dict[str, dict[int, list[tuple[int, int]]]] = {}
    for key in covered.partitions():
        offsets.setdefault(key.topic, {})[key.partition] = list(ranges(covered.of(key)))
    return offsets
