"""Opens the catalog of a table for who writes it."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from pyiceberg.catalog import Catalog

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.settings.catalog_file import CatalogProperties
from beam_pipeline.settings.table import TableJob
from beam_pipeline.settings.table_names import EMBEDDED_FILE, table_directory
from beam_pipeline.storage.durable import make_directory, sync
from beam_pipeline.tables.connect import catalog_properties, connect

_FILE_IO = "beam_pipeline.tables.durable_io.DurableFileIO"


def embedded_file(job: TableJob) -> Path | None:
    """Return the file of a job's embedded catalog; None if `--catalog` names another."""
    if job.table.catalog is not None:
        return None
    return table_directory(Path(job.output_dir)) / EMBEDDED_FILE


def properties_of(job: TableJob) -> CatalogProperties:
    """Return the properties of a job's catalog, with a FileIO that syncs.

    Raises:
        UsageError: the file of `--catalog` does not serve.
    """
    properties = catalog_properties(job.table.catalog, job.output_dir)
    properties.setdefault("py-io-impl", _FILE_IO)
    return properties


def open_catalog(job: TableJob) -> Catalog:
    """Open the catalog of a job; the embedded one is made if it is missing.

    Raises:
        UsageError: the file of `--catalog` does not serve.
        EnvironmentFailure: the catalog does not answer, or can't be made.
    """
    properties = properties_of(job)
    if job.table.catalog is not None:
        return connect(properties)
    directory = table_directory(Path(job.output_dir))
    try:
        make_directory(directory, private=False)
        sync(directory.parent)
        with _locked(directory):
            return connect(properties)
    except OSError as error:
        raise EnvironmentFailure(f"{directory}: {error.strerror}") from None


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Keep others from making the catalog in a directory for the time of the block.

    pyiceberg looks whether its two tables are there and then makes them.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
