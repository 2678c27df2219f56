"""Rows have the key and headers that were produced, whatever these are, on a real Prism."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.dataset
from confluent_kafka import Producer
from integration.pipeline_runs import PipelineRun
from raw_produce import produce_raw

from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.producer.source import wall_clock_ms
from beam_pipeline.tools.reconcile.run import reconcile


class Sent(NamedTuple):
    """What was produced; the position in the list is the offset."""

    key: bytes | None
    headers: Sequence[tuple[str, bytes | None]]
    value: bytes | None


def value(number: int) -> bytes:
    return b'{"n": %d}' % number


OLD = [Sent(b"old", [("h", b"1")], value(0)), Sent(None, [], value(1))]
NEW = [
    Sent(b"\xff\xfe\x00", [], value(2)),
    Sent(b"", [("null", None), ("empty", b""), ("", b"\xff\x00")], value(3)),
    Sent(None, [(f"h{number}", b"%d" % number) for number in range(100)], value(4)),
    Sent(b"k", [("twice", b"b"), ("other", None), ("twice", b"a"), ("twice", b"b")], value(5)),
    Sent(b"gone", [("why", b"deleted")], None),
    Sent("schlüssel".encode(), [("größe", "über".encode())], value(7)),
]
NOT_UTF8 = Sent(None, [("\ufffd-name", b"kept")], value(8))
"""As it comes out: Kafka's own client puts U+FFFD for what is no UTF-8 in the name of a header."""


def test_keys_and_headers_are_those_that_were_produced(
    tmp_path: Path, kafka: KafkaConnection, fresh_topic: Callable[..., str]
) -> None:
    """The first files are those of a pipeline that knew no such columns; readers get one dataset,
    also once the small files are merged."""
    topic, run = fresh_topic(), PipelineRun(tmp_path / "run")
    schema = tmp_path / "event.json"
    schema.write_text(json.dumps({"type": "object", "properties": {"n": {"type": "integer"}}}))
    flags = (f"--schema={schema}", "--window_by=append_time", "--null_values=row")
    produce(kafka, topic, OLD)
    run.catch_up(kafka, topic, *flags, "--kafka_columns=topic,partition,offset,timestamp")
    assert all("kafka_key" not in row for row in run.rows())

    columns = "--kafka_columns=topic,partition,offset,timestamp,key,headers,value"
    produce(kafka, topic, NEW)
    finished = run.catch_up(kafka, topic, *flags, columns)
    assert "columns that the files there do not have: kafka_key" in finished.output
    assert "read 6, valid 6, dead 0" in finished.output
    bootstrap = str(kafka.bootstrap_servers)
    produce_raw(bootstrap, topic, value(8), (b"\xff-name", b"kept"), wall_clock_ms())
    run.catch_up(kafka, topic, *flags, columns)

    assert_as_sent(run)
    merged = run.finish("compact", f"--output_dir={run.output_dir}")
    assert merged.code == 0, merged.output
    assert_as_sent(run)
    report = reconcile(kafka, [topic], run.output_dir, run.dead_letter_dir)
    assert report.is_clean
    assert report.reconciliation.missing == report.reconciliation.doubled == 0


def assert_as_sent(run: PipelineRun) -> None:
    """By pyarrow and by DuckDB; files of before have null in the columns of the record."""
    files = [str(path) for path in run.parquet_paths()]
    schemas = [pyarrow.dataset.dataset(file).schema.remove_metadata() for file in files]
    dataset = pyarrow.dataset.dataset(files, schema=pa.unify_schemas(schemas))
    by_arrow = dataset.to_table().sort_by("kafka_offset").to_pylist()
    relation = duckdb.sql(
        f"SELECT * FROM read_parquet('{run.output_dir}/dt=*/hour=*/*.parquet', "
        "hive_partitioning = false, union_by_name = true) ORDER BY kafka_offset"
    )
    assert relation is not None
    by_duckdb = [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]
    sent = [*(Sent(None, [], record.value) for record in OLD), *NEW, NOT_UTF8]
    for rows in (by_arrow, by_duckdb):
        assert [row["kafka_offset"] for row in rows] == list(range(len(sent)))
        assert [as_sent(row) for row in rows] == sent


def as_sent(row: dict[str, Any]) -> Sent:
    headers = [(header["key"], header["value"]) for header in row["kafka_headers"] or ()]
    number = row["n"]
    if number in (0, 1):
        assert row["kafka_value"] is None
    else:
        assert row["kafka_value"] == (None if number is None else value(number))
    return Sent(row["kafka_key"], headers, None if number is None else value(number))


def produce(kafka: KafkaConnection, topic: str, records: Sequence[Sent]) -> None:
    producer = Producer(kafka.for_librdkafka())
    for record in records:
        headers: list[tuple[str, str | bytes | None]] = [*record.headers]
        producer.produce(topic, record.value, record.key, partition=0, headers=headers)
    assert producer.flush(30) == 0
