"""Access to leaves of nested Arrow columns: struct fields and list items."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

LIST_STEP = "[]"
"""A step of a column path that goes to every item of a list."""


def map_leaf(array: pa.Array, steps: tuple[str, ...], change: Callable[[Any], Any]) -> pa.Array:
    """Return `array` with `change` applied to the leaf at `steps` (struct fields, `LIST_STEP`).

    If `array` is a slice, `change` gets the values in the slice only.

    >>> orders = pa.array([{"lines": [{"sku": " a "}, {"sku": "b"}]}, None])
    >>> map_leaf(orders, ("lines", LIST_STEP, "sku"), pc.utf8_trim_whitespace).to_pylist()
    [{'lines': [{'sku': 'a'}, {'sku': 'b'}]}, None]
    """
    if not steps:
        return change(array)
    step, rest = steps[0], steps[1:]
    if step == LIST_STEP:
        first, last = array.offsets[0].as_py(), array.offsets[-1].as_py()
        items = map_leaf(array.values.slice(first, last - first), rest, change)
        offsets = pc.subtract(array.offsets, pa.scalar(first, pa.int32()))
        return pa.ListArray.from_arrays(offsets, items, mask=array.is_null())
    names = [child.name for child in array.type]
    children = [
        map_leaf(child, rest, change) if name == step else child
        for name, child in zip(names, array.flatten(), strict=True)
    ]
    return pa.StructArray.from_arrays(children, names=names, mask=array.is_null())


def leaf_at(batch: pa.RecordBatch, path: str) -> pa.Array:
    """Return the column at a dotted `path`, a dictionary decoded to its values.

    A column whose name is the whole path goes before a path through structs.

    Raises:
      KeyError, pa.ArrowException: there is no such column.
    """
    first, *rest = [path] if path in batch.schema.names else path.split(".")
    column = batch.column(first)
    return decoded(pc.struct_field(column, rest) if rest else column)


def decoded(array: pa.Array) -> pa.Array:
    """Return `array`, or the values of a dictionary array as a plain array."""
    is_dictionary = pa.types.is_dictionary(array.type)
    return array.cast(array.type.value_type) if is_dictionary else array
