"""The user's own transforms: Python over Arrow batches, named on the command line."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, Protocol

import pyarrow as pa

from beam_pipeline.errors import UsageError
from beam_pipeline.records import SchemaRef
from beam_pipeline.schemas.contract import (
    KAFKA_FIELDS,
    PARTITION_COLUMNS,
    RIDE_ALONG_FIELDS,
    file_schema,
)
from beam_pipeline.transforms.batches import BatchTransform

_KAFKA_COLUMNS = tuple(column.name for column in KAFKA_FIELDS)
_RIDE_ALONG_COLUMNS = tuple(column.name for column in RIDE_ALONG_FIELDS)


class Transform(Protocol):
    """What `--transform package.module:Name` names: a function, or a class that is made without
    arguments and whose instances are called.

    It is called with a batch that has the columns of the files, the event's and the four Kafka
    columns, and gives one with the same rows in the same order. Event columns may be changed,
    added and taken away; the Kafka columns stay. Which columns come out, and their types, must
    not depend on the rows: it is tried on a batch of none when the job is built.

    An exception makes dead letters: the batch is halved until the rows at fault stand alone, and
    those become `TRANSFORM_ERROR` with its message. So it must give the same for a row whatever
    the rows beside it, and raise for each row that it refuses.

    An instance with a method `setup` has that called once in each worker, before the first batch.
    """

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch: ...


class UserTransform(BatchTransform):
    """PCollection[pa.RecordBatch] to `Outputs`: the rows as a user's transform gives them.

    Raises:
      UsageError: there is no such transform, or it breaks the protocol on a batch of no rows.
    """

    def __init__(
        self, specification: str, number: int, input_schema: pa.Schema, schema_ref: SchemaRef
    ) -> None:
        self.stage = f"transform_{number}"
        function = UserFunction(specification)
        _try_on_no_rows(function, input_schema)
        super().__init__(function, schema_ref)


class UserFunction:
    """The pure function behind `UserTransform`: loads what is named where it runs, so nothing of
    the user's needs to pickle, and holds it to the protocol."""

    def __init__(self, specification: str) -> None:
        self._specification = specification
        self._transform: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_specification": self._specification, "_transform": None}

    def setup(self) -> None:
        """Loads the transform and lets it set itself up; a worker calls this once."""
        self._transform = load_transform(self._specification)
        set_up = getattr(self._transform, "setup", None)
        if set_up is not None:
            set_up()

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Raises what the transform raises, and TypeError or ValueError for a broken protocol."""
        if self._transform is None:
            self.setup()
        result = self._transform(batch.select(file_schema(batch.schema).names))
        if not isinstance(result, pa.RecordBatch):
            raise TypeError(
                f"{self._specification} gave a {type(result).__name__}, not a pyarrow.RecordBatch"
            )
        if result.num_rows != batch.num_rows:
            raise ValueError(
                f"{self._specification} gave {result.num_rows} rows for {batch.num_rows}; "
                "raise an exception for a row that is to be a dead letter"
            )
        if len(set(result.schema.names)) < len(result.schema.names):
            raise ValueError(f"{self._specification} gave two columns of one name")
        for name in _KAFKA_COLUMNS:
            if name not in result.schema.names or result.column(name) != batch.column(name):
                raise ValueError(f"{self._specification} changed the column {name!r}")
        names = [*(n for n in result.schema.names if n not in _KAFKA_COLUMNS), *_KAFKA_COLUMNS]
        riding = [name for name in _RIDE_ALONG_COLUMNS if name in batch.schema.names]
        schema = [result.schema.field(name) for name in names]
        return pa.RecordBatch.from_arrays(
            [*(result.column(name) for name in names), *(batch.column(name) for name in riding)],
            schema=pa.schema([*schema, *(batch.schema.field(name) for name in riding)]),
        )


def load_transform(specification: str) -> Transform:
    """The function that `specification` names, or an instance of the class.

    Raises:
      UsageError: there is none, or it can't be made.
    """
    module_name, _, name = specification.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), name)
        transform: Any = found() if isinstance(found, type) else found
    except Exception as error:  # whatever the user's module does when it is loaded
        raise UsageError(
            f"--transform={specification}: can't be loaded ({_one_line(error)}); the module must "
            "be installed, or lie below the directory that the pipeline is started in"
        ) from error
    if not callable(transform):
        raise UsageError(
            f"--transform={specification}: is a {type(transform).__name__}, not "
            "something to call with a batch"
        )
    loaded: Transform = transform
    return loaded


def user_transforms(
    specifications: Sequence[str], input_schema: pa.Schema, schema_ref: SchemaRef
) -> list[UserTransform]:
    """The transforms that `--transform` names, in order, each tried on what the one before gives.

    Raises:
      UsageError: one can't be loaded, or breaks the protocol on a batch of no rows.
    """
    transforms = []
    for number, specification in enumerate(specifications, start=1):
        transform = UserTransform(specification, number, input_schema, schema_ref)
        input_schema = transform.output_schema(input_schema)
        transforms.append(transform)
    return transforms


def _try_on_no_rows(function: UserFunction, input_schema: pa.Schema) -> None:
    where = f"--transform={function._specification}"
    try:
        schema = function(pa.RecordBatch.from_pylist([], schema=input_schema)).schema
    except UsageError:
        raise
    except Exception as error:  # whatever the user's code does on a batch of no rows
        raise UsageError(f"{where}: fails on a batch of no rows ({_one_line(error)})") from error
    for name in file_schema(schema).names:
        if name.lower() in PARTITION_COLUMNS:
            raise UsageError(f"{where}: gives a column {name!r}, which the pipeline adds")


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
