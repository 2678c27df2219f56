"""Conversion of decoded events to Arrow columns, with one call for all leaves of an object."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from beam_pipeline.schemas.contract import Contract
from beam_pipeline.schemas.nodes import (
    TIMESTAMP_TYPE,
    Encoding,
    Leaf,
    ListOf,
    MapOf,
    Node,
    Struct,
)
from beam_pipeline.schemas.numbers import ExactFloat, decimals_of


def _digits_as_sent(value: Any) -> msgspec.Raw:
    if isinstance(value, ExactFloat):
        return msgspec.Raw(value.text.encode())
    raise TypeError(f"{type(value).__name__} is no value of JSON")


_encode_json = msgspec.json.Encoder(enc_hook=_digits_as_sent).encode

ARROW_REFUSALS = (
    pa.ArrowException,
    AttributeError,
    KeyError,
    OverflowError,
    TypeError,
    ValueError,
)
"""The exceptions that pyarrow raises for a value that does not fit its type."""


class ColumnBuilder:
    """Builds the event columns of a contract from events that are valid under it."""

    def __init__(self, contract: Contract) -> None:
        self._columns = contract.columns
        self._whole_value = not isinstance(contract.node, Struct)
        self._extra_column = contract.extra_column

    def refused_value(self, event: Any) -> RefusedValue | None:
        """Return the first value of an event that does not fit its column, if any."""
        if self._whole_value:
            return refused_value(event, self._columns[0][1], self._columns[0][0])
        return refused_value(event, Struct(self._columns, self._extra_column), "")

    def build(self, events: Sequence[Any]) -> list[pa.Array]:
        """Return one array for each column of `Contract.event_schema`, as long as `events`.

        Raises:
          one of ARROW_REFUSALS: a value does not fit its column, such as an integer beyond 64
            bits.
        """
        if self._whole_value:
            return [build_column(events, self._columns[0][1])]
        arrays = _fields(events, self._columns)
        if self._extra_column:
            arrays.append(_extra_text(events, frozenset(name for name, _ in self._columns)))
        return arrays


class RefusedValue(NamedTuple):
    """A value that does not fit its column, and where it is, such as `lines[3].price`."""

    path: str
    node: Node
    value: Any
    error: Exception

    def __str__(self) -> str:
        kind = "object" if isinstance(self.node, Struct) else str(self.node.arrow_type)
        reason = repr(" ".join(str(self.error).split())[:_MAX_REASON])[1:-1]
        if kind == "int64":
            reason = "it must be a whole number of 64 bits"
        where = self.path or "the event"
        return f"{where}: {_shown(self.value)} does not fit the type {kind}: {reason}"


def _shown(value: Any) -> str:
    """Return the beginning of a value as its `repr`; a number as it was sent."""
    if isinstance(value, ExactFloat):
        text = value.text
    else:
        text = repr(value[:_MAX_SHOWN] if isinstance(value, str) else value)
    is_cut = len(text) > _MAX_SHOWN or (isinstance(value, str) and len(value) > _MAX_SHOWN)
    return f"{text[:_MAX_SHOWN]}…" if is_cut else text


_MAX_SHOWN = 100
_MAX_REASON = 250


def refused_value(value: Any, node: Node, path: str) -> RefusedValue | None:
    """Return the first part of a value that can't be built as a column of `node`, if any.

    >>> node = Struct((("n", ListOf(Leaf(pa.decimal128(2, 0), Encoding.DECIMAL_NUMBER))),), None)
    >>> str(refused_value({"n": [1, 100]}, node, ""))
    'n[1]: 100 does not fit the type decimal128(2, 0): 100 needs more than 2 digits'
    """
    error = _refusal([value], node)
    if error is None:
        return None
    if isinstance(node, Struct) and type(value) is dict:
        fields = node.fields
        at = _first_refused(
            len(fields), lambda start, end: ([value], Struct(fields[start:end], None))
        )
        name, child = fields[at]
        return refused_value(value.get(name), child, f"{path}.{name}" if path else name)
    if isinstance(node, ListOf) and type(value) is list:
        at = _first_refused(len(value), lambda start, end: (value[start:end], node.items))
        return refused_value(value[at], node.items, f"{path}[{at}]")
    if isinstance(node, MapOf) and type(value) is dict:
        names, parts = list(value), list(value.values())
        at = _first_refused(len(parts), lambda start, end: (parts[start:end], node.values))
        return refused_value(parts[at], node.values, f"{path}{{{names[at]!r}}}")
    return RefusedValue(path, node, value, error)


def _refusal(values: Sequence[Any], node: Node) -> Exception | None:
    try:
        build_column(values, node)
    except ARROW_REFUSALS as error:
        return error
    return None


def _first_refused(count: int, part_of: Callable[[int, int], tuple[Sequence[Any], Node]]) -> int:
    """Return which of `count` parts is the first that is refused, by halving; one of them is."""
    start, end = 0, count
    while end - start > 1:
        middle = (start + end) // 2
        if _refusal(*part_of(start, middle)) is None:
            start = middle
        else:
            end = middle
    return start


def build_column(values: Sequence[Any], node: Node) -> pa.Array:
    """Return an Arrow array of `node`'s type for decoded JSON values; None is null.

    >>> build_column([["a"], None], ListOf(Leaf(pa.string()))).to_pylist()
    [['a'], None]
    """
    if isinstance(node, Struct):
        return _struct_column(values, node)
    if isinstance(node, ListOf):
        return _list_column(values, node)
    if isinstance(node, MapOf):
        return _map_column(values, node)
    if node.encoding in _FROM_ARROW:
        return _FROM_ARROW[node.encoding](pa.array(values, _source_type(node)), node)
    return _FROM_VALUES[node.encoding](values, node)


def parse_timestamps(values: Sequence[str | None] | pa.Array) -> pa.Array:
    """Return RFC 3339 texts as timestamp[us, UTC].

    Digits below microseconds are cut. A leap second becomes the last microsecond before it.

    Raises:
      pa.ArrowInvalid: a text is not an RFC 3339 date-time.

    >>> str(parse_timestamps(["2016-12-31t23:59:60z"])[0])
    '2016-12-31 23:59:59.999999+00:00'
    """
    texts = values if isinstance(values, pa.Array) else pa.array(values, pa.string())
    try:
        return pc.cast(texts, TIMESTAMP_TYPE)
    except pa.ArrowInvalid:
        return pc.cast(
            pa.array(map(_plain_rfc3339, texts.to_pylist()), pa.string()), TIMESTAMP_TYPE
        )


_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:)(\d\d)(?:\.(\d+))?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)


def _plain_rfc3339(text: str | None) -> str | None:
    """Return `text` as Arrow's parser takes it: upper case, six digits at most, no second 60."""
    match = _RFC3339.fullmatch(text) if text is not None else None
    if match is None:
        return text
    day, time, second, fraction, zone = match.groups()
    if second == "60":
        second, fraction = "59", "999999"
    fraction = f".{fraction[:6]}" if fraction else ""
    return f"{day}T{time}{second}{fraction}{zone.upper()}"


