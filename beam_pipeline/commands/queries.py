"""Commands to copy that query what was written: with DuckDB, and with pyarrow."""

from __future__ import annotations

import sys
from pathlib import Path
from urllib.parse import urlsplit

from beam_pipeline.settings.config import PipelineSettings
from beam_pipeline.settings.table import TableJob
from beam_pipeline.settings.table_names import EMBEDDED_FILE, TABLE_DIRECTORY
from beam_pipeline.storage.config import StorageConfig
from beam_pipeline.storage.urls import absolute, is_url


def query_commands(
    settings: PipelineSettings, column: str, config: StorageConfig | None = None
) -> list[list[str]]:
    """Return commands that count the rows by a column, each as its words.

    Of a directory DuckDB reads the files by their names. Of an object store DuckDB has an extension
    for S3 alone that takes the credentials of the environment; pyarrow reads all three.

    Args:
      settings: where the files are.
      column: the column.
      config: how the object store is reached; None takes what the settings say.
    """
    config = config or settings.storage
    day, hour = settings.partition_keys
    output_dir = settings.output_dir
    if is_url(output_dir):
        output_dir = absolute(output_dir)
    query = (
        f"SELECT {column}, count(*) FROM read_parquet('{output_dir}/{day}=*/{hour}=*/*.parquet') "
        "GROUP BY 1"
    )
    if not is_url(output_dir):
        return [["duckdb", "-c", query]]
    scheme, _, place = output_dir.partition("://")
    with_arrow = [
        sys.executable,
        "-c",
        _arrow_query(place, file_system(scheme, config), column),
    ]
    if scheme != "s3":
        return [with_arrow]
    return [["duckdb", "-c", f"{_duckdb_secret(config)}; {query}"], with_arrow]


def table_queries(job: TableJob, column: str) -> list[list[str]]:
    """Return commands that count the rows of a table by a column, each as its words.

    DuckDB opens the directory of an embedded table; pyiceberg opens any catalog.
    """
    if job.table.catalog is not None:
        load = f"load_catalog('c', **yaml.safe_load(open({job.table.catalog!r})))"
        return [[sys.executable, "-c", f"import yaml; {_iceberg_query(load, job, column)}"]]
    directory = Path(absolute(job.output_dir)) / TABLE_DIRECTORY
    place = directory.joinpath(*job.table.name.split("."))
    query = f"SELECT {column}, count(*) FROM iceberg_scan('{place}') GROUP BY 1"
    load = f"load_catalog('beam_pipeline', type='sql', uri='sqlite:///{directory / EMBEDDED_FILE}')"
    return [
        ["duckdb", "-c", f"INSTALL iceberg; LOAD iceberg; {query}"],
        [sys.executable, "-c", _iceberg_query(load, job, column)],
    ]


def _iceberg_query(load: str, job: TableJob, column: str) -> str:
    return (
        "from pyiceberg.catalog import load_catalog; "
        f"rows = {load}.load_table({job.table.name!r}).scan(selected_fields=({column!r},)); "
        f"rows = rows.to_arrow_batch_reader().read_all(); "
        f"counts = rows.group_by({column!r}).aggregate([([], 'count_all')]); "
        "[print(count) for count in counts.to_pylist()]"
    )


def file_system(scheme: str, config: StorageConfig) -> str:
    """Return the expression that makes pyarrow's file system; credentials are found by itself.

    >>> file_system("s3", StorageConfig(endpoint="http://127.0.0.1:7070", region="us-east-1"))
    "fs.S3FileSystem(endpoint_override='127.0.0.1:7070', scheme='http', region='us-east-1')"
    """
    endpoint = urlsplit(config.endpoint or "")
    options = {"endpoint_override": endpoint.netloc, "scheme": endpoint.scheme}
    if scheme == "s3":
        options["region"] = config.region or ""
        name = "S3FileSystem"
    elif scheme == "gs":
        name = "GcsFileSystem"
    else:
        options = {"account_name": config.account or ""}
        name = "AzureFileSystem"
    given = ", ".join(f"{option}={value!r}" for option, value in options.items() if value)
    return f"fs.{name}({given})"


def _arrow_query(place: str, file_system_text: str, column: str) -> str:
    return (
        "import pyarrow.dataset as ds, pyarrow.fs as fs; "
        f"rows = ds.dataset({place!r}, filesystem={file_system_text}, partitioning='hive'); "
        f"counts = rows.to_table([{column!r}]).group_by({column!r}); "
        "[print(count) for count in counts.aggregate([([], 'count_all')]).to_pylist()]"
    )


def _duckdb_secret(config: StorageConfig) -> str:
    """Return the statement that tells DuckDB's httpfs how to reach S3."""
    endpoint = urlsplit(config.endpoint or "")
    options = {
        "REGION": config.region,
        "ENDPOINT": endpoint.netloc or None,
        "URL_STYLE": "path" if config.path_style or config.endpoint else None,
        "PROFILE": config.profile,
    }
    given = "".join(f", {option} '{value}'" for option, value in options.items() if value)
    given += ", USE_SSL false" if endpoint.scheme == "http" else ""
    return f"CREATE SECRET (TYPE s3, PROVIDER credential_chain{given})"
