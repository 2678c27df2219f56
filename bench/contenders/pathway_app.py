"""Pathway: its Kafka connector in static mode, and a Python output connector that does the work.

Its UDFs see single values or columns of a batch, not a batch of rows, and its own file outputs have
neither nested columns nor windows. So the rows come to `subscribe`, which hands them over one by
one; they are collected and landed in batches, as by the loop.
"""

from __future__ import annotations

import base64
import os
from typing import Any

import pathway as pw
from commerce import Job, Judge, Record, Reference, WindowFiles, land, letters_path, write_letters

BATCH_RECORDS = 20_000
LOG_APPEND_TIME = 2


def main() -> None:
    """Land the job's topic."""
    job = Job.from_environment()
    landing = _Landing(job)
    records = pw.io.kafka.read(
        {
            "bootstrap.servers": job.bootstrap_servers,
            "group.id": f"bench-pathway-{os.getpid()}",
            "auto.offset.reset": "earliest",
        },
        topic=job.topic,
        format="raw",
        mode="static",
        autogenerate_key=True,
        with_metadata=True,
    )
    pw.io.subscribe(records, on_change=landing.add, on_end=landing.close)
    pw.run(monitoring_level=pw.MonitoringLevel.NONE)


class _Landing:
    """Collects records, and lands a batch of them at a time."""

    def __init__(self, job: Job) -> None:
        self._judge, self._reference = Judge(job.schema), Reference(job.reference_dir)
        self._files = WindowFiles(job.output_dir, job.topic, job.window_seconds)
        self._letters = letters_path(job.dead_letter_dir).open("wb")
        self._records: list[Record] = []

    def add(self, key: Any, row: dict[str, Any], time: int, is_addition: bool) -> None:
        """Take one record."""
        metadata = row["_metadata"].value
        self._records.append(
            Record(
                metadata["topic"],
                metadata["partition"],
                metadata["offset"],
                (LOG_APPEND_TIME, metadata["timestamp_millis"]),
                row["key"],
                row["data"],
                [
                    (name, None if value is None else base64.b64decode(value))
                    for name, value in metadata["headers"]
                ],
            )
        )
        if len(self._records) == BATCH_RECORDS:
            self._land()

    def close(self) -> None:
        """Land what is left, and finish the files."""
        self._land()
        self._files.close()
        self._letters.close()

    def _land(self) -> None:
        batch, dead = land(self._records, self._judge, self._reference)
        self._files.add(batch)
        write_letters(self._letters, dead)
        self._records = []


if __name__ == "__main__":
    main()
