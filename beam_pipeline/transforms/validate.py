"""Validation: batches of Kafka records become batches of valid events, and dead letters."""

from __future__ import annotations

import gc
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.metrics import Metrics
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from beam_pipeline.compiled.prover import prover_of
from beam_pipeline.config import Cut, ValidationRules
from beam_pipeline.covered_offsets import CoveredOffsets, without_covered
from beam_pipeline.records import (
    COERCED,
    MAX_BATCH_RECORDS,
    METRICS_NAMESPACE,
    ErrorCode,
    Failure,
    SchemaRef,
    nearest_time_ms,
)
from beam_pipeline.schemas import ColumnBuilder, Contract
from beam_pipeline.schemas.columns import ARROW_REFUSALS
from beam_pipeline.schemas.contract import RECORD_SCHEMA, check_event_time_field
from beam_pipeline.schemas.judge import unwrap
from beam_pipeline.schemas.nodes import Node, Struct, doubles_in
from beam_pipeline.schemas.numbers import BYTES_PER_CALL, Digits, may_hold_inexact_integers
from beam_pipeline.schemas.versions import align, version_of, with_numbers_of
from beam_pipeline.transforms.batches import Refusal, split_on_error
from beam_pipeline.transforms.dead_letters import (
    MAX_MESSAGE_CHARACTERS,
    DeadLetters,
    count_dead,
    failure_of,
)
from beam_pipeline.transforms.event_times import event_times, reject_bad_times
from beam_pipeline.transforms.nested import leaf_at
from beam_pipeline.transforms.outputs import DEAD, Outputs, with_batch_outputs

STAGE = "validate"


@dataclass(frozen=True)
class BatchLimits:
    """How many records of a bundle are collected before they become a batch.

    Decoded events of a few thousand records stay in the processor's cache until they are columns.
    With 20,000 records, decoding and building take a third longer
    (docs/measurements/2026-11-24-worker-cost.md).
    """

    max_rows: int = MAX_BATCH_RECORDS
    max_bytes: int = 16 * 1024 * 1024


class Validate(beam.PTransform[Any, Any]):
    """PCollection[pa.RecordBatch] of records to `Outputs` of pa.RecordBatch and DeadLetters.

    The input are batches of `RECORD_SCHEMA` in the global window, as `ReadRecords` yields them.
    The output batches have the columns of `Contract.batch_schema`: those of the event, the Kafka
    columns, and the ride-along columns that later dead letters and windows need. The timestamp of
    an output at the end of a bundle is the append time of its earliest record.

    Args:
      contract: the schema, or several versions of it.
      rules: what makes a record valid apart from the schema.
      limits: how many records become one batch.
      covered: offsets in files of earlier epochs; their records are skipped.
      cut: where the run ends in the logs; records from there on are skipped.

    Raises:
      UsageError: no times can be made of the event time field.
    """

    def __init__(
        self,
        contract: Contract,
        rules: ValidationRules,
        limits: BatchLimits | None = None,
        covered: CoveredOffsets | None = None,
        cut: Cut | None = None,
    ) -> None:
        super().__init__()
        if rules.event_time_field is not None:
            check_event_time_field(contract, rules.event_time_field)
        self._validate = _ValidateRecords(
            contract, rules, limits or BatchLimits(), covered or CoveredOffsets(), cut
        )

    def expand(self, records: beam.PCollection[Any]) -> Outputs:
        outputs = records | "ValidateRecords" >> with_batch_outputs(
            beam.ParDo(self._validate), "valid"
        )
        return Outputs(outputs["valid"], outputs[DEAD])


class _Version:
    """One version of the contract: its judge, and the columns of its events.

    The columns are those of the whole contract, so that the batches of all versions are alike.
    """

    def __init__(
        self, contract: Contract, max_value_bytes: int, unified: Node, digits: Digits
    ) -> None:
        self.ref = contract.ref
        self.judge = contract.judge(max_value_bytes, digits)
        self._node, self._unified = with_numbers_of(contract.node, unified), unified
        self._columns = ColumnBuilder(replace(contract, unified_node=self._node))
        self._names = contract.event_schema.names

    def build(self, events: Sequence[Any]) -> list[pa.Array]:
        """Return one array for each column of the whole contract's event schema.

        Raises:
          one of ARROW_REFUSALS: a value does not fit its column.
        """
        arrays = self._columns.build(events)
        if self._node == self._unified:
            return arrays
        if not isinstance(self._node, Struct):
            return [align(arrays[0], self._node, self._unified)]
        whole = pa.StructArray.from_arrays(arrays, names=self._names)
        aligned: list[pa.Array] = align(whole, self._node, self._unified).flatten()
        return aligned

    def encode_failure(self, event: Any, error: Exception) -> Failure:
        """Return the failure for an event that does not fit the columns; it names the value."""
        failure = failure_of(ErrorCode.ENCODE_ERROR, error)
        refused = self._columns.refused_value(event)
        if refused is None:
            return failure
        return failure._replace(message=str(refused)[:MAX_MESSAGE_CHARACTERS])


