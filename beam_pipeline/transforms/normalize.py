"""Normalise the columns that the schema asks for: text, case, defaults, money."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from beam_pipeline.batches import LIST_STEP, BatchTransform, map_leaf
from beam_pipeline.errors import UsageError
from beam_pipeline.schemas import Contract
from beam_pipeline.schemas.nodes import resolve_pointer

TEXT_RULES: Mapping[str, Callable[[pa.Array], pa.Array]] = {
    "trim": pc.utf8_trim_whitespace,
    "upper": pc.utf8_upper,
    "lower": pc.utf8_lower,
}


class Normalize(BatchTransform):
    """PCollection[pa.RecordBatch] to `Outputs`: annotated fields brought to one form.

    The schema's annotations say which: `x-normalize` (a list of trim, upper, lower, default) and
    `x-decimal` ({"precision", "scale"}: a number becomes an exact decimal, rounded half to even).
    Times are UTC already, since their Arrow type is. Example: `{"currency": " eur"}` with
    `["trim", "upper"]` gives `{"currency": "EUR"}`.
    """

    stage = "normalize"

    def __init__(self, contract: Contract) -> None:
        super().__init__(NormalizeBatch(rules_of(contract)), contract.ref)


@dataclass(frozen=True)
class Rule:
    """What to do to the leaf at `steps` below the column `column`."""

    column: str
    steps: tuple[str, ...]
    text: tuple[str, ...] = ()
    default: Any = None
    decimal: tuple[int, int] | None = None

    def apply(self, array: pa.Array) -> pa.Array:
        for name in self.text:
            array = TEXT_RULES[name](array)
        if self.default is not None:
            array = pc.fill_null(array, pa.scalar(self.default, array.type))
        if self.decimal:
            array = pc.cast(array, pa.decimal128(*self.decimal))
        return array


@dataclass(frozen=True)
class NormalizeBatch:
    """The pure function behind `Normalize`."""

    rules: tuple[Rule, ...]

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        for rule in self.rules:
            position = batch.schema.get_field_index(rule.column)
            column = map_leaf(batch.column(position), rule.steps, rule.apply)
            batch = batch.set_column(position, rule.column, column)
        return batch


def rules_of(contract: Contract) -> tuple[Rule, ...]:
    """The rules that a contract's annotations ask for.

    Raises:
      UsageError: an annotation names an unknown rule, or stands where it can't be followed.
    """
    return tuple(_rules_below(contract, contract.document, ()))


def _rules_below(contract: Contract, part: Any, path: tuple[str, ...]) -> Iterator[Rule]:
    if not isinstance(part, Mapping):
        return
    if "$ref" in part:
        part = {**(resolve_pointer(contract.document, part["$ref"]) or {}), **part}
    asked = part.get("x-normalize", ())
    decimal = part.get("x-decimal")
    if path and (asked or decimal):
        yield _rule(contract, part, path, asked, decimal)
    if len(path) > 32:  # a recursive schema: what is below is JSON text
        return
    for name, child in (part.get("properties") or {}).items():
        yield from _rules_below(contract, child, (*path, name))
    if "items" in part and path:
        yield from _rules_below(contract, part["items"], (*path, LIST_STEP))


def _rule(
    contract: Contract, part: Mapping[str, Any], path: tuple[str, ...], asked: Any, decimal: Any
) -> Rule:
    where = f"--schema={contract.source}: {'.'.join(path)}"
    unknown = sorted(set(asked) - {*TEXT_RULES, "default"})
    if unknown:
        raise UsageError(
            f"{where}: x-normalize has {unknown[0]!r}; known are trim, upper, lower, default"
        )
    if "default" in asked and "default" not in part:
        raise UsageError(f"{where}: x-normalize asks for a default, and the field has none")
    rule = Rule(
        column=path[0],
        steps=path[1:],
        text=tuple(name for name in asked if name in TEXT_RULES),
        default=part["default"] if "default" in asked else None,
        decimal=(decimal["precision"], decimal["scale"]) if decimal else None,
    )
    empty = pa.RecordBatch.from_pylist([], schema=contract.batch_schema)
    try:
        NormalizeBatch((rule,))(empty)
    except (pa.ArrowException, KeyError, AttributeError, TypeError, ValueError) as error:
        raise UsageError(f"{where}: its annotation does not fit its type ({error})") from None
    return rule
