"""Event contracts: a JSON Schema file, and what this pipeline derives from it."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import jsonschema
import jsonschema_rs
import pyarrow as pa
from jsonschema.validators import validator_for

from beam_pipeline.errors import UsageError
from beam_pipeline.records import DEFAULT_KAFKA_COLUMNS, KAFKA_COLUMNS, SchemaRef
from beam_pipeline.schemas.coercion import Coercion, coercion_of
from beam_pipeline.schemas.judge import Judge, compile_validator
from beam_pipeline.schemas.nodes import (
    DEFAULT_MAX_COLUMNS,
    Derived,
    Flattener,
    ListOf,
    MapOf,
    Node,
    Struct,
    derive,
    digits_of,
)
from beam_pipeline.schemas.numbers import Digits
from beam_pipeline.schemas.references import References
from beam_pipeline.schemas.source import read_schema, with_pointers_only
from beam_pipeline.times import TIME_UNITS

VALUE_COLUMN = "value"
"""The only column of events whose schema is not an object with properties."""

TIME_UNIT_KEYWORD = "x-event-time-unit"

KAFKA_FIELDS = (
    pa.field("kafka_topic", pa.string()),
    pa.field("kafka_partition", pa.int32()),
    pa.field("kafka_offset", pa.int64()),
    pa.field("kafka_timestamp", pa.timestamp("ms", tz="UTC")),
)
"""Where a row comes from; in every row of the output."""

HEADERS_TYPE = pa.list_(pa.struct([("key", pa.string()), ("value", pa.binary())]))
"""The headers of a record in their order; null if it has none."""

RECORD_SCHEMA = pa.schema(
    [
        *KAFKA_FIELDS,
        pa.field("_timestamp_type", pa.string()),
        pa.field("_key", pa.binary()),
        pa.field("_value", pa.binary()),
        pa.field("_headers", HEADERS_TYPE),
    ]
)
"""The columns of a batch of records, one row a record; the event time is in the value."""

RIDE_ALONG_FIELDS = (
    pa.field("_timestamp_type", pa.string()),
    pa.field("_key", pa.binary()),
    pa.field("_value", pa.dictionary(pa.int32(), pa.binary())),
    RECORD_SCHEMA.field("_headers"),
    pa.field("_event_time", pa.timestamp("us", tz="UTC")),
)
"""What dead letters, windows and `RECORD_FIELDS` need of a record; every batch has it as far as the
sink's parts. `_value` refers to the values of the batch that was read, so that a step that takes,
filters or cuts rows copies an index and not the bytes."""

RECORD_FIELDS = {
    "key": pa.field("kafka_key", pa.binary()),
    "headers": pa.field("kafka_headers", HEADERS_TYPE),
    "value": pa.field("kafka_value", pa.binary()),
}
"""The columns of files that `--kafka_columns` may name beside `KAFKA_FIELDS`, by their names there.
Batches have them under the names in `RIDE_ALONG_FIELDS`."""

RIDE_ALONG_SOURCES = {column.name: f"_{name}" for name, column in RECORD_FIELDS.items()}
"""The ride-along column that each of `RECORD_FIELDS` is made of."""


@dataclass(frozen=True)
class Contract:
    """A checked JSON Schema with its identity.

    If there are several versions (`schemas.versions`), `document` is the schema of the current one.
    `versions` has name and contract of each; the first is for records that name no version.

    A contract can be pickled and is small. Validators can't (jsonschema-rs), so they are compiled
    from `document` where they are used. The columns are derived once in each process.
    """

    source: str
    document: Mapping[str, Any] = field(repr=False)
    ref: SchemaRef
    versions: tuple[tuple[str, Contract], ...] = field(default=(), repr=False)
    version_field: str | None = None
    unified_node: Node | None = field(default=None, repr=False)
    max_columns: int = DEFAULT_MAX_COLUMNS
    asserts_formats: bool = True

    def __getstate__(self) -> dict[str, Any]:
        names = {part.name for part in fields(self)}
        return {name: value for name, value in self.__dict__.items() if name in names}

    @functools.cached_property
    def flattener(self) -> Flattener:
        """Merges parts of the document; it knows the document's references."""
        return Flattener(References(self.plain_document), self.asserts_formats)

    @functools.cached_property
    def plain_document(self) -> Mapping[str, Any]:
        """The document, with JSON pointers as references (`source.with_pointers_only`)."""
        return with_pointers_only(self.document)

    @functools.cached_property
    def _derived(self) -> Derived:
        return derive(self.plain_document, self.flattener, self.max_columns)

    @property
    def node(self) -> Node:
        """The node of an event of any version."""
        return self.unified_node or self._derived.node

    @functools.cached_property
    def digits(self) -> Digits:
        """Which digits of numbers the columns and coercions of any version need."""
        if self.versions:
            return max([digits_of(self.node), *(part.digits for _, part in self.versions)])
        coerced = Digits.OF_NONE if self.coercion is None else self.coercion.digits
        return max(digits_of(self.node), coerced)

    @functools.cached_property
    def coercion(self) -> Coercion | None:
        """What is applied to events before the verdict, None if `x-coerce` asks for nothing."""
        return coercion_of(self.plain_document, f"--schema={self.source}")

    def judge(self, max_value_bytes: int, digits: Digits | None = None) -> Judge:
        """Return what judges events by this contract.

        Args:
          max_value_bytes: how large a value may be.
          digits: as for `Judge`; None if the columns of this contract decide.
        """
        if digits is None:
            digits = self.digits
        return Judge(self.document, max_value_bytes, self.asserts_formats, digits, self.coercion)

    @property
    def levels(self) -> int | None:
        """How many levels below the event have Arrow types, None if all have (`nodes.Derived`)."""
        return self._derived.levels

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of the columns, one line each, of all versions."""
        if self.versions:
            return tuple(note for _, part in self.versions for note in part.notes)
        derived = self._derived
        if derived.levels is None:
            return ()
        why = (
            f"it has more than --max_columns={self.max_columns} columns"
            if derived.is_too_wide
            else "Arrow's files can't nest deeper"
        )
        return (
            f"{self.source}: objects and lists more than {derived.levels} levels below the event "
            f"are JSON text, since {why}",
        )

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

    @property
    def event_time_unit(self) -> str | None:
        """The unit of event times that are numbers (`x-event-time-unit`), or None."""
        named = self.document.get(TIME_UNIT_KEYWORD)
        return None if named is None else str(named)


def row_schema(batch_schema: pa.Schema) -> pa.Schema:
    """Return `batch_schema` without the ride-along columns.

    >>> row_schema(pa.schema([("n", pa.int64()), *RIDE_ALONG_FIELDS])).names
    ['n']
    """
    dropped = {column.name for column in RIDE_ALONG_FIELDS}
    return pa.schema([column for column in batch_schema if column.name not in dropped])


def file_schema(
    batch_schema: pa.Schema, kafka_columns: Sequence[str] = DEFAULT_KAFKA_COLUMNS
) -> pa.Schema:
    """Return the schema of the files for batches of `batch_schema`.

    Args:
      batch_schema: the columns of the event, the Kafka columns, and perhaps ride-along columns.
      kafka_columns: which Kafka columns the files have, of `records.KAFKA_COLUMNS`.

    Raises:
      UsageError: the event has a column with the name of one of `RECORD_FIELDS` that is asked for.

    >>> schema = pa.schema([("n", pa.int64()), *RIDE_ALONG_FIELDS])
    >>> file_schema(schema, ["topic", "key", "headers"]).names
    ['n', 'kafka_key', 'kafka_headers']
    """
    rows = row_schema(batch_schema)
    check_record_columns(rows.names, kafka_columns)
    return pa.schema([*rows, *record_fields(kafka_columns)])


def record_fields(kafka_columns: Iterable[str]) -> list[pa.Field]:
    """Return those of `RECORD_FIELDS` that `kafka_columns` names, in the order of the files."""
    named = set(kafka_columns)
    return [RECORD_FIELDS[name] for name in KAFKA_COLUMNS if name in named & RECORD_FIELDS.keys()]


def check_record_columns(
    names: Iterable[str], kafka_columns: Sequence[str], where: str = ""
) -> None:
    """Check that no column of an event has the name of a Kafka column that the files get beside it.

    Args:
      names: the columns of the event.
      kafka_columns: which Kafka columns the files have.
      where: the flag that the columns come from, for the message.

    Raises:
      UsageError: a column has such a name, in any case.
    """
    added = {column.name for column in record_fields(kafka_columns)}
    for name in names:
        if name.casefold() in added:
            short = name.casefold().removeprefix("kafka_")
            others = ",".join(column for column in kafka_columns if column != short)
            raise UsageError(
                f"{where and where + ': '}column {name!r} has the name of a column that "
                f"--kafka_columns adds; rename it, or give --kafka_columns={others}"
            )


def check_event_time_field(contract: Contract, path: str, unit: str | None = None) -> None:
    """Check that event times can be made of the field at the dotted `path`.

    Args:
      contract: the schema.
      path: the field.
      unit: that of a number; None if neither a flag nor the schema names one.

    Raises:
      UsageError: the schema has no such field, it holds neither texts, numbers nor times, or a unit
        is named and it holds no numbers.
    """
    where = f"--event_time_field={path}: --schema={contract.source}"
    remedy = "name a field of texts (RFC 3339) or of numbers (see --event_time_unit)"
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
    if unit is not None and not any(is_kind(kind) for is_kind in _KINDS_OF_NUMBERS):
        raise UsageError(
            f"{where} has no numbers there, but {kind}; leave --event_time_unit and "
            f"{TIME_UNIT_KEYWORD} out ({unit!r}), they are for numbers"
        )


_KINDS_OF_NUMBERS = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
_KINDS_OF_TIMES = (
    *_KINDS_OF_NUMBERS,
    pa.types.is_string,
    pa.types.is_timestamp,
    pa.types.is_date,
)


def load_contract(
    path: str | Path,
    flag: str = "--schema",
    max_columns: int = DEFAULT_MAX_COLUMNS,
    asserts_formats: bool = True,
) -> Contract:
    """Read and check the JSON Schema at `path`, JSON or YAML.

    Args:
      path: the file; it may refer to others in its directory.
      flag: what error messages name as the source of the path.
      max_columns: how many Parquet columns an event may have; beyond it the deepest are JSON text.
      asserts_formats: whether a text without the format that the schema names is refused.

    Raises:
      UsageError: the file can't be read, is not JSON or YAML, is not a valid JSON Schema, refers
        to something else than files beside it, or has a property that is a column of the pipeline.
    """
    document, sha256 = read_schema(path, flag)
    identity = document.get("$id")
    _check_schema(document, f"{flag}={path}")
    contract = Contract(
        source=str(path),
        document=document,
        ref=SchemaRef(identity if isinstance(identity, str) else None, sha256),
        max_columns=max_columns,
        asserts_formats=asserts_formats,
    )
    _refuse_reserved_names(contract, flag)
    coercion_of(contract.plain_document, f"{flag}={path}")
    unit = document.get(TIME_UNIT_KEYWORD)
    if unit is not None and unit not in [*TIME_UNITS]:
        raise UsageError(
            f"{flag}={path}: {TIME_UNIT_KEYWORD} is {unit!r}; it must be one of "
            f"{', '.join(TIME_UNITS)}"
        )
    refuse_case_twins(contract, flag)
    return contract


def _check_schema(document: Mapping[str, Any], where: str) -> None:
    """Check that the library that decides takes a schema.

    Raises:
      UsageError: it does not; the words are those of the library that explains, if it has any.
    """
    try:
        compile_validator(document)
        return
    except (jsonschema_rs.ReferencingError, ValueError) as error:
        # ValidationError is a ValueError. An error that is none has no message of its own.
        reason = " ".join(str(getattr(error, "message", error)).split())
    try:
        validator_for(document, default=jsonschema.Draft202012Validator).check_schema(document)
    except jsonschema.SchemaError as error:
        raise UsageError(
            f"{where}: not a valid JSON Schema at {error.json_path}: {error.message}"
        ) from None
    except Exception:  # it can fail in any way on what is no schema, and has no say in this
        pass
    raise UsageError(f"{where}: {reason[:_MAX_REASON_CHARACTERS]}") from None


_MAX_REASON_CHARACTERS = 500


def _refuse_reserved_names(contract: Contract, flag: str) -> None:
    taken = sorted(name for name in contract.event_schema.names if is_reserved(name))
    if taken:
        raise UsageError(
            f"{flag}={contract.source}: property {taken[0]!r} is a column that the pipeline adds; "
            "take it out of the schema's properties, and the column of unnamed fields (extra) will "
            "hold it"
        )


def refuse_case_twins(contract: Contract, flag: str) -> None:
    """Refuse columns and fields whose names differ in case alone, at any depth.

    DuckDB, Spark and Hive ignore the case of names: they read one of two such columns, or none.

    Raises:
      UsageError: there are two.
    """
    twins = _case_twins(contract.node, "")
    if twins is not None:
        above, first, second = twins
        where = f" in {above!r}" if above else ""
        raise UsageError(
            f"{flag}={contract.source}: properties {first!r} and {second!r}{where} differ in case "
            "alone, and readers such as DuckDB, Spark and Hive take them for one column; rename "
            "one, or take one out of the schema's properties, and the column of unnamed fields "
            "(extra) will hold it"
        )


def _case_twins(node: Node, above: str) -> tuple[str, str, str] | None:
    if isinstance(node, ListOf):
        return _case_twins(node.items, above)
    if isinstance(node, MapOf):
        return _case_twins(node.values, above)
    if not isinstance(node, Struct):
        return None
    names = [name for name, _ in node.fields]
    twins = same_but_case([*names, *([node.extra] if node.extra else [])])
    if twins is not None:
        return above, *twins
    below = (
        _case_twins(child, f"{above}.{name}" if above else name) for name, child in node.fields
    )
    return next(filter(None, below), None)


def same_but_case(names: Iterable[str]) -> tuple[str, str] | None:
    """Return two names that differ in case alone; None if there are none.

    >>> same_but_case(["id", "name", "Id"])
    ('id', 'Id')
    """
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.lower(), name)
        if other != name:
            return other, name
    return None


def is_reserved(name: str) -> bool:
    """Return whether no field of an event may have a column of this name, in any case.

    DuckDB, Spark and Hive ignore the case of names. `check_record_columns` has the names that are
    taken only where `--kafka_columns` asks for them.
    """
    return name.casefold() in _RESERVED


def check_partition_keys(
    names: Iterable[str], partition_keys: Sequence[str], where: str = ""
) -> None:
    """Check that no column has the name of a partition key, which readers take from directories.

    If files have such a column, pyarrow can't read them as a dataset, and DuckDB hides the column.
    Readers such as DuckDB and Spark ignore case.

    Args:
      names: the columns of the files.
      partition_keys: the keys of day and hour in the names of directories.
      where: the flag that the columns come from, for the message.

    Raises:
      UsageError: a column has the name of a key.
    """
    keys = {key.casefold() for key in partition_keys}
    for name in names:
        if name.casefold() in keys:
            free = ",".join(f"file_{key}" for key in partition_keys)
            raise UsageError(
                f"{where and where + ': '}column {name!r} has the name of a partition key "
                f"(--partition_keys={','.join(partition_keys)}), so readers could not tell them "
                f"apart; name the keys otherwise, such as --partition_keys={free}"
            )


_RESERVED = frozenset(column.name for column in (*KAFKA_FIELDS, *RIDE_ALONG_FIELDS))
