"""Bytewax: its Kafka operators, `flat_map_batch` for the work, and a sink of each kind.

Run by `python -m bytewax.run bytewax_flow:flow` with one worker, its default. Its docstrings
recommend `flat_map_batch` and a larger source batch for throughput. Its windowing operators take
single items by key; assigning windows to whole columns in the sink is faster, and is measured here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import bytewax.operators as op
import pyarrow as pa
from bytewax.connectors.kafka import KafkaSourceMessage
from bytewax.connectors.kafka import operators as kop
from bytewax.dataflow import Dataflow
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from commerce import Job, Judge, Record, Reference, WindowFiles, land, letters_path, write_letters

SOURCE_BATCH = 10_000

Letter = dict[str, Any]


class ParquetPartition(StatelessSinkPartition[pa.RecordBatch]):
    """Writes batches to one Parquet file per window."""

    def __init__(self, job: Job) -> None:
        self._files = WindowFiles(job.output_dir, job.topic, job.window_seconds)

    def write_batch(self, items: list[pa.RecordBatch]) -> None:
        """Write batches."""
        for batch in items:
            self._files.add(batch)

    def close(self) -> None:
        """Finish the files at the end of the input."""
        self._files.close()


class ParquetSink(DynamicSink[pa.RecordBatch]):
    """Parquet files, separate for each worker."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def build(self, step_id: str, worker_index: int, worker_count: int) -> ParquetPartition:
        """Return the partition of one worker."""
        return ParquetPartition(self._job)


class JsonLinesPartition(StatelessSinkPartition[Letter]):
    """Writes dead letters as JSON lines."""

    def __init__(self, job: Job) -> None:
        self._sink = letters_path(job.dead_letter_dir).open("wb")

    def write_batch(self, items: list[Letter]) -> None:
        """Write dead letters."""
        write_letters(self._sink, items)

    def close(self) -> None:
        """Close the file at the end of the input."""
        self._sink.close()


class JsonLinesSink(DynamicSink[Letter]):
    """JSON lines, separate for each worker."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def build(self, step_id: str, worker_index: int, worker_count: int) -> JsonLinesPartition:
        """Return the partition of one worker."""
        return JsonLinesPartition(self._job)


def build_flow(job: Job) -> Dataflow:
    """Return the flow from Kafka to Parquet and JSON lines, up to the end of the topic."""
    judge, reference = Judge(job.schema), Reference(job.reference_dir)

    def land_batch(messages: list[KafkaSourceMessage[Any, Any]]) -> Iterator[Any]:
        records = (
            Record(
                job.topic,
                message.partition,
                message.offset,
                message.timestamp,
                message.key,
                message.value,
                message.headers,
            )
            for message in messages
        )
        batch, dead = land(records, judge, reference)
        yield batch
        yield from dead

    flow = Dataflow("commerce")
    source = kop.input(
        "read",
        flow,
        brokers=[job.bootstrap_servers],
        topics=[job.topic],
        tail=False,
        batch_size=SOURCE_BATCH,
    )
    op.raises("stop_on_error", source.errs)
    landed = op.flat_map_batch("land", source.oks, land_batch)
    branches = op.branch("split", landed, lambda item: isinstance(item, pa.RecordBatch))
    op.output("write_parquet", branches.trues, ParquetSink(job))
    op.output("write_dead_letters", branches.falses, JsonLinesSink(job))
    return flow


flow = build_flow(Job.from_environment())
