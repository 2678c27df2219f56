"""Kafka records in, Arrow batches of valid events and dead letters out."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.metrics import Metrics
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from beam_pipeline.batches import (
    DEAD,
    METRICS_NAMESPACE,
    Outputs,
    count_dead,
    dead_letters_of,
    failure_of,
    leaf_at,
    with_batch_outputs,
)
from beam_pipeline.errors import UsageError
from beam_pipeline.offsets import CoveredOffsets
from beam_pipeline.records import (
    MAX_TIME_MS,
    MIN_TIME_MS,
    TIMESTAMP_TYPES,
    DeadLetter,
    ErrorCode,
    Failure,
    KafkaRecord,
    SchemaRef,
    headers_of,
    make_dead_letter,
    nearest_time_ms,
)
from beam_pipeline.schemas import ColumnBuilder, Contract, Judge
from beam_pipeline.schemas.columns import ARROW_REFUSALS, parse_timestamps
from beam_pipeline.schemas.contract import KAFKA_FIELDS, RIDE_ALONG_FIELDS
from beam_pipeline.schemas.nodes import TIMESTAMP_TYPE, Node, Struct
from beam_pipeline.schemas.versions import align, version_of
from beam_pipeline.schemas.wire import unwrap

STAGE = "validate"


@dataclass(frozen=True)
class ValidationRules:
    """What makes a record valid, apart from its schema.

    `event_time_field` is a dotted path, or None to take Kafka's append time as event time.
    `max_event_age_seconds` and `max_event_skew_seconds` are measured against the append time;
    0 sets no limit.
    """

    event_time_field: str | None
    max_event_age_seconds: int = 0
    max_event_skew_seconds: int = 0
    max_value_bytes: int = 8 * 1024 * 1024


@dataclass(frozen=True)
class BatchLimits:
    """How much of a bundle is collected before it becomes a batch.

    Decoded events of some thousand records stay in the processor's cache from the decoding to the
    columns; at 20,000 both take a third longer (`bench/README.md`).
    """

    max_rows: int = 4_000
    max_bytes: int = 64 * 1024 * 1024


class Validate(beam.PTransform[Any, Any]):
    """PCollection[KafkaRecord] to `Outputs` of pa.RecordBatch and DeadLetter.

    A batch has the schema `Contract.batch_schema`: the event's columns, the Kafka columns, and
    the ride-along columns a later dead letter needs. The records are in the global window, as
    `ReadFromKafka` gives them. Records in `covered` are in files of earlier epochs and are
    skipped.

    Raises:
      UsageError: no times can be made of the event time field.
    """

    def __init__(
        self,
        contract: Contract,
        rules: ValidationRules,
        limits: BatchLimits | None = None,
        covered: CoveredOffsets | None = None,
    ) -> None:
        super().__init__()
        _refuse_timeless_field(contract, rules.event_time_field)
        self._validate = _ValidateRecords(
            contract, rules, limits or BatchLimits(), covered or CoveredOffsets()
        )

    def expand(self, records: beam.PCollection[Any]) -> Outputs:
        outputs = records | "ValidateRecords" >> with_batch_outputs(
            beam.ParDo(self._validate), "valid"
        )
        return Outputs(outputs["valid"], outputs[DEAD])


class _Version:
    """What judges the records of one version, and builds their columns as the whole has them."""

    def __init__(self, contract: Contract, max_value_bytes: int, unified: Node) -> None:
        self.ref = contract.ref
        self.judge = Judge(contract.document, max_value_bytes)
        self._columns = ColumnBuilder(contract)
        self._node, self._unified = contract.node, unified
        self._names = contract.event_schema.names

    def build(self, events: Sequence[Any]) -> list[pa.Array]:
        """One array a column of the whole contract's event schema."""
        arrays = self._columns.build(events)
        if self._node == self._unified:
            return arrays
        if not isinstance(self._node, Struct):
            return [align(arrays[0], self._node, self._unified)]
        whole = pa.StructArray.from_arrays(arrays, names=self._names)
        aligned: list[pa.Array] = align(whole, self._node, self._unified).flatten()
        return aligned