def _timestamp_leaf(texts: pa.Array, _node: Leaf) -> pa.Array:
    return parse_timestamps(texts)


def _cast_leaf(array: pa.Array, node: Leaf) -> pa.Array:
    return pc.cast(array, node.arrow_type)


def _dictionary_leaf(texts: pa.Array, node: Leaf) -> pa.Array:
    categories = pa.array(node.categories, pa.string())
    indices = pc.index_in(texts, value_set=categories, skip_nulls=True)
    if indices.null_count != texts.null_count:
        raise ValueError(f"a text is none of {', '.join(node.categories)}"[:500])
    return pa.DictionaryArray.from_arrays(indices, categories)


def _big_integer_leaf(values: Sequence[Any], node: Leaf) -> pa.Array:
    """Return decimals; an integer such as 1e19, valid under JSON Schema, comes as a float."""
    whole = [int(value) if isinstance(value, float) else value for value in values]
    return pa.array(whole, node.arrow_type)


def _decimal_number_leaf(values: Sequence[Any], node: Leaf) -> pa.Array:
    return decimals_of(values, node.arrow_type)


def _json_leaf(values: Sequence[Any], node: Leaf) -> pa.Array:
    texts = [None if value is None else _encode_json(value).decode() for value in values]
    return pa.array(texts, node.arrow_type)