@dataclass
class _DecodedRows:
    """The records of one version: which rows are valid, with their events, and which are dead."""

    valid: list[int] = field(default_factory=list)
    events: list[Any] = field(default_factory=list)
    dead: list[int] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)


class Validated(NamedTuple):
    """Batches of `Contract.batch_schema`, and the dead letters of the other records."""

    batches: list[pa.RecordBatch]
    dead: DeadLetters


class RecordValidator:
    """Validation without Beam: a batch of records to batches and dead letters.

    Args:
      contract: the schema, or several versions of it.
      rules: what makes a record valid apart from the schema; its event time field must be one that
        `schemas.contract.check_event_time_field` passes.
    """

    def __init__(self, contract: Contract, rules: ValidationRules) -> None:
        self._contract = contract
        self._rules = rules
        self._schema = contract.batch_schema
        parts = contract.versions or (("", contract),)
        # The first version decodes for all: a double of one version may be JSON text in another.
        self._versions = {
            name: _Version(part, rules.max_value_bytes, contract.node, contract.digits)
            for name, part in parts
        }
        self._first = next(iter(self._versions.values()))
        self._scanned_bytes = 0
        if contract.digits is Digits.OF_INTEGERS:
            self._scanned_bytes = BYTES_PER_CALL * doubles_in(contract.node)
        self._prover = prover_of(contract, rules)

    def validate(self, records: pa.RecordBatch) -> Validated:
        """Return batches of `Contract.batch_schema` and dead letters for a batch of records.

        Every record is a row of one of the batches, or one of the dead letters.

        Args:
          records: a batch of `RECORD_SCHEMA`.
        """
        proven, others = self.prove(records)
        batches, dead = [*proven.batches], [proven.dead]
        if others.num_rows:
            judged = self.judge(others)
            batches += judged.batches
            dead.append(judged.dead)
        return Validated(batches, DeadLetters.concat(dead))

    def prove(self, records: pa.RecordBatch) -> tuple[Validated, pa.RecordBatch]:
        """Return what the compiled contract proves of a batch of records, and the other records.

        Args:
          records: a batch of `RECORD_SCHEMA`.
        """
        batches: list[pa.RecordBatch] = []
        dead: list[DeadLetters] = []
        if self._rules.keeps_null_values and records.column("_value").null_count:
            is_null = records.column("_value").is_null()
            rows = self._null_rows(records.filter(is_null))
            self._add_in_time(rows, self._first.ref, batches, dead)
            records = records.filter(pc.invert(is_null))
        others = records
        if self._prover is not None and records.num_rows:
            riding = _with_value_by_reference(records)
            with_columns = self._with_record_columns
            if self._prover.has_time_rule:
                with_columns = self._with_columns_in_time
            proven = self._prover.prove(records, riding, with_columns, self._exact)
            if proven is not None:
                others = proven.others
                if self._prover.has_time_rule:
                    batches.append(proven.batch)
                else:
                    self._add_in_time(proven.batch, self._first.ref, batches, dead)
        return Validated(batches, DeadLetters.concat(dead)), others

    def judge(self, records: pa.RecordBatch) -> Validated:
        """Return what the exact path makes of a batch of records.

        Args:
          records: a batch of `RECORD_SCHEMA`.
        """
        batches: list[pa.RecordBatch] = []
        dead: list[DeadLetters] = []
        by_reference = _with_value_by_reference(records)
        for version, decoded in self._decode(records).items():
            if decoded.dead:
                refused = _take(records, decoded.dead)
                dead.append(DeadLetters.of_rows(refused, STAGE, decoded.failures, version.ref))
            valid = _take(by_reference, decoded.valid)
            for batch in self._build(version, decoded.events, valid):
                if isinstance(batch, Refusal):
                    failure = version.encode_failure(decoded.events[batch.row], batch.error)
                    row = valid.slice(batch.row, 1)
                    dead.append(DeadLetters.of_rows(row, STAGE, [failure], version.ref))
                    continue
                self._add_in_time(batch, version.ref, batches, dead)
        return Validated(batches, DeadLetters.concat(dead))

    def _null_rows(self, records: pa.RecordBatch) -> pa.RecordBatch:
        """Return the rows of records without a value; the event's columns are null.

        Their `_value` is a null index, by which later steps know them.
        """
        count = records.num_rows
        events = [pa.nulls(count, column.type) for column in self._contract.event_schema]
        position = records.schema.get_field_index("_value")
        values = pa.nulls(count, self._schema.field("_value").type)
        records = records.set_column(position, "_value", values)
        times = event_times(records, None)
        return pa.RecordBatch.from_arrays([*events, *records.columns, times], schema=self._schema)

    def _add_in_time(
        self,
        batch: pa.RecordBatch,
        ref: SchemaRef,
        batches: list[pa.RecordBatch],
        dead: list[DeadLetters],
    ) -> None:
        """Add the rows whose event times follow the rules to `batches`, the others to `dead`."""
        in_time, rejected = reject_bad_times(batch, self._rules)
        for rows, failure in rejected:
            dead.append(DeadLetters.of_rows(rows, STAGE, [failure] * rows.num_rows, ref))
        if in_time.num_rows:
            batches.append(in_time)

    def _exact(self, records: pa.RecordBatch) -> list[pa.RecordBatch]:
        """Return the valid records as batches, each of which may have bad event times."""
        return [
            batch
            for version, decoded in self._decode(records).items()
            for batch in self._build(
                version,
                decoded.events,
                _take(_with_value_by_reference(records), decoded.valid),
            )
            if isinstance(batch, pa.RecordBatch)
        ]

    def close(self) -> None:
        """Give back what is not memory; the validator is not used any more."""
        if self._prover is not None:
            self._prover.close()

    def take_proven(self) -> Counter[str]:
        """Return what the compiled contract did since the last call (`compiled.prover`)."""
        if self._prover is None:
            return Counter()
        counts = self._prover.counts.copy()
        self._prover.counts.clear()
        return counts

    def take_coerced(self) -> Counter[str]:
        """Return how many values were coerced since the last call, by path."""
        coerced: Counter[str] = Counter()
        for version in self._versions.values():
            coerced += version.judge.coerced
            version.judge.coerced.clear()
        return coerced

    def _decode(self, records: pa.RecordBatch) -> dict[_Version, _DecodedRows]:
        """Return the events and failures of the records, by version."""
        decoded = {version: _DecodedRows() for version in self._versions.values()}
        first, judge = self._first, self._first.judge.judge
        are_plain: Iterable[bool] = itertools.repeat(False)
        if records.column("_value").nbytes <= self._scanned_bytes * records.num_rows:
            may_be_exact = may_hold_inexact_integers(records.column("_value"))
            are_plain = pc.invert(pc.fill_null(may_be_exact, False)).to_pylist()
        has_versions = bool(self._contract.versions)
        headers: Iterable[Any] = itertools.repeat(None)
        if has_versions:
            headers = records.column("_headers").to_pylist()
        # Several times as fast as to_pylist, which makes a scalar of each.
        values = records.column("_value").to_numpy(zero_copy_only=False)
        rows_with_headers = zip(values, headers, are_plain, strict=False)
        for row, (value, value_headers, is_plain) in enumerate(rows_with_headers):
            version, event = first, None
            try:
                if has_versions:
                    version, event, failure = self._decode_versioned(value, value_headers, is_plain)
                else:
                    event, failure = judge(value, is_plain)
            except Exception as error:  # a fault of the validator is the record's dead letter
                failure = failure_of(ErrorCode.TRANSFORM_ERROR, error)
            rows = decoded[version]
            if failure is None:
                rows.valid.append(row)
                rows.events.append(event)
            else:
                rows.dead.append(row)
                rows.failures.append(failure)
        return decoded

    def _decode_versioned(
        self, value: bytes | None, headers: Sequence[Any] | None, is_plain: bool
    ) -> tuple[_Version, Any, Failure | None]:
        """Return the version that a record names, and its event or its failure."""
        event, failure = self._first.judge.decode(value, is_plain)
        if failure is not None:
            return self._first, None, failure
        version_field = str(self._contract.version_field)
        pairs = [(header["key"], header["value"]) for header in headers or ()]
        name = version_of(version_field, event, pairs, unwrap(value or b"").schema_id)
        version = self._first if name is None else self._versions.get(name)
        if version is None:
            known = ", ".join(self._versions)
            message = f"version {name!r} ({version_field}) is unknown; the versions are {known}"
            return self._first, None, Failure(ErrorCode.SCHEMA_VIOLATION, message[:500])
        return version, *version.judge.judge_decoded(event, self._first.judge.has_exact)

    def _build(
        self, version: _Version, events: Sequence[Any], records: pa.RecordBatch
    ) -> Iterator[pa.RecordBatch | Refusal]:
        """Yield batches of `events`, which are those of `records`, and the rows that Arrow
        refuses."""

        def build(start: int, end: int) -> pa.RecordBatch:
            rows = records.slice(start, end - start)
            return self._with_record_columns(version.build(events[start:end]), rows)

        if events:
            yield from split_on_error(build, len(events), ARROW_REFUSALS)

    def _with_record_columns(
        self, event_columns: list[pa.Array], records: pa.RecordBatch
    ) -> pa.RecordBatch:
        """Return a batch of `Contract.batch_schema`: the event time is made of the columns.

        Raises:
          one of ARROW_REFUSALS: a value does not fit its column.
        """
        rows = self._without_times(event_columns, records)
        times = event_times(rows, self._rules.event_time_field, self._rules.event_time_unit)
        return pa.RecordBatch.from_arrays([*rows.columns, times], schema=self._schema)

    def _with_columns_in_time(
        self, event_columns: list[pa.Array], records: pa.RecordBatch
    ) -> pa.RecordBatch:
        """Return a batch as `_with_record_columns` does; a column has the times, none is null."""
        rows = self._without_times(event_columns, records)
        times = leaf_at(rows, str(self._rules.event_time_field))
        return pa.RecordBatch.from_arrays([*rows.columns, times], schema=self._schema)

    def _without_times(
        self, event_columns: list[pa.Array], records: pa.RecordBatch
    ) -> pa.RecordBatch:
        columns = [*event_columns, *records.columns]
        return pa.RecordBatch.from_arrays(columns, names=self._schema.names[:-1])


