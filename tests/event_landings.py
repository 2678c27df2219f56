"""Events with columns of all kinds, landed by the whole pipeline behind the source."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow.parquet as pq
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.test_pipeline import TestPipeline
from output_trees import OutputTree
from sample_records import contract_of, kafka_record
from table_readers import Contents, contents_of
from table_trees import begin_epoch, job_for

from beam_pipeline.config import PaneTiming, ValidationRules, Windowing
from beam_pipeline.files.parts import TEMPORARY_DIR
from beam_pipeline.files.tree import json_lines
from beam_pipeline.io.kafka import CollectRecords
from beam_pipeline.options import IngestConfig
from beam_pipeline.pipeline import land_records
from beam_pipeline.records import KafkaRecord
from beam_pipeline.resources import reference_dir
from beam_pipeline.settings.table import TableJob

MIDNIGHT = datetime(2026, 11, 24, tzinfo=timezone.utc)
ROWS_PER_LANDING = 24
OUTERMOST = "\U0010ffff" * 20
LONG = "a note that is longer than the bounds of texts, which are cut: "
EXTREMES: dict[str, list[Any]] = {
    "count": [0, -1, 2**63 - 1, -(2**63), None],
    "ratio": [0.1, -0.0, 1.7976931348623157e308, 5e-324, None],
    "amount": [0.01, -9999999999999.99, 12.5, None],
    "note": ["", f"{LONG}ä", f"{LONG}\U0010ffff", OUTERMOST, None],
    "day": ["0001-01-01", "1969-12-31", "2026-11-24", "9999-12-31", None],
    "kind": ["a", "b", None],
    "is_new": [True, False, None],
    "tags": [[], ["x"], ["x", "", "z"], None],
    "counts": [{}, {"one": 1}, {"one": 1, "none": None}, None],
    "device": [{"os": "linux", "kind": "a"}, {"os": "plan 9"}, {}, None],
    "lines": [
        [],
        [{"sku": "s1", "price": 0.3, "at": "1969-12-31T23:59:59.999999Z"}],
        [{"sku": "s1"}, {"price": 99.99, "at": "2026-11-24T00:00:00.000001Z"}, {}],
        None,
    ],
}
LATER: dict[str, list[Any]] = {
    "channel": ["web", "app", None],
    "coupon": [{"code": "c1", "worth": 5.05}, {}, None],
    "device": [{"os": "linux", "version": 7, "kind": "b"}, {"version": 8}, None],
    "lines": [[{"sku": "s2", "discount": 0.05}], [{"sku": "s3"}, {"discount": 1}], None],
}
"""Values of what the second schema has more: at the top, in a struct, in structs of a list."""


def schema_of(is_later: bool) -> dict[str, Any]:
    """A JSON Schema; the later one has columns in between."""
    price = {"type": ["number", "null"], "x-decimal": {"precision": 18, "scale": 2}}
    kind = {"enum": ["a", "b", None]}
    device: dict[str, Any] = {"os": {"type": "string"}}
    line: dict[str, Any] = {"sku": {"type": "string"}}
    top: dict[str, Any] = {"event_time": {"type": "string", "format": "date-time"}, "kind": kind}
    if is_later:
        device["version"] = {"type": "integer"}
        line["discount"] = price
        top["channel"] = {"enum": ["web", "app", None]}
        top["coupon"] = _nullable({"code": {"type": "string"}, "worth": price})
    device["kind"] = kind
    line |= {"price": price, "at": {"type": "string", "format": "date-time"}}
    return {
        "$id": f"urn:event:{1 + is_later}",
        "type": "object",
        "x-event-time": "event_time",
        "properties": {
            **top,
            "count": {"type": ["integer", "null"]},
            "ratio": {"type": ["number", "null"]},
            "amount": price,
            "note": {"type": ["string", "null"]},
            "day": {"type": ["string", "null"], "format": "date"},
            "is_new": {"type": ["boolean", "null"]},
            "tags": {"type": ["array", "null"], "items": {"type": "string"}},
            "counts": {
                "type": ["object", "null"],
                "additionalProperties": {"type": ["integer", "null"]},
            },
            "device": _nullable(device),
            "lines": {"type": ["array", "null"], "items": _nullable(line)},
        },
        "required": ["event_time"],
    }


def _nullable(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": ["object", "null"],
        "properties": properties,
        "additionalProperties": False,
    }


def records(first: int, values: dict[str, list[Any]]) -> list[KafkaRecord]:
    """Records of two days; every sixth is none of the schema."""
    made = []
    for offset in range(first, first + ROWS_PER_LANDING):
        at = MIDNIGHT + timedelta(seconds=(offset % 6) * 10 - 25, microseconds=offset)
        event: dict[str, Any] = {"event_time": at.isoformat(), "unknown": {"n": offset}}
        event |= {name: column[offset % len(column)] for name, column in values.items()}
        if offset % 6 == 5:
            event["count"] = "no number"
        made.append(
            kafka_record(
                event,
                partition=offset % 2,
                offset=offset,
                timestamp=int(at.timestamp() * 1000) + 250,
                key=[b"\xff\x00", b"", None][offset % 3],
                headers=[[("h", b"\x00"), ("null", None)], []][offset % 2],
            )
        )
    return made


class Landing:
    """A tree that the whole pipeline behind the source lands in."""

    def __init__(self, root: Path) -> None:
        self.tree = OutputTree(root)
        begin_epoch(self.tree, self.tree.epoch)

    def land(
        self,
        records: Sequence[KafkaRecord],
        *,
        is_later: bool = False,
        stores_arrow_schema: bool = False,
    ) -> None:
        """Land records by the schema or the later one, as a run with `--table` does, or without."""
        options = PipelineOptions([], streaming=True)
        config = replace(self._config(is_later), stores_arrow_schema=stores_arrow_schema)
        with TestPipeline(options=options) as pipeline:
            land_records(pipeline | beam.Create(records) | CollectRecords(), config)
        for root in (self.tree.output_dir, self.tree.dead_letter_dir):
            shutil.rmtree(root / TEMPORARY_DIR, ignore_errors=True)  # as the end of a run does

    def _config(self, is_later: bool) -> IngestConfig:
        contract = contract_of(schema_of(is_later))
        return IngestConfig(
            input_topics=("orders",),
            consumer_group="group",
            contract=contract,
            rules=ValidationRules(contract.event_time_field),
            reference_dir=reference_dir(),
            windowing=Windowing(10),
            timing=PaneTiming(),
            output_dir=str(self.tree.output_dir),
            dead_letter_dir=str(self.tree.dead_letter_dir),
            private_dead_letters=True,
            dead_letter_topic_suffix=".dlq",
            num_shards=2,
            parquet_codec="zstd",
            epoch=self.tree.epoch,
            expansion_service=None,
            follow_append_time=True,
            client_properties={},
            kafka_columns=("topic", "partition", "offset", "timestamp", "key", "headers", "value"),
        )

    def job(self, name: str, partition_column: str | None) -> TableJob:
        """A job whose committer makes a table of the tree."""
        job = job_for(self.tree, partition_column=partition_column)
        return replace(job, table=replace(job.table, name=name))

    def paths(self) -> list[Path]:
        """The Parquet files in place."""
        return sorted(self.tree.output_dir.glob("dt=*/hour=*/*.parquet"))

    def contents(self) -> Contents:
        """What the files hold, read one by one."""
        return contents_of(*(pq.ParquetFile(path).read() for path in self.paths()))

    def letters(self) -> list[dict[str, Any]]:
        """The dead letters in the files, by their offsets."""
        paths = self.tree.dead_letter_dir.glob("dt=*/hour=*/*.jsonl")
        letters = [letter for path in paths for letter in json_lines(path)]
        return sorted(letters, key=lambda letter: letter["source"]["offset"])
