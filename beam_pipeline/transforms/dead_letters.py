"""Dead letters made of rows of Arrow batches, and their counters.

They are not in `records.py`, because that module has the types only and imports neither Arrow nor
Beam: the command line reads it.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator, Sequence

import pyarrow as pa
from apache_beam.metrics import Metrics

from beam_pipeline.records import (
    METRICS_NAMESPACE,
    DeadLetter,
    ErrorCode,
    Failure,
    SchemaRef,
    make_dead_letter,
)

MAX_MESSAGE_CHARACTERS = 500
MAX_STACKTRACE_CHARACTERS = 4_000

_COLUMNS = (
    "kafka_topic",
    "kafka_partition",
    "kafka_offset",
    "_timestamp_type",
    "_key",
    "_value",
    "_headers",
)


def failure_of(code: ErrorCode, error: BaseException) -> Failure:
    """Return the failure for an exception, with the end of its stack trace.

    >>> failure = failure_of(ErrorCode.TRANSFORM_ERROR, ValueError("no such shop"))
    >>> failure.message, failure.error_class
    ('no such shop', 'builtins.ValueError')
    """
    trace = "".join(traceback.format_exception(error))
    return Failure(
        code=code,
        message=str(error)[:MAX_MESSAGE_CHARACTERS],
        error_class=f"{type(error).__module__}.{type(error).__qualname__}",
        stacktrace=trace[-MAX_STACKTRACE_CHARACTERS:],
    )


def dead_letters_of(
    rows: pa.RecordBatch, stage: str, failures: Sequence[Failure], schema_ref: SchemaRef
) -> Iterator[DeadLetter]:
    """Yield one dead letter a row, made of its Kafka and ride-along columns and its failure.

    Args:
      rows: a batch with these columns; it may be a slice.
      stage: the step that refused the rows.
      failures: as many as there are rows, in the same order.
      schema_ref: the schema that the rows were judged by.
    """
    failed_at_ms = time.time_ns() // 1_000_000
    columns = {name: rows.column(name).to_pylist() for name in _COLUMNS}
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


def dead_letter_of(
    rows: pa.RecordBatch, row: int, stage: str, failure: Failure, schema_ref: SchemaRef
) -> DeadLetter:
    """Return the dead letter for the row of `rows` with index `row`."""
    (letter,) = dead_letters_of(rows.slice(row, 1), stage, [failure], schema_ref)
    return letter


def count_dead(code: ErrorCode, letters: int = 1) -> None:
    """Add to the counter of all dead letters and to the one of this code."""
    Metrics.counter(METRICS_NAMESPACE, "dead").inc(letters)
    Metrics.counter(METRICS_NAMESPACE, f"dead.{code.value}").inc(letters)