class RecordValidator:
    """The pure core: a list of records to batches and dead letters."""

    def __init__(self, contract: Contract, rules: ValidationRules) -> None:
        self._contract = contract
        self._rules = rules
        self._schema = contract.batch_schema
        self._versions = {
            name: _Version(part, rules.max_value_bytes, contract.node)
            for name, part in contract.versions or (("", contract),)
        }
        self._first = next(iter(self._versions.values()))

    def validate(
        self, records: Sequence[KafkaRecord]
    ) -> tuple[list[pa.RecordBatch], list[DeadLetter]]:
        """Every record is a row of one of the batches, or one of the dead letters."""
        judge = self._judge_version if self._contract.versions else self._judge_first
        events: dict[_Version, list[Any]] = {part: [] for part in self._versions.values()}
        kept: dict[_Version, list[KafkaRecord]] = {part: [] for part in self._versions.values()}
        dead: list[DeadLetter] = []
        for record in records:
            part = self._first
            try:
                part, event, failure = judge(record)
            except Exception as error:  # a validator's own fault is the record's dead letter
                event, failure = None, failure_of(ErrorCode.TRANSFORM_ERROR, error)
            if failure is None:
                events[part].append(event)
                kept[part].append(record)
            else:
                dead.append(self._dead_letter(record, failure, part.ref))
        batches: list[pa.RecordBatch] = []
        for part in self._versions.values():
            for batch in self._encode(part, events[part], kept[part], dead):
                in_time, rejected = self._check_event_times(batch, part.ref)
                dead.extend(rejected)
                if in_time.num_rows:
                    batches.append(in_time)
        return batches, dead

    def _judge_first(self, record: KafkaRecord) -> tuple[_Version, Any, Failure | None]:
        return self._first, *self._first.judge.judge(record.value)

    def _judge_version(self, record: KafkaRecord) -> tuple[_Version, Any, Failure | None]:
        event, failure = self._first.judge.decode(record.value)
        if failure is not None:
            return self._first, None, failure
        version_field = str(self._contract.version_field)
        version = version_of(
            version_field, event, headers_of(record), unwrap(record.value or b"").schema_id
        )
        part = self._first if version is None else self._versions.get(version)
        if part is None:
            known = ", ".join(self._versions)
            told = f"version {version!r} ({version_field}) is none of those known: {known}"
            return self._first, None, Failure(ErrorCode.SCHEMA_VIOLATION, told[:500])
        return part, event, part.judge.check(event)

    def _encode(
        self,
        part: _Version,
        events: Sequence[Any],
        records: Sequence[KafkaRecord],
        dead: list[DeadLetter],
    ) -> Iterator[pa.RecordBatch]:
        """Batches of `events`; halves where Arrow refuses, until those at fault stand alone."""
        if not events:
            return
        try:
            columns = [*part.build(events), *_record_columns(records)]
            names = [name for name in self._schema.names if name != "_event_time"]
            rows = pa.RecordBatch.from_arrays(columns, names=names)
            times = event_times(rows, self._rules.event_time_field)
            columns.insert(-_AFTER_EVENT_TIME, times)
            yield pa.RecordBatch.from_arrays(columns, schema=self._schema)
        except ARROW_REFUSALS as error:
            if len(events) == 1:
                failure = failure_of(ErrorCode.ENCODE_ERROR, error)
                dead.append(self._dead_letter(records[0], failure, part.ref))
            else:
                middle = len(events) // 2
                yield from self._encode(part, events[:middle], records[:middle], dead)
                yield from self._encode(part, events[middle:], records[middle:], dead)

    def _check_event_times(
        self, batch: pa.RecordBatch, ref: SchemaRef
    ) -> tuple[pa.RecordBatch, list[DeadLetter]]:
        event_us = batch.column("_event_time").cast(pa.int64())
        append_ms = batch.column("kafka_timestamp").cast(pa.int64())
        append_ms = pc.max_element_wise(pc.min_element_wise(append_ms, MAX_TIME_MS), MIN_TIME_MS)
        age_us = pc.subtract(pc.multiply(append_ms, 1000), event_us)
        field_path = self._rules.event_time_field or "the Kafka timestamp"
        max_age, max_skew = self._rules.max_event_age_seconds, self._rules.max_event_skew_seconds
        checks = [
            (
                pc.is_null(event_us),
                ErrorCode.BAD_EVENT_TIME,
                f"{field_path} holds no time of the years 2 to 9998 (as RFC 3339 text, or as "
                "milliseconds since 1970)",
            )
        ]
        if max_age:
            checks.append(
                (
                    pc.greater(age_us, max_age * 1_000_000),
                    ErrorCode.TOO_OLD,
                    f"{field_path} is more than --max_event_age_seconds={max_age} "
                    "before the record's append time",
                )
            )
        if max_skew:
            checks.append(
                (
                    pc.less(age_us, -max_skew * 1_000_000),
                    ErrorCode.IN_THE_FUTURE,
                    f"{field_path} is more than --max_event_skew_seconds={max_skew} "
                    "after the record's append time",
                )
            )
        dead: list[DeadLetter] = []
        keep = pa.array([True]).take(pa.array([0] * batch.num_rows, pa.int64()))
        for condition, code, message in checks:
            condition = pc.fill_null(condition, False)
            if pc.any(condition).as_py():
                failure = Failure(code, message)
                dead.extend(dead_letters_of(batch.filter(condition), STAGE, failure, ref))
                keep = pc.and_(keep, pc.invert(condition))
        return (batch.filter(keep) if dead else batch), dead

    def _dead_letter(self, record: KafkaRecord, failure: Failure, ref: SchemaRef) -> DeadLetter:
        return make_dead_letter(
            stage=STAGE,
            failure=failure,
            schema=ref,
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            timestamp=record.timestamp,
            timestamp_type=TIMESTAMP_TYPES.get(record.timestampTypeId, TIMESTAMP_TYPES[-1]),
            key=record.key,
            value=record.value,
            headers=headers_of(record),
            failed_at_ms=time.time_ns() // 1_000_000,
        )


