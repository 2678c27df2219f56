"""Access to the leaves of nested Arrow columns: struct fields and list items."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa

LIST_STEP = "[]"
"""A step of a column path that goes into every item of a list."""


def map_leaf(array: pa.Array, steps: tuple[str, ...], change: Callable[[Any], Any]) -> pa.Array:
    """`array` with `change` applied to the leaf at `steps` (struct fields and `LIST_STEP`).

    Of a slice, `change` sees only what is in it: a value at fault elsewhere is none of its own.
    """
    if not steps:
        return change(array)
    step, rest = steps[0], steps[1:]
    if step == LIST_STEP:
        first, last = array.offsets[0].as_py(), array.offsets[-1].as_py()
        items = map_leaf(array.values.slice(first, last - first), rest, change)
        offsets = pa.compute.subtract(array.offsets, pa.scalar(first, pa.int32()))
        return pa.ListArray.from_arrays(offsets, items, mask=array.is_null())
    names = [child.name for child in array.type]
    children = [
        map_leaf(child, rest, change) if name == step else child
        for name, child in zip(names, array.flatten(), strict=True)
    ]
    return pa.StructArray.from_arrays(children, names=names, mask=array.is_null())


def leaf_at(batch: pa.RecordBatch, path: str) -> pa.Array:
    """The column at a dotted `path`, a dictionary decoded; a name that holds dots itself is found
    first."""
    first, *rest = [path] if path in batch.schema.names else path.split(".")
    column = batch.column(first)
    return decoded(pa.compute.struct_field(column, rest) if rest else column)


def decoded(array: pa.Array) -> pa.Array:
    """`array`, or where it is a dictionary the texts that its codes stand for."""
    is_dictionary = pa.types.is_dictionary(array.type)
    return array.cast(array.type.value_type) if is_dictionary else array
