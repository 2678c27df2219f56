"""Quix Streams: a StreamingDataFrame with its LocalFileSink, once for Parquet, once for JSON lines.

It commits every five seconds, its default, which flushes the sinks. The sink has no windows: it
writes one file per partition and commit, so a row's window is a column, `window_start` (seconds
since 1970). Quix's own windows (`tumbling_window().collect()`) would store every row in RocksDB. A
branching dataframe copies each value by pickle, so it branches while values are plain JSON.
"""

from __future__ import annotations

import os
from typing import Any

from commerce import (
    Job,
    Judge,
    Record,
    Reference,
    check_time,
    dead_letter,
    enrich_event,
    event_time_of,
    microseconds_of,
    normalize_event,
)
from quixstreams import Application, message_context
from quixstreams.sinks.community.file.formats import JSONFormat, ParquetFormat
from quixstreams.sinks.community.file.local import LocalFileSink

LOG_APPEND_TIME = 2


def main() -> None:
    """Land the job's topic."""
    job = Job.from_environment()
    judge, reference = Judge(job.schema), Reference(job.reference_dir)

    def validate(value: Any, key: Any, timestamp: int, headers: Any) -> dict[str, Any]:
        event, failure = judge.judge(value)
        if failure is None:
            failure = check_time(microseconds_of(event_time_of(event)), timestamp)
        if failure is None:
            return {"event": event}
        context = message_context()
        record = Record(
            context.topic,
            context.partition,
            context.offset,
            (LOG_APPEND_TIME, timestamp),
            key,
            value,
            headers,
        )
        return {"letter": dead_letter(record, failure, judge.schema_ref)}

    def to_row(value: dict[str, Any], key: Any, timestamp: int, headers: Any) -> dict[str, Any]:
        row = enrich_event(normalize_event(value["event"]), timestamp, reference)
        context = message_context()
        second = microseconds_of(row["event_time"]) // 1_000_000
        row["kafka_topic"] = context.topic
        row["kafka_partition"] = context.partition
        row["kafka_offset"] = context.offset
        row["kafka_timestamp"] = timestamp
        row["window_start"] = second - second % job.window_seconds
        return row

    app = Application(
        broker_address=job.bootstrap_servers,
        consumer_group=f"bench-quix-{os.getpid()}",
        auto_offset_reset="earliest",
    )
    topic = app.topic(job.topic, key_deserializer="bytes", value_deserializer="bytes")
    judged = app.dataframe(topic).apply(validate, metadata=True)
    rows = judged.filter(lambda value: "event" in value).apply(to_row, metadata=True)
    rows.sink(LocalFileSink(directory=job.output_dir, format=ParquetFormat(compression="zstd")))
    letters = judged.filter(lambda value: "letter" in value)
    letters.apply(lambda value: value["letter"]).sink(
        LocalFileSink(directory=job.dead_letter_dir, format=JSONFormat())
    )
    app.run(count=sum(job.ends.values()), timeout=30, collect=False)


if __name__ == "__main__":
    main()
