"""The hand-written loop: one process, confluent-kafka, msgspec, jsonschema-rs and pyarrow.

It reads up to the end offsets at its start. It stores no offsets and closes a window's file when
every partition has passed the window's end, so a kill loses or doubles rows. This makes it cheaper
than the pipelines.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from commerce import Job, Judge, Record, Reference, WindowFiles, land, letters_path, write_letters
from confluent_kafka import Consumer, TopicPartition

BATCH_RECORDS = 20_000
POLL_SECONDS = 0.1
WATERMARK_DELAY_US = 2_000_000


def main() -> None:
    """Land the job's topic."""
    job = Job.from_environment()
    gc.disable()  # decoded events have no cycles
    judge, reference = Judge(job.schema), Reference(job.reference_dir)
    files = WindowFiles(job.output_dir, job.topic, job.window_seconds)
    with closing(files), letters_path(job.dead_letter_dir).open("wb") as letters:
        for records, watermark_us in batches(job):
            batch, dead = land(records, judge, reference)
            files.add(batch)
            write_letters(letters, dead)
            files.close_before(watermark_us - WATERMARK_DELAY_US)


def batches(job: Job) -> Iterator[tuple[list[Record], int]]:
    """Yield batches of the topic's records up to its end, each with a watermark.

    The watermark is the append time (microseconds) that every unfinished partition has reached.
    """
    consumer = Consumer(
        {
            "bootstrap.servers": job.bootstrap_servers,
            "group.id": "bench-loop",
            "enable.auto.commit": False,
        }
    )
    consumer.assign([TopicPartition(job.topic, partition, 0) for partition in job.ends])
    reached_ms = {partition: 0 for partition, end in job.ends.items() if end}
    records: list[Record] = []
    message: Any  # the stubs allow None where a message without an error has a value
    while reached_ms:
        for message in consumer.consume(BATCH_RECORDS - len(records), POLL_SECONDS):
            if message.error():
                raise RuntimeError(message.error())
            partition, offset, timestamp = (
                message.partition(),
                message.offset(),
                message.timestamp(),
            )
            key, value, headers = message.key(), message.value(), message.headers()
            records.append(Record(job.topic, partition, offset, timestamp, key, value, headers))
            if offset < job.ends[partition] - 1:
                reached_ms[partition] = timestamp[1]
            else:
                del reached_ms[partition]
        if len(records) == BATCH_RECORDS or not reached_ms:
            yield records, min(reached_ms.values(), default=0) * 1000
            records = []
    consumer.close()


if __name__ == "__main__":
    main()
