"""Batches of Kafka records in, batches of valid events and dead letters out."""

from __future__ import annotations

import gc
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
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

from beam_pipeline.config import ValidationRules
from beam_pipeline.covered_offsets import CoveredOffsets, without_covered
from beam_pipeline.errors import UsageError
from beam_pipeline.records import (
    MAX_BATCH_RECORDS,
    MAX_TIME_MS,
    METRICS_NAMESPACE,
    MIN_TIME_MS,
    DeadLetter,
    ErrorCode,
    Failure,
    SchemaRef,
    nearest_time_ms,
)
from beam_pipeline.schemas import ColumnBuilder, Contract, Judge
from beam_pipeline.schemas.columns import ARROW_REFUSALS, parse_timestamps
from beam_pipeline.schemas.contract import RECORD_SCHEMA, RIDE_ALONG_FIELDS
from beam_pipeline.schemas.judge import unwrap
from beam_pipeline.schemas.nodes import TIMESTAMP_TYPE, Node, Struct
from beam_pipeline.schemas.versions import align, version_of
from beam_pipeline.transforms.batches import Refusal, split_on_error
from beam_pipeline.transforms.dead_letters import (
    count_dead,
    dead_letter_of,
    dead_letters_of,
    failure_of,
)
from beam_pipeline.transforms.nested import leaf_at
from beam_pipeline.transforms.outputs import DEAD, Outputs, with_batch_outputs

STAGE = "validate"


@dataclass(frozen=True)
class BatchLimits:
    """How much of a bundle is collected before it becomes a batch.

    Decoded events of some thousand records stay in the processor's cache from the decoding to the
    columns; at 20,000 both take a third longer (`bench/README.md`).
    """

    max_rows: int = MAX_BATCH_RECORDS
    max_bytes: int = 64 * 1024 * 1024


