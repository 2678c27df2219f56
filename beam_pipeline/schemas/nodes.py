"""JSON Schema to Arrow: the type of each part of an event.

What has no faithful Arrow type (unions, free-form objects, recursion) is kept as JSON text, so that
nothing the schema allows is lost. Every value that is valid under a schema fits its node. Keywords
that are not understood here make the node wider, never narrower.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import unquote

import pyarrow as pa

EXTRA = "extra"
"""Name of the column (or struct field) for what the schema allows but does not name."""

TIMESTAMP_TYPE = pa.timestamp("us", tz="UTC")


class Encoding(enum.Enum):
    """How a JSON value becomes a cell."""

    PLAIN = "plain"
    TIMESTAMP = "timestamp"
    DATE = "date"
    DICTIONARY = "dictionary"
    DECIMAL_TEXT = "decimal_text"
    BIG_INTEGER = "big_integer"
    JSON_TEXT = "json_text"


@dataclass(frozen=True)
class Leaf:
    """A value in a cell of its own; `categories` are the values of a dictionary."""

    arrow_type: pa.DataType
    encoding: Encoding = Encoding.PLAIN
    categories: tuple[str, ...] = ()


@dataclass(frozen=True)
class Struct:
    """An object with named fields; `extra` is the field for others, None if they are refused."""

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
    """An array; all items have the same node."""

    items: Node

    @property
    def arrow_type(self) -> pa.DataType:
        return pa.list_(self.items.arrow_type)


@dataclass(frozen=True)
class MapOf:
    """An object with any names; all values have the same node."""

    values: Node

    @property
    def arrow_type(self) -> pa.DataType:
        return pa.map_(pa.string(), self.values.arrow_type)


Node = Leaf | Struct | ListOf | MapOf

JSON_TEXT = Leaf(pa.string(), Encoding.JSON_TEXT)
BIG_INTEGER = Leaf(pa.decimal128(38, 0), Encoding.BIG_INTEGER)

_DICTIONARY_TYPE = pa.dictionary(pa.int32(), pa.string())
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

MAX_DECIMAL_DIGITS = 38


def derive_node(schema: Any, root: Mapping[str, Any], seen: tuple[str, ...] = ()) -> Node:
    """Return the node for a schema.

    Args:
      schema: a part of `root`.
      root: the whole document; references to other documents are not followed.
      seen: the recursive `$ref`s on the way to `schema`. A recursive schema has no finite Arrow
        type, so it becomes JSON text.

    >>> derive_node({"type": "array", "items": {"type": "integer"}}, {}).arrow_type
    ListType(list<item: int64>)
    """
    flat = flatten(schema, root, seen)
    if flat is None:
        return JSON_TEXT
    schema, seen = flat
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return _derive_union(schema, union, root, seen)
    types = types_of(schema)
    if types == {"object"}:
        return _derive_object(schema, root, seen)
    if types == {"array"}:
        items = schema.get("items")
        if isinstance(items, Mapping) and "prefixItems" not in schema:
            return ListOf(_without_dictionaries(derive_node(items, root, seen)))
        return JSON_TEXT
    if types == {"string"}:
        return _derive_string(schema)
    if types == {"integer"}:
        return _derive_integer(schema)
    if types == {"integer", "number"}:
        return _SCALARS["number"]
    if len(types) == 1:
        return _SCALARS.get(next(iter(types)), JSON_TEXT)
    return JSON_TEXT


class Flat(NamedTuple):
    """A schema without `$ref` and `allOf`, and the recursive `$ref`s on the way to it."""

    schema: Mapping[str, Any]
    seen: tuple[str, ...]


def flatten(schema: Any, root: Mapping[str, Any], seen: tuple[str, ...] = ()) -> Flat | None:
    """Return `schema` with its `$ref` and `allOf` merged into it.

    None if it is not an object, or its reference leads out of the document or is recursive. Such a
    branch of `allOf` is left out, which makes the schema wider.
    """
    if not isinstance(schema, Mapping):
        return None
    if "$ref" in schema:
        reference = schema["$ref"]
        target = resolve_pointer(root, reference)
        if not isinstance(target, Mapping) or reference in seen:
            return None
        siblings = {name: value for name, value in schema.items() if name != "$ref"}
        merged = target if _ignores_siblings(root) else merge_schemas(target, siblings)
        if _is_recursive(root, reference):
            seen = (*seen, reference)
        return flatten(merged, root, seen)
    if "allOf" not in schema:
        return Flat(schema, seen)
    folded: Mapping[str, Any] = {}
    for branch in schema["allOf"]:
        flat = flatten(branch, root, seen)
        if flat is not None:
            folded = merge_schemas(folded, flat.schema)
            seen = (*seen, *(reference for reference in flat.seen if reference not in seen))
    own = {name: part for name, part in schema.items() if name != "allOf"}
    return Flat(merge_schemas(folded, own), seen)


def merge_schemas(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Return first_part schema that allows all values that are valid under both.

    It may allow more: of a keyword that does not change the node, the second value is kept.
    """
    merged = {**first, **second}
    for keyword in first.keys() & second.keys():
        first_part, second_part = first[keyword], second[keyword]
        if keyword in ("properties", "patternProperties"):
            merged[keyword] = {**first_part, **second_part}
            for name in first_part.keys() & second_part.keys():
                merged[keyword][name] = _both(first_part[name], second_part[name])
        elif keyword in ("items", "additionalProperties"):
            merged[keyword] = _both(first_part, second_part)
        elif keyword in ("allOf", "required"):
            merged[keyword] = [*first_part, *second_part]
        elif keyword == "type":
            merged[keyword] = _common_types(first_part, second_part)
    return merged


