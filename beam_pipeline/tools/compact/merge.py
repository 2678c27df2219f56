"""Merges a group of small Parquet files into one, and checks the result against its footer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyroaring import BitMap64

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.files.contents import UnreadableFile, file_offsets
from beam_pipeline.files.footer import FOOTER_KEY
from beam_pipeline.files.row_groups import row_groups
from beam_pipeline.offset_sets import TopicPartition, offset_set
from beam_pipeline.tools.compact.plan import Group

ROW_GROUP_BYTES = 64 * 1024 * 1024
_ROWS_AT_A_TIME = 65_536


def merge(
    group: Group,
    path: Path,
    codec: str = "zstd",
    on_row_group: Callable[[], None] = lambda: None,
) -> None:
    """Write the group's rows to `path`, then check the written rows against the footer.

    `on_row_group` is called after each row group that was written.

    Raises:
        pa.ArrowException, OSError: a source can't be read, or `path` can't be written.
        EnvironmentFailure: the rows differ from the footer.
    """
    schema = group.sources[0].schema
    with pq.ParquetWriter(path, schema, compression=codec) as writer:
        for table in row_groups(_batches_of(group, schema), schema, ROW_GROUP_BYTES):
            row_group = table.unify_dictionaries()
            writer.write_table(row_group, row_group_size=row_group.num_rows)
            on_row_group()
        writer.add_key_value_metadata({FOOTER_KEY: group.footer().to_json()})
    _verify(group, path)


def _batches_of(group: Group, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for source in group.sources:
        with pq.ParquetFile(source.path) as file:
            for batch in file.iter_batches(_ROWS_AT_A_TIME, use_threads=False):
                yield batch.replace_schema_metadata(schema.metadata)


def _verify(group: Group, path: Path) -> None:
    rows = 0
    held: dict[TopicPartition, BitMap64] = {}
    try:
        for partition, offsets in file_offsets(path):
            rows += int(np.size(offsets))
            held.setdefault(partition, BitMap64()).update(offset_set(offsets))
    except UnreadableFile as error:
        raise EnvironmentFailure(f"{path}: {error}; nothing was put in place") from None
    if rows != group.rows or held != group.offsets():
        raise EnvironmentFailure(
            f"{group.sources[0].path.parent}: footers and rows differ in what they hold, see "
            "reconcile; nothing was put in place"
        )
