"""Normalization of fields that the schema annotates: text, case, defaults, decimals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_pipeline.errors import UsageError
from beam_pipeline.schemas import Contract
from beam_pipeline.schemas.contract import VALUE_COLUMN
from beam_pipeline.schemas.nodes import Encoding, Leaf, ListOf, Node, Struct
from beam_pipeline.schemas.numbers import decimals_of
from beam_pipeline.schemas.references import schemas_in
from beam_pipeline.transforms.batches import BatchTransform
from beam_pipeline.transforms.nested import LIST_STEP, decoded, map_leaf

TEXT_RULES: Mapping[str, Callable[[pa.Array], pa.Array]] = {
    "trim": pc.utf8_trim_whitespace,
    "upper": pc.utf8_upper,
    "lower": pc.utf8_lower,
}


_ASCII_RULES: Mapping[str, Callable[[pa.Array], pa.Array]] = {
    "upper": pc.ascii_upper,
    "lower": pc.ascii_lower,
}
"""The same for texts without other characters, at a third of the cost."""


class Normalize(BatchTransform):
    """PCollection[pa.RecordBatch] to `Outputs`: changes fields as the schema's annotations say.

    `x-normalize` is a list of trim, upper, lower and default. `x-decimal` ({"precision", "scale"})
    makes an integer an exact decimal; numbers and texts with it are decimals already. Times are in
    UTC already, because their Arrow type is. Example: with `["trim", "upper"]`,
    `{"currency": " eur"}` becomes `{"currency": "EUR"}`. Any windowing; timestamps are kept.

    Raises:
      UsageError: an annotation is unknown, or does not fit the field's type.
    """

    stage = "normalize"

    def __init__(self, contract: Contract) -> None:
        super().__init__(NormalizeBatch(rules_of(contract)), contract.ref)


@dataclass(frozen=True)
class Rule:
    """How to change the leaf at `steps` below the column `column`."""

    column: str
    steps: tuple[str, ...]
    text: tuple[str, ...] = ()
    default: Any = None
    decimal: tuple[int, int] | None = None

    def apply(self, array: pa.Array) -> pa.Array:
        if self.text or self.default is not None:
            array = decoded(array)
        for name in self.text:
            is_quick = name in _ASCII_RULES and _is_ascii(array)
            array = (_ASCII_RULES if is_quick else TEXT_RULES)[name](array)
        if self.default is not None:
            array = pc.fill_null(array, self._default_scalar(array.type))
        if self.decimal:
            if pa.types.is_integer(array.type):  # a direct cast needs room for all 64 bits
                array = pc.cast(array, pa.decimal128(19))
            array = pc.cast(array, pa.decimal128(*self.decimal))
        return array

    def _default_scalar(self, kind: pa.DataType) -> pa.Scalar:
        is_number = isinstance(self.default, int | float) and not isinstance(self.default, bool)
        if pa.types.is_decimal(kind) and is_number:
            return decimals_of([self.default], kind)[0]
        return pa.scalar(self.default, kind)


def _is_ascii(array: pa.Array) -> bool:
    """Return whether an array of texts, or what it is a slice of, has none but ASCII characters."""
    if not pa.types.is_string(array.type):
        return False
    data = array.buffers()[2]
    return not data or int(np.frombuffer(data, np.uint8).max()) < 128


@dataclass(frozen=True)
class NormalizeBatch:
    """The function behind `Normalize`, without Beam."""

    rules: tuple[Rule, ...]

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        for rule in self.rules:
            position = batch.schema.get_field_index(rule.column)
            try:
                column = map_leaf(batch.column(position), rule.steps, rule.apply)
            except pa.ArrowInvalid as error:
                path = ".".join((rule.column, *rule.steps)).replace(f".{LIST_STEP}", LIST_STEP)
                raise pa.ArrowInvalid(f"{path}: {error}") from error
            if rule.default is not None and not rule.steps:
                column = _null_without_value(batch, column)
            batch = batch.set_column(position, rule.column, column)
        return batch


def _null_without_value(batch: pa.RecordBatch, column: pa.Array) -> pa.Array:
    """Return `column` with null, not a default, in the rows of records without a value."""
    if "_value" not in batch.schema.names or not batch.column("_value").null_count:
        return column
    return pc.if_else(batch.column("_value").is_valid(), column, pa.scalar(None, column.type))


def rules_of(contract: Contract) -> tuple[Rule, ...]:
    """Return the rules in a contract's annotations.

    Raises:
      UsageError: an annotation names an unknown rule, or is where it can't be applied.
    """
    if not any(part.keys() & _ANNOTATIONS for part in schemas_in(contract.plain_document)):
        return ()
    top = () if isinstance(contract.node, Struct) else (VALUE_COLUMN,)
    return tuple(_rules_below(contract, contract.plain_document, top))


_ANNOTATIONS = frozenset({"x-decimal", "x-normalize"})


def _rules_below(
    contract: Contract, part: Any, path: tuple[str, ...], seen: int = 0
) -> Iterator[Rule]:
    """Yield the rules of a part of the schema and of all parts below it.

    Args:
      contract: what `part` is a part of.
      part: a schema.
      path: where its values are in an event.
      seen: the recursive `$ref`s on the way here; what is below a second one is JSON text.
    """
    if contract.levels is not None and len(path) > contract.levels + 1:
        return  # below the levels that have columns
    flat = contract.flattener.flatten(part, seen)
    if flat is None:
        return
    part, seen = flat.schema, flat.seen
    names = part.get("x-normalize", [])
    decimal = part.get("x-decimal")
    if names or decimal:
        yield _rule(contract, part, path, names, decimal)
    for branch in (*part.get("anyOf", ()), *part.get("oneOf", ())):
        yield from _rules_below(contract, branch, path, seen)
    for name, child in (part.get("properties") or {}).items():
        yield from _rules_below(contract, child, (*path, name), seen)
    if "items" in part:
        yield from _rules_below(contract, part["items"], (*path, LIST_STEP), seen)


_ANNOTATED = (
    Encoding.PLAIN,
    Encoding.DICTIONARY,
    Encoding.DECIMAL_TEXT,
    Encoding.DECIMAL_NUMBER,
    Encoding.BIG_INTEGER,
)


def _rule(
    contract: Contract, part: Mapping[str, Any], path: tuple[str, ...], names: Any, decimal: Any
) -> Rule:
    where = f"--schema={contract.source}: {'.'.join(path) or 'the whole event'}"
    if not isinstance(names, list):
        raise UsageError(f"{where}: x-normalize must be a list, not {names!r}")
    unknown = [name for name in names if name not in (*TEXT_RULES, "default")]
    if unknown:
        raise UsageError(
            f"{where}: x-normalize has {unknown[0]!r}; it may have trim, upper, lower, default"
        )
    if "default" in names and "default" not in part:
        raise UsageError(f"{where}: x-normalize has default, but the field has no default")
    if decimal and not _is_decimal(decimal):
        raise UsageError(
            f"{where}: x-decimal must be {{'precision': P, 'scale': S}}, with S from 0 to P, "
            f"not {decimal!r}"
        )
    node = _node_at(contract, path)
    if not isinstance(node, Leaf) or node.encoding not in _ANNOTATED:
        raise UsageError(
            f"{where}: the annotation does not fit the type; x-normalize and x-decimal are for "
            "single texts, numbers and booleans"
        )
    rule = Rule(
        column=path[0],
        steps=path[1:],
        text=tuple(name for name in names if name in TEXT_RULES),
        default=part["default"] if "default" in names else None,
        decimal=(decimal["precision"], decimal["scale"]) if decimal else None,
    )
    try:
        rule.apply(pa.array([], node.arrow_type))
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise UsageError(f"{where}: the annotation does not fit the type ({error})") from None
    return rule


def _is_decimal(annotation: Any) -> bool:
    if not isinstance(annotation, Mapping):
        return False
    precision, scale = annotation.get("precision"), annotation.get("scale")
    return type(precision) is int and type(scale) is int and 0 <= scale <= precision


def _node_at(contract: Contract, path: tuple[str, ...]) -> Node | None:
    """Return the node at `path`; None for the whole event and for what is inside JSON text."""
    if not path:
        return None
    node: Node | None = dict(contract.columns).get(path[0])
    for step in path[1:]:
        if isinstance(node, Struct):
            node = dict(node.fields).get(step)
        else:
            node = node.items if isinstance(node, ListOf) and step == LIST_STEP else None
    return node
