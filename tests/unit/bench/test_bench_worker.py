"""The worker's benchmark does the whole of the worker's work on each record."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_pipeline.schemas.contract import RECORD_SCHEMA
from bench.worker import PARTS_OF_VALIDATE, STAGES, _Worker, write_packs

EVENTS = 17_000


@pytest.fixture
def packs(tmp_path: Path) -> Iterator[list[pa.RecordBatch]]:
    assert write_packs(tmp_path / "packs.arrow", EVENTS, invalid_ratio=0.1, seed=3) == 16_000
    with pa.ipc.open_file(tmp_path / "packs.arrow") as reader:
        yield [reader.get_batch(number) for number in range(reader.num_record_batches)]


def test_every_record_is_a_row_or_a_letter(tmp_path: Path, packs: list[pa.RecordBatch]) -> None:
    assert [pack.num_rows for pack in packs] == [4_000] * 4
    assert all(pack.schema == RECORD_SCHEMA for pack in packs)
    worker, output = _Worker(None), tmp_path / "output"
    output.mkdir()
    clock = worker.land(packs, output)
    rows = sum(pq.read_metadata(path).num_rows for path in output.glob("*.parquet"))
    # Parts of letters are JSON lines too, and a file is its parts.
    lines = sum(path.read_bytes().count(b"\n") for path in output.glob("*.jsonl")) // 2
    assert rows + lines == 16_000
    assert 1_400 < lines < 1_800
    worker.take_validation_apart(packs, clock)
    assert set(clock.spent_ns) == {*STAGES, *PARTS_OF_VALIDATE} - {"kernel"}
