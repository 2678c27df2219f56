"""The whole graph behind the source, on a stream that a test controls."""

from __future__ import annotations

import collections
import dataclasses
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow.parquet as pq
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.test_stream import TestStream
from apache_beam.transforms.window import TimestampedValue
from sample_records import (
    NOON_MS,
    commerce_contract,
    commerce_event,
    contract_of,
    kafka_record,
    rfc3339,
)

from beam_pipeline.io.file_names import OutputFile
from beam_pipeline.io.windowed_files import PaneTiming
from beam_pipeline.job import counters_of
from beam_pipeline.offsets import CoveredOffsets
from beam_pipeline.options import IngestConfig
from beam_pipeline.pipeline import land_records
from beam_pipeline.records import KafkaRecord, nearest_time_ms
from beam_pipeline.resources import reference_dir
from beam_pipeline.transforms.validate import ValidationRules
from beam_pipeline.transforms.windowing import Windowing

DELAY_SECONDS = 2


def config_of(directory: Path, **changes: Any) -> IngestConfig:
    contract = commerce_contract()
    config = IngestConfig(
        input_topics=("orders",),
        consumer_group="group",
        contract=contract,
        rules=ValidationRules(
            contract.event_time_field, max_event_age_seconds=3600, max_event_skew_seconds=60
        ),
        reference_dir=reference_dir(),
        windowing=Windowing(10, DELAY_SECONDS),
        timing=PaneTiming(settle_seconds=0),
        output_dir=str(directory / "output"),
        dead_letter_dir=str(directory / "dead"),
        dead_letter_topic_suffix=".dlq",
        num_shards=2,
        parquet_codec="zstd",
        epoch="e1",
        expansion_service=None,
        follow_append_time=True,
        client_properties={},
    )
    return dataclasses.replace(config, **changes)


def stamped(record: KafkaRecord) -> TimestampedValue[Any]:
    return TimestampedValue(record, nearest_time_ms(record.timestamp) / 1000)


def event_at(offset: int, event_ms: int, append_ms: int, **changes: Any) -> KafkaRecord:
    event = commerce_event(event_time=rfc3339(event_ms), **changes)
    return kafka_record(event, offset=offset, partition=offset % 3, timestamp=append_ms)


def records() -> tuple[list[KafkaRecord], list[KafkaRecord]]:
    """Records on time, and late ones."""
    on_time = [
        event_at(0, NOON_MS, NOON_MS + 5),
        event_at(1, NOON_MS + 12_000, NOON_MS + 12_001),
        event_at(2, NOON_MS + 1_000, NOON_MS + 13_000),
        event_at(3, NOON_MS - 7_200_000, NOON_MS + 14_000),
        event_at(4, NOON_MS + 500_000, NOON_MS + 14_000),
        event_at(5, NOON_MS, NOON_MS + 14_000, user_id="nobody"),
        kafka_record(b"{", offset=6, timestamp=NOON_MS + 14_000),
        kafka_record(None, offset=7, timestamp=NOON_MS + 15_000),
    ]
    late = [
        event_at(8, NOON_MS + 2_000, NOON_MS + 60_000),
        kafka_record(b"\xff", offset=9, timestamp=NOON_MS + 60_000),
    ]
    return on_time, late


EXPECTED_CODES = {
    3: "TOO_OLD",
    4: "IN_THE_FUTURE",
    5: "SCHEMA_VIOLATION",
    6: "MALFORMED_JSON",
    7: "NULL_VALUE",
    9: "NOT_UTF8",
}


def land(
    config: IngestConfig, on_time: Sequence[KafkaRecord], late: Sequence[KafkaRecord] = ()
) -> TestPipeline:
    """The graph on a stream: records, the watermark past their windows, late records."""
    later = int(time.time()) + 1000
    noon = NOON_MS // 1000
    stream = (
        TestStream()
        .advance_watermark_to(noon)
        .add_elements([stamped(record) for record in on_time])
        .advance_watermark_to(noon + 50)
        .advance_processing_time(later)
        .add_elements([stamped(record) for record in late])
        .advance_processing_time(later)
        .advance_watermark_to_infinity()
    )
    pipeline = TestPipeline(options=PipelineOptions([], streaming=True))
    land_records(pipeline | stream, config)
    return pipeline


