"""Several versions of a contract at once: which one a record has, and columns for all."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from beam_pipeline.errors import UsageError
from beam_pipeline.records import SchemaRef
from beam_pipeline.schemas.contract import Contract, load_contract, refuse_case_twins
from beam_pipeline.schemas.nodes import (
    DEFAULT_MAX_COLUMNS,
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
    paths: Sequence[str | Path],
    version_field: str | None = None,
    flag: str = "--schema",
    max_columns: int = DEFAULT_MAX_COLUMNS,
    asserts_formats: bool = True,
) -> Contract:
    """Return one contract for one schema, or for several versions of it.

    Each of several schemas has its version as `x-version`. The last one is the current version;
    its annotations and its `$id` are those of the contract. The first one is for records that name
    no version. The contract has the columns of all.

    Args:
      paths: the schemas, oldest first.
      version_field: where a record has its version: a field of the event, header:NAME or wire.
      flag: what error messages name as the source of the paths.
      max_columns: how many Parquet columns an event of each version may have.
      asserts_formats: whether a text without the format that the schema names is refused.

    Raises:
      UsageError: a schema can't be used, two have the same version, or columns of the same name
        have types that can't be in one file.
    """
    contracts = [load_contract(path, flag, max_columns, asserts_formats) for path in paths]
    if not contracts:
        raise UsageError(f"{flag} names no file")
    if version_field is None:
        if len(contracts) == 1:
            return contracts[0]
        raise UsageError(
            f"{flag} names {len(contracts)} files: set --schema_version_field to where a record "
            f"has its version, a field of the event, {HEADER_PREFIX}NAME or {WIRE}"
        )
    by_version: dict[str, Contract] = {}
    for contract in contracts:
        version = _version_text(contract.document.get(VERSION_KEYWORD))
        if version is None:
            raise UsageError(
                f"{flag}={contract.source}: has no {VERSION_KEYWORD}; add it, a text or a whole "
                "number, so that records can name the version"
            )
        if version in by_version:
            raise UsageError(
                f"{flag}={contract.source}: has {VERSION_KEYWORD} {version!r}, as "
                f"{by_version[version].source} has; each version needs its own"
            )
        by_version[version] = contract
    node = contracts[0].node
    for contract in contracts[1:]:
        try:
            node = unify(node, contract.node)
        except _IncompatibleNodes as error:
            raise UsageError(
                f"{flag}={contract.source}: {error} in its versions; files of both can't be "
                "one dataset"
            ) from None
    current = contracts[-1]
    digests = "".join(contract.ref.sha256 for contract in contracts)
    unified = Contract(
        source=",".join(str(path) for path in paths),
        document=current.document,
        ref=SchemaRef(current.ref.id, hashlib.sha256(digests.encode()).hexdigest()),
        versions=tuple(by_version.items()),
        version_field=version_field,
        unified_node=node,
        max_columns=max_columns,
        asserts_formats=asserts_formats,
    )
    refuse_case_twins(unified, flag)
    return unified


def version_of(
    version_field: str, event: Any, headers: Sequence[tuple[str, bytes | None]], wire: int | None
) -> str | None:
    """Return the version that a record names, None if it names none."""
    if version_field == WIRE:
        return None if wire is None else str(wire)
    if version_field.startswith(HEADER_PREFIX):
        name = version_field.removeprefix(HEADER_PREFIX)
        versions = [value for key, value in headers if key == name and value is not None]
        return versions[-1].decode("utf-8", "replace") if versions else None
    for step in version_field.split("."):
        event = event.get(step) if isinstance(event, Mapping) else None
    return _version_text(event)


def _version_text(value: Any) -> str | None:
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if type(value) is int else None


class _IncompatibleNodes(Exception):
    """No column can hold the values of two nodes."""


def unify(old: Node, new: Node, path: str = "") -> Node:
    """Return a node for values of two nodes: fields of both objects, texts of both enums.

    A number has the decimal of the new node, or is a double if the new node has no `x-decimal`.

    Raises:
      _IncompatibleNodes: the types at `path` or below differ.
    """
    if isinstance(old, Struct) and isinstance(new, Struct):
        old_fields, new_fields = dict(old.fields), dict(new.fields)
        names = [*old_fields, *(name for name in new_fields if name not in old_fields)]
        unified = []
        for name in names:
            below = f"{path}.{name}" if path else name
            if name in old_fields and name in new_fields:
                unified.append((name, unify(old_fields[name], new_fields[name], below)))
            else:
                unified.append((name, old_fields.get(name) or new_fields[name]))
        is_open = old.extra is not None or new.extra is not None
        return Struct(tuple(unified), extra_name(names) if is_open else None)
    if isinstance(old, ListOf) and isinstance(new, ListOf):
        return ListOf(unify(old.items, new.items, f"{path}[]"))
    if isinstance(old, MapOf) and isinstance(new, MapOf):
        return MapOf(unify(old.values, new.values, f"{path}{{}}"))
    if isinstance(old, Leaf) and isinstance(new, Leaf):
        if old.encoding is new.encoding is Encoding.DICTIONARY:
            texts = dict.fromkeys([*old.categories, *new.categories])
            return Leaf(old.arrow_type, Encoding.DICTIONARY, tuple(texts))
        if old == new:
            return old
        if _is_number(old) and _is_number(new):
            return new
        texts_alike = {_PLAIN_TEXT, Encoding.DICTIONARY}
        if {_kind(old), _kind(new)} == texts_alike:
            return Leaf(pa.string())
    raise _IncompatibleNodes(f"{path or 'the event'} is {old.arrow_type} and {new.arrow_type}")


_PLAIN_TEXT = "plain text"


def _kind(leaf: Leaf) -> Any:
    is_text = leaf.encoding is Encoding.PLAIN and pa.types.is_string(leaf.arrow_type)
    return _PLAIN_TEXT if is_text else leaf.encoding


def _is_number(leaf: Leaf) -> bool:
    """Return whether a leaf is of the type number, with `x-decimal` or without."""
    return leaf.encoding is Encoding.DECIMAL_NUMBER or leaf == Leaf(pa.float64())


def with_numbers_of(own: Node, unified: Node) -> Node:
    """Return `own` with the numbers of `unified`, so that they are built from the digits sent.

    Args:
      own: the node of a version.
      unified: the node that `unify` made of all versions.
    """
    if isinstance(own, Struct) and isinstance(unified, Struct):
        others = dict(unified.fields)
        fields = [(name, with_numbers_of(node, others[name])) for name, node in own.fields]
        return Struct(tuple(fields), own.extra)
    if isinstance(own, ListOf) and isinstance(unified, ListOf):
        return ListOf(with_numbers_of(own.items, unified.items))
    if isinstance(own, MapOf) and isinstance(unified, MapOf):
        return MapOf(with_numbers_of(own.values, unified.values))
    is_number = isinstance(own, Leaf) and isinstance(unified, Leaf) and _is_number(own)
    return unified if is_number else own


def align(array: pa.Array, own: Node, unified: Node) -> pa.Array:
    """Return `array`, which was built for the node `own`, as a column of `unified`.

    Fields that `own` does not have are null.
    """
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
