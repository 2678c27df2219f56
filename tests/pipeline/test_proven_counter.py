"""Rows that the compiled contract proves are counted in Beam's metrics."""

from __future__ import annotations

from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.metrics.metric import MetricsFilter
from apache_beam.testing.test_pipeline import TestPipeline
from sample_records import contract_of, kafka_record

from beam_pipeline.compiled import prover
from beam_pipeline.compiled.kernel import KernelLibrary
from beam_pipeline.config import ValidationRules
from beam_pipeline.io.kafka import CollectRecords
from beam_pipeline.records import METRICS_NAMESPACE
from beam_pipeline.transforms import Validate

CONTRACT = contract_of({"type": "object", "properties": {"n": {"type": "integer"}}})


def test_proven_rows_are_counted_and_no_marker_is_left(
    kernel_library: KernelLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prover, "marker_directory", lambda: tmp_path / "markers")
    values = [b'{"n": 1}', b'{"n": 2}', b'{"n": 3.0}', b'{"n": "x"}']
    records = [kafka_record(value, offset=offset) for offset, value in enumerate(values)]
    pipeline = TestPipeline()
    rules = ValidationRules(None, kernel=kernel_library)
    _ = pipeline | beam.Create(records) | CollectRecords() | Validate(CONTRACT, rules)
    result = pipeline.run()
    result.wait_until_finish()
    counters = result.metrics().query(MetricsFilter().with_namespace(METRICS_NAMESPACE))["counters"]
    counts = {counter.key.metric.name: counter.committed for counter in counters}
    assert (counts["read"], counts["valid"], counts["proven"]) == (4, 3, 2)
    assert "proven_differences" not in counts
    assert [*(tmp_path / "markers").iterdir()] == []
