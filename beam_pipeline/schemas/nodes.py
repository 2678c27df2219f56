"""JSON Schema to Arrow: which type each part of an event gets.

What has no faithful Arrow type (unions, free-form objects, recursion) is kept as JSON text, so
nothing that the schema allows is dropped.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

EXTRA = "extra"
"""Name of the column (or struct field) that keeps what the schema allows but does not name."""

TIMESTAMP_TYPE = pa.timestamp("us", tz="UTC")


class Encoding(enum.Enum):
    """How a JSON value becomes a cell."""

    PLAIN = "plain"
    TIMESTAMP = "timestamp"
    DATE = "date"
    JSON_TEXT = "json_text"


@dataclass(frozen=True)
class Leaf:
    """A value that is one cell."""

    arrow_type: pa.DataType
    encoding: Encoding = Encoding.PLAIN


@dataclass(frozen=True)
class Struct:
    """An object with named fields; `extra` names the field for the unnamed ones, if allowed."""

    fields: tuple[tuple[str, Node], ...]
    extra: str | None

    @property
    def arrow_type(self) -> pa.DataType:
        fields = [pa.field(name, node.arrow_type) for name, node in self.fields]
        if self.extra:
            fields.append(pa.field(self.extra, pa.string()))
        return pa.struct(fields)


@dataclass(frozen=True)
class ListOf:
    """An array whose items share one node."""

    items: Node

    @property
    def arrow_type(self) -> pa.DataType:
        return pa.list_(self.items.arrow_type)


Node = Leaf | Struct | ListOf

JSON_TEXT = Leaf(pa.string(), Encoding.JSON_TEXT)

_STRING_FORMATS = {
    "date-time": Leaf(TIMESTAMP_TYPE, Encoding.TIMESTAMP),
    "date": Leaf(pa.date32(), Encoding.DATE),
}
_SCALARS = {
    "integer": Leaf(pa.int64()),
    "number": Leaf(pa.float64()),
    "boolean": Leaf(pa.bool_()),
}
_PYTHON_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number"}


def derive_node(schema: Any, root: Mapping[str, Any], seen: tuple[str, ...] = ()) -> Node:
    """The node for `schema`, a part of the document `root`.

    `seen` holds the `$ref`s being followed: a recursive schema has no finite Arrow type and
    becomes JSON text. Only references within the document are followed.
    """
    if not isinstance(schema, Mapping):
        return JSON_TEXT
    reference = schema.get("$ref")
    if reference is not None:
        merged = merge_reference(schema, root)
        if merged is None or reference in seen:
            return JSON_TEXT
        return derive_node(merged, root, (*seen, reference))
    for union in ("anyOf", "oneOf"):
        if union in schema and "properties" not in schema and "type" not in schema:
            return _derive_union(schema[union], root, seen)
    types = _types_of(schema)
    if types == {"object"}:
        return _derive_object(schema, root, seen)
    if types == {"array"}:
        items = schema.get("items")
        if isinstance(items, Mapping) and "prefixItems" not in schema:
            return ListOf(derive_node(items, root, seen))
        return JSON_TEXT
    if types == {"string"}:
        return _STRING_FORMATS.get(schema.get("format", ""), Leaf(pa.string()))
    if types == {"integer", "number"}:
        return _SCALARS["number"]
    if len(types) == 1:
        return _SCALARS.get(next(iter(types)), JSON_TEXT)
    return JSON_TEXT


def merge_reference(schema: Mapping[str, Any], root: Mapping[str, Any]) -> dict[str, Any] | None:
    """`schema` and the target of its `$ref` as one, or None where that is not in the document.

    The target holds beside what `schema` says itself, so the fields of both are kept.
    """
    target = resolve_pointer(root, schema["$ref"])
    if not isinstance(target, Mapping):
        return None
    siblings = {name: value for name, value in schema.items() if name != "$ref"}
    merged = {**target, **siblings}
    if "properties" in target and "properties" in siblings:
        fields = dict(target["properties"])
        for name, part in siblings["properties"].items():
            above = fields.get(name)
            if isinstance(above, Mapping) and isinstance(part, Mapping):
                part = {**above, **part}
            fields[name] = part
        merged["properties"] = fields
    return merged


def resolve_pointer(root: Mapping[str, Any], reference: str) -> Any | None:
    """What a local pointer (`#`, `#/$defs/name`; RFC 6901) points to; None for all other
    references, an `$anchor` included."""
    if reference != "#" and not reference.startswith("#/"):
        return None
    target: Any = root
    for step in reference.split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        if not isinstance(target, Mapping) or step not in target:
            return None
        target = target[step]
    return target


def _types_of(schema: Mapping[str, Any]) -> set[str]:
    """The JSON types that a value may have, null aside; empty where the schema does not say."""
    declared = schema.get("type")
    if isinstance(declared, str):
        types = {declared}
    elif isinstance(declared, list):
        types = set(declared)
    elif "properties" in schema:
        types = {"object"}
    elif "const" in schema or "enum" in schema:
        values = [schema["const"]] if "const" in schema else schema["enum"]
        types = {_PYTHON_TYPES.get(type(value), "any") for value in values if value is not None}
    else:
        types = set()
    return types - {"null"}


def _derive_union(branches: Any, root: Mapping[str, Any], seen: tuple[str, ...]) -> Node:
    nodes = {
        derive_node(branch, root, seen)
        for branch in branches
        if not (isinstance(branch, Mapping) and branch.get("type") == "null")
    }
    return nodes.pop() if len(nodes) == 1 else JSON_TEXT


def _derive_object(
    schema: Mapping[str, Any], root: Mapping[str, Any], seen: tuple[str, ...]
) -> Node:
    properties = schema.get("properties") or {}
    if not properties:
        return JSON_TEXT
    fields = tuple((name, derive_node(part, root, seen)) for name, part in properties.items())
    closed = schema.get("additionalProperties") is False and not schema.get("patternProperties")
    extra = EXTRA
    while extra in properties:
        extra = f"_{extra}"
    return Struct(fields, None if closed else extra)
