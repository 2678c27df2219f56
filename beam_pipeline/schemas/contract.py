"""Loading an event contract: a JSON Schema file and what this pipeline reads out of it."""

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
"""The one column of events whose schema is not an object with properties."""

KAFKA_FIELDS = (
    pa.field("kafka_topic", pa.string()),
    pa.field("kafka_partition", pa.int32()),
    pa.field("kafka_offset", pa.int64()),
    pa.field("kafka_timestamp", pa.timestamp("ms", tz="UTC")),
)
"""Provenance, kept in every row of the output."""

PARTITION_COLUMNS = frozenset({"dt", "hour"})
"""Columns that readers take from the directories' names. With one of the same name in the files
pyarrow can't read them as a dataset, and DuckDB, where case is no difference, hides the event's."""

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

    With several versions (`schemas.versions`), `document` is that of the current one and `versions`
    has name and contract of each, the first for records that name none.

    Picklable, and small: validators are compiled from `document` where they are used, for
    jsonschema-rs validators do not pickle.
    """

    source: str
    document: Mapping[str, Any] = field(repr=False)
    ref: SchemaRef
    versions: tuple[tuple[str, Contract], ...] = field(default=(), repr=False)
    version_field: str | None = None
    unified_node: Node | None = field(default=None, repr=False)

    @property
    def node(self) -> Node:
        """The Arrow side of one event, whatever its version."""
        return self.unified_node or derive_node(self.document, self.document)

    @property
    def columns(self) -> tuple[tuple[str, Node], ...]:
        """Name and node of each event column, the one for unnamed fields not included."""
        node = self.node
        return node.fields if isinstance(node, Struct) else ((VALUE_COLUMN, node),)

    @property
    def extra_column(self) -> str | None:
        """Name of the column that keeps unnamed fields as JSON text, where they are allowed."""
        node = self.node
        return node.extra if isinstance(node, Struct) else None

    @property
    def event_schema(self) -> pa.Schema:
        """Arrow schema of the event's own columns, before normalisation."""
        fields = [pa.field(name, node.arrow_type) for name, node in self.columns]
        if self.extra_column:
            fields.append(pa.field(self.extra_column, pa.string()))
        return pa.schema(fields)

    @property
    def batch_schema(self) -> pa.Schema:
        """Arrow schema of a validated batch: event, Kafka columns, ride-along columns."""
        return pa.schema([*self.event_schema, *KAFKA_FIELDS, *RIDE_ALONG_FIELDS])

    @property
    def event_time_field(self) -> str | None:
        """The field that the schema itself names as event time (`x-event-time`)."""
        named = self.document.get("x-event-time")
        return str(named) if named else None


def file_schema(batch_schema: pa.Schema) -> pa.Schema:
    """`batch_schema` without its ride-along columns: what a file holds."""
    dropped = {column.name for column in RIDE_ALONG_FIELDS}
    return pa.schema([column for column in batch_schema if column.name not in dropped])


def columns_apart(one: pa.Schema, other: pa.Schema) -> list[str]:
    """What keeps files of two schemas from being one dataset; none if a reader takes both.

    A column that only one of them has is null in the other's files.
    """
    return [
        f"column {column.name!r} is {column.type} and {other.field(column.name).type}"
        for column in one
        if column.name in other.names and other.field(column.name).type != column.type
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
    """Reads and checks the JSON Schema at `path`, JSON or YAML; `flag` named it.

    Raises:
      UsageError: the file can't be read, is not JSON or YAML, is no valid JSON Schema, points
        outside itself and the files beside it, or names a column that the pipeline adds.
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
