"""JSON Schema to Arrow: which type each part of an event gets.

What has no faithful Arrow type (unions, free-form objects, recursion) is kept as JSON text, so
nothing that the schema allows is dropped. Every value that is valid under a schema fits its node;
where a keyword is not understood here, the node is a wider one.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

EXTRA = "extra"
"""Name of the column (or struct field) that keeps what the schema allows but does not name."""

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
    """A value that is one cell; `categories` are the values of a dictionary."""

    arrow_type: pa.DataType
    encoding: Encoding = Encoding.PLAIN
    categories: tuple[str, ...] = ()


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


@dataclass(frozen=True)
class MapOf:
    """An object of any names whose values share one node."""

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
    """The node for `schema`, a part of the document `root`.

    `seen` holds the recursive `$ref`s being followed: a recursive schema has no finite Arrow type
    and becomes JSON text. Only references within the document are followed.
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


def flatten(
    schema: Any, root: Mapping[str, Any], seen: tuple[str, ...] = ()
) -> tuple[Mapping[str, Any], tuple[str, ...]] | None:
    """`schema` with its `$ref` and `allOf` folded in, and `seen` with the recursive ones of those
    references.

    None where there is nothing to fold: no object, a reference that leads out of the document or
    into itself. A branch of `allOf` that leads nowhere is left out, which makes the schema wider.
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
        return schema, seen
    folded: Mapping[str, Any] = {}
    for branch in schema["allOf"]:
        flat = flatten(branch, root, seen)
        if flat is not None:
            folded = merge_schemas(folded, flat[0])
            seen = (*seen, *(reference for reference in flat[1] if reference not in seen))
    own = {name: part for name, part in schema.items() if name != "allOf"}
    return merge_schemas(folded, own), seen


def merge_schemas(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """One schema for what is valid under both, or under more: of two values of a keyword that has
    no part in the node's shape, the second's is kept."""
    merged = {**first, **second}
    for keyword in first.keys() & second.keys():
        one, other = first[keyword], second[keyword]
        if keyword in ("properties", "patternProperties"):
            merged[keyword] = {**one, **other}
            for name in one.keys() & other.keys():
                merged[keyword][name] = _both(one[name], other[name])
        elif keyword in ("items", "additionalProperties"):
            merged[keyword] = _both(one, other)
        elif keyword in ("allOf", "required"):
            merged[keyword] = [*one, *other]
        elif keyword == "type":
            merged[keyword] = _common_types(one, other)
    return merged


def _both(one: Any, other: Any) -> Any:
    """A schema for what is valid under two, either of which may be true or false."""
    if one is False or other is False:
        return False
    if one is True or one == other:
        return other
    return one if other is True else {"allOf": [one, other]}


def _common_types(one: Any, other: Any) -> list[str]:
    ones, others = ([types] if isinstance(types, str) else types for types in (one, other))
    common = [name for name in ones if name in others or (name == "integer" and "number" in others)]
    if "integer" in others and "number" in ones and "integer" not in common:
        common.append("integer")
    return common


def _ignores_siblings(root: Mapping[str, Any]) -> bool:
    """Up to draft 7 keywords beside a `$ref` have no effect."""
    return any(f"draft-0{number}" in str(root.get("$schema", "")) for number in (3, 4, 6, 7))


def _is_recursive(root: Mapping[str, Any], reference: str) -> bool:
    """Whether what a reference points to refers to it again, itself or by what it refers to."""
    waiting, known = [resolve_pointer(root, reference)], set()
    while waiting:
        part = waiting.pop()
        if isinstance(part, Mapping):
            found = part.get("$ref")
            if found == reference:
                return True
            if isinstance(found, str) and found not in known:
                known.add(found)
                waiting.append(resolve_pointer(root, found))
            waiting.extend(part.values())
        elif isinstance(part, list):
            waiting.extend(part)
    return False


def resolve_pointer(root: Mapping[str, Any], reference: str) -> Any | None:
    """What a local reference points to: a pointer (`#`, `#/$defs/name`; RFC 6901) or the name of
    an `$anchor`; None for all others."""
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
            found = _find_anchor(child, name)
            if found is not None:
                return found
    return None


def types_of(schema: Mapping[str, Any]) -> set[str]:
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
    """The decimal type that `x-decimal` asks for; None where it is missing or makes no sense."""
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
    """int64, unless the schema itself names numbers beyond it; then decimals, or digits as text."""
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
    """The node of what is valid under `schema` and one of the branches of its keyword `union`."""
    beside = {name: part for name, part in schema.items() if name != union}
    nodes: list[Node] = []
    for branch in schema[union]:
        if branch is False or _is_null(branch):
            continue
        flat = flatten(branch, root, seen) if isinstance(branch, Mapping) else ({}, seen)
        if flat is None:
            return JSON_TEXT
        whole = merge_schemas(beside, flat[0])
        if not _is_null(whole):
            nodes.append(derive_node(whole, root, flat[1]))
    return union_node(nodes)


def _is_null(schema: Any) -> bool:
    """Whether a schema says that nothing but null is valid, or nothing at all."""
    if not isinstance(schema, Mapping):
        return False
    if schema.get("const", 0) is None:
        return True
    declared = schema.get("type")
    return declared == "null" or (isinstance(declared, list) and set(declared) <= {"null"})


def union_node(nodes: Sequence[Node]) -> Node:
    """A node that takes every value that one of `nodes` takes: objects, arrays and dictionaries
    become one, all else that differs is JSON text."""
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
        found = [dict(struct.fields)[name] for struct in structs if name in dict(struct.fields)]
        # Where the name is unnamed but allowed, its value may be anything.
        anything = any(
            struct.extra is not None and name not in dict(struct.fields) for struct in structs
        )
        fields.append((name, JSON_TEXT if anything else union_node(found)))
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
    """The name of the field for unnamed ones, beside the names `taken`."""
    names = set(taken)
    extra = EXTRA
    while extra in names:
        extra = f"_{extra}"
    return extra


def _without_dictionaries(node: Node) -> Node:
    """`node` with texts for dictionaries, for all below a column's own cells.

    pyarrow 23: `ParquetFile.read` refuses a file of several row groups with dictionaries inside a
    struct or list, and inside a map they come back as texts.
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