class Validate(beam.PTransform[Any, Any]):
    """PCollection[pa.RecordBatch] of records to `Outputs` of pa.RecordBatch and DeadLetter.

    In: batches of `RECORD_SCHEMA` in the global window, as `ReadRecords` gives them. Out: batches
    of `Contract.batch_schema`, the event's columns, the Kafka columns, and the ride-along columns
    a later dead letter needs. Records in `covered` are in files of earlier epochs and are skipped.

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
    """The pure core: a batch of records to batches and dead letters."""

    def __init__(self, contract: Contract, rules: ValidationRules) -> None:
        self._contract = contract
        self._rules = rules
        self._schema = contract.batch_schema
        self._versions = {
            name: _Version(part, rules.max_value_bytes, contract.node)
            for name, part in contract.versions or (("", contract),)
        }
        self._first = next(iter(self._versions.values()))

    def validate(self, records: pa.RecordBatch) -> tuple[list[pa.RecordBatch], list[DeadLetter]]:
        """Every record is a row of one of the batches, or one of the dead letters."""
        batches: list[pa.RecordBatch] = []
        dead: list[DeadLetter] = []
        for part, found in self._judge(records).items():
            dead += dead_letters_of(_rows(records, found.dead), STAGE, found.failures, part.ref)
            valid = _rows(records, found.valid)
            for batch in self._build(part, found.events, valid):
                if isinstance(batch, Refusal):
                    failure = failure_of(ErrorCode.ENCODE_ERROR, batch.error)
                    dead.append(dead_letter_of(valid, batch.row, STAGE, failure, part.ref))
                    continue
                in_time, rejected = self._check_event_times(batch, part.ref)
                dead += rejected
                if in_time.num_rows:
                    batches.append(in_time)
        return batches, dead

    def _judge(self, records: pa.RecordBatch) -> dict[_Version, _Verdicts]:
        verdicts = {part: _Verdicts() for part in self._versions.values()}
        for row, (part, event, failure) in enumerate(self._judged(records)):
            found = verdicts[part]
            if failure is None:
                found.valid.append(row)
                found.events.append(event)
            else:
                found.dead.append(row)
                found.failures.append(failure)
        return verdicts

    def _judged(self, records: pa.RecordBatch) -> Iterator[_Verdict]:
        """For each record the version that it is of, and its event or why it has none."""
        judge: Callable[[bytes | None, Any], _Verdict] = self._judge_first
        headers: Iterable[Any] = itertools.repeat(())
        if self._contract.versions:
            judge, headers = self._judge_version, records.column("_headers").to_pylist()
        # Several times as fast as to_pylist, which makes a scalar of each.
        values = records.column("_value").to_numpy(zero_copy_only=False)
        for value, found_headers in zip(values, headers, strict=False):
            try:
                verdict = judge(value, found_headers)
            except Exception as error:  # a validator's own fault is the record's dead letter
                verdict = self._first, None, failure_of(ErrorCode.TRANSFORM_ERROR, error)
            yield verdict

    def _judge_first(self, value: bytes | None, _headers: Any) -> _Verdict:
        return self._first, *self._first.judge.judge(value)

    def _judge_version(self, value: bytes | None, headers: Any) -> _Verdict:
        event, failure = self._first.judge.decode(value)
        if failure is not None:
            return self._first, None, failure
        version_field = str(self._contract.version_field)
        pairs = [(header["key"], header["value"]) for header in headers or ()]
        version = version_of(version_field, event, pairs, unwrap(value or b"").schema_id)
        part = self._first if version is None else self._versions.get(version)
        if part is None:
            known = ", ".join(self._versions)
            told = f"version {version!r} ({version_field}) is none of those known: {known}"
            return self._first, None, Failure(ErrorCode.SCHEMA_VIOLATION, told[:500])
        return part, event, part.judge.check(event)

    def _build(
        self, part: _Version, events: Sequence[Any], records: pa.RecordBatch
    ) -> Iterator[pa.RecordBatch | Refusal]:
        """Yield batches of `events`, which are those of `records`, and the rows that Arrow
        refuses."""

        def build(start: int, end: int) -> pa.RecordBatch:
            columns = [
                *part.build(events[start:end]),
                *records.slice(start, end - start).columns,
            ]
            names = [name for name in self._schema.names if name != "_event_time"]
            rows = pa.RecordBatch.from_arrays(columns, names=names)
            columns.insert(-_AFTER_EVENT_TIME, event_times(rows, self._rules.event_time_field))
            return pa.RecordBatch.from_arrays(columns, schema=self._schema)

        if events:
            yield from split_on_error(build, len(events), ARROW_REFUSALS)

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
                rejected = batch.filter(condition)
                failures = [failure] * rejected.num_rows
                dead.extend(dead_letters_of(rejected, STAGE, failures, ref))
                keep = pc.and_(keep, pc.invert(condition))
        return (batch.filter(keep) if dead else batch), dead


_Verdict = tuple[_Version, Any, "Failure | None"]


class _Verdicts:
    """What was found of the records of one version; `valid` and `dead` are their rows."""

    def __init__(self) -> None:
        self.valid: list[int] = []
        self.events: list[Any] = []
        self.dead: list[int] = []
        self.failures: list[Failure] = []


def _rows(records: pa.RecordBatch, rows: Sequence[int]) -> pa.RecordBatch:
    return records if len(rows) == records.num_rows else records.take(pa.array(rows, pa.int64()))


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


def _parse_or_none(text: Any) -> Any:
    """Microseconds since 1970, or None where `text` is no time."""
    try:
        return parse_timestamps([text])[0].value
    except pa.ArrowInvalid:
        return None


class _ValidateRecords(beam.DoFn):
    """Collects the batches of a bundle, small ones until they are worth a batch.

    `process` takes the element alone: any WindowParam or TimestampParam picks a slower invoker
    (Beam 2.73, `PerWindowInvoker`).
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
        self._records: list[pa.RecordBatch] = []
        self._rows = 0
        self._bytes = 0

    def process(self, records: pa.RecordBatch) -> Iterable[Any]:
        self._records.append(records)
        self._rows += records.num_rows
        self._bytes += records.nbytes
        if self._rows >= self._limits.max_rows or self._bytes >= self._limits.max_bytes:
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
        records = _concat(self._records)
        self.start_bundle()
        fresh = without_covered(records, self._covered)
        self._skipped_counter.inc(records.num_rows - fresh.num_rows)
        with _no_cycle_search():
            batches, dead = self._validator.validate(fresh)
        self._read_counter.inc(fresh.num_rows)
        for batch in batches:
            self._valid_counter.inc(batch.num_rows)
            yield None, batch, pc.min(batch.column("kafka_timestamp").cast(pa.int64())).as_py()
        for code, letters in Counter(letter.failure.code for letter in dead).items():
            count_dead(code, letters)
        for letter in dead:
            yield DEAD, letter, letter.timestamp


def _concat(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    """One batch of all rows; without any, an empty one."""
    if len(batches) == 1:
        return batches[0]
    if not batches:
        return pa.RecordBatch.from_pylist([], schema=RECORD_SCHEMA)
    return pa.concat_batches(batches)


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
