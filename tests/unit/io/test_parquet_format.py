"""Batches become parts and parts become files, and nothing changes on the way."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_records import NOON_MS, SHA256

from beam_pipeline.covered_offsets import CoveredOffsets
from beam_pipeline.files.footer import ranges_of, read_footer
from beam_pipeline.files.names import OutputFile
from beam_pipeline.files.parts import PartRef
from beam_pipeline.io.parquet import (
    ParquetFormat,
    WriteToParquet,
    last_records_of,
    merge_offsets,
)
from beam_pipeline.io.shards import offsets_of
from beam_pipeline.io.windowed_files import Shard
from beam_pipeline.records import DeadLetter, ErrorCode, SchemaRef
from beam_pipeline.schemas.contract import KAFKA_FIELDS, RIDE_ALONG_FIELDS
from beam_pipeline.transforms.dead_letters import DeadLetters

NOON = datetime(2026, 11, 23, 12, tzinfo=timezone.utc)
ROWS = pa.schema([("n", pa.int64()), ("list", pa.list_(pa.int32())), *KAFKA_FIELDS])
TARGET = OutputFile("orders", NOON, NOON + timedelta(seconds=10), 0, "e1", 2, ".parquet")
SCHEMA_REF = SchemaRef("urn:event:1", SHA256)


def format_of(**settings: Any) -> ParquetFormat:
    return ParquetFormat(**{"schema": ROWS, "num_shards": 2, "schema_ref": SCHEMA_REF, **settings})


def batch_of(sources: list[tuple[str, int, int]], **columns: list[Any]) -> pa.RecordBatch:
    """A batch as it comes to the sink, from (topic, partition, offset)."""
    rows = len(sources)
    given_columns = {"n": list(range(rows)), "list": [[1]] * rows, **columns}
    kafka = {
        "kafka_topic": [topic for topic, _, _ in sources],
        "kafka_partition": [partition for _, partition, _ in sources],
        "kafka_offset": [offset for _, _, offset in sources],
        "kafka_timestamp": [NOON_MS] * rows,
    }
    ride_along = {
        "_event_time": [NOON] * rows,
        "_timestamp_type": ["LOG_APPEND_TIME"] * rows,
        "_key": [None] * rows,
        "_value": [b"%d" % offset for _, _, offset in sources],
        "_headers": [[{"key": "h", "value": None}]] * rows,
    }
    types = {field.name: field.type for field in (*KAFKA_FIELDS, *RIDE_ALONG_FIELDS)}
    return pa.RecordBatch.from_pydict(
        {
            **{name: pa.array(values) for name, values in given_columns.items()},
            **{
                name: pa.array(values, types[name])
                for name, values in {**kafka, **ride_along}.items()
            },
        }
    )


def cut(
    element: Any, file_format: ParquetFormat
) -> tuple[list[tuple[Shard, pa.RecordBatch]], list[DeadLetter]]:
    pieces: list[tuple[Shard, pa.RecordBatch]] = []
    letters: list[DeadLetter] = []
    for piece in file_format.shards_of(element):
        if isinstance(piece, DeadLetters):
            letters += piece
        else:
            assert isinstance(piece.content, pa.RecordBatch)
            assert piece.size_bytes == piece.content.nbytes
            piece.content.validate(full=True)
            assert piece.content.schema == file_format.schema
            pieces.append((piece.shard, piece.content))
    return pieces, letters


SOURCES = st.lists(
    st.tuples(
        st.sampled_from(["orders", "clicks", "a.b"]), st.integers(0, 6), st.integers(0, 2**62)
    ),
    max_size=12,
    unique=True,
)


@given(SOURCES, st.sets(st.integers(0, 11)), st.integers(1, 4), st.integers(0, 3))
def test_every_row_is_in_its_shard_or_refused(
    sources: list[tuple[str, int, int]], faults: set[int], num_shards: int, start: int
) -> None:
    """Rows whose list holds what 32 bits can't are refused, alone; slices are no matter."""
    lists = [[2**40] if row in faults else [row, row] for row in range(len(sources))]
    batch = batch_of(sources, list=pa.array(lists, pa.list_(pa.int64()))).slice(start)
    pieces, letters = cut(batch, format_of(num_shards=num_shards))
    found = []
    for shard, piece in pieces:
        for row in piece.to_pylist():
            source = (row["kafka_topic"], row["kafka_partition"], row["kafka_offset"])
            assert shard == Shard(source[0], source[1] % num_shards)
            found.append(source)
    inside = sources[start:]
    kept = [source for row, source in enumerate(sources) if row >= start and row not in faults]
    assert sorted(found) == sorted(kept)
    refused = [(letter.topic, letter.partition, letter.offset) for letter in letters]
    assert sorted(found + refused) == sorted(inside)
    for letter in letters:
        assert letter.failure.code is ErrorCode.ENCODE_ERROR
        assert (letter.stage, letter.schema) == ("write", SCHEMA_REF)
        assert letter.value == b"%d" % letter.offset
        assert letter.headers == (("h", None),)


