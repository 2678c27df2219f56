"""A file's footer says what the file covers, and is read back from the file alone."""

from __future__ import annotations

from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_pipeline.files.footer import (
    FOOTER_KEY,
    FileFooter,
    FooterError,
    ranges_of,
    read_footer,
)

FOOTER = FileFooter(
    topic="orders",
    window_start=datetime(2026, 11, 23, 20, 28, 30, tzinfo=timezone.utc),
    window_end=datetime(2026, 11, 23, 20, 28, 40, tzinfo=timezone.utc),
    shard=1,
    epoch="20261124T133350Zx3f9a",
    pane=2,
    rows=5,
    schema_id="https://example.com/order.json",
    schema_sha256="ab" * 32,
    offsets={"orders": {0: [(3, 5), (9, 9)], 11: [(2**62, 2**62)]}},
)

OFFSETS = st.lists(st.one_of(st.integers(0, 40), st.integers(0, 2**62)), max_size=60)
RANGES = OFFSETS.map(ranges_of)
INSTANTS = st.datetimes(timezones=st.just(timezone.utc))
FOOTERS = st.builds(
    FileFooter,
    topic=st.text(),
    window_start=INSTANTS,
    window_end=INSTANTS,
    shard=st.integers(0, 1000),
    epoch=st.text(),
    pane=st.integers(0, 1000),
    rows=st.integers(0, 2**62),
    schema_id=st.text(),
    schema_sha256=st.text(),
    offsets=st.dictionaries(st.text(), st.dictionaries(st.integers(0, 2**31 - 1), RANGES)),
)


@given(FOOTERS)
def test_from_json_reads_back_what_to_json_wrote(footer: FileFooter) -> None:
    assert FileFooter.from_json(footer.to_json()) == footer


def test_json_is_as_designed() -> None:
    assert orjson.loads(FOOTER.to_json()) == {
        "version": 1,
        "topic": "orders",
        "window_start": "2026-11-23T20:28:30Z",
        "window_end": "2026-11-23T20:28:40Z",
        "shard": 1,
        "epoch": "20261124T133350Zx3f9a",
        "pane": 2,
        "rows": 5,
        "schema": {"id": "https://example.com/order.json", "sha256": "ab" * 32},
        "offsets": {"orders": {"0": [[3, 5], [9, 9]], "11": [[2**62, 2**62]]}},
    }


def test_read_footer_finds_it_in_a_parquet_file(tmp_path: Path) -> None:
    path = tmp_path / "orders.parquet"
    table = pa.table({"n": [1]}).replace_schema_metadata({FOOTER_KEY: FOOTER.to_json()})
    pyarrow.parquet.write_table(table, path)
    assert read_footer(path) == FOOTER


def test_a_file_of_another_program_is_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "other.parquet"
    pyarrow.parquet.write_table(pa.table({"n": [1]}), path)
    with pytest.raises(FooterError, match=r"no 'beam_pipeline\.file'"):
        read_footer(path)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b'{"version":1}',
        FOOTER.to_json().replace(b'"version":1', b'"version":2'),
        FOOTER.to_json().replace(b"[3,5]", b"[3]"),
        FOOTER.to_json().replace(b"2026-11-23T20:28:30Z", b"yesterday"),
        FOOTER.to_json().replace(b'"11":', b'"eleven":'),
    ],
)
def test_a_footer_that_makes_no_sense_is_refused(text: bytes) -> None:
    with pytest.raises(FooterError):
        FileFooter.from_json(text)


@given(OFFSETS)
def test_ranges_hold_the_same_offsets(offsets: list[int]) -> None:
    ranges = ranges_of(offsets)
    assert sum(last - first + 1 for first, last in ranges) == len(set(offsets))
    assert all(any(first <= offset <= last for first, last in ranges) for offset in offsets)


@given(OFFSETS)
def test_ranges_rise_and_never_touch(offsets: list[int]) -> None:
    ranges = ranges_of(offsets)
    assert all(first <= last for first, last in ranges)
    assert all(a[1] + 1 < b[0] for a, b in pairwise(ranges))


@given(OFFSETS)
def test_an_array_folds_as_a_list_does(offsets: list[int]) -> None:
    assert ranges_of(np.array(offsets, dtype=np.int64)) == ranges_of(iter(offsets))
