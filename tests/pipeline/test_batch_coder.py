"""Arrow batches between steps: what they are encoded as, and that nothing pickles them."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam import coders
from apache_beam.coders import registry
from apache_beam.coders.typecoders import CoderRegistry
from apache_beam.pipeline import AppliedPTransform, PipelineVisitor
from pipeline.test_graph import config_of

from beam_pipeline.io.kafka import CollectRecords
from beam_pipeline.pipeline import land_records
from beam_pipeline.transforms.batch_coder import RecordBatchCoder
from beam_pipeline.transforms.dead_letters import DeadLettersCoder
from beam_pipeline.transforms.outputs import DEAD

NOON = datetime(2026, 11, 24, 12, tzinfo=timezone.utc)
BATCHES = [
    pa.RecordBatch.from_pydict({}),
    pa.RecordBatch.from_pydict({"a": pa.array([], pa.string())}),
    pa.RecordBatch.from_pydict(
        {
            "time": pa.array([NOON, None], pa.timestamp("us", "UTC")),
            "kind": pa.array(["x", "y"]).dictionary_encode(),
            "items": pa.array([[{"n": 1}], None]),
            "value": pa.array([b"\0\xff", None]),
        }
    ),
]


@pytest.mark.parametrize("batch", BATCHES)
def test_a_batch_comes_back(batch: pa.RecordBatch) -> None:
    coder = RecordBatchCoder()
    assert coder.decode(coder.encode(batch)).equals(batch)


def test_a_slice_is_as_large_as_its_rows() -> None:
    batch = pa.RecordBatch.from_pydict({"a": pa.array(range(100_000))})
    coder = RecordBatchCoder()
    assert coder.estimate_size(batch.slice(5, 10)) == 80
    assert len(coder.encode(batch.slice(5, 10))) < 1_000


STEPS = (
    "Validate/ValidateRecords",
    "Normalize/ApplyToBatches",
    "Enrich/ApplyToBatches",
    "WindowBatches/CutByWindow",
    "WindowBatches/AssignFixedWindows",
)


STEPS_OF_LETTERS = (
    "FlattenDead",
    "WindowDeadLetters/CutByAppendTime",
    "WindowDeadLetters/AssignFixedWindows",
)


class LetterCoders(PipelineVisitor):
    """The coder of each output of dead letters, by step."""

    def __init__(self) -> None:
        self.found: dict[str, type] = {}

    def visit_transform(self, step: AppliedPTransform) -> None:
        for output in step.outputs.values():
            if output.tag == DEAD or step.full_label.startswith(STEPS_OF_LETTERS):
                self.found[step.full_label] = type(registry.get_coder(output.element_type))


class BatchCoders(PipelineVisitor):
    """The coder of the main output of each of `STEPS`."""

    def __init__(self) -> None:
        self.found: dict[str, type] = {}

    def visit_transform(self, step: AppliedPTransform) -> None:
        for output in step.outputs.values():
            if step.full_label.startswith(STEPS) and output.tag != DEAD:
                self.found[step.full_label] = type(registry.get_coder(output.element_type))


def test_the_coder_is_registered_when_a_step_is_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing changes nothing of the process that imports."""
    fresh = CoderRegistry()
    monkeypatch.setattr(coders, "registry", fresh)
    pipeline = beam.Pipeline()
    records = pipeline | beam.Create([])
    assert not isinstance(fresh.get_coder(pa.RecordBatch), RecordBatchCoder)
    _ = records | CollectRecords()
    assert isinstance(fresh.get_coder(pa.RecordBatch), RecordBatchCoder)


def test_every_step_between_kafka_and_the_parts_has_the_coder(tmp_path: Path) -> None:
    pipeline = beam.Pipeline()
    land_records(pipeline | beam.Create([]), config_of(tmp_path))
    visitor = BatchCoders()
    pipeline.visit(visitor)
    assert len(visitor.found) == len(STEPS), visitor.found
    assert set(visitor.found.values()) == {RecordBatchCoder}, visitor.found


def test_letters_have_a_coder_from_every_step_to_their_parts(tmp_path: Path) -> None:
    pipeline = beam.Pipeline()
    land_records(pipeline | beam.Create([]), config_of(tmp_path))
    visitor = LetterCoders()
    pipeline.visit(visitor)
    for step in (*STEPS[:3], *STEPS_OF_LETTERS):
        assert any(label.startswith(step) for label in visitor.found), (step, visitor.found)
    assert set(visitor.found.values()) == {DeadLettersCoder}, visitor.found
