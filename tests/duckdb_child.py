"""Answer SQL queries with DuckDB's Iceberg extension; `table_readers` starts it in a process."""

from __future__ import annotations

import json
import sys

import duckdb
import pyarrow as pa


def main() -> None:
    """Take a JSON object on stdin, and write the answers as files of Arrow's IPC format."""
    asked = json.load(sys.stdin)
    connection = duckdb.connect(
        config={
            "autoinstall_known_extensions": "false",  # which would ask a host of DuckDB's
            "autoload_known_extensions": "false",
        }
    )
    for path in asked["extensions"]:
        connection.execute(f"LOAD '{path}'")
    connection.execute("SET TimeZone = 'UTC'")
    for statement in asked["statements"]:
        connection.execute(statement)
    for path, query in asked["queries"].items():
        table: pa.Table = connection.sql(query).to_arrow_table()
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)


if __name__ == "__main__":
    main()
