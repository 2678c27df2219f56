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

import pyarrow as pa

from beam_pipeline.schemas.dialects import draft_of
from beam_pipeline.schemas.numbers import Digits
from beam_pipeline.schemas.references import References

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
    DECIMAL_NUMBER = "decimal_number"
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


DEFAULT_MAX_COLUMNS = 2_000
"""How many Parquet columns an event may have before its deepest objects become JSON text."""

MAX_LEVELS = 60
"""How many objects, lists and maps may be inside each other as Arrow types. Arrow reads at most 64
levels from its IPC format (IpcReadOptions::max_recursion_depth), and batches pass through it."""

_STEPS_PER_COLUMN = 20
_MAX_NESTED_PARTS = 125
_MAX_NESTED_REFERENCES = 60
"""How deep the functions here may call themselves, far within Python's stack. Beyond it a part is
JSON text, so that a schema has the same columns wherever they are derived."""


class Derived(NamedTuple):
    """The node of a document's events.

    `levels` is how many levels of objects, lists and maps below the event have Arrow types, None if
    all have. With `is_too_wide`, all of them would be more columns than are allowed.
    """

    node: Node
    levels: int | None = None
    is_too_wide: bool = False


def derive(schema: Any, flattener: Flattener, max_columns: int = DEFAULT_MAX_COLUMNS) -> Derived:
    """Return the node for a schema; the work is bounded by `max_columns`.

    If the node had more than `max_columns` columns, what is deeper than the first levels is JSON
    text, so that as many levels as possible have types. The fields at the top always have columns
    of their own. A recursive schema has no finite Arrow type: its second use becomes JSON text.

    Args:
      schema: a part of a document.
      flattener: that of the document; references to other documents are not followed.
      max_columns: how many Parquet columns the node may have.
    """
    whole = _Derivation(flattener, max_columns, MAX_LEVELS)
    try:
        node = whole.node(schema, 0, 0)
    except _TooMuchWork:
        node = _TooWide(Struct)
    if not isinstance(node, _TooWide):
        return Derived(node, MAX_LEVELS if whole.was_cut else None)
    shallow = _Derivation(flattener, max_columns, 0, is_last_resort=True)
    best: Node | _TooWide = shallow.node(schema, 0, 0)
    levels = 0
    while levels + 1 < MAX_LEVELS:
        try:
            node = _Derivation(flattener, max_columns, levels + 1).node(schema, 0, 0)
        except _TooMuchWork:
            break
        if isinstance(node, _TooWide):
            break
        best, levels = node, levels + 1
    assert not isinstance(best, _TooWide)
    return Derived(best, levels, is_too_wide=True)


def derive_node(schema: Any, root: Mapping[str, Any]) -> Node:
    """Return the node for a schema, a part of the document `root`.

    >>> derive_node({"type": "array", "items": {"type": "integer"}}, {}).arrow_type
    ListType(list<item: int64>)
    """
    return derive(schema, Flattener(References(root))).node


class _TooMuchWork(Exception):
    """A schema needs more steps than its columns are worth."""


class _TooWide(NamedTuple):
    """Stands for a struct, list or map with more columns than are allowed."""

    kind: type[Struct | ListOf | MapOf]


