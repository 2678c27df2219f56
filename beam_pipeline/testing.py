"""Runs transforms over a few events, without a runner and without files: for unit tests.

`run_transform` applies one transform to rows. `run_events` takes events through all steps before
the windows: validate, normalize, enrich and the user's transforms. Both call the same functions as
the pipeline does, so a row that would be a dead letter is one here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from beam_pipeline.config import ValidationRules
from beam_pipeline.io.kafka import batch_of_records
from beam_pipeline.records import DeadLetter, KafkaRecord, SchemaRef
from beam_pipeline.resources import reference_dir as shipped_reference_dir
from beam_pipeline.schemas import Contract
from beam_pipeline.schemas.contract import RIDE_ALONG_FIELDS, row_schema
from beam_pipeline.times import DEFAULT_TIME_UNIT
from beam_pipeline.transforms import (
    BatchTransform,
    Enrich,
    Normalize,
    Transform,
    user_transforms,
)
from beam_pipeline.transforms.batches import rows_and_letters
from beam_pipeline.transforms.validate import RecordValidator

__all__ = ["TIMESTAMP_MS", "TOPIC", "Event", "Results", "run_events", "run_transform"]

Event = KafkaRecord | Mapping[str, Any] | bytes | None
"""A record, or the value of one: an object that is written as JSON, bytes, or None for null."""

TOPIC = "events"
TIMESTAMP_MS = 1_790_000_000_000
"""Kafka topic and timestamp of events that are not records: 2026-09-21T14:13:20Z."""


@dataclass(frozen=True)
class Results:
    """The rows that would be in the files, without key, headers and value, and the dead letters."""

    table: pa.Table
    dead: list[DeadLetter]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows as dicts."""
        rows: list[dict[str, Any]] = self.table.to_pylist()
        return rows


def run_events(
    events: Iterable[Event],
    contract: Contract,
    *,
    rules: ValidationRules | None = None,
    reference_dir: str | Path | None = None,
    transforms: Sequence[str | Transform | type[Transform]] = (),
) -> Results:
    """Take events through validate, normalize, enrich and `transforms`.

    Args:
      events: values become records of partition 0 of `TOPIC`, with the offsets 0, 1, 2 and so on
        and the timestamp `TIMESTAMP_MS`.
      contract: the schema, as `load_contract` returns it.
      rules: by default the event time is the schema's `x-event-time`, without limits of age.
      reference_dir: the tables that `x-enrich` names; by default those of the package.
      transforms: functions, classes or `package.module:Name`, as `--transform` takes them.

    Raises:
      UsageError: the schema, a table or a transform can't be used.
    """
    rules = rules or ValidationRules(
        contract.event_time_field, event_time_unit=contract.event_time_unit or DEFAULT_TIME_UNIT
    )
    records = [_record_of(event, offset) for offset, event in enumerate(events)]
    batches, dead = RecordValidator(contract, rules).validate(batch_of_records(records))
    steps: list[BatchTransform] = [
        Normalize(contract),
        Enrich(contract, reference_dir or shipped_reference_dir()),
    ]
    schema = contract.batch_schema
    for step in steps:
        schema = step.output_schema(schema)
    steps += user_transforms(transforms, schema, contract.ref)
    return _run_steps(steps, contract.batch_schema, batches, dead)


def run_transform(
    transform: str | Transform | type[Transform],
    rows: Sequence[Mapping[str, Any]] | pa.RecordBatch,
    schema: pa.Schema | None = None,
) -> Results:
    """Apply one transform to rows, and check that it follows the protocol of `Transform`.

    Args:
      transform: a function, a class or `package.module:Name`, as `--transform` takes it.
      rows: the rows as they come to the transform. Kafka columns that they lack are added: a row's
        offset is its number from 0, and the value of a dead letter is null.
      schema: the types of the rows' columns; by default they are inferred from the values.

    Raises:
      UsageError: the transform can't be loaded, or breaks the protocol on a batch of no rows.

    >>> def refuse_large(batch):
    ...     if max(batch["amount"].to_pylist(), default=0) > 100:
    ...         raise ValueError("too large")
    ...     return batch
    >>> results = run_transform(refuse_large, [{"amount": 5}, {"amount": 700}])
    >>> [row["amount"] for row in results.rows]
    [5]
    >>> [(letter.offset, letter.failure.message) for letter in results.dead]
    [(1, 'too large')]
    """
    if not isinstance(rows, pa.RecordBatch):
        rows = pa.RecordBatch.from_pylist([dict(row) for row in rows], schema=schema)
    batch = _with_record_columns(rows)
    steps = user_transforms([transform], batch.schema, SchemaRef(None, ""))
    return _run_steps(steps, batch.schema, [batch], [])


def _record_of(event: Event, offset: int) -> KafkaRecord:
    if isinstance(event, KafkaRecord):
        return event
    value = event if event is None or isinstance(event, bytes) else msgspec.json.encode(event)
    return KafkaRecord(
        topic=TOPIC,
        partition=0,
        offset=offset,
        timestamp=TIMESTAMP_MS,
        timestampTypeId=1,
        timestampTypeName="LogAppendTime",
        headers=None,
        key=None,
        value=value,
    )


def _with_record_columns(rows: pa.RecordBatch) -> pa.RecordBatch:
    """Return `rows` with the Kafka and ride-along columns; the records' values are null."""
    records = batch_of_records([_record_of(None, offset) for offset in range(rows.num_rows)])
    event_time = RIDE_ALONG_FIELDS[-1]
    times = records.column("kafka_timestamp").cast(event_time.type)
    columns = dict(zip(rows.schema.names, rows.columns, strict=True))
    for name, column in zip(
        [*records.schema.names, event_time.name], [*records.columns, times], strict=True
    ):
        columns.setdefault(name, column)
    return pa.RecordBatch.from_pydict(columns)


def _run_steps(
    steps: Sequence[BatchTransform],
    schema: pa.Schema,
    batches: Sequence[pa.RecordBatch],
    dead: Sequence[DeadLetter],
) -> Results:
    letters = list(dead)
    for step in steps:
        schema = step.output_schema(schema)
        passed: list[pa.RecordBatch] = []
        for batch in batches:
            rows, refused = rows_and_letters(batch, step.function, step.stage, step.schema_ref)
            passed += rows
            letters += refused
        batches = passed
    table = pa.Table.from_batches(batches, schema)
    return Results(table.select(row_schema(schema).names), letters)
