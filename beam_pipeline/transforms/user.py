"""The user's transforms: Python code over Arrow batches, named on the command line."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, Protocol

import pyarrow as pa

from beam_pipeline.errors import UsageError
from beam_pipeline.records import SchemaRef
from beam_pipeline.schemas.contract import (
    KAFKA_FIELDS,
    RIDE_ALONG_FIELDS,
    row_schema,
    same_but_case,
)
from beam_pipeline.transforms.batches import BatchTransform

_KAFKA_COLUMNS = tuple(column.name for column in KAFKA_FIELDS)
_RIDE_ALONG_COLUMNS = tuple(column.name for column in RIDE_ALONG_FIELDS)


class Transform(Protocol):
    """What `--transform=package.module:Name` names: a function, or a class that is created without
    arguments and whose instances are called.

    It is called with a batch that has the event's columns and `kafka_topic`, `kafka_partition`,
    `kafka_offset` and `kafka_timestamp`, and returns a batch with the same rows in the same order.
    It may change, add and remove columns of the event; the Kafka columns stay. Which columns it
    returns, and their types, must not depend on the rows: it is called with no rows when the job is
    built. With `--null_values=row`, all columns of the event are null in a tombstone's row.

    An exception makes dead letters (`TRANSFORM_ERROR`). The transform is called again for each half
    of the batch, down to single rows, and those for which it still raises become dead letters with
    the message of the exception. So it must return the same for a row whatever rows are beside it,
    and raise for each row that it refuses.

    If an instance has a method `setup`, that is called once in each worker before the first batch.
    """

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch: ...


class UserTransform(BatchTransform):
    """PCollection[pa.RecordBatch] to `Outputs`: applies a user's transform. Any windowing.

    Args:
      transform: `package.module:Name`, or a function or class as the protocol says.
      number: which of the user's transforms it is, from 1; part of the dead letters' stage.
      input_schema: the schema of the batches that come in.
      schema_ref: the schema that the rows were judged by.

    Raises:
      UsageError: there is no such transform, or it breaks the protocol on a batch of no rows.
    """

    def __init__(
        self,
        transform: str | Transform | type[Transform],
        number: int,
        input_schema: pa.Schema,
        schema_ref: SchemaRef,
    ) -> None:
        self.stage = f"transform_{number}"
        function = UserFunction(transform)
        _try_on_no_rows(function, input_schema)
        super().__init__(function, schema_ref)


class UserFunction:
    """The function behind `UserTransform`: calls the transform and checks what it returns.

    A transform that is given by name is loaded where it runs, so it need not pickle.
    """

    def __init__(self, transform: str | Transform | type[Transform]) -> None:
        if isinstance(transform, str):
            self.name = transform
        else:
            self.name = getattr(transform, "__qualname__", type(transform).__qualname__)
        self._given = transform
        self._transform: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_transform": None}

    def setup(self) -> None:
        """Load the transform and call its `setup`; a worker does this once.

        Raises:
          UsageError: the transform can't be loaded.
        """
        given = self._given
        self._transform = load_transform(given) if isinstance(given, str) else _created(given)
        set_up = getattr(self._transform, "setup", None)
        if set_up is not None:
            set_up()

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return the transform's result with the ride-along columns of `batch`.

        Raises:
          TypeError, ValueError: the transform breaks the protocol.
          Exception: whatever the transform raises.
        """
        if self._transform is None:
            self.setup()
        result = self._transform(batch.select(row_schema(batch.schema).names))
        if not isinstance(result, pa.RecordBatch):
            kind = type(result).__name__
            raise TypeError(f"{self.name} returned a {kind}, not a pyarrow.RecordBatch")
        if result.num_rows != batch.num_rows:
            raise ValueError(
                f"{self.name} returned {result.num_rows} rows for {batch.num_rows}; "
                "raise an exception for a row that is to be a dead letter"
            )
        if len(set(result.schema.names)) < len(result.schema.names):
            raise ValueError(f"{self.name} returned two columns of one name")
        twins = same_but_case(result.schema.names)
        if twins is not None:
            raise ValueError(
                f"{self.name} returned columns {twins[0]!r} and {twins[1]!r}, which differ in case "
                "alone; readers such as DuckDB and Spark take them for one"
            )
        for name in _KAFKA_COLUMNS:
            if name not in result.schema.names or result.column(name) != batch.column(name):
                raise ValueError(f"{self.name} changed the column {name!r}")
        names = [*(n for n in result.schema.names if n not in _KAFKA_COLUMNS), *_KAFKA_COLUMNS]
        riding = [name for name in _RIDE_ALONG_COLUMNS if name in batch.schema.names]
        schema = [result.schema.field(name) for name in names]
        return pa.RecordBatch.from_arrays(
            [*(result.column(name) for name in names), *(batch.column(name) for name in riding)],
            schema=pa.schema([*schema, *(batch.schema.field(name) for name in riding)]),
        )


def load_transform(specification: str) -> Transform:
    """Return the function that `specification` names, or an instance of the class.

    Raises:
      UsageError: there is none, or it can't be created.
    """
    module_name, _, name = specification.partition(":")
    try:
        transform: Any = _created(getattr(importlib.import_module(module_name), name))
    except Exception as error:  # whatever the user's module does when it is loaded
        raise UsageError(
            f"--transform={specification}: can't be loaded ({_one_line(error)}); the module must "
            "be installed, or lie below the directory that the pipeline is started in"
        ) from error
    if not callable(transform):
        raise UsageError(
            f"--transform={specification}: is a {type(transform).__name__}; it must be a function "
            "or a class whose instances can be called"
        )
    loaded: Transform = transform
    return loaded


def _created(transform: Any) -> Any:
    return transform() if isinstance(transform, type) else transform


def user_transforms(
    transforms: Sequence[str | Transform | type[Transform]],
    input_schema: pa.Schema,
    schema_ref: SchemaRef,
) -> list[UserTransform]:
    """Return the steps for transforms, in order, each tried on what the one before returns.

    Raises:
      UsageError: one can't be loaded, or breaks the protocol on a batch of no rows.
    """
    steps = []
    for number, transform in enumerate(transforms, start=1):
        step = UserTransform(transform, number, input_schema, schema_ref)
        input_schema = step.output_schema(input_schema)
        steps.append(step)
    return steps


def _try_on_no_rows(function: UserFunction, input_schema: pa.Schema) -> None:
    where = f"--transform={function.name}"
    try:
        function(pa.RecordBatch.from_pylist([], schema=input_schema))
    except UsageError:
        raise
    except Exception as error:  # whatever the user's code does on a batch of no rows
        raise UsageError(f"{where}: fails on a batch of no rows ({_one_line(error)})") from error


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