class _Derivation:
    """Derives nodes; what is deeper than `max_levels` is JSON text.

    Each part of the document is derived once for each level and set of recursive references that it
    is met with (`seen`, see `References.bit`).
    """

    def __init__(
        self,
        flattener: Flattener,
        max_columns: int,
        max_levels: int,
        is_last_resort: bool = False,
    ) -> None:
        self._flattener = flattener
        self._references = flattener.references
        self._max_columns = max_columns
        self._max_levels = max_levels
        self._is_last_resort = is_last_resort
        self._steps_left = _STEPS_PER_COLUMN * max(max_columns, 100)
        self._nodes: dict[tuple[int, int, int], Node | _TooWide] = {}
        self._widths: dict[int, int] = {}
        self._without_dictionaries: dict[int, Node] = {}
        self._kept_alive: list[Any] = []
        self._depth = 0
        self.was_cut = False

    def node(self, schema: Any, seen: int, level: int) -> Node | _TooWide:
        """Return the node for a schema that is inside `level` objects, lists or maps."""
        if not isinstance(schema, Mapping):
            return JSON_TEXT
        key = (id(schema), seen & self._references.reached_from(schema), level)
        node = self._nodes.get(key)
        if node is None:
            self._steps_left -= 1
            if self._steps_left < 0:
                if not self._is_last_resort:
                    raise _TooMuchWork
                return JSON_TEXT
            if self._depth == _MAX_NESTED_PARTS:
                self.was_cut = True
                return JSON_TEXT
            self._depth += 1
            node = self._nodes[key] = self._derive(schema, seen, level)
            self._depth -= 1
            self._kept_alive.append(schema)
        return node

    def _derive(self, schema: Any, seen: int, level: int) -> Node | _TooWide:
        flat = self._flattener.flatten(schema, seen)
        if flat is None:
            return JSON_TEXT
        schema, seen = flat
        for union in ("anyOf", "oneOf"):
            if union in schema:
                branches = self._flattener.branches(schema, union, seen)
                if branches is None:
                    return JSON_TEXT
                nodes = [self.node(branch.schema, branch.seen, level) for branch in branches]
                return self._union(nodes)
        types = types_of(schema)
        if types == {"object"}:
            return self._object(schema, seen, level)
        if types == {"array"}:
            items = schema.get("items")
            if not isinstance(items, Mapping) or "prefixItems" in schema:
                return JSON_TEXT
            return self._collection(ListOf, items, seen, level)
        if types == {"string"}:
            return _derive_string(schema, self._flattener.asserts_formats)
        if types == {"integer"}:
            return _derive_integer(schema)
        if types in ({"number"}, {"integer", "number"}):
            decimal = decimal_of(schema)
            return _SCALARS["number"] if decimal is None else Leaf(decimal, Encoding.DECIMAL_NUMBER)
        if len(types) == 1:
            return _SCALARS.get(next(iter(types)), JSON_TEXT)
        return JSON_TEXT

    def _union(self, nodes: Sequence[Node | _TooWide]) -> Node | _TooWide:
        narrow = [node for node in nodes if not isinstance(node, _TooWide)]
        if len(narrow) == len(nodes):
            return self._bounded(union_node(narrow))
        kinds = {node.kind if isinstance(node, _TooWide) else type(node) for node in nodes}
        if len(kinds) == 1 and (len(nodes) == 1 or kinds <= {Struct, ListOf}):
            return next(node for node in nodes if isinstance(node, _TooWide))
        return JSON_TEXT

    def _object(self, schema: Mapping[str, Any], seen: int, level: int) -> Node | _TooWide:
        properties = schema.get("properties") or {}
        patterns = schema.get("patternProperties") or {}
        others = schema.get("additionalProperties", True)
        if not properties:
            if not patterns and isinstance(others, Mapping) and others:
                return self._collection(MapOf, others, seen, level)
            if len(patterns) == 1 and others is False:
                (part,) = patterns.values()
                return self._collection(MapOf, part, seen, level)
            return JSON_TEXT
        if self._is_cut(level):
            return JSON_TEXT
        fields = []
        for name, part in properties.items():
            node = self.node(part, seen, level + 1)
            if isinstance(node, _TooWide):
                return _TooWide(Struct)
            fields.append((name, node if isinstance(node, Leaf) else self._plain(node)))
        is_closed = others is False and not patterns
        return self._bounded(Struct(tuple(fields), None if is_closed else extra_name(properties)))

    def _collection(
        self, kind: type[ListOf] | type[MapOf], part: Any, seen: int, level: int
    ) -> Node | _TooWide:
        if self._is_cut(level):
            return JSON_TEXT
        node = self.node(part, seen, level + 1)
        if isinstance(node, _TooWide):
            return _TooWide(kind)
        return self._bounded(kind(self._plain(node)))

    def _is_cut(self, level: int) -> bool:
        is_cut = level > self._max_levels
        self.was_cut = self.was_cut or is_cut
        return is_cut

    def _bounded(self, node: Node) -> Node | _TooWide:
        if isinstance(node, Leaf) or self._is_last_resort:
            return node
        return _TooWide(type(node)) if self._width(node) > self._max_columns else node

    def _width(self, node: Node) -> int:
        """Return how many Parquet columns a node has."""
        if isinstance(node, Leaf):
            return 1
        width = self._widths.get(id(node))
        if width is None:
            if isinstance(node, Struct):
                width = sum(self._width(child) for _, child in node.fields) + bool(node.extra)
            elif isinstance(node, ListOf):
                width = self._width(node.items)
            else:
                width = 1 + self._width(node.values)
            self._widths[id(node)] = width
            self._kept_alive.append(node)
        return width

    def _plain(self, node: Node) -> Node:
        """Return `node` with texts instead of dictionaries, for what is inside a column's values.

        pyarrow 23: `ParquetFile.read` refuses a file of several row groups with dictionaries inside
        a struct or list, and reads those inside a map as texts.
        """
        if isinstance(node, Leaf):
            return Leaf(pa.string()) if node.encoding is Encoding.DICTIONARY else node
        plain = self._without_dictionaries.get(id(node))
        if plain is None:
            if isinstance(node, ListOf):
                plain = ListOf(self._plain(node.items))
            elif isinstance(node, MapOf):
                plain = MapOf(self._plain(node.values))
            else:
                fields = tuple((name, self._plain(child)) for name, child in node.fields)
                plain = Struct(fields, node.extra)
            self._without_dictionaries[id(node)] = plain
            self._without_dictionaries[id(plain)] = plain
            self._kept_alive += [node, plain]
        return plain


