"""The seam where a failure becomes a dead letter.

A function of many rows is called for all of them. Where it raises, it is called for each half, down
to single rows, so that only the rows at fault fail. Such a function must return the same for a row
whatever rows are beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import apache_beam as beam
import pyarrow as pa

from beam_pipeline.records import ErrorCode, SchemaRef
from beam_pipeline.transforms.dead_letters import DeadLetters, count_dead, failure_of
from beam_pipeline.transforms.outputs import DEAD, Outputs, with_batch_outputs

Result = TypeVar("Result")

BatchFunction = Callable[[pa.RecordBatch], pa.RecordBatch]
"""A pure function of a batch; it keeps the Kafka and ride-along columns as they are."""


class Refusal(NamedTuple):
    """A row for which a function raises: the row's index and the exception."""

    row: int
    error: Exception


class BatchTransform(beam.PTransform[Any, Any]):
    """PCollection[pa.RecordBatch] to `Outputs` of RecordBatch and DeadLetters.

    Applies `function` to each batch by `apply_or_split`. A row for which it raises becomes a dead
    letter (`TRANSFORM_ERROR`) with the record's original bytes. Any windowing; timestamps are kept.
    """

    stage: str

    def __init__(self, function: BatchFunction, schema_ref: SchemaRef) -> None:
        super().__init__()
        self.function = function
        self.schema_ref = schema_ref

    def output_schema(self, input_schema: pa.Schema) -> pa.Schema:
        """Return the schema of the output batches for input batches of `input_schema`."""
        empty = pa.RecordBatch.from_pylist([], schema=input_schema)
        return self.function(empty).schema

    def expand(self, batches: beam.PCollection[Any]) -> Outputs:
        outputs = batches | "ApplyToBatches" >> with_batch_outputs(
            beam.ParDo(_ApplyToBatch(self.function, self.stage, self.schema_ref)), "batches"
        )
        return Outputs(outputs["batches"], outputs[DEAD])


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
        batches, dead = rows_and_letters(batch, self._function, self._stage, self._schema_ref)
        yield from batches
        if dead:
            count_dead(dead)
            yield beam.pvalue.TaggedOutput(DEAD, dead)


def rows_and_letters(
    batch: pa.RecordBatch, function: BatchFunction, stage: str, schema_ref: SchemaRef
) -> tuple[list[pa.RecordBatch], DeadLetters]:
    """Return the batches that `apply_or_split` yields, and the letters of the refused rows."""
    batches: list[pa.RecordBatch] = []
    refusals: list[Refusal] = []
    for result in apply_or_split(batch, function):
        if isinstance(result, Refusal):
            refusals.append(result)
        else:
            batches.append(result)
    return batches, letters_of(refusals, batch, ErrorCode.TRANSFORM_ERROR, stage, schema_ref)


def letters_of(
    refusals: Sequence[Refusal],
    batch: pa.RecordBatch,
    code: ErrorCode,
    stage: str,
    schema_ref: SchemaRef,
) -> DeadLetters:
    """Return the dead letters for the rows of `batch` that were refused."""
    if not refusals:
        return DeadLetters.concat([])
    rows = batch.take(pa.array([refusal.row for refusal in refusals], pa.int64()))
    failures = [failure_of(code, refusal.error) for refusal in refusals]
    return DeadLetters.of_rows(rows, stage, failures, schema_ref)


def apply_or_split(
    batch: pa.RecordBatch, function: BatchFunction
) -> Iterator[pa.RecordBatch | Refusal]:
    """Yield `function(batch)`; where it raises, the results for its halves and the refused rows.

    >>> def halve(batch):
    ...     if 3 in batch["n"].to_pylist():
    ...         raise ValueError("3 is odd")
    ...     return batch
    >>> batch = pa.RecordBatch.from_pydict({"n": [2, 4, 3, 6]})
    >>> for result in apply_or_split(batch, halve):
    ...     print(result if isinstance(result, Refusal) else result["n"].to_pylist())
    [2, 4]
    Refusal(row=2, error=ValueError('3 is odd'))
    [6]
    """

    def apply(start: int, end: int) -> pa.RecordBatch:
        if end - start == batch.num_rows:
            try:
                return function(batch)
            except Exception:  # once more, on a copy: see below
                pass
        # pyarrow 23: in a slice, a cast of lists fails on the values of its neighbours too.
        return function(batch.take(pa.array(range(start, end), pa.int64())))

    return split_on_error(apply, batch.num_rows)


def split_on_error(
    function: Callable[[int, int], Result],
    rows: int,
    errors: tuple[type[Exception], ...] = (Exception,),
) -> Iterator[Result | Refusal]:
    """Yield `function(0, rows)`; where it raises, the results for halves and the refused rows.

    Results and refusals come in the order of the rows. Nothing comes of no rows that it refuses.

    Args:
      function: takes the index of the first row and the index behind the last one.
      rows: how many rows there are.
      errors: the exceptions that refuse rows; all others are raised.
    """
    return _split_on_error(function, 0, rows, errors)


def _split_on_error(
    function: Callable[[int, int], Result],
    start: int,
    end: int,
    errors: tuple[type[Exception], ...],
) -> Iterator[Result | Refusal]:
    result = _attempt(function, start, end, errors)
    if not isinstance(result, Refusal) or end - start == 1:
        yield result
    elif end > start:
        middle = start + (end - start) // 2
        yield from _split_on_error(function, start, middle, errors)
        yield from _split_on_error(function, middle, end, errors)


def _attempt(
    function: Callable[[int, int], Result],
    start: int,
    end: int,
    errors: tuple[type[Exception], ...],
) -> Result | Refusal:
    try:
        return function(start, end)
    except errors as error:
        return Refusal(start, error)
