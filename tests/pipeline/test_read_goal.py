"""Once the goal of a run is read, its panes fire without waiting for more rows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.test_stream import TestStream
from apache_beam.transforms.window import FixedWindows, TimestampedValue

from beam_pipeline.config import PaneTiming, PartitionEnd, ReadGoal
from beam_pipeline.files.names import OutputFile
from beam_pipeline.io.parquet import WriteToParquet
from beam_pipeline.io.read_goal import note_read
from beam_pipeline.schemas.contract import KAFKA_FIELDS

SCHEMA = pa.schema([("x", pa.string()), *KAFKA_FIELDS])
DAY = PaneTiming(early_pane_seconds=86_400)


class Read(beam.DoFn):
    """Notes what a bundle has read, as the source does."""

    def __init__(self, goal: ReadGoal) -> None:
        self._goal = goal

    def process(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        self._batch = batch
        yield batch

    def finish_bundle(self) -> None:
        (partition,) = set(self._batch.column("kafka_partition").to_pylist())
        end = self._batch.column("kafka_offset")[-1].as_py() + 1
        note_read(self._goal, "orders", partition, end)


def records(offsets: range, partition: int = 0) -> TimestampedValue[Any]:
    rows = [
        {
            "x": f"{offset}",
            "kafka_topic": "orders",
            "kafka_partition": partition,
            "kafka_offset": offset,
            "kafka_timestamp": int(time.time() * 1000),
        }
        for offset in offsets
    ]
    return TimestampedValue(pa.RecordBatch.from_pylist(rows, schema=SCHEMA), 1)


def panes(directory: Path) -> dict[int, list[tuple[int, int]]]:
    """Pane to (partition, offset) of its rows."""
    found = {}
    for path in directory.glob("dt=*/hour=*/*.parquet"):
        name = OutputFile.parse(path)
        assert name is not None
        rows = pq.read_table(path, columns=["kafka_partition", "kafka_offset"], partitioning=None)
        found[name.pane] = sorted(zip(*(column.to_pylist() for column in rows), strict=True))
    return found


def land(directory: Path, ends: dict[int, int], *bundles: Any) -> dict[int, list[tuple[int, int]]]:
    goal = ReadGoal(
        directory.name,
        tuple(PartitionEnd("orders", partition, end) for partition, end in ends.items()),
    )
    # The clock of the stream begins at 0, and panes are due by the clock of the worker.
    stream = TestStream().advance_watermark_to(0).advance_processing_time(int(time.time()) + 60)
    for bundle in bundles:
        stream = stream.add_elements([bundle]).advance_processing_time(10)
    stream = stream.advance_watermark_to_infinity()
    sink = WriteToParquet(str(directory), SCHEMA, epoch="e1", timing=DAY, goal=goal)
    with TestPipeline(options=PipelineOptions([], streaming=True)) as pipeline:
        _ = pipeline | stream | beam.ParDo(Read(goal)) | beam.WindowInto(FixedWindows(10)) | sink
    return panes(directory)


def test_the_panes_fire_when_the_goal_is_read(tmp_path: Path) -> None:
    landed = land(tmp_path, {0: 4}, records(range(2)), records(range(2, 4)), records(range(4, 6)))
    assert landed == {0: [(0, n) for n in range(4)], 1: [(0, 4), (0, 5)]}


def test_records_beyond_the_goal_fire_no_pane(tmp_path: Path) -> None:
    later = [records(range(first, first + 2)) for first in (4, 6, 8)]
    landed = land(tmp_path, {0: 4}, records(range(4)), *later)
    assert landed == {0: [(0, n) for n in range(4)], 1: [(0, n) for n in range(4, 10)]}


@pytest.mark.parametrize("last_end", [2, 3])
def test_each_partition_must_be_read(tmp_path: Path, last_end: int) -> None:
    bundles = records(range(4)), records(range(2), partition=1), records(range(4, 5))
    landed = land(tmp_path, {0: 4, 1: last_end}, *bundles)
    assert len(landed) == (2 if last_end == 2 else 1)


def test_without_rows_before_the_goal_nothing_fires(tmp_path: Path) -> None:
    landed = land(tmp_path, {0: 4}, records(range(4, 6)), records(range(6, 8)))
    assert landed == {0: [(0, n) for n in range(4, 8)]}
