"""What `beam_pipeline.testing` returns is what the graph of the pipeline yields."""

from __future__ import annotations

from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that, equal_to
from sample_records import commerce_contract, commerce_event, kafka_record

from beam_pipeline.config import ValidationRules
from beam_pipeline.io.kafka import CollectRecords
from beam_pipeline.resources import reference_dir
from beam_pipeline.schemas.contract import row_schema
from beam_pipeline.testing import run_events
from beam_pipeline.transforms import (
    DeadLetterCollector,
    Enrich,
    Normalize,
    Validate,
    user_transforms,
)

RECORDS = [
    kafka_record(commerce_event(), offset=0),
    kafka_record(b"{", offset=1),
    kafka_record(commerce_event(user_agent="Googlebot/2.1"), offset=2),
    kafka_record(commerce_event(country="fr"), offset=3),
    kafka_record(commerce_event(user_id="nobody"), offset=4),
]
TRANSFORMS = ["examples.transforms:AmountBand", "examples.transforms:refuse_bots"]


def rows_of(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = batch.select(row_schema(batch.schema).names).to_pylist()
    return rows


def test_the_graph_yields_the_same() -> None:
    contract = commerce_contract()
    expected = run_events(RECORDS, contract, transforms=TRANSFORMS)
    assert len(expected.rows) >= 1
    assert {letter.stage for letter in expected.dead} == {"validate", "transform_2"}

    normalize, enrich = Normalize(contract), Enrich(contract, reference_dir())
    schema = enrich.output_schema(normalize.output_schema(contract.batch_schema))
    with TestPipeline() as pipeline:
        records = pipeline | beam.Create(RECORDS) | CollectRecords()
        rules = ValidationRules(contract.event_time_field)
        with DeadLetterCollector(pipeline) as dead:
            rows = dead.collect(records | Validate(contract, rules))
            rows = dead.collect(rows | normalize)
            rows = dead.collect(rows | enrich)
            for number, transform in enumerate(user_transforms(TRANSFORMS, schema, contract.ref)):
                rows = dead.collect(rows | f"{number}" >> transform)
        assert_that(rows | beam.FlatMap(rows_of), equal_to(expected.rows), label="rows")
        assert_that(
            dead.output()
            | beam.FlatMap(list)
            | beam.Map(lambda letter: (letter.offset, letter.failure.code)),
            equal_to([(letter.offset, letter.failure.code) for letter in expected.dead]),
            label="letters",
        )