_FROM_ARROW: dict[Encoding, Callable[[pa.Array, Leaf], pa.Array]] = {
    Encoding.PLAIN: lambda array, _node: array,
    Encoding.TIMESTAMP: _timestamp_leaf,
    Encoding.DATE: _cast_leaf,
    Encoding.DICTIONARY: _dictionary_leaf,
    Encoding.DECIMAL_TEXT: _cast_leaf,
}
"""Functions that make a leaf's column of an array of `_source_type`."""

_FROM_VALUES: dict[Encoding, Callable[[Sequence[Any], Leaf], pa.Array]] = {
    Encoding.BIG_INTEGER: _big_integer_leaf,
    Encoding.DECIMAL_NUMBER: _decimal_number_leaf,
    Encoding.JSON_TEXT: _json_leaf,
}


def _source_type(node: Leaf) -> pa.DataType:
    """Return the type that Python values are converted to first."""
    return node.arrow_type if node.encoding is Encoding.PLAIN else pa.string()


def _struct_column(values: Sequence[Any], node: Struct) -> pa.Array:
    objects = [{} if value is None else value for value in values]
    children = _fields(objects, node.fields)
    if node.extra:
        children.append(_extra_text(objects, frozenset(name for name, _ in node.fields)))
    nulls = pa.array([value is None for value in values], pa.bool_())
    return pa.StructArray.from_arrays(children, fields=list(node.arrow_type), mask=nulls)


def _fields(objects: Sequence[Any], fields: Sequence[tuple[str, Node]]) -> list[pa.Array]:
    """Return the columns of `fields`, null where an object does not have the field.

    One conversion makes all leaves. It reads each object once; a conversion for each field would
    fetch all objects into the processor's cache again.
    """
    # Arrow accepts empty texts and lists as objects without fields.
    if not _ONLY_OBJECTS.issuperset(map(type, objects)):
        raise TypeError(
            "the value is not an object, but the schema names fields; to refuse such values, add "
            '"type": "object" to the schema'
        )
    leaves = {
        name: node
        for name, node in fields
        if isinstance(node, Leaf) and node.encoding in _FROM_ARROW
    }
    sources = pa.array(
        objects, pa.struct([(name, _source_type(node)) for name, node in leaves.items()])
    )
    columns = {
        name: _FROM_ARROW[node.encoding](sources.field(position), node)
        for position, (name, node) in enumerate(leaves.items())
    }
    return [
        columns[name]
        if name in leaves
        else build_column([item.get(name) for item in objects], node)
        for name, node in fields
    ]


_ONLY_OBJECTS = frozenset((dict,))


def _list_column(values: Sequence[Any], node: ListOf) -> pa.Array:
    offsets: list[int | None] = []
    items: list[Any] = []
    for value in values:
        offsets.append(None if value is None else len(items))
        if value is not None:
            items.extend(value)
    offsets.append(len(items))
    return pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()), build_column(items, node.items), type=node.arrow_type
    )


def _map_column(values: Sequence[Any], node: MapOf) -> pa.Array:
    offsets: list[int | None] = []
    names: list[str] = []
    items: list[Any] = []
    for value in values:
        offsets.append(None if value is None else len(names))
        if value is not None:
            names.extend(value.keys())
            items.extend(value.values())
    offsets.append(len(names))
    return pa.MapArray.from_arrays(
        pa.array(offsets, pa.int32()),
        pa.array(names, pa.string()),
        build_column(items, node.values),
        type=node.arrow_type,
    )


def _extra_text(objects: Sequence[dict[str, Any]], named: frozenset[str]) -> pa.Array:
    """Return the fields of each object that are not in `named` as JSON text, null if none."""

    def text(item: dict[str, Any]) -> str | None:
        if named.issuperset(item):
            return None
        unnamed = {name: value for name, value in item.items() if name not in named}
        return _encode_json(unnamed).decode()

    return pa.array([text(item) for item in objects], pa.string())