def counted(pipeline: TestPipeline) -> dict[str, int]:
    """Runs the graph; its counters."""
    result = pipeline.run()
    result.wait_until_finish()
    return counters_of(result)


def rows_in(config: IngestConfig) -> list[tuple[str, dict[str, Any]]]:
    """(name of the file, row) of every row."""
    return [
        (path.name, row)
        for path in Path(config.output_dir).glob("dt=*/hour=*/*.parquet")
        for row in pq.read_table(path, partitioning=None).to_pylist()
    ]


def letters_in(config: IngestConfig) -> list[tuple[str, dict[str, Any]]]:
    """(name of the file, letter) of every letter."""
    return [
        (path.name, json.loads(line))
        for path in Path(config.dead_letter_dir).glob("dt=*/hour=*/*.jsonl")
        for line in path.read_text().splitlines()
    ]


def codes_in(config: IngestConfig) -> dict[int, str]:
    """Offset to code of every letter."""
    letters = [letter for _, letter in letters_in(config)]
    codes = {letter["source"]["offset"]: letter["error"]["code"] for letter in letters}
    assert len(codes) == len(letters)
    return codes


def test_every_record_is_one_row_or_one_letter(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    counters = counted(land(config, *records()))

    rows = rows_in(config)
    assert codes_in(config) == EXPECTED_CODES
    assert sorted(row["kafka_offset"] for _, row in rows) == [0, 1, 2, 8]
    assert len(rows) + len(EXPECTED_CODES) == sum(map(len, records()))

    late_row = next((name, row) for name, row in rows if row["kafka_offset"] == 8)
    assert late_row[0].endswith("-p1.parquet")
    assert "-20261123T120000Z-20261123T120010Z-s0-ee1-" in late_row[0]
    assert late_row[1]["ingestion_delay_ms"] == 58_000
    assert str(late_row[1]["event_date"]) == "2026-11-23"

    by_code = collections.Counter(EXPECTED_CODES.values())
    assert {name: count for name, count in counters.items() if "bytes" not in name and count} == {
        "read": 10,
        "valid": 4,
        "dead": 6,
        **{f"dead.{code}": count for code, count in by_code.items()},
        "late": 2,
        "parquet.rows": 4,
        "parquet.files": len({name for name, _ in rows}),
        "dead_letters.rows": 6,
        "dead_letters.files": len({name for name, _ in letters_in(config)}),
    }
    sizes = [path.stat().st_size for path in Path(config.output_dir).glob("dt=*/**/*.parquet")]
    assert counters["parquet.bytes"] == sum(sizes)


def test_covered_records_are_passed_over(tmp_path: Path) -> None:
    covered = CoveredOffsets()
    covered.add_range("orders", 0, 1, 2)
    config = config_of(tmp_path, covered=covered)
    on_time = [
        event_at(0, NOON_MS, NOON_MS)._replace(partition=0),
        event_at(1, NOON_MS, NOON_MS)._replace(partition=0),
        kafka_record(b"{", offset=2),
        kafka_record(b"{", offset=3),
        kafka_record(b"{", offset=1, partition=1),
    ]
    counters = counted(land(config, on_time))
    assert [row["kafka_offset"] for _, row in rows_in(config)] == [0]
    assert set(codes_in(config)) == {1, 3}
    assert (counters["read"], counters["skipped"]) == (3, 2)


def test_what_a_transform_refuses_is_a_letter_and_its_neighbours_go_on(tmp_path: Path) -> None:
    money = {"type": "number", "x-decimal": {"precision": 5, "scale": 2}}
    contract = contract_of(
        {
            "type": "object",
            "properties": {"lines": {"type": "array", "items": money}, "price": money},
            "x-enrich": [
                {
                    "add": "eur",
                    "convert": {
                        "table": "currency_rates.csv",
                        "key": "currency",
                        "rate": "eur_per_unit",
                        "amount": "price",
                        "currency": "extra",
                        "precision": 3,
                        "scale": 2,
                    },
                }
            ],
        }
    )
    events: list[dict[str, Any]] = [
        {"lines": [1, 2.5]},
        {"lines": [1, 1000]},
        {"lines": [], "price": 3},
        {"price": 12345.67},
        {"lines": [999.99]},
    ]
    config = config_of(tmp_path, contract=contract, rules=ValidationRules(None))
    on_time = [
        kafka_record(event, offset=offset, headers=[("h", b"\xff")])
        for offset, event in enumerate(events)
    ]
    counters = counted(land(config, on_time))
    assert sorted(row["kafka_offset"] for _, row in rows_in(config)) == [0, 2, 4]
    assert codes_in(config) == {1: "TRANSFORM_ERROR", 3: "TRANSFORM_ERROR"}
    for _, letter in letters_in(config):
        assert letter["stage"] == "normalize"
        assert json.loads(letter["value_text"]) == events[letter["source"]["offset"]]
        assert letter["headers"] == [{"key": "h", "value_b64": "/w=="}]
        assert "Traceback" in letter["error"]["stacktrace"]
    assert (counters["valid"], counters["dead.TRANSFORM_ERROR"]) == (5, 2)
    assert counters["parquet.rows"] + counters["dead_letters.rows"] == counters["read"]


@pytest.mark.parametrize("event_time_field", ["event_time", None])
def test_times_far_out_stop_nothing(tmp_path: Path, event_time_field: str | None) -> None:
    """A producer's clock, in the event or on the record, may say anything."""
    config = config_of(tmp_path, rules=ValidationRules(event_time_field))
    event_times = [
        "0000-01-01T00:00:00Z",
        "0002-01-01T00:00:00Z",
        "9998-12-31T23:59:59.999999Z",
        "9999-12-31T23:59:59Z",
        "9999-12-31T23:59:59-23:59",
    ]
    timestamps = [2**62, -(2**62), 2**63 - 1, -(2**63), -1]
    on_time = [
        kafka_record(commerce_event(event_time=text), offset=offset)
        for offset, text in enumerate(event_times)
    ] + [
        kafka_record(value, offset=10 * number + kind, timestamp=timestamp, timestamp_type=0)
        for number, timestamp in enumerate(timestamps, 1)
        for kind, value in enumerate([b"{", commerce_event()])
    ]
    counters = counted(land(config, on_time))
    rows = [row["kafka_offset"] for _, row in rows_in(config)]
    codes = codes_in(config)
    assert sorted([*rows, *codes]) == sorted(record.offset for record in on_time)
    assert counters["parquet.rows"] + counters["dead_letters.rows"] == len(on_time)
    assert {offset for offset, code in codes.items() if code == "MALFORMED_JSON"} == {
        10 * number for number in range(1, 6)
    }
    bad_times = {0, 3, 4} if event_time_field else {11, 21, 31, 41}
    refused = {offset for offset, code in codes.items() if code == "BAD_EVENT_TIME"}
    assert refused == bad_times
    names = [name for name, _ in rows_in(config) + letters_in(config)]
    assert all(OutputFile.parse(name) for name in names)


VERBS = (
    "Validate|Normalize|Enrich|Window|Write|Apply|Cut|Assign|Leave|Assemble|Flatten|Stamp".split(
        "|"
    )
)


def test_every_step_has_a_label_of_its_own_that_starts_with_a_verb(tmp_path: Path) -> None:
    labels: list[str] = []

    class Collect(beam.pipeline.PipelineVisitor):
        def enter_composite_transform(self, node: Any) -> None:
            labels.append(node.full_label)

        def visit_transform(self, node: Any) -> None:
            labels.append(node.full_label)

    land(config_of(tmp_path), *records()).visit(Collect())
    assert len(labels) == len(set(labels))
    own = [label for label in labels if label and not label.startswith("TestStream")]
    assert {"Validate", "Normalize", "Enrich", "WindowBatches", "WriteToParquet"} <= set(own)
    for label in own:
        step = label.removesuffix(f"/{label.rsplit('/', 1)[-1]}") if "ParDo(" in label else label
        assert re.match(f"({'|'.join(VERBS)})([A-Z]|$)", step.rsplit("/", 1)[-1]), label
