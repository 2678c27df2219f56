"""Dead letters as Arrow batches, how they are made of rows, and their counters.

They are not in `records.py`, because that module has the types only and imports neither Arrow nor
Beam: the command line reads it.
"""

from __future__ import annotations

import json
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import orjson
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam import coders
from apache_beam.metrics import Metrics

from beam_pipeline.records import (
    METRICS_NAMESPACE,
    DeadLetter,
    ErrorCode,
    Failure,
    Header,
    SchemaRef,
    Violation,
    make_dead_letter,
)
from beam_pipeline.schemas.contract import RECORD_SCHEMA
from beam_pipeline.transforms.batch_coder import RecordBatchCoder
from beam_pipeline.transforms.nested import decoded

MAX_MESSAGE_CHARACTERS = 500
MAX_STACKTRACE_CHARACTERS = 4_000

LETTER_SCHEMA = pa.schema(
    [
        *RECORD_SCHEMA,
        pa.field("stage", pa.string()),
        pa.field("code", pa.string()),
        pa.field("error", pa.binary()),
        pa.field("schema_id", pa.string()),
        pa.field("schema_sha256", pa.string()),
        pa.field("failed_at_ms", pa.int64()),
    ]
)
"""The columns of a batch of dead letters. `error` is the JSON object `error` of the letter's line
(`schema/dead_letter.schema.json`): it is written once, where the record is refused."""


_NO_LETTERS = pa.RecordBatch.from_pylist([], schema=LETTER_SCHEMA)


