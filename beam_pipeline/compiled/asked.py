"""Single values with rules that the kernel does not know: jsonschema-rs is asked, by the column."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beam_pipeline.compiled.layout import Kind
from beam_pipeline.schemas.judge import compile_validator

_MAX_EXACT_INTEGER = 2**53

_BOUND_TO_A_PLACE = frozenset(
    {
        *("$anchor", "$dynamicAnchor", "$dynamicRef", "$id", "$recursiveAnchor", "$recursiveRef"),
        *("$ref", "$schema", "id"),
    }
)
"""Keywords whose meaning depends on the document that they are in."""

Places = npt.NDArray[np.intp]


class ValueRules:
    """What the library that decides says about single values, so that the judge says the same.

    Args:
      schemas: schemas that all hold for a value.
      dialect: the document's `$schema`, None if it has none.
      asserts_formats: whether formats are checked.

    Raises:
      ValueError: the schemas may mean something else outside their document.
    """

    def __init__(
        self, schemas: Sequence[Mapping[str, Any]], dialect: str | None, asserts_formats: bool
    ) -> None:
        if not _BOUND_TO_A_PLACE.isdisjoint(_names_in(schemas)):
            raise ValueError("a reference or an identity in the schema of a value")
        head = {} if dialect is None else {"$schema": dialect}
        every = {"allOf": list(schemas)} if schemas else {}
        self.is_valid = compile_validator({**head, **every}, asserts_formats).is_valid
        self._are_valid = compile_validator({**head, "items": every}, asserts_formats).is_valid

    def invalid_among(self, values: list[Any]) -> Places:
        """Return the places of the values that are not valid."""
        if self._are_valid(values):
            return np.empty(0, np.intp)
        return np.flatnonzero([not self.is_valid(value) for value in values])


def refused_cells(rules: ValueRules, kind: Kind, column: pa.Array) -> Places:
    """Return the cells of a column to give up: those not valid, or not known as they were sent.

    Null is passed over.

    Args:
      rules: those of the values.
      kind: what the kernel made of the values.
      column: the kernel's column.
    """
    cells = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
    sent = column.drop_null()
    if kind is Kind.DECIMAL:
        return cells[_refused_decimals(rules, sent)]
    values = sent.to_numpy(zero_copy_only=False)
    if kind is Kind.NUMBER:
        return cells[_refused_numbers(rules, values)]
    if kind is Kind.JSON:
        return cells[rules.invalid_among([msgspec.json.decode(value) for value in values])]
    return cells[rules.invalid_among(values.tolist())]


def _refused_numbers(rules: ValueRules, numbers: npt.NDArray[np.float64]) -> Places:
    """Return the places of the numbers that are not valid.

    A whole number must be valid as a float and as an integer, since 3 and 3.0 are the same cell.
    """
    refused = rules.invalid_among(numbers.tolist())
    whole = np.flatnonzero(numbers == np.floor(numbers))
    refused_wholes = whole[rules.invalid_among([int(number) for number in numbers[whole]])]
    return np.union1d(refused, refused_wholes)


def _refused_decimals(rules: ValueRules, decimals: pa.Array) -> Places:
    """Return the places of the decimals whose floats are not valid, or not certain.

    The quotient of two exact floats is the float that is nearest to the number that was sent.
    """
    words = np.frombuffer(decimals.buffers()[1], np.int64)[2 * decimals.offset :]
    unscaled = words[: 2 * len(decimals) : 2]
    unsure = np.flatnonzero(np.abs(unscaled) > _MAX_EXACT_INTEGER)
    numbers = unscaled / np.float64(10**decimals.type.scale)
    return np.union1d(unsure, _refused_numbers(rules, numbers))


def _names_in(part: Any) -> Iterator[str]:
    if isinstance(part, Mapping):
        for name, below in part.items():
            yield name
            yield from _names_in(below)
    elif isinstance(part, list | tuple):
        for below in part:
            yield from _names_in(below)
