"""Row groups of a Parquet file, built from batches one at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa


def row_groups(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, target_bytes: int
) -> Iterator[pa.Table]:
    """Yield the rows of `batches` as tables of at least `target_bytes`; the last may be smaller.

    Memory holds one table at a time. Each table keeps its batches as chunks.

    >>> batches = [pa.record_batch({"n": pa.array([n, n], pa.int64())}) for n in range(3)]
    >>> [table.num_rows for table in row_groups(batches, batches[0].schema, target_bytes=32)]
    [4, 2]
    """
    pending: list[pa.RecordBatch] = []
    pending_bytes = 0
    for batch in batches:
        pending.append(batch)
        pending_bytes += batch.nbytes
        if pending_bytes >= target_bytes:
            yield pa.Table.from_batches(pending, schema)
            pending, pending_bytes = [], 0
    if pending:
        yield pa.Table.from_batches(pending, schema)