def before_cut(records: pa.RecordBatch, cut: Cut) -> pa.RecordBatch:
    """Return the rows of a batch of `RECORD_SCHEMA` that are before the end of the run."""
    if not records.num_rows:
        return records
    kept = np.ones(records.num_rows, bool)
    if cut.end_ms is not None:
        end = pa.scalar(cut.end_ms, pa.timestamp("ms", tz="UTC"))
        is_before = pc.fill_null(pc.less(records.column("kafka_timestamp"), end), True)
        kept &= is_before.to_numpy(zero_copy_only=False)
    if cut.ends:
        topics = records.column("kafka_topic").to_numpy(zero_copy_only=False)
        partitions = records.column("kafka_partition").to_numpy()
        offsets = records.column("kafka_offset").to_numpy()
        for topic, partition, end_offset in cut.ends:
            of_partition = (partitions == partition) & (topics == topic)
            kept &= np.invert(of_partition) | (offsets < end_offset)
    return records if kept.all() else records.filter(pa.array(kept))


def _take(records: pa.RecordBatch, rows: Sequence[int]) -> pa.RecordBatch:
    return records if len(rows) == records.num_rows else records.take(pa.array(rows, pa.int64()))


def _with_value_by_reference(records: pa.RecordBatch) -> pa.RecordBatch:
    """Return records with the `_value` of `RIDE_ALONG_FIELDS`; the values are not copied."""
    position = records.schema.get_field_index("_value")
    indexes = pa.array(np.arange(records.num_rows, dtype=np.int32))
    values = pa.DictionaryArray.from_arrays(indexes, records.column(position))
    return records.set_column(position, "_value", values)


