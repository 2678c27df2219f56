"""`WriteToParquet` on streams: what Beam's own sink does to them, and that ours does not."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import duckdb
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.test_stream import TestStream
from apache_beam.transforms import trigger
from apache_beam.transforms.window import FixedWindows, TimestampedValue

from beam_pipeline.config import PaneTiming, Windowing
from beam_pipeline.errors import UsageError
from beam_pipeline.files.footer import read_footer
from beam_pipeline.files.names import OutputFile
from beam_pipeline.io.parquet import WriteToParquet
from beam_pipeline.records import DeadLetter, ErrorCode, SchemaRef
from beam_pipeline.schemas.contract import KAFKA_FIELDS, RIDE_ALONG_FIELDS
from beam_pipeline.transforms import WindowBatches

SCHEMA = pa.schema([("x", pa.int64())])
KEPT = pa.schema([("x", pa.string()), *KAFKA_FIELDS])
AT_ONCE = PaneTiming(late_pane_seconds=5)


def row(second: int) -> TimestampedValue[Any]:
    return TimestampedValue({"x": second}, second)


def two_windows() -> Any:
    """Rows of the windows 0-10 and 10-20, in turn, in one bundle."""
    return (
        TestStream()
        .advance_watermark_to(0)
        .add_elements([row(1), row(11), row(2), row(12)])
        .advance_watermark_to_infinity()
    )


def late_row() -> Any:
    """A row that comes after the watermark has passed its window."""
    later = int(time.time()) + 1000
    return (
        TestStream()
        .advance_watermark_to(0)
        .add_elements([row(1), row(2)])
        .advance_watermark_to(25)
        .advance_processing_time(later)
        .add_elements([row(3)])
        .advance_processing_time(later)
        .advance_watermark_to_infinity()
    )


def in_windows() -> beam.WindowInto:
    return beam.WindowInto(
        FixedWindows(10),
        trigger=trigger.AfterWatermark(late=trigger.AfterCount(1)),
        allowed_lateness=1000,
        accumulation_mode=trigger.AccumulationMode.DISCARDING,
    )


def ours(directory: Path, **arguments: Any) -> WriteToParquet:
    settings = {"schema": SCHEMA, "epoch": "e1", "timing": AT_ONCE, **arguments}
    return WriteToParquet(str(directory), **settings)


def run(build: Callable[[beam.Pipeline], object]) -> None:
    with TestPipeline(options=PipelineOptions([], streaming=True)) as pipeline:
        build(pipeline)


def files_of(directory: Path) -> dict[tuple[int, int], list[int]]:
    """(start of the window, pane) to the rows of its file."""
    found = {}
    for path in directory.glob("dt=*/hour=*/*.parquet"):
        name = OutputFile.parse(path)
        assert name is not None
        rows = pq.read_table(path, partitioning=None).column("x").to_pylist()
        found[int(name.window_start.timestamp()), name.pane] = sorted(rows)
    return found


def stock_files(directory: Path) -> dict[str, list[int]]:
    return {
        path.name: sorted(pq.read_table(path).column("x").to_pylist())
        for path in directory.glob("o-*")
        if path.is_file()
    }


def test_stock_puts_the_rows_of_every_window_into_one(tmp_path: Path) -> None:
    """Beam 2.73, `_RowDictionariesToArrowTable`: one buffer for all windows of a bundle."""
    stock = beam.io.WriteToParquet(str(tmp_path / "o"), SCHEMA, num_shards=1)
    run(lambda p: p | two_windows() | in_windows() | stock)
    assert [1, 2, 11, 12] in stock_files(tmp_path).values()


def test_ours_keeps_two_windows_of_one_bundle_apart(tmp_path: Path) -> None:
    run(lambda p: p | two_windows() | in_windows() | ours(tmp_path))
    assert files_of(tmp_path) == {(0, 0): [1, 2], (10, 0): [11, 12]}


def to_table(element: dict[str, int]) -> pa.Table:
    return pa.Table.from_pylist([element], schema=SCHEMA)


def test_stock_batched_loses_rows_of_a_bundle_with_two_windows(tmp_path: Path) -> None:
    """Beam 2.73, `_ParquetSink`: one file handle, taken over by the window opened last.

    The pipeline ends without an error; a file that it wrote has no footer, so it can't be read.
    """
    stock = beam.io.WriteToParquetBatched(str(tmp_path / "o"), SCHEMA, num_shards=1)
    run(lambda p: p | two_windows() | in_windows() | beam.Map(to_table) | stock)
    with pytest.raises(pa.ArrowInvalid, match="Parquet magic bytes not found in footer"):
        stock_files(tmp_path)


def test_ours_takes_batches_of_two_windows_in_one_bundle(tmp_path: Path) -> None:
    def batch(*seconds: int) -> TimestampedValue[Any]:
        rows = [{"x": second} for second in seconds]
        return TimestampedValue(pa.RecordBatch.from_pylist(rows, schema=SCHEMA), seconds[0])

    stream = (
        TestStream()
        .advance_watermark_to(0)
        .add_elements([batch(1, 2), batch(11, 12), batch(3)])
        .advance_watermark_to_infinity()
    )
    run(lambda p: p | stream | in_windows() | ours(tmp_path))
    assert files_of(tmp_path) == {(0, 0): [1, 2, 3], (10, 0): [11, 12]}


def test_stock_fails_on_a_late_pane(tmp_path: Path) -> None:
    """Beam 2.73, `iobase.WriteImpl`: each pane makes the singleton side inputs once more."""
    stock = beam.io.WriteToParquet(str(tmp_path / "o"), SCHEMA, num_shards=1)
    with pytest.raises(ValueError, match="more than one element accessed as a singleton"):
        run(lambda p: p | late_row() | in_windows() | stock)


def test_ours_keeps_the_late_pane_beside_the_one_on_time(tmp_path: Path) -> None:
    run(lambda p: p | late_row() | in_windows() | ours(tmp_path))
    assert files_of(tmp_path) == {(0, 0): [1, 2], (0, 1): [3]}


def bounded(pipeline: beam.Pipeline) -> Any:
    return pipeline | beam.Create([1, 11]) | beam.Map(row) | in_windows()


def test_stock_puts_bounded_input_back_into_the_global_window(tmp_path: Path) -> None:
    stock = beam.io.WriteToParquet(str(tmp_path / "o"), SCHEMA, num_shards=1)
    with TestPipeline() as pipeline:
        bounded(pipeline) | stock
    assert list(stock_files(tmp_path).values()) == [[1, 11]]


def test_ours_keeps_the_windows_of_bounded_input(tmp_path: Path) -> None:
    with TestPipeline() as pipeline:
        bounded(pipeline) | ours(tmp_path)
    assert files_of(tmp_path) == {(0, 0): [1], (10, 0): [11]}


@pytest.mark.parametrize("timing", [None, PaneTiming(60, 60)])
def test_when_the_input_ends_everything_is_in_files(
    tmp_path: Path, timing: PaneTiming | None
) -> None:
    """However long panes wait: no clock moves on behind the end, and a row that waited was lost."""
    stream = (
        TestStream()
        .advance_watermark_to(0)
        .add_elements([row(1), row(11)])
        .advance_watermark_to(25)
        .add_elements([row(2), row(31)])
        .advance_watermark_to_infinity()
    )
    run(lambda p: p | stream | in_windows() | ours(tmp_path / "stream", timing=timing))
    assert rows_by_window(tmp_path / "stream") == {0: [1, 2], 10: [11], 30: [31]}
    with TestPipeline() as pipeline:
        bounded(pipeline) | ours(tmp_path / "bounded", timing=timing)
    assert rows_by_window(tmp_path / "bounded") == {0: [1], 10: [11]}


def rows_by_window(directory: Path) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for (window_start, _), rows in sorted(files_of(directory).items()):
        found[window_start] = sorted([*found.get(window_start, []), *rows])
    return found


def test_nothing_that_waited_is_left_behind(tmp_path: Path) -> None:
    """Every part is retired, so that the sweeper takes it, and no half-made file is left."""
    run(lambda p: p | late_row() | in_windows() | ours(tmp_path))
    left = [path for path in (tmp_path / "_tmp").rglob("*") if path.is_file()]
    assert len(left) == 2
    assert {path.parent.name for path in left} == {"done"}


def test_late_panes_are_part_of_the_dataset(tmp_path: Path) -> None:
    run(lambda p: p | late_row() | in_windows() | ours(tmp_path))
    dataset = pyarrow.dataset.dataset(tmp_path, partitioning="hive")
    assert len(dataset.files) == 2
    assert sorted(dataset.to_table().column("x").to_pylist()) == [1, 2, 3]
    query = f"SELECT sum(x) FROM read_parquet('{tmp_path}/**/*.parquet', hive_partitioning = true)"
    assert duckdb.execute(query).fetchall() == [(6,)]


def test_input_in_the_global_window_is_refused(tmp_path: Path) -> None:
    pipeline = beam.Pipeline()
    rows = pipeline | beam.Create([{"x": 1}])
    with pytest.raises(ValueError, match="global window"):
        rows | ours(tmp_path)


def test_empty_windows_make_no_file(tmp_path: Path) -> None:
    stream = (
        TestStream()
        .advance_watermark_to(0)
        .add_elements([row(1)])
        .advance_watermark_to(500)
        .advance_processing_time(int(time.time()) + 1000)
        .add_elements([row(501)])
        .advance_watermark_to_infinity()
    )
    run(lambda p: p | stream | in_windows() | ours(tmp_path))
    assert set(files_of(tmp_path)) == {(0, 0), (500, 0)}


def test_an_early_pane_gives_what_an_open_window_has(tmp_path: Path) -> None:
    stream = (
        TestStream()
        .advance_watermark_to(0)
        .add_elements([row(1)])
        .advance_processing_time(int(time.time()) + 1000)
        .add_elements([row(2)])
        .advance_watermark_to_infinity()
    )
    timing = PaneTiming(early_pane_seconds=3)
    run(lambda p: p | stream | in_windows() | ours(tmp_path, timing=timing))
    assert files_of(tmp_path) == {(0, 0): [1], (0, 1): [2]}


def kafka_batch(
    offsets: Sequence[int], *, topic: str = "orders", partitions: Sequence[int] | None = None
) -> pa.RecordBatch:
    """A batch as it comes to the sink, with a column `x` of texts."""
    rows = [
        {
            "x": f"{offset}",
            "kafka_topic": topic,
            "kafka_partition": partitions[position] if partitions else 0,
            "kafka_offset": offset,
            "kafka_timestamp": 1_000,
            "_event_time": 1_000_000,
            "_timestamp_type": "LOG_APPEND_TIME",
            "_key": b"\xff",
            "_value": b"value %d" % offset,
            "_headers": [{"key": "h", "value": b"\x00"}],
        }
        for position, offset in enumerate(offsets)
    ]
    schema = pa.schema([("x", pa.string()), *KAFKA_FIELDS, *RIDE_ALONG_FIELDS])
    return pa.RecordBatch.from_pylist(rows, schema=schema)


@pytest.mark.parametrize("delay_seconds", [2, 25])
def test_the_sink_takes_the_delay_from_the_windows(tmp_path: Path, delay_seconds: int) -> None:
    windowing = Windowing(10, watermark_delay_seconds=delay_seconds)
    batch = kafka_batch([0])
    run(
        lambda pipeline: (
            pipeline | beam.Create([batch]) | WindowBatches(windowing) | ours(tmp_path, schema=KEPT)
        )
    )
    (path,) = tmp_path.glob("dt=*/hour=*/*.parquet")
    name = OutputFile.parse(path)
    assert name is not None
    assert (name.window_start.timestamp(), name.window_end.timestamp()) == (0, 10)


def test_another_delay_than_that_of_the_windows_is_refused(tmp_path: Path) -> None:
    batches = TestPipeline() | beam.Create([kafka_batch([0])]) | WindowBatches(Windowing(10, 2))
    with pytest.raises(ValueError, match="watermark_delay_seconds=0: the windows are shifted by 2"):
        _ = batches | ours(tmp_path, schema=KEPT, watermark_delay_seconds=0)


def test_a_column_named_like_a_partition_key_is_refused(tmp_path: Path) -> None:
    schema = pa.schema([("Hour", pa.int64())])
    with pytest.raises(UsageError, match="column 'Hour' has the name of a partition key"):
        ours(tmp_path, schema=schema)
    ours(tmp_path, schema=schema, partition_keys=("file_dt", "file_hour"))


def write_batches(
    directory: Path, batches: list[pa.RecordBatch], **arguments: Any
) -> list[DeadLetter]:
    """Writes batches of the window 0-10; the dead letters that come out."""
    schema = pa.schema([("x", pa.int64()), *KAFKA_FIELDS])
    stream = (
        TestStream()
        .advance_watermark_to(0)
        .add_elements([TimestampedValue(batch, 1) for batch in batches])
        .advance_watermark_to_infinity()
    )
    kept = directory.with_name(f"{directory.name}-letters")
    kept.mkdir()

    def build(pipeline: beam.Pipeline) -> None:
        sink = ours(directory, schema=schema, **arguments)
        outputs = pipeline | stream | in_windows() | sink
        outputs.dead | beam.FlatMap(list) | beam.Map(keep, str(kept))

    run(build)
    return [pickle.loads(path.read_bytes()) for path in sorted(kept.iterdir())]


def keep(letter: DeadLetter, directory: str) -> None:
    """The runner has copies of everything else; a file is what a test can see."""
    Path(directory, f"{letter.offset:09d}").write_bytes(pickle.dumps(letter))


def _paths_after(directory: Path, write: Callable[[], object]) -> list[Path]:
    write()
    return sorted(directory.glob("dt=*/hour=*/*.parquet"))


def test_a_row_that_arrow_refuses_is_a_dead_letter_and_its_neighbours_are_written(
    tmp_path: Path,
) -> None:
    batch = kafka_batch([4, 5, 6]).set_column(0, "x", pa.array(["4", "no number", "6"]))
    (letter,) = write_batches(tmp_path, [batch])
    assert (letter.offset, letter.failure.code) == (5, ErrorCode.ENCODE_ERROR)
    assert (letter.key, letter.value) == (b"\xff", b"value 5")
    assert letter.headers == (("h", b"\x00"),)
    (path,) = tmp_path.glob("dt=*/hour=*/*.parquet")
    table = pq.read_table(path, partitioning=None)
    assert table.column("kafka_offset").to_pylist() == [4, 6]
    assert not set(table.schema.names) & {field.name for field in RIDE_ALONG_FIELDS}


def test_shards_and_topics_of_one_batch_are_files_of_their_own(tmp_path: Path) -> None:
    batches = [
        kafka_batch([1, 2, 3, 4], partitions=[0, 1, 2, 3]),
        kafka_batch([9], topic="refunds", partitions=[3]),
    ]
    paths = _paths_after(tmp_path, lambda: write_batches(tmp_path, batches, num_shards=2))
    covered = {}
    for path in paths:
        footer = read_footer(path)
        covered[footer.topic, footer.shard] = dict(footer.offsets[footer.topic])
    assert covered == {
        ("orders", 0): {0: [(1, 1)], 2: [(3, 3)]},
        ("orders", 1): {1: [(2, 2)], 3: [(4, 4)]},
        ("refunds", 1): {3: [(9, 9)]},
    }


def test_the_footer_says_what_the_file_is(tmp_path: Path) -> None:
    (path,) = _paths_after(
        tmp_path,
        lambda: write_batches(
            tmp_path, [kafka_batch([3, 4, 9])], schema_ref=SchemaRef("urn:s", "ab" * 32)
        ),
    )
    footer = read_footer(path)
    assert (footer.epoch, footer.pane, footer.rows) == ("e1", 0, 3)
    assert (footer.window_start.timestamp(), footer.window_end.timestamp()) == (0, 10)
    assert (footer.schema_id, footer.schema_sha256) == ("urn:s", "ab" * 32)
    assert footer.offsets == {"orders": {0: [(3, 4), (9, 9)]}}


def test_the_tree_is_one_hive_partitioned_dataset(tmp_path: Path) -> None:
    write_batches(tmp_path, [kafka_batch(range(100), partitions=[i % 4 for i in range(100)])])
    dataset = pyarrow.dataset.dataset(tmp_path, partitioning="hive")
    assert dataset.count_rows() == 100
    assert all("_tmp" not in file for file in dataset.files)
    found = duckdb.execute(
        f"SELECT count(*), min(dt)::VARCHAR FROM read_parquet('{tmp_path}/dt=*/hour=*/*.parquet', "
        "hive_partitioning = true)"
    ).fetchall()
    assert found == [(100, "1970-01-01")]
