"""Flink's names of Beam's counters, back to the pipeline's."""

from __future__ import annotations

import pytest

from beam_pipeline.records import ErrorCode
from beam_pipeline.runtime.flink.metrics import counter_name, sum_counters

OPERATOR = "[15]{Validate__FlattenDead__Normalize__WindowDeadLetters__Enrich__WindowBatches_"


@pytest.mark.parametrize(
    "name",
    [
        *("read", "valid", "skipped", "late", "dead"),
        *(f"dead.{code.value}" for code in ErrorCode),
        *(f"{sink}.{what}" for sink in ("parquet", "dead_letters") for what in ("rows", "files")),
    ],
)
def test_every_counter_gets_its_name_back(name: str) -> None:
    assert counter_name(f"{OPERATOR}.beam_pipeline_{name.replace('.', '_')}") == name
    assert counter_name(f"0.{OPERATOR}.beam_pipeline_{name.replace('.', '_')}") == name


def test_a_coerced_field_keeps_the_underscores() -> None:
    metric = f"{OPERATOR}.beam_pipeline_coerced_lines[]_price"
    assert counter_name(metric) == "coerced.lines[]_price"
    assert counter_name(f"{OPERATOR}.beam_pipeline_coerced_größe{{}}") == "coerced.größe{}"


@pytest.mark.parametrize(
    "metric", ["numRecordsIn", f"{OPERATOR}.numRecordsOut", "Source__x.beam_pipelines_read"]
)
def test_other_metrics_have_none(metric: str) -> None:
    assert counter_name(metric) is None


def test_counters_of_several_operators_are_added_up() -> None:
    metrics = [("a.beam_pipeline_dead", 2.0), ("b.beam_pipeline_dead", 3.0), ("numRecordsIn", 9.0)]
    assert sum_counters(metrics) == {"dead": 5}