def _both(first: Any, second: Any) -> Any:
    """Return a schema for what is valid under two, each of which may be true or false."""
    if first is False or second is False:
        return False
    if first is True or first == second:
        return second
    return first if second is True else {"allOf": [first, second]}


def _common_types(first: Any, second: Any) -> list[str]:
    names, others = ([types] if isinstance(types, str) else types for types in (first, second))
    wider = {*others, "integer"} if "number" in others else {*others}
    common = [name for name in names if name in wider]
    if "integer" in others and "number" in names and "integer" not in common:
        common.append("integer")
    return common


def _ignores_siblings(root: Mapping[str, Any]) -> bool:
    """Return whether keywords beside a `$ref` have no effect, as up to draft 7."""
    return any(f"draft-0{number}" in str(root.get("$schema", "")) for number in (3, 4, 6, 7))


def _is_recursive(root: Mapping[str, Any], reference: str) -> bool:
    """Return whether the target of a reference leads to the same reference again."""
    waiting, known = [resolve_pointer(root, reference)], set()
    while waiting:
        part = waiting.pop()
        if isinstance(part, Mapping):
            target = part.get("$ref")
            if target == reference:
                return True
            if isinstance(target, str) and target not in known:
                known.add(target)
                waiting.append(resolve_pointer(root, target))
            waiting.extend(part.values())
        elif isinstance(part, list):
            waiting.extend(part)
    return False


def resolve_pointer(root: Mapping[str, Any], reference: str) -> Any | None:
    """Return the target of a local reference, None if it has none or is not local.

    A local reference is a pointer (`#`, `#/$defs/name`; RFC 6901) or the name of an `$anchor`.
    """
    if not reference.startswith("#"):
        return None
    if reference[1:2] not in ("", "/"):
        return _find_anchor(root, reference[1:])
    target: Any = root
    for step in reference.split("/")[1:]:
        step = unquote(step).replace("~1", "/").replace("~0", "~")
        if isinstance(target, list) and step.isdigit() and int(step) < len(target):
            target = target[int(step)]
        elif isinstance(target, Mapping) and step in target:
            target = target[step]
        else:
            return None
    return target


def _find_anchor(part: Any, name: str) -> Any | None:
    if isinstance(part, Mapping):
        if part.get("$anchor") == name:
            return part
        part = list(part.values())
    if isinstance(part, list):
        for child in part:
            target = _find_anchor(child, name)
            if target is not None:
                return target
    return None


def types_of(schema: Mapping[str, Any]) -> set[str]:
    """Return the JSON types of a schema's values except null; empty if it does not say."""
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


def _derive_string(schema: Mapping[str, Any]) -> Leaf:
    decimal = decimal_of(schema)
    if decimal is not None:
        return Leaf(decimal, Encoding.DECIMAL_TEXT)
    values = [schema["const"]] if "const" in schema else schema.get("enum", ())
    texts = tuple(value for value in values if isinstance(value, str))
    if texts:
        return Leaf(_DICTIONARY_TYPE, Encoding.DICTIONARY, tuple(dict.fromkeys(texts)))
    return _STRING_FORMATS.get(schema.get("format", ""), Leaf(pa.string()))


def decimal_of(schema: Mapping[str, Any]) -> pa.DataType | None:
    """Return the decimal type of `x-decimal`, None if it is missing or not usable."""
    asked = schema.get("x-decimal")
    if not isinstance(asked, Mapping):
        return None
    precision, scale = asked.get("precision"), asked.get("scale")
    if type(precision) is not int or type(scale) is not int:
        return None
    if not 1 <= precision <= MAX_DECIMAL_DIGITS or not 0 <= scale <= precision:
        return None
    return pa.decimal128(precision, scale)


def _derive_integer(schema: Mapping[str, Any]) -> Leaf:
    """Return int64, or decimal or JSON text if the schema names numbers beyond 64 bits."""
    named = [schema.get(keyword) for keyword in _BOUNDS]
    named += [schema["const"]] if "const" in schema else schema.get("enum", ())
    numbers = [int(value) for value in named if isinstance(value, int | float)]
    if all(-(2**63) <= number < 2**63 for number in numbers):
        return _SCALARS["integer"]
    if all(abs(number) < 10**MAX_DECIMAL_DIGITS for number in numbers):
        return BIG_INTEGER
    return JSON_TEXT


