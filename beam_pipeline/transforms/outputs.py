"""The two outputs of a step: its main output and its dead letters."""

from __future__ import annotations

from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa

from beam_pipeline.records import DeadLetter
from beam_pipeline.transforms.batch_coder import (
    RecordBatchCoder as RecordBatchCoder,  # registers itself
)

DEAD = "dead"
"""Tag of the output of dead letters."""


class Outputs(NamedTuple):
    """The outputs of a step: the elements that go on, and a PCollection[DeadLetter]."""

    main: beam.PCollection[Any]
    dead: beam.PCollection[Any]


def with_batch_outputs(step: Any, main: str) -> Any:
    """Return a ParDo with two typed outputs: RecordBatch under the tag `main`, DeadLetter under
    `DEAD`."""
    return step.with_output_types(pa.RecordBatch, **{DEAD: DeadLetter}).with_outputs(
        DEAD, main=main
    )
