"""What DuckDB and pyiceberg read from a table are the rows of the files, as pyarrow reads these."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from event_landings import EXTREMES, LATER, LONG, MIDNIGHT, OUTERMOST, Landing, records
from table_readers import Contents, DuckDB, Reader
from table_trees import begin_epoch, committed, table_of

from beam_pipeline.tools.compact.run import compact

TABLES = {"lake.by_day": "event_time", "lake.flat": None}


class Filter(NamedTuple):
    """A condition in the words of both readers, and as it is meant.

    Attributes:
        text: the condition; false for null.
        column: the column that it is on.
        holds: whether it holds for a value that is not null.
        files: how many of the ten files must be read for it, by the bounds of their columns.
    """

    text: str
    column: str
    holds: Callable[[Any], bool]
    files: int | None = None

    def count(self, contents: Contents) -> int:
        """Return for how many rows it holds."""
        values = (row[self.column] for row in contents.rows)
        return sum(value is not None and self.holds(value) for value in values)


FILTERS = [
    Filter("event_time >= '2026-11-24T00:00:00+00:00'", "event_time", lambda at: at >= MIDNIGHT, 4),
    Filter("event_time < '2026-11-24T00:00:00+00:00'", "event_time", lambda at: at < MIDNIGHT, 6),
    Filter(
        "kafka_timestamp < '2026-11-23T23:59:45+00:00'",
        "kafka_timestamp",
        lambda at: at < MIDNIGHT - timedelta(seconds=15),
        2,
    ),
    Filter("kafka_offset >= 100", "kafka_offset", lambda offset: offset >= 100, 5),
    Filter("kafka_offset = 7", "kafka_offset", lambda offset: offset == 7, 5),
    Filter("count = 9223372036854775807", "count", lambda count: count == 2**63 - 1),
    Filter("count < 0", "count", lambda count: count < 0),
    Filter("ratio > 0.05", "ratio", lambda ratio: ratio > 0.05),
    Filter("amount = 0.01", "amount", lambda amount: amount == Decimal("0.01")),
    Filter("amount < 0", "amount", lambda amount: amount < 0),
    Filter("note = ''", "note", lambda note: note == ""),
    Filter(f"note = '{LONG}ä'", "note", lambda note: note == f"{LONG}ä"),
    Filter(f"note = '{OUTERMOST}'", "note", lambda note: note == OUTERMOST),
    Filter("day = '9999-12-31'", "day", lambda day: day == date(9999, 12, 31)),
    Filter("day < '1970-01-01'", "day", lambda day: day < date(1970, 1, 1)),
    Filter("kind = 'a'", "kind", lambda kind: kind == "a"),
    Filter("channel = 'web'", "channel", lambda channel: channel == "web"),
    Filter("is_new = true", "is_new", lambda is_new: is_new is True),
    Filter("device.os = 'linux'", "device", lambda device: device["os"] == "linux"),
    Filter("coupon.worth = 5.05", "coupon", lambda coupon: coupon["worth"] == Decimal("5.05")),
]


@pytest.fixture(scope="module")
def landing(tmp_path_factory: pytest.TempPathFactory) -> Landing:
    """A tree that got columns after the first commit, with two tables: by days, and not."""
    landing = Landing(tmp_path_factory.mktemp("landing"))
    landing.land(records(0, EXTREMES))
    for name, column in TABLES.items():
        committed(landing.job(name, column))
    landing.land(records(100, EXTREMES | LATER), is_later=True)
    for name, column in TABLES.items():
        committed(landing.job(name, column))
    return landing


@pytest.mark.parametrize("name", TABLES)
def test_rows_and_filters(duckdb: DuckDB, landing: Landing, name: str) -> None:
    contents = landing.contents()
    assert len(contents.rows) == 40
    table = table_of(committed(landing.job(name, TABLES[name])), name)
    assert len(table.spec().fields) == (TABLES[name] is not None)
    reader = Reader(duckdb, table)
    reader.check(contents)

    expected = [condition.count(contents) for condition in FILTERS]
    assert 0 not in expected
    queries = [f"FROM {reader.scan} WHERE {condition.text}" for condition in FILTERS]
    by_duckdb = duckdb.count(*(f"SELECT count(*) {query}" for query in queries))
    assert by_duckdb == expected
    scans = [table.scan(row_filter=condition.text) for condition in FILTERS]
    assert [scan.to_arrow().num_rows for scan in scans] == expected

    pruned = [number for number, condition in enumerate(FILTERS) if condition.files is not None]
    files = [FILTERS[number].files for number in pruned]
    assert [len(list(scans[number].plan_files())) for number in pruned] == files
    analyses = duckdb.query(
        *(f"EXPLAIN ANALYZE SELECT kafka_key {queries[number]}" for number in pruned)
    )
    assert [files_read(analysis) for analysis in analyses] == files


def files_read(analysis: pa.Table) -> int:
    """Return how many files a query has read, as DuckDB's analysis of it says."""
    match = re.search(r"Total Files Read: (\d+)", analysis.column("explain_value")[0].as_py())
    assert match is not None
    return int(match[1])


