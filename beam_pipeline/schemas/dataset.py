"""The columns of a dataset as its readers see them, and what keeps two schemas from sharing one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import pyarrow as pa

from beam_pipeline.schemas.contract import KAFKA_FIELDS, Contract, record_fields
from beam_pipeline.schemas.nodes import JSON_TEXT, Encoding, Leaf, ListOf, MapOf, Node, Struct

ReadType: TypeAlias = "str | Mapping[str, Any]"
"""The type of a column as JSON: the name of a single type, `{"list": ITEMS}`, `{"map": VALUES}` or
`{"struct": {NAME: TYPE}}`. A dictionary is what its values are: readers see no difference."""

_JSON_TEXT = "JSON text"
_TEXTS = frozenset({_JSON_TEXT, "string"})


def read_type(kind: pa.DataType, node: Node | None) -> ReadType:
    """Return an Arrow type as readers see it; `node` tells where texts are JSON texts.

    >>> read_type(pa.list_(pa.string()), ListOf(JSON_TEXT))
    {'list': 'JSON text'}
    """
    if pa.types.is_struct(kind):
        nodes = dict(node.fields) if isinstance(node, Struct) else {}
        if isinstance(node, Struct) and node.extra:
            nodes[node.extra] = JSON_TEXT
        return {
            "struct": {child.name: read_type(child.type, nodes.get(child.name)) for child in kind}
        }
    if pa.types.is_map(kind):
        return {"map": read_type(kind.item_type, node.values if isinstance(node, MapOf) else None)}
    if pa.types.is_list(kind):
        return {
            "list": read_type(kind.value_type, node.items if isinstance(node, ListOf) else None)
        }
    if pa.types.is_dictionary(kind):
        return read_type(kind.value_type, node)
    if pa.types.is_string(kind) and _is_json_text(node):
        return _JSON_TEXT
    return str(kind)


def _is_json_text(node: Node | None) -> bool:
    return isinstance(node, Leaf) and node.encoding is Encoding.JSON_TEXT


def described(kind: ReadType) -> str:
    """Return a type for people.

    >>> described({"list": {"struct": {"a": "int64", "b": "JSON text"}}})
    'list<struct<a: int64, b: JSON text>>'
    """
    if isinstance(kind, str):
        return kind
    ((name, inner),) = kind.items()
    if name == "struct":
        return (
            f"struct<{', '.join(f'{name}: {described(child)}' for name, child in inner.items())}>"
        )
    return f"list<{described(inner)}>" if name == "list" else f"map<string, {described(inner)}>"


def columns_of(contract: Contract) -> dict[str, ReadType]:
    """Return the columns of events of a contract, without those that transforms change or add."""
    return columns_with_encodings(contract.event_schema, contract)


def columns_with_encodings(schema: pa.Schema, contract: Contract) -> dict[str, ReadType]:
    """Return the columns of files of `schema`, whose events a contract judges."""
    nodes = dict(contract.columns)
    if contract.extra_column:
        nodes[contract.extra_column] = JSON_TEXT
    return {column.name: read_type(column.type, nodes.get(column.name)) for column in schema}


def file_columns(contract: Contract, kafka_columns: Sequence[str]) -> dict[str, ReadType]:
    """Return the columns of files where no transform changes or adds any."""
    fields = [*KAFKA_FIELDS, *record_fields(kafka_columns)]
    kafka = {column.name: read_type(column.type, None) for column in fields}
    return {**columns_of(contract), **kafka}


def incompatible_columns(old: Contract, new: Contract) -> list[str]:
    """Return why files of two contracts can't be read as one dataset, by column; empty if they can.

    A column that only one of them has is null in the files of the other. A column of JSON text and
    one of plain text have one Arrow type, but a reader would find texts with and without quotes.
    """
    return list(conflicts(columns_of(old), columns_of(new)))


def conflicts(
    old: Mapping[str, ReadType], new: Mapping[str, ReadType], *, knows_encodings: bool = True
) -> Iterator[str]:
    """Yield a line for each column that readers would find in two forms, or under two cases.

    Args:
      old, new: the columns by name.
      knows_encodings: whether `old` tells JSON text from plain text.
    """
    folded = {name.lower(): name for name in new}
    for name, kind in old.items():
        if name in new:
            if not _is_read_alike(kind, new[name], knows_encodings):
                yield f"column {name!r} is {described(kind)} and {described(new[name])}"
        elif name.lower() in folded:
            yield (
                f"columns {name!r} and {folded[name.lower()]!r} differ in case alone, and readers "
                "such as DuckDB and Spark take them for one"
            )


def _is_read_alike(old: ReadType, new: ReadType, knows_encodings: bool) -> bool:
    """Return whether a reader finds values of both types in one form."""
    if isinstance(old, str) or isinstance(new, str):
        return old == new or (not knows_encodings and {old, new} == _TEXTS)
    ((kind, inner),), ((new_kind, new_inner),) = old.items(), new.items()
    if kind != new_kind:
        return False
    if kind == "struct":
        return not any(conflicts(inner, new_inner, knows_encodings=knows_encodings))
    return _is_read_alike(inner, new_inner, knows_encodings)


def differences(
    old: Mapping[str, ReadType], new: Mapping[str, ReadType]
) -> tuple[list[str], list[str]]:
    """Return the paths of columns and fields that `new` adds, and of those that it lacks.

    >>> differences({"a": {"struct": {"b": "int64"}}}, {"a": {"struct": {"c": "int64"}}})
    (['a.c'], ['a.b'])
    """
    paths, new_paths = (dict.fromkeys(_paths(columns, "")) for columns in (old, new))
    return (
        [path for path in new_paths if path not in paths],
        [path for path in paths if path not in new_paths],
    )


def _paths(columns: Mapping[str, ReadType], above: str) -> Iterator[str]:
    for name, kind in columns.items():
        path = f"{above}{name}"
        marks = ""
        while not isinstance(kind, str) and "struct" not in kind:
            marks += "[]" if "list" in kind else "{}"
            (kind,) = kind.values()
        if isinstance(kind, str):
            yield path
        else:
            yield from _paths(kind["struct"], f"{path}{marks}.")
