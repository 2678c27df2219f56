"""Coerced values are counted in Beam's metrics, by the path of their field."""

from __future__ import annotations

import apache_beam as beam
from apache_beam.metrics.metric import MetricsFilter
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that, equal_to
from sample_records import contract_of, kafka_record

from beam_pipeline.config import ValidationRules
from beam_pipeline.io.kafka import CollectRecords
from beam_pipeline.records import METRICS_NAMESPACE
from beam_pipeline.transforms import Validate

LINE = {
    "type": "object",
    "properties": {"n": {"type": "integer", "x-coerce": ["number_from_text"]}},
}
CONTRACT = contract_of(
    {"type": "object", "properties": {"lines": {"type": "array", "items": LINE}}}
)


def test_coerced_values_are_counted_and_letters_keep_their_bytes() -> None:
    values = [b'{"lines": [{"n": "1"}, {"n": 2}, {"n": "3"}]}', b'{"lines": [{"n": "x"}]}']
    records = [kafka_record(value, offset=offset) for offset, value in enumerate(values)]
    pipeline = TestPipeline()
    outputs = (
        pipeline
        | beam.Create(records)
        | CollectRecords()
        | Validate(CONTRACT, ValidationRules(None))
    )
    assert_that(
        outputs.dead | beam.FlatMap(list) | beam.Map(lambda letter: letter.value),
        equal_to(values[1:]),
    )
    result = pipeline.run()
    result.wait_until_finish()
    counters = result.metrics().query(MetricsFilter().with_namespace(METRICS_NAMESPACE))["counters"]
    counts = {counter.key.metric.name: counter.committed for counter in counters}
    assert counts["coerced.lines[].n"] == 2
