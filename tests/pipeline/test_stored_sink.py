"""The sink on an object store: a real S3 server, with other writers and lost answers."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import orjson
import pyarrow as pa
import pyarrow.dataset
import pyarrow.fs
import pyarrow.parquet as pq
import pytest
from apache_beam.transforms.window import IntervalWindow
from dofn_states import Cell, Timer
from pipeline.test_graph import config_of, land
from stores import Store
from unreliable_store import FAULTS, unreliable

from beam_pipeline.config import PaneTiming
from beam_pipeline.files import parts
from beam_pipeline.files.footer import read_footer
from beam_pipeline.files.ledger import content_of
from beam_pipeline.files.tree import visible_paths
from beam_pipeline.io.parquet import ParquetFormat
from beam_pipeline.io.windowed_files import FileLayout, _AssembleFiles, _WriteParts
from beam_pipeline.records import SchemaRef
from beam_pipeline.schemas.contract import KAFKA_FIELDS
from beam_pipeline.storage.config import StorageConfig
from beam_pipeline.storage.paths import ObjectPath, StoredPath
from beam_pipeline.storage.s3 import S3Storage
from beam_pipeline.storage.urls import open_storage, stored_path

EPOCH = "20261124T133350Zx3f9a"
ROWS = pa.schema([("n", pa.int64()), *KAFKA_FIELDS])
WINDOW = IntervalWindow(0, 10)


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A worker's own temporary directory, which is empty at the end."""
    directory = tmp_path / "scratch"
    directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    yield directory
    assert list(directory.iterdir()) == []


def batch_of(*offsets: int, topic: str = "orders") -> pa.RecordBatch:
    columns: dict[str, list[Any]] = {
        "n": list(offsets),
        "kafka_topic": [topic] * len(offsets),
        "kafka_partition": [0] * len(offsets),
        "kafka_offset": list(offsets),
        "kafka_timestamp": [1_000] * len(offsets),
    }
    arrays = [
        pa.array(columns.get(field.name, [None] * len(offsets)), field.type) for field in ROWS
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=ROWS)


class Worker:
    """One worker of a job: its DoFns and the state of one key."""

    def __init__(self, url: str, schema: pa.Schema = ROWS) -> None:
        layout = FileLayout(url, EPOCH)
        file_format = ParquetFormat(schema, 1, SchemaRef(None, ""))
        self.root = stored_path(url, StorageConfig())
        self.write_parts = _WriteParts(layout, file_format)
        self.assemble = _AssembleFiles(layout, file_format, "test", PaneTiming())
        self.write_parts.setup()
        self.assemble.setup()
        self.pane, self.adopted = Cell(), Cell()

    def fire(self, *offsets: int) -> list[Any]:
        """Writes a pane of these rows; returns what was written or adopted."""
        self.write_parts.start_bundle()
        assert list(self.write_parts.process(batch_of(*offsets), WINDOW, 0)) == []
        waiting = Cell()
        waiting.value = [element.value[1] for element in self.write_parts.finish_bundle()]
        written = list(
            self.assemble.fire_pane(
                parts=waiting,
                pane=self.pane,
                adopted=self.adopted,
                waiting_since=Cell(),
                end=Timer(),
            )
        )
        self.assemble.finish_bundle()
        return written

    def rows(self) -> list[list[int]]:
        """The rows of each file, by the order of the files' names."""
        return [
            pq.read_table(path.open()).column("n").to_pylist()
            for path in sorted(visible_paths(self.root), key=str)
        ]


def test_a_pane_is_one_object_with_a_footer(s3_url: str) -> None:
    worker = Worker(s3_url)
    (written,) = worker.fire(0, 1, 2)
    (path,) = visible_paths(worker.root)
    assert str(path) == written.path
    assert written.path.startswith(f"{s3_url}/dt=1970-01-01/hour=00/orders-19700101T000000Z-")
    assert written.size_bytes == path.stat().st_size
    footer = read_footer(path)
    assert footer.offsets == {"orders": {0: [(0, 2)]}}
    assert len(footer.nonce) == 32
    assert content_of(path).covered.count == 3


def test_what_another_timeline_wrote_is_adopted(s3_url: str) -> None:
    first, second = Worker(s3_url), Worker(s3_url)
    first.fire(0, 1)
    first.fire(2)
    second.fire(0, 1, 2, 3)
    second.fire(4)
    first.fire(3, 5)
    assert sorted(first.rows()) == [[0, 1], [2], [3], [4], [5]]
    assert second.fire(0, 1) == []


def test_large_parts_go_through_the_store(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "MAX_INLINE_BYTES", 10)
    worker = Worker(s3_url)
    worker.fire(0, 1, 2)
    assert worker.rows() == [[0, 1, 2]]
    storage = open_storage(s3_url, StorageConfig())
    assert len(list(storage.objects(f"_tmp/{EPOCH}/"))) == 2
    assert worker.assemble._parts.sweep(retention_seconds=-60) == 1
    assert list(storage.objects("_tmp/")) == []