def test_rows_that_name_no_topic_or_partition_go_to_the_default(tmp_path: Path) -> None:
    file_format = format_of(default_topic="rows")
    row = {"n": 1, "list": None, "kafka_topic": None, "kafka_partition": None}
    ((shard, piece),), letters = cut(row, file_format)
    assert (shard, letters) == (Shard("rows", 0), [])
    assert piece.to_pylist()[0]["kafka_topic"] is None
    part = file_format.write_part(str(tmp_path / "part"), shard, [piece])
    assert part.offsets == {}


def test_a_row_without_the_kafka_columns(tmp_path: Path) -> None:
    file_format = format_of(schema=pa.schema([("x", pa.int64())]))
    ((shard, piece),), _ = cut({"x": 1}, file_format)
    assert shard == Shard("rows", 0)
    part = file_format.write_part(str(tmp_path / "part"), shard, [piece])
    assert (part.rows, part.offsets) == (1, {})
    file_format.assemble(str(tmp_path / "file"), TARGET, [part], CoveredOffsets())
    assert read_footer(tmp_path / "file").offsets == {"orders": {}}


def test_a_dict_that_does_not_fit_says_so() -> None:
    """It has no record behind it that could be a dead letter."""
    with pytest.raises(pa.ArrowInvalid, match="Could not convert"):
        cut({"n": "one"}, format_of())


def test_a_batch_that_does_not_fit_and_has_no_record_says_so() -> None:
    batch = pa.RecordBatch.from_pydict({"x": ["one"]})
    with pytest.raises(pa.ArrowInvalid, match="Failed to parse"):
        cut(batch, format_of(schema=pa.schema([("x", pa.int64())])))


@given(st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=6), min_size=1, max_size=5))
def test_parts_become_one_file(
    tmp_path_factory: pytest.TempPathFactory, offsets: list[list[int]]
) -> None:
    directory = tmp_path_factory.mktemp("parts")
    file_format = format_of(writer_options={"compression": "snappy"})
    parts, pieces = [], []
    for number, of_part in enumerate(offsets):
        batch = batch_of([("orders", offset % 3, offset) for offset in of_part])
        piece = batch.select(ROWS.names).cast(ROWS)
        parts.append(
            file_format.write_part(str(directory / f"{number}"), Shard("orders", 0), [piece, piece])
        )
        pieces += [piece, piece]
    path = directory / "file.parquet"
    rows = file_format.assemble(str(path), TARGET, parts, CoveredOffsets())
    table = pq.read_table(path, partitioning=None)
    assert table.replace_schema_metadata() == pa.Table.from_batches(pieces, ROWS)
    assert rows == table.num_rows == sum(part.rows for part in parts)
    footer = read_footer(path)
    everything = {offset for of_part in offsets for offset in of_part}
    assert footer.offsets == {
        "orders": {
            partition: ranges_of([offset for offset in everything if offset % 3 == partition])
            for partition in {offset % 3 for offset in everything}
        }
    }
    assert (footer.topic, footer.window_start, footer.window_end) == (
        TARGET.topic,
        TARGET.window_start,
        TARGET.window_end,
    )
    assert (footer.shard, footer.epoch, footer.pane, footer.rows) == (0, "e1", 2, rows)
    assert (footer.schema_id, footer.schema_sha256) == SCHEMA_REF
    assert pq.ParquetFile(path).metadata.row_group(0).column(0).compression == "SNAPPY"


