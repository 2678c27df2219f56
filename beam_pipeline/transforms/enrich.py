"""Enrichment: columns looked up in reference tables, or derived from other columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from beam_pipeline.errors import UsageError
from beam_pipeline.schemas import Contract
from beam_pipeline.schemas.nodes import TIMESTAMP_TYPE
from beam_pipeline.transforms.batches import BatchTransform
from beam_pipeline.transforms.nested import leaf_at


class Enrich(BatchTransform):
    """PCollection[pa.RecordBatch] to `Outputs`: adds the columns of `x-enrich`, in its order.

    Example: with a lookup of `country_region.csv`, `{"country": "DE"}` becomes
    `{"country": "DE", "region": "Western Europe"}`. The column is null for a key that is not in
    the table. Any windowing; timestamps are kept.

    Args:
      contract: its schema has `x-enrich`.
      reference_dir: directory of the CSV files that `x-enrich` names.

    Raises:
      UsageError: an entry is not understood, names a missing table or column, or adds a column
        that exists already.
    """

    stage = "enrich"

    def __init__(self, contract: Contract, reference_dir: str | Path) -> None:
        super().__init__(EnrichBatch(additions_of(contract, Path(reference_dir))), contract.ref)


class Addition(Protocol):
    """One column to add: its name, and how to compute its values for a batch."""

    @property
    def name(self) -> str: ...

    def values(self, batch: pa.RecordBatch) -> pa.Array: ...


@dataclass(frozen=True)
class EnrichBatch:
    """The function behind `Enrich`, without Beam; new columns go before the Kafka columns."""

    additions: tuple[Addition, ...]

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        for addition in self.additions:
            position = batch.schema.get_field_index("kafka_topic")
            batch = batch.add_column(position, addition.name, addition.values(batch))
        return batch


@dataclass(frozen=True)
class ReferenceTable:
    """Keys and values of one reference table; it is small enough to be pickled with the step."""

    keys: pa.Array = field(repr=False)
    values: pa.Array = field(repr=False)

    def look_up(self, keys: pa.Array) -> pa.Array:
        """Return the value for each key; null where the key is null or unknown."""
        return self.values.take(pc.index_in(keys, value_set=self.keys, skip_nulls=True))


@dataclass(frozen=True)
class Lookup:
    """The value in a reference table for a key column."""

    name: str
    key: str
    table: ReferenceTable

    def values(self, batch: pa.RecordBatch) -> pa.Array:
        return self.table.look_up(leaf_at(batch, self.key))


@dataclass(frozen=True)
class Conversion:
    """An amount in the base currency, as a decimal; null if the currency has no rate.

    Amounts that are decimals or integers are multiplied exactly and rounded half to even. Amounts
    that are doubles are multiplied as doubles.
    """

    name: str
    amount: str
    currency: str
    rates: ReferenceTable
    precision: int
    scale: int

    def values(self, batch: pa.RecordBatch) -> pa.Array:
        rates = self.rates.look_up(leaf_at(batch, self.currency))
        amounts = leaf_at(batch, self.amount)
        kind = pa.decimal128(self.precision, self.scale)
        if pa.types.is_integer(amounts.type):
            amounts = pc.cast(amounts, pa.decimal128(_INT64_DIGITS))
        if not pa.types.is_decimal(amounts.type):
            product = pc.multiply(pc.cast(amounts, pa.float64()), pc.cast(rates, pa.float64()))
            return pc.cast(product, kind)
        wide = pc.cast(amounts, pa.decimal256(amounts.type.precision, amounts.type.scale))
        product = pc.multiply(wide, rates)
        if product.type.scale > self.scale:
            product = pc.round(product, self.scale, "half_to_even")
        return pc.cast(product, kind)


_INT64_DIGITS = 19
_MAX_RATE_DIGITS = 37
"""Product of a decimal of 38 digits and a rate: at most the 76 digits of decimal256, one of them
for the carry."""


@dataclass(frozen=True)
class DateOf:
    """The UTC date of a time column."""

    name: str
    time: str

    def values(self, batch: pa.RecordBatch) -> pa.Array:
        times = leaf_at(batch, self.time)
        micros = _whole_micros(times)
        if micros is None:
            return pc.cast(pc.floor_temporal(times, unit="day"), pa.date32())
        return pa.array((micros // _MICROS_PER_DAY).astype(np.int32)).cast(pa.date32())


@dataclass(frozen=True)
class DelayOf:
    """Whole milliseconds, rounded down, from a time column to the record's Kafka timestamp.

    Negative if the time is after the timestamp.
    """

    name: str
    time: str

    def values(self, batch: pa.RecordBatch) -> pa.Array:
        appended, times = batch.column("kafka_timestamp"), leaf_at(batch, self.time)
        micros = _whole_micros(times)
        if micros is not None and not appended.null_count and appended.type == _MILLISECONDS:
            append_ms = appended.cast(pa.int64()).to_numpy()
            if np.all((append_ms > -_FAR_MS) & (append_ms < _FAR_MS)):
                return pa.array(append_ms + -micros // 1_000)
        times = pc.ceil_temporal(times, unit="millisecond")
        return pc.cast(pc.subtract_checked(appended, pc.cast(times, appended.type)), pa.int64())


_MICROS_PER_DAY = 86_400_000_000
_MILLISECONDS = pa.timestamp("ms", tz="UTC")
_FAR_MS = 2**61
"""From here on, a difference to a time may not fit into 64 bits."""


def _whole_micros(times: pa.Array) -> npt.NDArray[np.int64] | None:
    """Return times as numbers, which costs a tenth of the temporal functions; None if some are null
    or of another type."""
    if times.null_count or times.type != TIMESTAMP_TYPE:
        return None
    micros: npt.NDArray[np.int64] = times.cast(pa.int64()).to_numpy()
    return micros


def additions_of(contract: Contract, reference_dir: Path) -> tuple[Addition, ...]:
    """Return the additions that a contract's `x-enrich` lists.

    Raises:
      UsageError: an entry is not understood, names a missing table or column, or adds a column
        that exists already.
    """
    additions: list[Addition] = []
    batch = pa.RecordBatch.from_pylist([], schema=contract.batch_schema)
    entries = contract.document.get("x-enrich", [])
    if not isinstance(entries, list):
        raise UsageError(f"--schema={contract.source}: x-enrich must be a list, not {entries!r}")
    for entry in entries:
        where = f"--schema={contract.source}: x-enrich {entry!r}"
        try:
            addition = _addition(entry, reference_dir)
            taken = {name.lower(): name for name in batch.schema.names}.get(addition.name.lower())
            if taken is not None:
                case = "" if taken == addition.name else f" as {taken!r}, and readers ignore case"
                raise UsageError(
                    f"{where}: the event has a column {addition.name!r} already{case}; rename one "
                    "of them"
                )
            batch = EnrichBatch((addition,))(batch)
        except (pa.ArrowException, KeyError, TypeError, ValueError, AttributeError) as error:
            raise UsageError(f"{where}: can't be applied ({error!r})") from None
        additions.append(addition)
    return tuple(additions)


def _addition(entry: Mapping[str, Any], reference_dir: Path) -> Addition:
    name = entry["add"]
    if "lookup" in entry:
        lookup = entry["lookup"]
        table = _read_table(reference_dir / lookup["table"], lookup["key"], lookup["value"])
        return Lookup(name, lookup.get("column", lookup["key"]), table)
    if "convert" in entry:
        convert = entry["convert"]
        rates = _read_table(
            reference_dir / convert["table"], convert["key"], convert["rate"], pa.string()
        )
        return Conversion(
            name,
            convert["amount"],
            convert["currency"],
            ReferenceTable(rates.keys, _exact_rates(rates.values)),
            convert["precision"],
            convert["scale"],
        )
    if "date_of" in entry:
        return DateOf(name, entry["date_of"])
    if "delay_of" in entry:
        return DelayOf(name, entry["delay_of"])
    raise KeyError("one of lookup, convert, date_of, delay_of")


_NO_RATE = frozenset({None, *pyarrow.csv.ConvertOptions().null_values})


def _exact_rates(texts: pa.Array) -> pa.Array:
    """Return the rates of a table as decimals that hold all of them exactly.

    Raises:
      ValueError: a text is no number, or the rates together need more than 37 digits.
    """
    try:
        rates = [None if text in _NO_RATE else Decimal(text.strip()) for text in texts.to_pylist()]
        numbers = [rate.as_tuple() for rate in rates if rate is not None]
        scale = max([0, *(-int(number.exponent) for number in numbers)])
        before = max([1, *(len(number.digits) + int(number.exponent) for number in numbers)])
    except (InvalidOperation, ValueError):  # no number, or NaN and such
        raise ValueError("a rate is not a number") from None
    if scale + before > _MAX_RATE_DIGITS:
        raise ValueError(f"the rates have more than {_MAX_RATE_DIGITS} digits")
    return pa.array(rates, pa.decimal256(scale + before, scale))


def _read_table(
    path: Path, key: str, value: str, value_type: pa.DataType | None = None
) -> ReferenceTable:
    """Read two columns of a CSV file; Arrow finds the type of the values unless it is given."""
    if not path.is_file():
        raise UsageError(f"--reference_dir={path.parent}: there is no reference table {path.name}")
    types = {key: pa.string()} if value_type is None else {key: pa.string(), value: value_type}
    table = pyarrow.csv.read_csv(
        path,
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=types, include_columns=[key, value]
        ),
    )
    return ReferenceTable(table.column(key).combine_chunks(), table.column(value).combine_chunks())
