"""Normalise the columns that the schema asks for: text, case, defaults, money."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from beam_pipeline.errors import UsageError
from beam_pipeline.schemas import Contract
from beam_pipeline.schemas.contract import VALUE_COLUMN
from beam_pipeline.schemas.nodes import Encoding, Leaf, ListOf, Node, Struct, flatten
from beam_pipeline.transforms.batches import BatchTransform
from beam_pipeline.transforms.nested import LIST_STEP, decoded, map_leaf

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
        if self.text or self.default is not None:
            array = decoded(array)
        for name in self.text:
            array = TEXT_RULES[name](array)
        if self.default is not None:
            array = pc.fill_null(array, pa.scalar(self.default, array.type))
        if self.decimal:
            if pa.types.is_integer(array.type):  # cast directly, they need room for all 64 bits
                array = pc.cast(array, pa.decimal128(19))
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
    top = () if isinstance(contract.node, Struct) else (VALUE_COLUMN,)
    return tuple(_rules_below(contract, contract.document, top))


def _rules_below(
    contract: Contract, part: Any, path: tuple[str, ...], seen: tuple[str, ...] = ()
) -> Iterator[Rule]:
    """`seen` holds the `$ref`s being followed: what is below a recursive one is JSON text."""
    flat = flatten(part, contract.document, seen)
    if flat is None:
        return
    part, seen = flat
    asked = part.get("x-normalize", [])
    decimal = part.get("x-decimal")
    if asked or decimal:
        yield _rule(contract, part, path, asked, decimal)
    for branch in (*part.get("anyOf", ()), *part.get("oneOf", ())):
        yield from _rules_below(contract, branch, path, seen)
    for name, child in (part.get("properties") or {}).items():
        yield from _rules_below(contract, child, (*path, name), seen)
    if "items" in part:
        yield from _rules_below(contract, part["items"], (*path, LIST_STEP), seen)


_ANNOTATED = (Encoding.PLAIN, Encoding.DICTIONARY, Encoding.DECIMAL_TEXT, Encoding.BIG_INTEGER)


def _rule(
    contract: Contract, part: Mapping[str, Any], path: tuple[str, ...], asked: Any, decimal: Any
) -> Rule:
    where = f"--schema={contract.source}: {'.'.join(path) or 'the whole event'}"
    if not isinstance(asked, list):
        raise UsageError(f"{where}: x-normalize must be a list, not {asked!r}")
    unknown = [name for name in asked if name not in (*TEXT_RULES, "default")]
    if unknown:
        raise UsageError(
            f"{where}: x-normalize has {unknown[0]!r}; known are trim, upper, lower, default"
        )
    if "default" in asked and "default" not in part:
        raise UsageError(f"{where}: x-normalize asks for a default, and the field has none")
    if decimal and not _is_decimal(decimal):
        raise UsageError(
            f"{where}: x-decimal must be {{'precision': P, 'scale': S}}, not {decimal!r}"
        )
    node = _node_at(contract, path)
    if not isinstance(node, Leaf) or node.encoding not in _ANNOTATED:
        raise UsageError(
            f"{where}: its annotation does not fit its type; x-normalize and x-decimal are for "
            "single texts, numbers and booleans"
        )
    rule = Rule(
        column=path[0],
        steps=path[1:],
        text=tuple(name for name in asked if name in TEXT_RULES),
        default=part["default"] if "default" in asked else None,
        decimal=(decimal["precision"], decimal["scale"]) if decimal else None,
    )
    try:
        rule.apply(pa.array([], node.arrow_type))
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise UsageError(f"{where}: its annotation does not fit its type ({error})") from None
    return rule


def _is_decimal(annotation: Any) -> bool:
    return isinstance(annotation, Mapping) and all(
        type(annotation.get(name)) is int for name in ("precision", "scale")
    )


def _node_at(contract: Contract, path: tuple[str, ...]) -> Node | None:
    """The node of what is at `path`; None where that is inside JSON text, or the whole event."""
    if not path:
        return None
    node: Node | None = dict(contract.columns).get(path[0])
    for step in path[1:]:
        if isinstance(node, Struct):
            node = dict(node.fields).get(step)
        else:
            node = node.items if isinstance(node, ListOf) and step == LIST_STEP else None
    return node