def test_a_lost_answer_is_no_second_file(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is there, and the storage says that its name is taken: by this very call."""
    put_if_absent = S3Storage.put_if_absent

    def put_twice(self: S3Storage, source: Path, key: str) -> bool:
        assert put_if_absent(self, source, key)
        return put_if_absent(self, source, key)

    worker = Worker(s3_url)
    with monkeypatch.context() as patched:
        patched.setattr(S3Storage, "put_if_absent", put_twice)
        (written,) = worker.fire(0, 1)
    assert (written.rows, worker.pane.value, worker.adopted.value) == (2, 1, None)
    worker.fire(2)
    assert worker.rows() == [[0, 1], [2]]


def test_a_store_that_fails_at_random_gets_each_row_once(
    s3_server: Store, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Busy, slow, cut off, or done without an answer: two timelines write the same rows."""
    with unreliable(s3_server, seed=16, share=0.12) as (store, proxy):
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", store.environment["AWS_ENDPOINT_URL_S3"])
        first, second = Worker(s3_url), Worker(s3_url)
        for start in range(0, 24, 3):
            first.fire(start, start + 1)
            second.fire(start, start + 1, start + 2)
        assert Worker(s3_url).fire(*range(24))  # adopts all of it
        rows = [row for file in first.rows() for row in file]
    assert sorted(rows) == list(range(24))
    assert set(proxy.faults) == set(FAULTS)


def test_rows_without_offsets_are_written_over(s3_url: str) -> None:
    """They can't be told apart: the pane is overwritten, and later panes are removed."""
    worker = Worker(s3_url, schema=pa.schema([("n", pa.int64())]))

    def fire(*numbers: int) -> None:
        batch = pa.record_batch({"n": pa.array(numbers, pa.int64())})
        worker.write_parts.start_bundle()
        assert list(worker.write_parts.process(batch, WINDOW, 0)) == []
        waiting = Cell()
        waiting.value = [element.value[1] for element in worker.write_parts.finish_bundle()]
        states = {"adopted": Cell(), "waiting_since": Cell(), "end": Timer()}
        list(worker.assemble.fire_pane(parts=waiting, pane=worker.pane, **states))

    fire(1)
    fire(2)
    worker.pane.value = 0
    fire(1, 2)
    assert worker.rows() == [[1, 2]]


def test_requests_are_counted_by_kind(s3_url: str) -> None:
    """A pane without another writer takes one look and one write."""
    storage = open_storage(s3_url, StorageConfig())
    worker = Worker(s3_url)
    worker.fire(0)
    before = storage.requests
    worker.fire(1)
    spent = storage.requests - before
    assert spent["PUT"] == 1
    assert spent["LIST"] == 0
    assert spent["HEAD"] + spent["GET"] <= 2


def sorted_rows(table: pa.Table) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = table.sort_by("kafka_offset").to_pylist()
    return rows


def test_rows_and_letters_equal_those_in_a_directory(
    s3_url: str, s3_server: Store, tmp_path: Path
) -> None:
    """By pyarrow's dataset and DuckDB, as users read them, with their provenance."""
    in_store = dataclasses.replace(
        config_of(tmp_path), output_dir=f"{s3_url}/output", dead_letter_dir=f"{s3_url}/dead"
    )
    for config in (config_of(tmp_path), in_store):
        land(config).run().wait_until_finish()

    expected = pyarrow.dataset.dataset(tmp_path / "output", partitioning="hive").to_table()
    bucket_path = s3_url.removeprefix("s3://")
    file_system = pyarrow.fs.S3FileSystem(
        endpoint_override=s3_server.service.endpoint,
        scheme="http",
        access_key=os.environ["AWS_ACCESS_KEY_ID"],
        secret_key=os.environ["AWS_SECRET_ACCESS_KEY"],
    )
    stored = pyarrow.dataset.dataset(
        f"{bucket_path}/output", filesystem=file_system, partitioning="hive"
    )
    assert sorted_rows(stored.to_table()) == sorted_rows(expected)
    assert expected.num_rows > 0
    with duckdb.connect() as connection:
        connection.register("stored", stored)
        counted = connection.execute("SELECT count(*) FROM stored").fetchall()
    assert counted == [(expected.num_rows,)]

    names = {
        root: sorted(path.name for path in visible_paths(root))
        for root in (tmp_path / "output", tmp_path / "dead")
    }
    assert names[tmp_path / "output"] == names_in(f"{s3_url}/output")
    assert names[tmp_path / "dead"] == names_in(f"{s3_url}/dead")
    assert letters_below(tmp_path / "dead") == letters_below(
        stored_path(f"{s3_url}/dead", StorageConfig())
    )


def letters_below(root: StoredPath) -> list[str]:
    return sorted(
        orjson.loads(line)["dlq_id"] for path in visible_paths(root) for line in path.open("rb")
    )


def names_in(url: str) -> list[str]:
    root = stored_path(url, StorageConfig())
    assert isinstance(root, ObjectPath)
    return sorted(path.name for path in visible_paths(root))