def test_dead_letters(duckdb: DuckDB, landing: Landing) -> None:
    letters = landing.letters()
    assert len(letters) == 8
    name = "lake.flat__dead_letters"
    reader = Reader(duckdb, table_of(committed(landing.job("lake.flat", None)), name))
    query = f'SELECT * FROM {reader.scan} ORDER BY "offset"'
    by_code = f'SELECT code, count(*) FROM {reader.scan} WHERE "offset" >= 100 GROUP BY code'
    rows, counts = (answer.to_pylist() for answer in duckdb.query(query, by_code))
    assert rows == reader.table.scan().to_arrow().sort_by("offset").to_pylist()
    assert [json.loads(row["letter"]) for row in rows] == letters
    for row, letter in zip(rows, letters, strict=True):
        source = letter["source"]
        assert (row["topic"], row["partition"]) == (source["topic"], source["partition"])
        assert row["kafka_timestamp"] == datetime.fromisoformat(source["timestamp"])
        assert row["failed_at"] == datetime.fromisoformat(letter["failed_at"])
        assert (row["code"], row["message"]) == (
            letter["error"]["code"],
            letter["error"]["message"],
        )
    assert counts == [{"code": "SCHEMA_VIOLATION", "count_star()": 4}]


def test_after_compactions_and_strays(duckdb: DuckDB, tmp_path: Path) -> None:
    landing = Landing(tmp_path)
    job = landing.job("lake.orders", "event_time")
    landing.land(records(0, EXTREMES))
    reader = Reader(duckdb, table_of(committed(job)))
    landing.land(records(100, EXTREMES | LATER), is_later=True)
    landing.land(records(200, EXTREMES | LATER), is_later=True)
    assert compact(landing.tree.output_dir, target_bytes=1 << 20).files_after > 0
    committed(job)  # merged files with some records that are committed
    contents = landing.contents()
    assert len(contents.rows) == 60
    reader.check(contents)

    landing.land(records(300, EXTREMES | LATER), is_later=True)
    committed(job)
    stray = next(path for path in landing.paths() if is_of_landing(path, 300))
    lost = set(pq.read_table(stray).column("kafka_offset").to_pylist())
    ledger = begin_epoch(landing.tree, "20261124T143350Zx3f9b", without=[stray])
    again = [record for record in records(300, EXTREMES | LATER) if record.offset in lost]
    landing.land(again, is_later=True)
    ledger.refresh()
    assert ledger.remove_strays().total() == 1
    committed(job)  # the stray goes, and what landed again comes
    contents = landing.contents()
    assert len(contents.rows) == 80
    reader.check(contents)


def is_of_landing(path: Path, first: int) -> bool:
    """Whether a file holds records of the landing that began at an offset."""
    return bool(pc.min(pq.read_table(path).column("kafka_offset")).as_py() >= first)


def test_files_of_runs_without_a_table(duckdb: DuckDB, tmp_path: Path) -> None:
    """They tell Arrow of dictionary columns, which pyiceberg can't put into one Arrow table."""
    landing = Landing(tmp_path)
    landing.land(records(0, EXTREMES))
    landing.land(records(100, EXTREMES | LATER), is_later=True, stores_arrow_schema=True)
    table = table_of(committed(landing.job("lake.orders", "event_time")))
    Reader(duckdb, table).check(landing.contents(), by_batches=True)
    with pytest.raises(pa.ArrowTypeError, match="dictionary"):
        table.scan().to_arrow()
