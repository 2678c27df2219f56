"""The layout of the kernel's tables. kernel.zig has the same structs; `Kernel` compares the two."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any

import numpy as np


class Kind(enum.IntEnum):
    """What a node's values are; the order is that of `Kind` in kernel.zig."""

    UNKNOWN = 0
    """Not compiled: a row that has a value there is given up."""
    TEXT = 1
    CATEGORY = 2
    INTEGER = 3
    NUMBER = 4
    DECIMAL = 5
    BOOLEAN = 6
    TIME = 7
    DATE = 8
    JSON = 9
    OBJECT = 10
    LIST = 11


UUID_FORMAT = 1

JSON_TYPES = {"string": 1, "integer": 2, "number": 2, "boolean": 4}
"""Bits of the scalar types that a JSON text may have. Of numbers, only integers are proven."""


def _struct(*fields: str) -> Any:
    """Return a dtype of 8-byte fields, each `name` for int64, or `name:u8` or `name:f8`."""
    pairs = [field.partition(":") for field in fields]
    return np.dtype([(name, kind or "i8") for name, _, kind in pairs])


NODE = _struct(
    *("kind", "is_nullable", "column", "first_child", "children", "required:u8", "extra_column"),
    *("allows_unnamed", "first_condition", "conditions", "min_length", "max_length"),
    *("first_category", "categories", "pattern", "format", "min_integer", "max_integer"),
    *("has_minimum", "has_maximum", "is_minimum_exclusive", "is_maximum_exclusive"),
    *("minimum:f8", "maximum:f8", "scale", "decimal_limit", "json_types"),
)
CHILD = _struct("name_at", "name_length", "node")
CATEGORY = _struct("at", "length")
CONDITION = _struct("child", "categories:u8", "needed:u8", "then:u8", "otherwise:u8")
COLUMN = _struct("valid:u8", "ends:u8", "data:u8", "cells", "bytes")
TABLES = _struct(
    *("nodes:u8", "node_count", "children:u8", "child_count", "categories:u8", "category_count"),
    *("conditions:u8", "condition_count", "names:u8", "name_bytes", "patterns:u8"),
    *("pattern_bytes", "columns:u8", "column_count", "codes:u8", "guesses:u8", "max_value_bytes"),
    *("event_time_node", "min_time", "max_time", "max_age", "max_skew"),
)
VALUES = _struct("data:u8", "ends:u8", "offset", "rows", "is_null:u8", "append_times:u8")


def layout_text(
    structs: Sequence[Any] = (NODE, CHILD, CATEGORY, CONDITION, COLUMN, TABLES, VALUES),
) -> str:
    """Return the layout as kernel.zig's `layout` does.

    >>> layout_text([CATEGORY])
    '[16] at:0 length:8'
    """
    words = []
    for struct in structs:
        fields = [f" {name}:{struct.fields[name][1]}" for name in struct.names]
        words.append(f"[{struct.itemsize}]{''.join(fields)}")
    return "".join(words)
