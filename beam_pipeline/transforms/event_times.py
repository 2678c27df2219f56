"""Event times: made of a field of the events, and checked against the append time."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_pipeline.config import ValidationRules
from beam_pipeline.records import MAX_TIME_MS, MIN_TIME_MS, ErrorCode, Failure
from beam_pipeline.schemas.columns import parse_timestamps
from beam_pipeline.schemas.nodes import TIMESTAMP_TYPE
from beam_pipeline.times import DEFAULT_TIME_UNIT, TIME_UNITS
from beam_pipeline.transforms.nested import leaf_at


class Rejected(NamedTuple):
    """Rows that were refused for one reason."""

    rows: pa.RecordBatch
    failure: Failure


def event_times(
    rows: pa.RecordBatch, field_path: str | None, unit: str = DEFAULT_TIME_UNIT
) -> pa.Array:
    """Return the event times of `rows` as timestamp[us, UTC].

    A text is read as RFC 3339, a number as units since 1970. Fractions of a millisecond or
    microsecond are cut; of a second there are six digits, the others are cut. An event time is null
    where the field is, or holds no time of the years 2 to 9998.

    Args:
      rows: the events' columns, and `kafka_timestamp`.
      field_path: a dotted path that `schemas.contract.check_event_time_field` passes; None for the
        Kafka timestamp.
      unit: that of a number, one of `times.TIME_UNITS`.

    >>> rows = pa.RecordBatch.from_pydict({"at": ["2026-11-23T12:00:00+01:00", "noon"]})
    >>> [str(time) for time in event_times(rows, "at").to_pylist()]
    ['2026-11-23 11:00:00+00:00', 'None']
    """
    if field_path is None:
        return _times_of(rows.column("kafka_timestamp").cast(pa.int64()), 1_000)
    values = leaf_at(rows, field_path)
    is_decimal, is_float = pa.types.is_decimal(values.type), pa.types.is_floating(values.type)
    if is_decimal or is_float:
        if unit == "s":
            micros = _micros_of_decimals(values) if is_decimal else _micros_of_floats(values)
            return _times_of(micros, 1_000_000)
        values = _whole_decimals(values, 1) if is_decimal else pc.floor(values)
    if pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
        return _times_of(values, TIME_UNITS[unit])
    if pa.types.is_string(values.type):
        try:
            values = parse_timestamps(values)
        except pa.ArrowInvalid:
            values = pa.array(map(_parse_or_none, values.to_pylist()), TIMESTAMP_TYPE)
    return _times_of(pc.cast(values, TIMESTAMP_TYPE).cast(pa.int64()), 1_000_000)


def _times_of(values: pa.Array, units_per_second: int) -> pa.Array:
    """Return numbers of units since 1970 as times, null where they are out of range."""
    in_range = pc.and_(
        pc.greater_equal(values, MIN_TIME_MS * units_per_second // 1_000),
        pc.less(values, (MAX_TIME_MS + 1) * units_per_second // 1_000),
    )
    kept = pc.cast(pc.if_else(in_range, values, pa.scalar(None, values.type)), pa.int64())
    return pc.multiply(kept, 1_000_000 // units_per_second).cast(TIMESTAMP_TYPE)


def _micros_of_decimals(seconds: pa.Array) -> pa.Array:
    return _whole_decimals(seconds, 1_000_000)


def _whole_decimals(values: pa.Array, factor: int) -> pa.Array:
    """Return decimals times `factor`, rounded down, as int64; null beyond it."""
    scale = values.type.scale
    wide = pc.cast(values, pa.decimal256(_MAX_PRECISION + 1, scale))
    product = pc.multiply(wide, pa.scalar(Decimal(factor), pa.decimal256(_FACTOR_DIGITS, 0)))
    whole = pc.floor(product)
    fits = pc.less(pc.abs(whole), pa.scalar(2**63 - 1))
    return pc.cast(pc.if_else(fits, whole, pa.scalar(None, whole.type)), pa.int64())


_MAX_PRECISION = 38
_FACTOR_DIGITS = 7


def _micros_of_floats(seconds: pa.Array) -> pa.Array:
    """Return seconds as whole microseconds; digits beyond the six are cut.

    A float that can't be told from a whole number of microseconds is that number: of the times of
    today, one float is 0.24 microseconds from the next.
    """
    values = seconds.to_numpy(zero_copy_only=False)
    whole = np.floor(values)
    micros = (values - whole) * 1e6
    nearest = np.rint(micros)
    error = np.spacing(np.abs(values)) * 0.5e6 + np.spacing(micros)
    is_nearest = np.abs(micros - nearest) <= error
    micros = np.where(is_nearest, nearest, np.floor(micros)) + whole * 1e6
    in_range = np.abs(micros) < 2**62  # false for NaN, which is null
    return pa.array(np.where(in_range, micros, 0).astype(np.int64), mask=~in_range)


def _parse_or_none(text: str | None) -> Any:
    """Return microseconds since 1970, or None where `text` is no time."""
    try:
        return parse_timestamps([text])[0].value
    except pa.ArrowInvalid:
        return None


_UNITS_IN_WORDS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds"}


def reject_bad_times(
    batch: pa.RecordBatch, rules: ValidationRules
) -> tuple[pa.RecordBatch, list[Rejected]]:
    """Return the rows whose `_event_time` follows the rules, and the others with their failures.

    A row without an event time is `BAD_EVENT_TIME`. One too far before or after its append time
    (`kafka_timestamp`) is `TOO_OLD` or `IN_THE_FUTURE`.
    """
    is_null = batch.column("_event_time").is_null().to_numpy(zero_copy_only=False)
    event_us = pc.fill_null(batch.column("_event_time").cast(pa.int64()), 0).to_numpy()
    append_ms = batch.column("kafka_timestamp").cast(pa.int64()).to_numpy()
    age_us = np.clip(append_ms, MIN_TIME_MS, MAX_TIME_MS) * 1_000 - event_us
    max_age, max_skew = rules.max_event_age_seconds, rules.max_event_skew_seconds
    no_rows = np.zeros(batch.num_rows, bool)
    is_old = ~is_null & (age_us > max_age * 1_000_000) if max_age else no_rows
    is_early = ~is_null & (age_us < -max_skew * 1_000_000) if max_skew else no_rows
    is_bad = is_null | is_old | is_early
    if not is_bad.any():
        return batch, []
    field_path = rules.event_time_field or "the Kafka timestamp"
    checks = (
        (
            is_null,
            ErrorCode.BAD_EVENT_TIME,
            f"{field_path} holds no time of the years 2 to 9998 (as RFC 3339 text, or as "
            f"{_UNITS_IN_WORDS[rules.event_time_unit]} since 1970)",
        ),
        (
            is_old,
            ErrorCode.TOO_OLD,
            f"{field_path} is more than --max_event_age_seconds={max_age} "
            "before the record's append time",
        ),
        (
            is_early,
            ErrorCode.IN_THE_FUTURE,
            f"{field_path} is more than --max_event_skew_seconds={max_skew} "
            "after the record's append time",
        ),
    )
    rejected = [
        Rejected(batch.take(pa.array(np.flatnonzero(rows))), Failure(code, message))
        for rows, code, message in checks
        if rows.any()
    ]
    return batch.filter(pa.array(~is_bad)), rejected