_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")


def _derive_union(
    schema: Mapping[str, Any], union: str, root: Mapping[str, Any], seen: tuple[str, ...]
) -> Node:
    """Return the node for `schema` with one of the branches of its keyword `union`."""
    beside = {name: part for name, part in schema.items() if name != union}
    nodes: list[Node] = []
    for branch in schema[union]:
        if branch is False or _is_null(branch):
            continue
        flat = flatten(branch, root, seen) if isinstance(branch, Mapping) else Flat({}, seen)
        if flat is None:
            return JSON_TEXT
        whole = merge_schemas(beside, flat.schema)
        if not _is_null(whole):
            nodes.append(derive_node(whole, root, flat.seen))
    return union_node(nodes)


def _is_null(schema: Any) -> bool:
    """Return whether a schema allows null only, or nothing."""
    if not isinstance(schema, Mapping):
        return False
    if schema.get("const", 0) is None:
        return True
    declared = schema.get("type")
    return declared == "null" or (isinstance(declared, list) and set(declared) <= {"null"})


def union_node(nodes: Sequence[Node]) -> Node:
    """Return a node for every value of one of `nodes`.

    Objects, arrays and dictionaries are merged. Other nodes that differ become JSON text.
    """
    if not nodes:
        return JSON_TEXT
    if all(node == nodes[0] for node in nodes):
        return nodes[0]
    if all(isinstance(node, Struct) for node in nodes):
        return _union_struct([node for node in nodes if isinstance(node, Struct)])
    if all(isinstance(node, ListOf) for node in nodes):
        return ListOf(union_node([node.items for node in nodes if isinstance(node, ListOf)]))
    leaves = [node for node in nodes if isinstance(node, Leaf)]
    if len(leaves) == len(nodes) and all(leaf.encoding is Encoding.DICTIONARY for leaf in leaves):
        categories = dict.fromkeys(text for leaf in leaves for text in leaf.categories)
        return Leaf(_DICTIONARY_TYPE, Encoding.DICTIONARY, tuple(categories))
    return JSON_TEXT


def _union_struct(structs: Sequence[Struct]) -> Struct:
    names = dict.fromkeys(name for struct in structs for name, _ in struct.fields)
    fields = []
    for name in names:
        nodes = [dict(struct.fields)[name] for struct in structs if name in dict(struct.fields)]
        # An object that allows the name without naming it may have any value there.
        anything = any(
            struct.extra is not None and name not in dict(struct.fields) for struct in structs
        )
        fields.append((name, JSON_TEXT if anything else union_node(nodes)))
    is_open = any(struct.extra is not None for struct in structs)
    return Struct(tuple(fields), extra_name(names) if is_open else None)


def _derive_object(
    schema: Mapping[str, Any], root: Mapping[str, Any], seen: tuple[str, ...]
) -> Node:
    properties = schema.get("properties") or {}
    patterns = schema.get("patternProperties") or {}
    others = schema.get("additionalProperties", True)
    if not properties:
        if not patterns and isinstance(others, Mapping) and others:
            return MapOf(_without_dictionaries(derive_node(others, root, seen)))
        if len(patterns) == 1 and others is False:
            (part,) = patterns.values()
            return MapOf(_without_dictionaries(derive_node(part, root, seen)))
        return JSON_TEXT
    derived = ((name, derive_node(part, root, seen)) for name, part in properties.items())
    fields = tuple(
        (name, node if isinstance(node, Leaf) else _without_dictionaries(node))
        for name, node in derived
    )
    is_closed = others is False and not patterns
    return Struct(fields, None if is_closed else extra_name(properties))


def extra_name(taken: Iterable[str]) -> str:
    """Return the name of the field for unnamed ones, which is none of `taken`.

    >>> extra_name(["id", "extra"])
    '_extra'
    """
    names = set(taken)
    extra = EXTRA
    while extra in names:
        extra = f"_{extra}"
    return extra


def _without_dictionaries(node: Node) -> Node:
    """Return `node` with texts instead of dictionaries, for what is inside a column's values.

    pyarrow 23: `ParquetFile.read` refuses a file of several row groups with dictionaries inside a
    struct or list, and reads those inside a map as texts.
    """
    if isinstance(node, Leaf):
        return Leaf(pa.string()) if node.encoding is Encoding.DICTIONARY else node
    if isinstance(node, ListOf):
        return ListOf(_without_dictionaries(node.items))
    if isinstance(node, MapOf):
        return MapOf(_without_dictionaries(node.values))
    return Struct(
        tuple((name, _without_dictionaries(child)) for name, child in node.fields), node.extra
    )