def _refuse_timeless_field(contract: Contract, field_path: str | None) -> None:
    no_rows = pa.RecordBatch.from_pylist([], schema=contract.batch_schema)
    try:
        event_times(no_rows, field_path)
    except (KeyError, pa.ArrowException) as error:
        raise UsageError(
            f"--event_time_field={field_path}: {error}; name a field of texts (RFC 3339) or of "
            "numbers (milliseconds since 1970)"
        ) from None


def event_times(rows: pa.RecordBatch, field_path: str | None) -> pa.Array:
    """Event times of `rows` in microseconds, null where the field holds none in the range of times.

    Raises:
      KeyError, pa.ArrowException: there is no such field, or no time can be made of its type.
    """
    if field_path is None:
        return _times_of(rows.column("kafka_timestamp").cast(pa.int64()), 1_000)
    values = leaf_at(rows, field_path)
    if pa.types.is_floating(values.type):
        values = pc.floor(values)
    if pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
        return _times_of(values, 1_000)
    if pa.types.is_string(values.type):
        try:
            values = parse_timestamps(values)
        except pa.ArrowInvalid:
            values = pa.array(map(_parse_or_none, values.to_pylist()), TIMESTAMP_TYPE)
    return _times_of(pc.cast(values, TIMESTAMP_TYPE).cast(pa.int64()), 1_000_000)