class _ValidateRecords(beam.DoFn):
    """Collects the small batches of a bundle and validates them together.

    Records that the compiled contract does not prove wait for others of their kind, at most to the
    end of the bundle: a batch of its own for a few of them costs more than they do.

    `process` takes the element alone, because a WindowParam or TimestampParam selects a slower
    invoker (Beam 2.73, `PerWindowInvoker`).
    """

    def __init__(
        self,
        contract: Contract,
        rules: ValidationRules,
        limits: BatchLimits,
        covered: CoveredOffsets,
        cut: Cut | None = None,
    ) -> None:
        self._contract = contract
        self._rules = rules
        self._limits = limits
        self._covered = covered
        self._cut = cut or Cut()

    def setup(self) -> None:
        self._validator = RecordValidator(self._contract, self._rules)
        self._read_counter = Metrics.counter(METRICS_NAMESPACE, "read")
        self._valid_counter = Metrics.counter(METRICS_NAMESPACE, "valid")
        self._skipped_counter = Metrics.counter(METRICS_NAMESPACE, "skipped")

    def teardown(self) -> None:
        self._validator.close()

    def start_bundle(self) -> None:
        self._records = _Collected(self._limits)
        self._unproven = _Collected(self._limits)

    def process(self, records: pa.RecordBatch) -> Iterable[Any]:
        self._records.add(records)
        if self._records.is_full():
            return [_tagged(output.element, output.element) for output in self._prove()]
        return ()

    def finish_bundle(self) -> Iterator[Any]:
        for element, append_ms in itertools.chain(self._prove(), self._judge()):
            timestamp = Timestamp(micros=nearest_time_ms(append_ms) * 1000)
            yield _tagged(element, WindowedValue(element, timestamp, _GLOBAL))

    def _prove(self) -> Iterator[_Output]:
        """Yield what is proven of the collected records; judge the others once they are many."""
        records = self._records.take()
        fresh = before_cut(without_covered(records, self._covered), self._cut)
        self._skipped_counter.inc(records.num_rows - fresh.num_rows)
        self._read_counter.inc(fresh.num_rows)
        proven, others = self._validator.prove(fresh)
        yield from self._outputs(proven)
        if others.num_rows:
            self._unproven.add(others)
        if self._unproven.is_full():
            yield from self._judge()

    def _judge(self) -> Iterator[_Output]:
        """Yield what the exact path makes of the records that are not proven."""
        records = self._unproven.take()
        if records.num_rows:
            with _paused_garbage_collector():
                judged = self._validator.judge(records)
            yield from self._outputs(judged)

    def _outputs(self, validated: Validated) -> Iterator[_Output]:
        for batch in validated.batches:
            self._valid_counter.inc(batch.num_rows)
            yield _Output(batch, _earliest_ms(batch))
        for path, values in self._validator.take_coerced().items():
            Metrics.counter(METRICS_NAMESPACE, f"{COERCED}.{path}").inc(values)
        for name, rows in self._validator.take_proven().items():
            Metrics.counter(METRICS_NAMESPACE, name).inc(rows)
        if validated.dead:
            count_dead(validated.dead)
            yield _Output(validated.dead, _earliest_ms(validated.dead.batch))


