"""The whole graph behind the source, on a stream that a test controls."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.test_stream import TestStream
from apache_beam.transforms.window import TimestampedValue
from sample_records import NOON_MS, commerce_contract, commerce_event, kafka_record, rfc3339

from beam_pipeline.config import PaneTiming, ValidationRules, Windowing
from beam_pipeline.io.kafka import CollectRecords
from beam_pipeline.options import IngestConfig
from beam_pipeline.pipeline import land_records
from beam_pipeline.records import KafkaRecord
from beam_pipeline.resources import reference_dir

DELAY_SECONDS = 2


def config_of(directory: Path, transforms: tuple[str, ...] = ()) -> IngestConfig:
    contract = commerce_contract()
    return IngestConfig(
        input_topics=("orders",),
        consumer_group="group",
        contract=contract,
        rules=ValidationRules(
            contract.event_time_field, max_event_age_seconds=3600, max_event_skew_seconds=60
        ),
        reference_dir=reference_dir(),
        windowing=Windowing(10, DELAY_SECONDS),
        timing=PaneTiming(),
        output_dir=str(directory / "output"),
        dead_letter_dir=str(directory / "dead"),
        private_dead_letters=True,
        dead_letter_topic_suffix=".dlq",
        num_shards=2,
        parquet_codec="zstd",
        epoch="e1",
        expansion_service=None,
        follow_append_time=True,
        client_properties={},
        transforms=transforms,
    )


def stamped(record: KafkaRecord) -> TimestampedValue[Any]:
    return TimestampedValue(record, record.timestamp / 1000)


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


def land(config: IngestConfig) -> TestPipeline:
    on_time, late = records()
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
    land_records(pipeline | stream | CollectRecords(), config)
    return pipeline


def test_every_record_is_one_row_or_one_letter(tmp_path: Path) -> None:
    land(config_of(tmp_path)).run().wait_until_finish()

    rows = [
        (path.name, row)
        for path in (tmp_path / "output").glob("dt=*/hour=*/*.parquet")
        for row in pq.read_table(path, partitioning=None).to_pylist()
    ]
    letters = [
        json.loads(line)
        for path in (tmp_path / "dead").glob("dt=*/hour=*/*.jsonl")
        for line in path.read_text().splitlines()
    ]
    codes = {letter["source"]["offset"]: letter["error"]["code"] for letter in letters}
    assert codes == EXPECTED_CODES
    assert sorted(row["kafka_offset"] for _, row in rows) == [0, 1, 2, 8]
    assert len(rows) + len(letters) == sum(map(len, records()))

    late_row = next((name, row) for name, row in rows if row["kafka_offset"] == 8)
    assert late_row[0].endswith("-p1.parquet")
    assert "-20261123T120000Z-20261123T120010Z-s0-ee1-" in late_row[0]
    assert late_row[1]["ingestion_delay_ms"] == 58_000
    assert str(late_row[1]["event_date"]) == "2026-11-23"


def refuse_offset_1(batch: pa.RecordBatch) -> pa.RecordBatch:
    if 1 in batch.column("kafka_offset").to_pylist():
        raise ValueError("not this one")
    return batch


def test_user_transforms_add_columns_and_refuse_rows(tmp_path: Path) -> None:
    names = ("examples.transforms:AmountBand", f"{__name__}:refuse_offset_1")
    land(config_of(tmp_path, names)).run().wait_until_finish()
    rows = [
        row
        for path in (tmp_path / "output").glob("dt=*/hour=*/*.parquet")
        for row in pq.read_table(path, partitioning=None).to_pylist()
    ]
    letters = [
        json.loads(line)
        for path in (tmp_path / "dead").glob("dt=*/hour=*/*.jsonl")
        for line in path.read_text().splitlines()
    ]
    assert sorted(row["kafka_offset"] for row in rows) == [0, 2, 8]
    assert {row["amount_band"] for row in rows} <= {"small", "medium", "large", None}
    (letter,) = [letter for letter in letters if letter["source"]["offset"] == 1]
    assert letter["stage"] == "transform_2"
    assert letter["error"]["code"] == "TRANSFORM_ERROR"
    assert letter["error"]["message"] == "not this one"


def test_every_step_has_a_label_of_its_own(tmp_path: Path) -> None:
    labels: list[str] = []

    class Collect(beam.pipeline.PipelineVisitor):
        def enter_composite_transform(self, node: Any) -> None:
            labels.append(node.full_label)

        def visit_transform(self, node: Any) -> None:
            labels.append(node.full_label)

    land(config_of(tmp_path)).visit(Collect())
    assert len(labels) == len(set(labels))
    top = {label for label in labels if label and "/" not in label}
    assert {"Validate", "Normalize", "Enrich", "WindowBatches", "WriteToParquet"} <= top