class DeadLetters(Sequence[DeadLetter]):
    """Dead letters that travel together: a sequence of `DeadLetter` over an Arrow batch.

    Steps and sinks work on the batch. The letters are made when they are asked for.

    Args:
      batch: a batch of `LETTER_SCHEMA`.
    """

    def __init__(self, batch: pa.RecordBatch) -> None:
        self.batch = batch

    @staticmethod
    def of_rows(
        rows: pa.RecordBatch, stage: str, failures: Sequence[Failure], schema_ref: SchemaRef
    ) -> DeadLetters:
        """Return one letter for each row, of its Kafka and ride-along columns and its failure.

        Args:
          rows: a batch with these columns; it may be a slice.
          stage: the step that refused the rows.
          failures: as many as there are rows, in the same order.
          schema_ref: the schema that the rows were judged by.
        """
        count = rows.num_rows
        records = [_column(rows, field) for field in RECORD_SCHEMA]
        schema_id = None if schema_ref.id is None else without_surrogates(schema_ref.id)
        columns = [
            pa.repeat(stage, count),
            pa.array([failure.code.value for failure in failures], pa.string()),
            pa.array(map(_error_json, failures), pa.binary()),
            pa.repeat(pa.scalar(schema_id, pa.string()), count),
            pa.repeat(schema_ref.sha256, count),
            pa.repeat(time.time_ns() // 1_000_000, count),
        ]
        return DeadLetters(pa.RecordBatch.from_arrays([*records, *columns], schema=LETTER_SCHEMA))

    @staticmethod
    def of(letters: Iterable[DeadLetter]) -> DeadLetters:
        """Return letters as a batch. Attempt and redrive are those in the headers."""
        rows = [
            {
                "kafka_topic": letter.topic,
                "kafka_partition": letter.partition,
                "kafka_offset": letter.offset,
                "kafka_timestamp": letter.timestamp,
                "_timestamp_type": letter.timestamp_type,
                "_key": letter.key,
                "_value": letter.value,
                "_headers": [
                    {"key": without_surrogates(name), "value": content}
                    for name, content in letter.headers
                ],
                "stage": letter.stage,
                "code": letter.failure.code.value,
                "error": _error_json(letter.failure),
                "schema_id": letter.schema.id and without_surrogates(letter.schema.id),
                "schema_sha256": letter.schema.sha256,
                "failed_at_ms": letter.failed_at_ms,
            }
            for letter in letters
        ]
        return DeadLetters(pa.RecordBatch.from_pylist(rows, schema=LETTER_SCHEMA))

    @staticmethod
    def concat(parts: Sequence[DeadLetters]) -> DeadLetters:
        """Return the letters of all parts, in order."""
        if len(parts) == 1:
            return parts[0]
        if not parts:
            return DeadLetters(_NO_LETTERS)
        return DeadLetters(pa.concat_batches([part.batch for part in parts]))

    def codes(self) -> Counter[ErrorCode]:
        """Return how many letters there are of each code."""
        counts = pc.value_counts(self.batch.column("code")).to_pylist()
        return Counter({ErrorCode(count["values"]): count["counts"] for count in counts})

    def headers(self) -> list[tuple[Header, ...]]:
        """Return the headers of each letter's record."""
        column = self.batch.column("_headers")
        if column.null_count == len(column):
            return [()] * len(column)
        return [
            tuple((header["key"], header["value"]) for header in headers or ())
            for headers in column.to_pylist()
        ]

    def __len__(self) -> int:
        return int(self.batch.num_rows)

    @overload
    def __getitem__(self, index: int) -> DeadLetter: ...

    @overload
    def __getitem__(self, index: slice) -> DeadLetters: ...

    def __getitem__(self, index: int | slice) -> DeadLetter | DeadLetters:
        if isinstance(index, slice):
            rows = range(len(self))[index]
            return DeadLetters(self.batch.take(pa.array(rows, pa.int64())))
        (letter,) = DeadLetters(self.batch.slice(range(len(self))[index], 1))
        return letter

    def __iter__(self) -> Iterator[DeadLetter]:
        columns = {
            name: column.to_pylist()
            for name, column in zip(self.batch.schema.names, self.batch.columns, strict=True)
            if name not in ("_headers", "kafka_timestamp")
        }
        timestamps = self.batch.column("kafka_timestamp").cast(pa.int64()).to_pylist()
        for row, headers in enumerate(self.headers()):
            yield make_dead_letter(
                stage=columns["stage"][row],
                failure=_failure(columns["error"][row]),
                schema=SchemaRef(columns["schema_id"][row], columns["schema_sha256"][row]),
                topic=columns["kafka_topic"][row],
                partition=columns["kafka_partition"][row],
                offset=columns["kafka_offset"][row],
                timestamp=timestamps[row],
                timestamp_type=columns["_timestamp_type"][row],
                key=columns["_key"][row],
                value=columns["_value"][row],
                headers=headers,
                failed_at_ms=columns["failed_at_ms"][row],
            )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"DeadLetters({list(self)!r})"


def as_dead_letters(element: DeadLetters | DeadLetter) -> DeadLetters:
    """Return an element of a PCollection of dead letters as a batch; users' may be single ones."""
    return element if isinstance(element, DeadLetters) else DeadLetters.of([element])


class DeadLettersCoder(coders.Coder):
    """Encodes `DeadLetters` as their batch (`RecordBatchCoder`)."""

    _batches = RecordBatchCoder()

    def encode(self, value: DeadLetters) -> bytes:
        return self._batches.encode(value.batch)

    def decode(self, encoded: bytes) -> DeadLetters:
        return DeadLetters(self._batches.decode(encoded))

    def estimate_size(self, value: DeadLetters) -> int:
        return self._batches.estimate_size(value.batch)

    def is_deterministic(self) -> bool:
        return False

    def to_type_hint(self) -> type[DeadLetters]:
        return DeadLetters


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


def without_surrogates(text: str) -> str:
    """Return a text with `?` for each half of a surrogate pair, which no UTF-8 can have."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _column(rows: pa.RecordBatch, field: pa.Field) -> pa.Array:
    column = decoded(rows.column(field.name))
    return column if column.type == field.type else column.cast(field.type)


def _error_json(failure: Failure) -> bytes:
    error = {
        "code": failure.code.value,
        "class": failure.error_class,
        "message": failure.message,
        "stacktrace": failure.stacktrace,
        "violations": [violation._asdict() for violation in failure.violations],
    }
    try:
        return orjson.dumps(error)
    except TypeError:  # half of a surrogate pair, which no JSON reader accepts
        return json.dumps(error, ensure_ascii=False).encode(errors="replace")


def _failure(error_json: bytes) -> Failure:
    error = orjson.loads(error_json)
    return Failure(
        code=ErrorCode(error["code"]),
        message=error["message"],
        error_class=error["class"],
        stacktrace=error["stacktrace"],
        violations=tuple(Violation(**violation) for violation in error["violations"]),
    )


def count_dead(letters: DeadLetters) -> None:
    """Add to the counter of all dead letters and to the one of each code."""
    Metrics.counter(METRICS_NAMESPACE, "dead").inc(len(letters))
    for code, count in letters.codes().items():
        Metrics.counter(METRICS_NAMESPACE, f"dead.{code.value}").inc(count)
