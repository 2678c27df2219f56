"""Opens the catalog of a table: that of `--catalog`, or one embedded in the output directory."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from pyiceberg.catalog import Catalog, load_catalog

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.settings.catalog_file import SHOWN, CatalogProperties, read_catalog_file
from beam_pipeline.settings.masking import MASK
from beam_pipeline.settings.table import EMBEDDED_FILE, TABLE_DIRECTORY, TableJob
from beam_pipeline.storage.durable import make_directory, sync

CATALOG_NAME = "beam_pipeline"
_LEAST_SECRET = 4
_FILE_IO = "beam_pipeline.tables.durable_io.DurableFileIO"

# pyiceberg logs a line for each dictionary column of each file.
logging.getLogger("pyiceberg.io.pyarrow").setLevel(logging.ERROR)
logging.getLogger("pyiceberg.io").setLevel(logging.WARNING)


def embedded_properties(output_dir: Path) -> CatalogProperties:
    """Return the properties of the catalog that is a SQLite file below the output directory."""
    directory = table_directory(output_dir)
    return CatalogProperties(
        type="sql",
        uri=f"sqlite:///{directory / EMBEDDED_FILE}",
        warehouse=f"file://{directory}",
    )


def table_directory(output_dir: Path) -> Path:
    """Return where links and the embedded catalog are, absolute."""
    return output_dir.absolute() / TABLE_DIRECTORY


def embedded_file(job: TableJob) -> Path | None:
    """Return the file of a job's embedded catalog; None if `--catalog` names another."""
    if job.table.catalog is not None:
        return None
    return table_directory(Path(job.output_dir)) / EMBEDDED_FILE


def properties_of(job: TableJob) -> CatalogProperties:
    """Return the properties of a job's catalog.

    Raises:
        UsageError: the file of `--catalog` does not serve.
    """
    if job.table.catalog is not None:
        properties = read_catalog_file(Path(job.table.catalog))
    else:
        properties = embedded_properties(Path(job.output_dir))
    properties.setdefault("py-io-impl", _FILE_IO)
    return properties


def open_catalog(job: TableJob) -> Catalog:
    """Open the catalog of a job; the embedded one is made if it is missing.

    Raises:
        UsageError: the file of `--catalog` does not serve.
        EnvironmentFailure: the catalog does not answer, or can't be made.
    """
    properties = properties_of(job)
    if job.table.catalog is None:
        directory = table_directory(Path(job.output_dir))
        try:
            make_directory(directory, private=False)
            sync(directory.parent)
        except OSError as error:
            raise EnvironmentFailure(f"{directory}: {error.strerror}") from None
    try:
        return load_catalog(CATALOG_NAME, **properties)
    except Exception as error:
        raise EnvironmentFailure(f"the catalog: {words_of(error, properties)}") from error


def words_of(error: BaseException, properties: Mapping[str, str]) -> str:
    """Return one line on an error, without the values of the catalog's properties."""
    text = " ".join(str(error).split())[:500] or "no reason given"
    return f"{type(error).__name__}: {without_secrets(text, properties)}"


def without_secrets(text: str, properties: Mapping[str, str]) -> str:
    """Return a text without the values of a catalog's properties."""
    for name, value in properties.items():
        if name not in SHOWN:
            for part in {value, *value.split(":")}:
                if len(part) >= _LEAST_SECRET:
                    text = text.replace(part, MASK)
    return text