class Flat(NamedTuple):
    """A schema without `$ref` and `allOf`, and the recursive references on the way to it."""

    schema: Mapping[str, Any]
    seen: int


class Flattener:
    """Merges the `$ref` and `allOf` of schemas into them; each is done once.

    With `asserts_formats`, a text with a format is known to have it.
    """

    def __init__(self, references: References, asserts_formats: bool = True) -> None:
        self.references = references
        self.asserts_formats = asserts_formats
        self._draft = draft_of(references.root)
        self._flat: dict[tuple[int, int], Flat | None] = {}
        self._branches: dict[tuple[int, str, int], list[Flat] | None] = {}
        self._kept_alive: list[Any] = []
        self._depth = 0

    def flatten(self, schema: Any, seen: int = 0) -> Flat | None:
        """Return `schema` with its `$ref` and `allOf` merged into it.

        None if it is not an object, or its reference leads out of the document or is recursive.
        Such a branch of `allOf` is left out, which makes the schema wider.
        """
        if not isinstance(schema, Mapping):
            return None
        has_unknown = self._draft == 4 and "const" in schema
        if "$ref" not in schema and "allOf" not in schema and not has_unknown:
            return Flat(schema, seen)
        known = seen & self.references.reached_from(schema)
        key = (id(schema), known)
        if key not in self._flat:
            if self._depth == _MAX_NESTED_REFERENCES:
                return None
            self._depth += 1
            self._flat[key] = self._merged(schema, known)
            self._depth -= 1
            self._kept_alive.append(schema)
        flat = self._flat[key]
        return flat and Flat(flat.schema, flat.seen | seen)

    def _merged(self, schema: Mapping[str, Any], seen: int) -> Flat | None:
        if self._draft == 4 and "const" in schema:  # draft 4 does not know it
            schema = {name: part for name, part in schema.items() if name != "const"}
            self._kept_alive.append(schema)
        if "$ref" in schema:
            reference = schema["$ref"]
            target = self.references.resolve(reference)
            if not isinstance(target, Mapping) or self.references.bit(reference) & seen:
                return None
            siblings = {name: value for name, value in schema.items() if name != "$ref"}
            is_target = not siblings or self._draft <= 7
            merged = target if is_target else merge_schemas(target, siblings)
            return self.flatten(merged, seen | self.references.bit(reference))
        folded: Mapping[str, Any] = {}
        for branch in schema.get("allOf", ()):
            flat = self.flatten(branch, seen)
            if flat is not None:
                folded = merge_schemas(folded, flat.schema)
                seen |= flat.seen
        own = {name: part for name, part in schema.items() if name != "allOf"}
        return Flat(merge_schemas(folded, own), seen)

    def branches(self, schema: Mapping[str, Any], union: str, seen: int) -> list[Flat] | None:
        """Return `schema` with each of the branches of its keyword `union`, but those for null.

        None if a branch is recursive.
        """
        key = (id(schema), union, seen)
        if key not in self._branches:
            self._branches[key] = self._find_branches(schema, union, seen)
            self._kept_alive.append(schema)
        return self._branches[key]

    def _find_branches(self, schema: Mapping[str, Any], union: str, seen: int) -> list[Flat] | None:
        beside = {name: part for name, part in schema.items() if name != union}
        branches = []
        for branch in schema[union]:
            if branch is False:
                continue
            flat = self.flatten(branch, seen) if isinstance(branch, Mapping) else Flat({}, seen)
            if flat is None:
                return None
            whole = merge_schemas(beside, flat.schema)
            if not _is_null(whole):
                branches.append(Flat(whole, flat.seen))
        return branches


