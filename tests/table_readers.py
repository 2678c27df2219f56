"""What readers of a table make of it: DuckDB with its Iceberg extension, and pyiceberg."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.runtime.programs.cache import (
    cache_directory,
    move_into_cache,
    scratch_directory,
)
from beam_pipeline.runtime.programs.pip_tool import pip_install

if TYPE_CHECKING:
    from pyiceberg.table import Table

ORIGIN = ("kafka_partition", "kafka_offset")
_RELEASE = "1.5.5"  # that of requirements/duckdb.in
_CHILD = Path(__file__).with_name("duckdb_child.py")
_EXTENSIONS = ("avro", "httpfs", "iceberg")  # what loads the last one needs the others


@dataclass(frozen=True)
class DuckDB:
    """DuckDB in a directory of its own, beside the version that the other tests use.

    Its extensions are loaded from files, and it can't install others: it never needs a network.

    Args:
        directory: where pip has put it.
        statements: SQL that is run before the queries.
    """

    directory: Path
    statements: Sequence[str] = ()

    def query(self, *queries: str) -> list[pa.Table]:
        """Return the answers of queries, from a process of its own."""
        with tempfile.TemporaryDirectory() as scratch:
            answers = [str(Path(scratch) / f"{number}.arrow") for number in range(len(queries))]
            asked = {
                "extensions": [str(self._extension(name)) for name in _EXTENSIONS],
                "statements": list(self.statements),
                "queries": dict(zip(answers, queries, strict=True)),
            }
            finished = subprocess.run(
                [sys.executable, str(_CHILD)],
                input=json.dumps(asked),
                capture_output=True,
                text=True,
                env={**os.environ, **self.environment(Path(scratch))},
            )
            assert finished.returncode == 0, finished.stderr
            return [pa.ipc.open_file(answer).read_all() for answer in answers]

    def environment(self, home: Path) -> dict[str, str]:
        """Return the variables by which Python finds it; extensions are installed below `home`."""
        return {"PYTHONPATH": str(self.directory), "HOME": str(home)}

    def count(self, *queries: str) -> list[int]:
        """Return the answers of queries for one number each."""
        return [answer.column(0)[0].as_py() for answer in self.query(*queries)]

    def _extension(self, name: str) -> Path:
        package = self.directory / f"duckdb_extension_{name}"
        return package / "extensions" / f"v{_RELEASE}" / f"{name}.duckdb_extension"


def find_duckdb() -> DuckDB:
    """Return DuckDB with the extensions, installed first if it is not in the cache.

    Raises:
        EnvironmentFailure: it can't be installed.
    """
    directory = cache_directory() / "duckdb" / f"{_RELEASE}-{sys.implementation.cache_tag}"
    if not directory.is_dir():
        with scratch_directory() as scratch:
            pip_install("duckdb", scratch / "duckdb", scratch / "pip.log")
            directory.parent.mkdir(parents=True, exist_ok=True)
            move_into_cache(scratch / "duckdb", directory)
    return DuckDB(directory)


class Contents(NamedTuple):
    """The columns and rows of tables, in one order whoever has read them.

    Attributes:
        types: the columns with types that all readers have.
        rows: the rows in the order of their origins.
    """

    types: pa.Schema
    rows: list[dict[str, Any]]


def contents_of(*tables: pa.Table) -> Contents:
    """Return what some tables hold together; what one of them has no column for is null.

    Iceberg has no dictionaries, and no timestamps of milliseconds: what it reads for them are the
    texts and microseconds. Readers name the elements of lists in their own ways, and have the
    fields of structs in their own orders.
    """
    types = pa.unify_schemas(
        [_plain_schema(table.schema) for table in tables], promote_options="permissive"
    )
    types = _plain_schema(types)
    rows = pa.Table.from_pylist([row for table in tables for row in table.to_pylist()], types)
    return Contents(types, rows.sort_by([(name, "ascending") for name in ORIGIN]).to_pylist())


def _plain_schema(schema: pa.Schema) -> pa.Schema:
    return pa.schema(
        sorted(
            ((field.name, _plain_type(field.type)) for field in schema), key=lambda pair: pair[0]
        )
    )


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _plain_type(kind.value_type)
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", kind.tz)
    if pa.types.is_struct(kind):
        return pa.struct(list(_plain_schema(pa.schema(list(kind)))))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(_plain_type(kind.value_type))
    if pa.types.is_map(kind):
        return pa.map_(_plain_type(kind.key_type), _plain_type(kind.item_type))
    if pa.types.is_large_string(kind):
        return pa.string()
    if pa.types.is_large_binary(kind):
        return pa.binary()
    return kind


class Reader(NamedTuple):
    """A table as its readers open it.

    Attributes:
        duckdb: reads it by SQL.
        table: the table, opened by pyiceberg.
        attached: its name in DuckDB; without one, DuckDB opens its directory.
    """

    duckdb: DuckDB
    table: Table
    attached: str | None = None

    @property
    def scan(self) -> str:
        """The table in DuckDB's SQL."""
        directory = self.table.location().removeprefix("file://")
        return self.attached or f"iceberg_scan('{directory}')"

    def check(self, contents: Contents, *, by_batches: bool = False) -> None:
        """Check that both read what the files hold."""
        (by_duckdb,) = self.duckdb.query(f"SELECT * FROM {self.scan}")
        check_equal(contents_of(by_duckdb), contents)
        scan = self.table.refresh().scan()
        by_pyiceberg = scan.to_arrow_batch_reader().read_all() if by_batches else scan.to_arrow()
        check_equal(contents_of(by_pyiceberg), as_pyiceberg_reads(contents))


def check_equal(found: Contents, expected: Contents) -> None:
    """Check that rows are the same, bit by bit; `==` holds for 0.0 and -0.0."""
    assert found.types == expected.types
    for found_row, expected_row in zip(found.rows, expected.rows, strict=True):
        assert found_row == expected_row
        assert repr(found_row.get("ratio")) == repr(expected_row.get("ratio"))


def as_pyiceberg_reads(contents: Contents) -> Contents:
    """Return contents with empty lists for null lists of structs.

    pyiceberg 0.12 reads them so: https://github.com/apache/iceberg-python/issues/3833.
    """
    names = [field.name for field in contents.types if _is_list_of_structs(field.type)]
    rows = [{**row, **{name: row[name] or [] for name in names}} for row in contents.rows]
    return Contents(contents.types, rows)


def _is_list_of_structs(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) and pa.types.is_struct(kind.value_type))


if __name__ == "__main__":  # before the tests, so that none of them waits for it
    try:
        find_duckdb()
    except EnvironmentFailure as error:
        print(f"Tests of a table's readers will be skipped; in CI they fail: {error}")
