"""Reads a table back through its catalog."""

from __future__ import annotations

from typing import NamedTuple

from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import NoSuchTableError

from beam_pipeline.settings.table import TableJob
from beam_pipeline.tables.catalogs import open_catalog


class TableCounts(NamedTuple):
    """How many rows the tables of a run have."""

    rows: int
    letters: int


def count(job: TableJob, topic: str) -> TableCounts:
    """Read the rows and the dead letters of a topic, and count them.

    Raises:
        EnvironmentFailure: the catalog does not answer.
    """
    catalog = open_catalog(job)
    return TableCounts(
        _count(catalog, job.table.name, "kafka_topic", topic),
        _count(catalog, job.table.letters_name, "topic", topic),
    )


def _count(catalog: Catalog, name: str, column: str, topic: str) -> int:
    try:
        table = catalog.load_table(name)
    except NoSuchTableError:
        return 0
    scan = table.scan(row_filter=f"{column} = '{topic}'", selected_fields=(column,))
    return sum(batch.num_rows for batch in scan.to_arrow_batch_reader())
