"""Reaches the catalog of a table: that of `--catalog`, or the one embedded in the output directory.

Nothing here writes. Who commits and who checks share it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from pyiceberg.catalog import Catalog, load_catalog

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.settings.catalog_file import SHOWN, CatalogProperties, read_catalog_file
from beam_pipeline.settings.masking import MASK
from beam_pipeline.settings.table_names import EMBEDDED_FILE, table_directory

CATALOG_NAME = "beam_pipeline"
_LEAST_SECRET = 4

# pyiceberg logs a line for each dictionary column of each file.
logging.getLogger("pyiceberg.io.pyarrow").setLevel(logging.ERROR)
logging.getLogger("pyiceberg.io").setLevel(logging.WARNING)


def catalog_properties(catalog_file: str | None, output_dir: str) -> CatalogProperties:
    """Return the properties of a catalog.

    Args:
        catalog_file: the file of `--catalog`; None is the embedded catalog.
        output_dir: the output directory.

    Raises:
        UsageError: the file does not serve.
    """
    if catalog_file is not None:
        return read_catalog_file(Path(catalog_file))
    return embedded_properties(Path(output_dir))


def embedded_properties(output_dir: Path) -> CatalogProperties:
    """Return the properties of the catalog that is a SQLite file below the output directory."""
    directory = table_directory(output_dir)
    return CatalogProperties(
        type="sql",
        uri=f"sqlite:///{directory / EMBEDDED_FILE}",
        warehouse=f"file://{directory}",
    )


def connect(properties: CatalogProperties) -> Catalog:
    """Open a catalog.

    Raises:
        EnvironmentFailure: it does not answer, or can't be opened.
    """
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