def merge_schemas(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema that allows all values that are valid under both.

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
        elif keyword == "allOf":
            merged[keyword] = [*first_part, *second_part]
        elif keyword == "required":
            merged[keyword] = [*dict.fromkeys([*first_part, *second_part])]
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


def _derive_string(schema: Mapping[str, Any], asserts_formats: bool) -> Leaf:
    decimal = decimal_of(schema)
    if decimal is not None:
        return Leaf(decimal, Encoding.DECIMAL_TEXT)
    values = [schema["const"]] if "const" in schema else schema.get("enum", ())
    texts = tuple(value for value in values if isinstance(value, str))
    if texts:
        return Leaf(_DICTIONARY_TYPE, Encoding.DICTIONARY, tuple(dict.fromkeys(texts)))
    if not asserts_formats:  # then any text is valid
        return Leaf(pa.string())
    return _STRING_FORMATS.get(schema.get("format", ""), Leaf(pa.string()))


def digits_of(node: Node) -> Digits:
    """Return which numbers with a fraction or an exponent a node needs with all their digits."""
    if isinstance(node, Struct):
        own = Digits.OF_NONE if node.extra is None else Digits.OF_ALL
        return max([own, *(digits_of(child) for _, child in node.fields)])
    if isinstance(node, Leaf):
        if node.encoding in (Encoding.JSON_TEXT, Encoding.DECIMAL_NUMBER):
            return Digits.OF_ALL
        is_integer = node.encoding is Encoding.BIG_INTEGER or pa.types.is_integer(node.arrow_type)
        return Digits.OF_INTEGERS if is_integer else Digits.OF_NONE
    return digits_of(node.items if isinstance(node, ListOf) else node.values)


def doubles_in(node: Node) -> int:
    """Return about how many doubles an event has; a list or map counts as ten items."""
    if isinstance(node, Struct):
        return sum(doubles_in(child) for _, child in node.fields)
    if isinstance(node, Leaf):
        return int(pa.types.is_floating(node.arrow_type))
    return 10 * doubles_in(node.items if isinstance(node, ListOf) else node.values)


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

    Objects, arrays and dictionaries are merged. A number with `x-decimal` and one without are a
    decimal. Other nodes that differ become JSON text.
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
    if len(leaves) == len(nodes):
        numbers = [leaf for leaf in leaves if leaf != _SCALARS["number"]]
        if numbers[0].encoding is Encoding.DECIMAL_NUMBER and len(set(numbers)) == 1:
            return numbers[0]
    return JSON_TEXT


def _union_struct(structs: Sequence[Struct]) -> Struct:
    names = dict.fromkeys(name for struct in structs for name, _ in struct.fields)
    fields = []
    nodes_by_name = [(dict(struct.fields), struct.extra is not None) for struct in structs]
    for name in names:
        nodes = [known[name] for known, _ in nodes_by_name if name in known]
        # An object that allows the name without naming it may have any value there.
        anything = any(is_open and name not in known for known, is_open in nodes_by_name)
        fields.append((name, JSON_TEXT if anything else union_node(nodes)))
    is_open = any(struct.extra is not None for struct in structs)
    return Struct(tuple(fields), extra_name(names) if is_open else None)


def extra_name(taken: Iterable[str]) -> str:
    """Return the name of the field for unnamed ones, which is none of `taken`.

    >>> extra_name(["id", "extra"])
    '_extra'
    >>> extra_name(["Extra"])
    '_extra'
    """
    names = {name.lower() for name in taken}  # readers fold case
    extra = EXTRA
    while extra in names:
        extra = f"_{extra}"
    return extra