def test_a_window_is_put_together_a_row_group_at_a_time(tmp_path: Path) -> None:
    file_format = format_of(row_group_bytes=8_000)
    parts = []
    for number in range(10):
        batch = batch_of([("orders", 0, 100 * number + row) for row in range(100)])
        piece = batch.select(ROWS.names).cast(ROWS)
        parts.append(file_format.write_part(str(tmp_path / f"{number}"), Shard("o", 0), [piece]))
    file_format.assemble(str(tmp_path / "file"), TARGET, parts, CoveredOffsets())
    metadata = pq.ParquetFile(tmp_path / "file").metadata
    sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    assert sum(sizes) == 1000
    assert 1 < len(sizes) < 10
    assert pq.read_table(tmp_path / "file").column("kafka_offset").to_pylist() == list(range(1000))


def test_a_part_is_small_on_disk(tmp_path: Path) -> None:
    batch = batch_of([("orders", 0, offset) for offset in range(20_000)])
    piece = batch.select(ROWS.names).cast(ROWS)
    format_of().write_part(str(tmp_path / "part"), Shard("orders", 0), [piece])
    assert (tmp_path / "part").stat().st_size < piece.nbytes / 2


@given(
    st.lists(
        st.dictionaries(st.integers(0, 3), st.sets(st.integers(0, 30), min_size=1), max_size=3),
        max_size=5,
    )
)
def test_offsets_of_parts_are_merged(parts: list[dict[int, set[int]]]) -> None:
    refs = [
        PartRef("", "orders", 0, 0, {p: ranges_of(offsets) for p, offsets in part.items()})
        for part in parts
    ]
    everything: dict[int, set[int]] = {}
    for part in parts:
        for partition, offsets in part.items():
            everything.setdefault(partition, set()).update(offsets)
    assert merge_offsets(refs) == {p: ranges_of(offsets) for p, offsets in everything.items()}


def test_offsets_of_rows() -> None:
    rows = pa.Table.from_batches(
        [
            batch_of([("orders", 1, 5), ("orders", 0, 9)]),
            batch_of([("orders", 1, 4), ("orders", 1, 7)]),
        ]
    )
    assert offsets_of(rows) == {0: [(9, 9)], 1: [(4, 5), (7, 7)]}
    assert offsets_of(rows.select(["n"])) == {}
    assert all(type(partition) is int for partition in offsets_of(rows))
    assert not any(isinstance(end, np.integer) for span in offsets_of(rows)[1] for end in span)


@pytest.mark.parametrize(
    "arguments",
    [
        {"record_batch_size": 500},
        {"shard_name_template": "-SS-of-NN"},
        {"mime_type": "text/plain"},
        {"triggering_frequency": 5},
    ],
)
def test_arguments_without_a_meaning_here_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(arguments))} .*has no meaning here"):
        WriteToParquet("output", ROWS, epoch="e1", **arguments)


def test_the_last_record_of_each_partition_is_known_by_offset_and_timestamp() -> None:
    rows = pa.table(
        {
            "kafka_partition": pa.array([0, 1, 0, 0, 1], pa.int32()),
            "kafka_offset": [5, 8, 9, 7, 2],
            "kafka_timestamp": pa.array([50, 80, 90, None, 20], pa.timestamp("ms", "UTC")),
        }
    )
    assert last_records_of(rows) == {0: (9, 90), 1: (8, 80)}
    assert last_records_of(rows.select(["kafka_offset"])) == {}
    assert last_records_of(rows.slice(0, 0)) == {}
