"""Event contracts: a JSON Schema file, and what this pipeline derives from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema
import jsonschema_rs
import pyarrow as pa
from jsonschema.validators import validator_for

from beam_pipeline.errors import UsageError
from beam_pipeline.records import SchemaRef
from beam_pipeline.schemas.judge import compile_validator
from beam_pipeline.schemas.nodes import Node, Struct, derive_node
from beam_pipeline.schemas.source import read_schema

VALUE_COLUMN = "value"
"""The only column of events whose schema is not an object with properties."""

KAFKA_FIELDS = (
    pa.field("kafka_topic", pa.string()),
    pa.field("kafka_partition", pa.int32()),
    pa.field("kafka_offset", pa.int64()),
    pa.field("kafka_timestamp", pa.timestamp("ms", tz="UTC")),
)
"""Where a row comes from; in every row of the output."""

PARTITION_COLUMNS = frozenset({"dt", "hour"})
"""Columns that readers take from the names of directories. If files have a column of the same name,
pyarrow can't read them as a dataset, and DuckDB, which ignores case, hides that column."""

RECORD_SCHEMA = pa.schema(
    [
        *KAFKA_FIELDS,
        pa.field("_timestamp_type", pa.string()),
        pa.field("_key", pa.binary()),
        pa.field("_value", pa.binary()),
        pa.field("_headers", pa.list_(pa.struct([("key", pa.string()), ("value", pa.binary())]))),
    ]
)
"""The columns of a batch of records, one row a record; the event time is in the value."""

RIDE_ALONG_FIELDS = (
    *tuple(RECORD_SCHEMA)[len(KAFKA_FIELDS) :],
    pa.field("_event_time", pa.timestamp("us", tz="UTC")),
)
"""What dead letters and windows need of a record; every batch has it as far as the sink's parts,
and no file does."""


@dataclass(frozen=True)
class Contract:
    """A checked JSON Schema with its identity.

    If there are several versions (`schemas.versions`), `document` is the schema of the current one.
    `versions` has name and contract of each; the first is for records that name no version.

    A contract can be pickled and is small. Validators can't (jsonschema-rs), so they are compiled
    from `document` where they are used.
    """

    source: str
    document: Mapping[str, Any] = field(repr=False)
    ref: SchemaRef
    versions: tuple[tuple[str, Contract], ...] = field(default=(), repr=False)
    version_field: str | None = None
    unified_node: Node | None = field(default=None, repr=False)

    @property
    def node(self) -> Node:
        """The node of an event of any version."""
        return self.unified_node or derive_node(self.document, self.document)

    @property
    def columns(self) -> tuple[tuple[str, Node], ...]:
        """Name and node of each event column, without the one for unnamed fields."""
        node = self.node
        return node.fields if isinstance(node, Struct) else ((VALUE_COLUMN, node),)

    @property
    def extra_column(self) -> str | None:
        """Name of the column with unnamed fields as JSON text; None if they are not allowed."""
        node = self.node
        return node.extra if isinstance(node, Struct) else None

    @property
    def event_schema(self) -> pa.Schema:
        """Arrow schema of the event's columns, before `Normalize`."""
        fields = [pa.field(name, node.arrow_type) for name, node in self.columns]
        if self.extra_column:
            fields.append(pa.field(self.extra_column, pa.string()))
        return pa.schema(fields)

    @property
    def batch_schema(self) -> pa.Schema:
        """Arrow schema of a validated batch: event, Kafka and ride-along columns."""
        return pa.schema([*self.event_schema, *KAFKA_FIELDS, *RIDE_ALONG_FIELDS])

    @property
    def event_time_field(self) -> str | None:
        """The field that the schema names as event time (`x-event-time`), or None."""
        named = self.document.get("x-event-time")
        return str(named) if named else None


def file_schema(batch_schema: pa.Schema) -> pa.Schema:
    """Return the schema of the files for batches of `batch_schema`: no ride-along columns.

    >>> file_schema(pa.schema([("n", pa.int64()), *RIDE_ALONG_FIELDS])).names
    ['n']
    """
    dropped = {column.name for column in RIDE_ALONG_FIELDS}
    return pa.schema([column for column in batch_schema if column.name not in dropped])


def incompatible_columns(old: pa.Schema, new: pa.Schema) -> list[str]:
    """Return why files of two schemas can't be read as one dataset, by column; empty if they can.

    A column that only one of the schemas has is null in the files of the other.

    >>> incompatible_columns(pa.schema([("a", pa.int64())]), pa.schema([("a", pa.string())]))
    ["column 'a' is int64 and string"]
    """
    return [
        f"column {column.name!r} is {column.type} and {new.field(column.name).type}"
        for column in old
        if column.name in new.names and new.field(column.name).type != column.type
    ]


def check_event_time_field(contract: Contract, path: str) -> None:
    """Check that event times can be made of the field at the dotted `path`.

    Raises:
      UsageError: the schema has no such field, or it holds neither texts, numbers nor times.
    """
    where = f"--event_time_field={path}: --schema={contract.source}"
    remedy = "name a field of texts (RFC 3339) or of numbers (milliseconds since 1970)"
    names = contract.event_schema.names
    kind: pa.DataType = pa.struct(list(contract.event_schema))
    above = ""
    for step in [path] if path in names else path.split("."):
        names = [column.name for column in kind] if pa.types.is_struct(kind) else []
        if step not in names:
            there = f"there are {', '.join(names)}" if names else f"{above!r} is {kind}"
            raise UsageError(f"{where} has no property {step!r} ({there}); {remedy}")
        kind = kind.field(step).type
        above = f"{above}.{step}" if above else step
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if not any(is_kind(kind) for is_kind in _KINDS_OF_TIMES):
        raise UsageError(f"{where} has no times there, but {kind}; {remedy}")


_KINDS_OF_TIMES = (
    pa.types.is_string,
    pa.types.is_integer,
    pa.types.is_floating,
    pa.types.is_timestamp,
    pa.types.is_date,
)


def load_contract(path: str | Path, flag: str = "--schema") -> Contract:
    """Read and check the JSON Schema at `path`, JSON or YAML.

    Args:
      path: the file; it may refer to others in its directory.
      flag: what error messages name as the source of the path.

    Raises:
      UsageError: the file can't be read, is not JSON or YAML, is not a valid JSON Schema, refers
        to something else than files beside it, or has a property that is a column of the pipeline.
    """
    document, sha256 = read_schema(path, flag)
    validator = validator_for(document, default=jsonschema.Draft202012Validator)
    try:
        validator.check_schema(document)
    except jsonschema.SchemaError as error:
        raise UsageError(
            f"{flag}={path}: not a valid JSON Schema at {error.json_path}: {error.message}"
        ) from None
    try:
        compile_validator(document)
    except jsonschema_rs.ValidationError as error:
        raise UsageError(f"{flag}={path}: {' '.join(error.message.split())}") from None
    contract = Contract(
        source=str(path), document=document, ref=SchemaRef(document.get("$id"), sha256)
    )
    _refuse_reserved_names(contract, flag)
    return contract


def _refuse_reserved_names(contract: Contract, flag: str) -> None:
    reserved = {column.name for column in (*KAFKA_FIELDS, *RIDE_ALONG_FIELDS)}
    taken = sorted(
        name
        for name in contract.event_schema.names
        if name in reserved or name.lower() in PARTITION_COLUMNS
    )
    if taken:
        raise UsageError(
            f"{flag}={contract.source}: property {taken[0]!r} is a column that the pipeline "
            "adds; rename it"
        )
