"""What transforms over Arrow batches share: the seam where a failure becomes a dead letter."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa
from apache_beam.metrics import Metrics

from beam_pipeline.records import METRICS_NAMESPACE as METRICS_NAMESPACE
from beam_pipeline.records import DeadLetter, ErrorCode, Failure, SchemaRef, make_dead_letter
from beam_pipeline.transforms.batch_coder import (
    RecordBatchCoder as RecordBatchCoder,  # registers itself
)

DEAD = "dead"

MAX_STACKTRACE_CHARACTERS = 4_000

BatchFunction = Callable[[pa.RecordBatch], pa.RecordBatch]
"""A pure function of a batch; it keeps the Kafka and ride-along columns as they are."""


class Outputs(NamedTuple):
    """The two ends of a step: what goes on, and the dead letters."""

    main: beam.PCollection[Any]
    dead: beam.PCollection[Any]


class BatchTransform(beam.PTransform[Any, Any]):
    """PCollection[pa.RecordBatch] to `Outputs` of RecordBatch and DeadLetter.

    Where `function` raises, the batch is halved until the rows at fault stand alone; those become
    dead letters with their original bytes, the others go on. Any windowing; timestamps are kept.
    """

    stage: str

    def __init__(self, function: BatchFunction, schema_ref: SchemaRef) -> None:
        super().__init__()
        self._function = function
        self._schema_ref = schema_ref

    def output_schema(self, input_schema: pa.Schema) -> pa.Schema:
        """Arrow schema of the batches that go on, for batches of `input_schema` coming in."""
        empty = pa.RecordBatch.from_pylist([], schema=input_schema)
        return self._function(empty).schema

    def expand(self, batches: beam.PCollection[Any]) -> Outputs:
        outputs = batches | "ApplyToBatches" >> with_batch_outputs(
            beam.ParDo(_ApplyToBatch(self._function, self.stage, self._schema_ref)), "batches"
        )
        return Outputs(outputs["batches"], outputs[DEAD])


def with_batch_outputs(step: Any, main: str) -> Any:
    """A ParDo with its main output of RecordBatch, and DeadLetter tagged `DEAD`, each with the
    coder of its type."""
    return step.with_output_types(pa.RecordBatch, **{DEAD: DeadLetter}).with_outputs(
        DEAD, main=main
    )


class _ApplyToBatch(beam.DoFn):
    def __init__(self, function: BatchFunction, stage: str, schema_ref: SchemaRef) -> None:
        self._function = function
        self._stage = stage
        self._schema_ref = schema_ref

    def setup(self) -> None:
        set_up = getattr(self._function, "setup", None)
        if set_up is not None:
            set_up()

    def process(self, batch: pa.RecordBatch) -> Iterator[Any]:
        for piece, error in apply_or_split(batch, self._function):
            if error is None:
                yield piece
            else:
                failure = failure_of(ErrorCode.TRANSFORM_ERROR, error)
                for letter in dead_letters_of(piece, self._stage, [failure], self._schema_ref):
                    count_dead(letter.failure.code)
                    yield beam.pvalue.TaggedOutput(DEAD, letter)


def apply_or_split(
    batch: pa.RecordBatch, function: BatchFunction
) -> Iterator[tuple[pa.RecordBatch, Exception | None]]:
    """Applies `function`, on halves where it raises; gives (result, None) or (one row, error)."""
    result, error = _attempt(batch, function)
    if error is None:
        yield result, None
    else:
        yield from _split(_only(batch, 0, batch.num_rows), function)


def _split(
    batch: pa.RecordBatch, function: BatchFunction
) -> Iterator[tuple[pa.RecordBatch, Exception | None]]:
    result, error = _attempt(batch, function)
    if error is None:
        yield result, None
    elif batch.num_rows <= 1:
        yield batch, error
    else:
        middle = batch.num_rows // 2
        yield from _split(_only(batch, 0, middle), function)
        yield from _split(_only(batch, middle, batch.num_rows), function)


def _attempt(
    batch: pa.RecordBatch, function: BatchFunction
) -> tuple[pa.RecordBatch | None, Exception | None]:
    try:
        return function(batch), None
    except Exception as error:  # the one seam where anything a transform raises is a dead letter
        return None, error


def _only(batch: pa.RecordBatch, start: int, end: int) -> pa.RecordBatch:
    """A copy of some rows. In a slice, a cast of lists fails on the values of its neighbours too
    (pyarrow 23)."""
    return batch.take(pa.array(range(start, end), pa.int64()))


def failure_of(code: ErrorCode, error: BaseException) -> Failure:
    """The failure that an exception stands for, with the end of its stack trace."""
    trace = "".join(traceback.format_exception(error))
    return Failure(
        code=code,
        message=str(error)[:500],
        error_class=f"{type(error).__module__}.{type(error).__qualname__}",
        stacktrace=trace[-MAX_STACKTRACE_CHARACTERS:],
    )


def dead_letters_of(
    rows: pa.RecordBatch, stage: str, failures: Sequence[Failure], schema_ref: SchemaRef
) -> Iterator[DeadLetter]:
    """A dead letter for each of `rows`, from its Kafka and ride-along columns and its failure."""
    failed_at_ms = time.time_ns() // 1_000_000
    columns = {
        name: rows.column(name).to_pylist()
        for name in (
            "kafka_topic",
            "kafka_partition",
            "kafka_offset",
            "_timestamp_type",
            "_key",
            "_value",
            "_headers",
        )
    }
    timestamps = rows.column("kafka_timestamp").cast(pa.int64()).to_pylist()
    for row in range(rows.num_rows):
        yield make_dead_letter(
            stage=stage,
            failure=failures[row],
            schema=schema_ref,
            topic=columns["kafka_topic"][row],
            partition=columns["kafka_partition"][row],
            offset=columns["kafka_offset"][row],
            timestamp=timestamps[row],
            timestamp_type=columns["_timestamp_type"][row],
            key=columns["_key"][row],
            value=columns["_value"][row],
            headers=tuple((item["key"], item["value"]) for item in columns["_headers"][row] or ()),
            failed_at_ms=failed_at_ms,
        )


def count_dead(code: ErrorCode, letters: int = 1) -> None:
    """Adds to the counters of dead letters, the total's and the code's."""
    Metrics.counter(METRICS_NAMESPACE, "dead").inc(letters)
    Metrics.counter(METRICS_NAMESPACE, f"dead.{code.value}").inc(letters)