class _Collected:
    """Batches of records that become one batch."""

    def __init__(self, limits: BatchLimits) -> None:
        self._limits = limits
        self._batches: list[pa.RecordBatch] = []
        self._rows = self._bytes = 0

    def add(self, records: pa.RecordBatch) -> None:
        self._batches.append(records)
        self._rows += records.num_rows
        self._bytes += records.nbytes

    def is_full(self) -> bool:
        """Return whether the records reach one of the limits."""
        return self._rows >= self._limits.max_rows or self._bytes >= self._limits.max_bytes

    def take(self) -> pa.RecordBatch:
        """Return the records as one batch, and forget them."""
        records = _concat(self._batches)
        self._batches = []
        self._rows = self._bytes = 0
        return records


class _Output(NamedTuple):
    """A batch or dead letters, and the earliest append time in it."""

    element: pa.RecordBatch | DeadLetters
    append_ms: int


def _earliest_ms(batch: pa.RecordBatch) -> int:
    earliest: int = pc.min(batch.column("kafka_timestamp").cast(pa.int64())).as_py()
    return earliest


def _tagged(element: pa.RecordBatch | DeadLetters, output: Any) -> Any:
    """Return `output`, which holds `element`, with the tag of dead letters if it is that."""
    return beam.pvalue.TaggedOutput(DEAD, output) if isinstance(element, DeadLetters) else output


def _concat(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    """Return one batch of all rows, or an empty one."""
    if len(batches) == 1:
        return batches[0]
    if not batches:
        return pa.RecordBatch.from_pylist([], schema=RECORD_SCHEMA)
    return pa.concat_batches(batches)


@contextmanager
def _paused_garbage_collector() -> Iterator[None]:
    """Pause Python's garbage collector: decoded events have no reference cycles, and it would go
    through all of them again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


_GLOBAL = (GlobalWindow(),)
