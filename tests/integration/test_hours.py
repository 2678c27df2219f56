"""Markers of complete hours and `wait`, over two runs at a real broker."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.dataset
from hour_markers import MarkedTree
from integration.pipeline_runs import Finished, PipelineRun, send

from beam_pipeline.kafka.connection import KafkaConnection

SCHEMA = {
    "type": "object",
    "properties": {"at": {"type": "string", "format": "date-time"}},
    "required": ["at"],
}


def test_past_hours_are_marked_and_a_late_event_raises_the_revision(
    kafka: KafkaConnection, fresh_topic: Callable[..., str], tmp_path: Path
) -> None:
    """A partition stays empty, and one record is a dead letter."""
    run, topic = PipelineRun(tmp_path / "run"), fresh_topic(partitions=3)
    tree = MarkedTree(run.output_dir, run.dead_letter_dir)
    schema = tmp_path / "event.schema.json"
    schema.write_text(json.dumps(SCHEMA))
    flags = (f"--schema={schema}", "--event_time_field=at")
    started = datetime.now(timezone.utc)
    this_hour = started.replace(minute=0, second=0, microsecond=0)
    hours = [this_hour - timedelta(hours=ago) for ago in (3, 2)]
    directories = [f"dt={hour:%Y-%m-%d}/hour={hour:%H}" for hour in hours]

    def wait(until: datetime, *more: str) -> Finished:
        words = (f"--input_topics={topic}", f"--until={until.isoformat()}", "--timeout=0")
        return run.finish("wait", *words, f"--output_dir={run.output_dir}", *more)

    assert wait(this_hour - timedelta(hours=1)).code == 1
    for number, hour in enumerate(hours):
        send(kafka, topic, [json.dumps({"at": hour.isoformat()}).encode()] * 5, partition=number)
    send(kafka, topic, [b"{"])
    run.catch_up(kafka, topic, *flags)
    markers = tree.markers()
    assert [(hour, markers[hour]["rows"]) for hour in sorted(markers)] == [
        (directory, 5) for directory in directories
    ]
    assert tree.false_claims() == tree.stale() == []
    assert wait(this_hour - timedelta(hours=1)).output.startswith("complete: ")
    missing = wait(started + timedelta(days=1))
    assert missing.code == 1
    assert f"{topic}/2: landed up to offset 0, the log ends at 0, lag 0 records" in missing.output

    send(kafka, topic, [json.dumps({"at": hours[0].isoformat()}).encode()], partition=2)
    run.catch_up(kafka, topic, *flags)
    markers = tree.markers()
    assert [(marker["revision"], marker["rows"]) for _, marker in sorted(markers.items())] == [
        (2, 6),
        (1, 5),
    ]
    assert tree.false_claims() == tree.stale() == []
    assert markers_by_reconcile(run, kafka, topic) == {"hours": 2, "behind": [], "problems": []}
    assert pyarrow.dataset.dataset(run.output_dir, partitioning="hive").count_rows() == 11
    files = f"{run.output_dir}/dt=*/hour=*/*.parquet"
    assert duckdb.execute(f"select count(*) from '{files}'").fetchall() == [(11,)]

    path = run.output_dir / directories[0] / "_COMPLETE.json"
    path.write_text(path.read_text().replace('"count": 5', '"count": 6'))
    assert len(markers_by_reconcile(run, kafka, topic, code=1)["problems"]) == 1


def markers_by_reconcile(
    run: PipelineRun, kafka: KafkaConnection, topic: str, code: int = 0
) -> dict[str, Any]:
    finished = run.finish(
        "reconcile",
        f"--kafka_bootstrap_servers={kafka.bootstrap_servers}",
        f"--input_topics={topic}",
        *run.place_flags(),
        "--json",
    )
    assert finished.code == code, finished.output
    markers: dict[str, Any] = json.loads(finished.output)["markers"]
    return markers
