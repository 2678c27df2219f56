"""Several versions of one contract at once: which one a record is under, and columns for all."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from beam_pipeline.errors import UsageError
from beam_pipeline.records import SchemaRef
from beam_pipeline.schemas.contract import Contract, load_contract
from beam_pipeline.schemas.nodes import (
    Encoding,
    Leaf,
    ListOf,
    MapOf,
    Node,
    Struct,
    extra_name,
)

VERSION_KEYWORD = "x-version"
HEADER_PREFIX = "header:"
WIRE = "wire"


def load_contracts(
    paths: Sequence[str | Path], version_field: str | None = None, flag: str = "--schema"
) -> Contract:
    """One contract: of one schema, or of several versions that `version_field` tells apart.

    Of several, each says its version as `x-version`. The last is the current one: its annotations
    and its `$id` are those of the whole. The first is for records that name no version. The
    columns are those of all.

    Raises:
      UsageError: a schema does not serve, two are of one version, or columns of one name have
        types that no file could hold both of.
    """
    contracts = [load_contract(path, flag) for path in paths]
    if not contracts:
        raise UsageError(f"{flag} names no file")
    if version_field is None:
        if len(contracts) == 1:
            return contracts[0]
        raise UsageError(
            f"{flag} names {len(contracts)} files: --schema_version_field must say what tells "
            f"them apart, an event's field, {HEADER_PREFIX}NAME or {WIRE}"
        )
    named: dict[str, Contract] = {}
    for contract in contracts:
        version = _version_text(contract.document.get(VERSION_KEYWORD))
        if version is None:
            raise UsageError(
                f"{flag}={contract.source}: has no {VERSION_KEYWORD}, a text or a whole number, to "
                "say which version it is"
            )
        if version in named:
            raise UsageError(
                f"{flag}={contract.source}: is version {version!r}, as {named[version].source} is"
            )
        named[version] = contract
    node = contracts[0].node
    for contract in contracts[1:]:
        try:
            node = unify(node, contract.node)
        except _Apart as error:
            raise UsageError(
                f"{flag}={contract.source}: {error} in its versions; files of both would be no one "
                "dataset"
            ) from None
    current = contracts[-1]
    digests = "".join(contract.ref.sha256 for contract in contracts)
    return Contract(
        source=",".join(str(path) for path in paths),
        document=current.document,
        ref=SchemaRef(current.ref.id, hashlib.sha256(digests.encode()).hexdigest()),
        versions=tuple(named.items()),
        version_field=version_field,
        unified_node=node,
    )


def version_of(
    version_field: str, event: Any, headers: Sequence[tuple[str, bytes | None]], wire: int | None
) -> str | None:
    """The version that a record names; None where it names none."""
    if version_field == WIRE:
        return None if wire is None else str(wire)
    if version_field.startswith(HEADER_PREFIX):
        name = version_field.removeprefix(HEADER_PREFIX)
        found = [value for key, value in headers if key == name and value is not None]
        return found[-1].decode("utf-8", "replace") if found else None
    for step in version_field.split("."):
        event = event.get(step) if isinstance(event, Mapping) else None
    return _version_text(event)


def _version_text(value: Any) -> str | None:
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if type(value) is int else None


class _Apart(Exception):
    """Two nodes that no column can hold both of."""


def unify(one: Node, other: Node, path: str = "") -> Node:
    """A node for the columns of files with values of both: fields of both, texts of both enums.

    Raises:
      _Apart: at `path` the types differ.
    """
    if isinstance(one, Struct) and isinstance(other, Struct):
        fields, more = dict(one.fields), dict(other.fields)
        names = [*fields, *(name for name in more if name not in fields)]
        unified = []
        for name in names:
            below = f"{path}.{name}" if path else name
            if name in fields and name in more:
                unified.append((name, unify(fields[name], more[name], below)))
            else:
                unified.append((name, fields.get(name) or more[name]))
        is_open = one.extra is not None or other.extra is not None
        return Struct(tuple(unified), extra_name(names) if is_open else None)
    if isinstance(one, ListOf) and isinstance(other, ListOf):
        return ListOf(unify(one.items, other.items, f"{path}[]"))
    if isinstance(one, MapOf) and isinstance(other, MapOf):
        return MapOf(unify(one.values, other.values, f"{path}{{}}"))
    if isinstance(one, Leaf) and isinstance(other, Leaf):
        if one.encoding is other.encoding is Encoding.DICTIONARY:
            texts = dict.fromkeys([*one.categories, *other.categories])
            return Leaf(one.arrow_type, Encoding.DICTIONARY, tuple(texts))
        if one == other:
            return one
        texts_alike = {_PLAIN_TEXT, Encoding.DICTIONARY}
        if {_kind(one), _kind(other)} == texts_alike:
            return Leaf(pa.string())
    raise _Apart(f"{path or 'the event'} is {one.arrow_type} and {other.arrow_type}")


_PLAIN_TEXT = "plain text"


def _kind(leaf: Leaf) -> Any:
    is_text = leaf.encoding is Encoding.PLAIN and pa.types.is_string(leaf.arrow_type)
    return _PLAIN_TEXT if is_text else leaf.encoding


def align(array: pa.Array, own: Node, unified: Node) -> pa.Array:
    """`array`, built for the node `own`, as the column of `unified`; new fields are null."""
    if own == unified:
        return array
    if isinstance(own, Struct) and isinstance(unified, Struct):
        known = {name: array.field(position) for position, (name, _) in enumerate(own.fields)}
        nodes = dict(own.fields)
        children = [
            align(known[name], nodes[name], node)
            if name in known
            else pa.nulls(len(array), node.arrow_type)
            for name, node in unified.fields
        ]
        if unified.extra:
            has_extra = own.extra is not None
            children.append(
                array.field(len(own.fields)) if has_extra else pa.nulls(len(array), pa.string())
            )
        return pa.StructArray.from_arrays(
            children, fields=list(unified.arrow_type), mask=array.is_null()
        )
    if isinstance(own, ListOf) and isinstance(unified, ListOf):
        return pa.ListArray.from_arrays(
            array.offsets,
            align(array.values, own.items, unified.items),
            type=unified.arrow_type,
            mask=array.is_null(),
        )
    if isinstance(own, MapOf) and isinstance(unified, MapOf):
        return pa.MapArray.from_arrays(
            array.offsets,
            array.keys,
            align(array.items, own.values, unified.values),
            type=unified.arrow_type,
            mask=array.is_null(),
        )
    texts = array.cast(pa.string())
    if isinstance(unified, Leaf) and unified.encoding is Encoding.DICTIONARY:
        categories = pa.array(unified.categories, pa.string())
        indices = pc.index_in(texts, value_set=categories, skip_nulls=True)
        return pa.DictionaryArray.from_arrays(indices, categories)
    return texts