def _times_of(values: pa.Array, units_per_second: int) -> pa.Array:
    """Numbers of units since 1970 as times; null where they are out of range."""
    units_per_ms = units_per_second // 1_000
    in_range = pc.and_(
        pc.greater_equal(values, MIN_TIME_MS * units_per_ms),
        pc.less(values, (MAX_TIME_MS + 1) * units_per_ms),
    )
    kept = pc.cast(pc.if_else(in_range, values, pa.scalar(None, values.type)), pa.int64())
    return pc.multiply(kept, 1_000_000 // units_per_second).cast(TIMESTAMP_TYPE)


_AFTER_EVENT_TIME = len(RIDE_ALONG_FIELDS) - 1


def _record_columns(records: Sequence[KafkaRecord]) -> list[pa.Array]:
    """The Kafka columns, then the ride-along ones but for the event time."""
    topic, partition, offset, timestamp = KAFKA_FIELDS
    _, timestamp_type, key, value, headers = RIDE_ALONG_FIELDS
    return [
        pa.array([record.topic for record in records], topic.type),
        pa.array([record.partition for record in records], partition.type),
        pa.array([record.offset for record in records], offset.type),
        pa.array([record.timestamp for record in records], timestamp.type),
        pa.array(
            [
                TIMESTAMP_TYPES.get(record.timestampTypeId, TIMESTAMP_TYPES[-1])
                for record in records
            ],
            timestamp_type.type,
        ),
        pa.array([record.key for record in records], key.type),
        pa.array([record.value for record in records], value.type),
        pa.array(
            [
                [{"key": name, "value": content} for name, content in headers_of(record)]
                if record.headers
                else None
                for record in records
            ],
            headers.type,
        ),
    ]


def _parse_or_none(text: Any) -> Any:
    """Microseconds since 1970, or None where `text` is no time."""
    try:
        return parse_timestamps([text])[0].value
    except pa.ArrowInvalid:
        return None


class _ValidateRecords(beam.DoFn):
    """Collects records and validates them together.

    `process` takes the element alone: any WindowParam or TimestampParam costs more per record
    than the validation does (Beam 2.73, `PerWindowInvoker`).
    """

    def __init__(
        self,
        contract: Contract,
        rules: ValidationRules,
        limits: BatchLimits,
        covered: CoveredOffsets,
    ) -> None:
        self._contract = contract
        self._rules = rules
        self._limits = limits
        self._covered = covered

    def setup(self) -> None:
        gc.freeze()  # what has been imported stays; the collector need not look at it again
        gc.set_threshold(*_GC_THRESHOLDS)
        self._validator = RecordValidator(self._contract, self._rules)
        self._read_counter = Metrics.counter(METRICS_NAMESPACE, "read")
        self._valid_counter = Metrics.counter(METRICS_NAMESPACE, "valid")
        self._skipped_counter = Metrics.counter(METRICS_NAMESPACE, "skipped")

    def start_bundle(self) -> None:
        self._records: list[KafkaRecord] = []
        self._bytes = 0

    def process(self, record: KafkaRecord) -> Iterable[Any]:
        self._records.append(record)
        self._bytes += len(record.value or b"")
        if len(self._records) >= self._limits.max_rows or self._bytes >= self._limits.max_bytes:
            return [
                beam.pvalue.TaggedOutput(DEAD, element) if tag else element
                for tag, element, _ in self._flush()
            ]
        return ()

    def finish_bundle(self) -> Iterator[Any]:
        for tag, element, timestamp_ms in self._flush():
            timestamp = Timestamp(micros=nearest_time_ms(timestamp_ms) * 1000)
            windowed = WindowedValue(element, timestamp, _GLOBAL)
            yield beam.pvalue.TaggedOutput(DEAD, windowed) if tag else windowed

    def _flush(self) -> Iterator[tuple[str | None, Any, int]]:
        """(tag, element, append time in ms) of what has been collected."""
        records, self._records, self._bytes = self._records, [], 0
        fresh = self._covered.without_covered(records)
        self._skipped_counter.inc(len(records) - len(fresh))
        with _no_cycle_search():
            batches, dead = self._validator.validate(fresh)
        self._read_counter.inc(len(fresh))
        for batch in batches:
            self._valid_counter.inc(batch.num_rows)
            yield None, batch, pc.min(batch.column("kafka_timestamp").cast(pa.int64())).as_py()
        for letter in dead:
            count_dead(letter.failure.code)
            yield DEAD, letter, letter.timestamp


@contextmanager
def _no_cycle_search() -> Iterator[None]:
    """Python's cycle collector rests: decoded events have no cycles, and it would go through all
    of them again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


_GC_THRESHOLDS = (100_000, 20, 100)
"""A bundle's records are tens of thousands of tuples, and no cycle among them; at Python's 700 the
collector takes a fifteenth of the worker's time."""

_GLOBAL = (GlobalWindow(),)
