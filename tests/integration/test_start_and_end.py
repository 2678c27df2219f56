"""A part of the log by `--start` and `--end`, and `backfill`, at a real broker."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from hour_markers import MarkedTree
from integration.pipeline_runs import PipelineRun, Placed, send, wait_for

from beam_pipeline.files.left_out import load_left_out
from beam_pipeline.kafka.connection import KafkaConnection

SCHEMA = {
    "type": "object",
    "properties": {"at": {"type": "string", "format": "date-time"}},
    "required": ["at"],
}
WINDOWS = 60


def moment() -> str:
    """A time between records that are sent before the call and after it."""
    time.sleep(0.05)
    now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    time.sleep(0.05)
    return now


def test_what_is_left_out_is_excluded_until_it_is_landed(
    kafka: KafkaConnection, fresh_topic: Callable[..., str], tmp_path: Path
) -> None:
    run, topic = PipelineRun(tmp_path / "run"), fresh_topic(partitions=2)
    tree = MarkedTree(run.output_dir, run.dead_letter_dir)
    schema = tmp_path / "event.schema.json"
    schema.write_text(json.dumps(SCHEMA))
    flags = (f"--schema={schema}", "--event_time_field=at")
    first_event = datetime.now(timezone.utc) - timedelta(hours=2)

    def produce(count: int) -> None:
        """Sends events of many windows, and a broken one, to each partition."""
        times = [first_event + timedelta(seconds=5 * (n % WINDOWS)) for n in range(count - 1)]
        values = [json.dumps({"at": at.isoformat()}).encode() for at in times]
        for partition in (0, 1):
            send(kafka, topic, [*values, b"{}"], partition)

    def reconcile(code: int = 0) -> dict[str, Any]:
        finished = run.finish(
            "reconcile",
            f"--kafka_bootstrap_servers={kafka.bootstrap_servers}",
            f"--input_topics={topic}",
            *run.place_flags(),
            "--json",
        )
        assert finished.code == code, finished.output
        report: dict[str, Any] = json.loads(finished.output)
        return report

    def backfill(*more: str) -> list[str]:
        return ["backfill", *run.run_words(kafka, topic, *flags, *more)[1:]]

    def markers_say() -> list[list[Any]]:
        """What the markers of all hours name as excluded, each different answer once."""
        said = [marker["excluded"] for marker in tree.markers().values()]
        return [answer for number, answer in enumerate(said) if answer not in said[:number]]

    def landed(*ranges: tuple[int, int]) -> Counter[Placed]:
        """Each offset of some ranges once, in both partitions."""
        return Counter(
            (topic, partition, offset)
            for first, end in ranges
            for partition in (0, 1)
            for offset in range(first, end)
        )

    produce(2_000)
    between = moment()
    produce(3_000)
    first = run.finish(*run.run_words(kafka, topic, *flags, "--start=latest", "--until=caught_up"))
    assert first.code == 0, first.output
    assert f"left out: 10,000 by --start=latest ({topic}/0: 0-4999, " in first.output
    assert not run.placed()
    produce(100)
    again = run.catch_up(kafka, topic, *flags, "--start=latest")
    assert (
        "--start=latest counts for topics that this directory has not read; "
        f"{topic}/0 goes on at 5,000" in again.output
    )
    assert run.placed() == landed((5_000, 5_100))
    report = reconcile()
    assert (report["records"], report["excluded"]) == (200, {"--start=latest": 10_000})
    assert markers_say() == [[[topic, 0], [topic, 1]]]

    files = len(run.parquet_paths())
    process = run.start(*backfill(f"--from={between}"))
    wait_for(lambda: len(run.parquet_paths()) > files or process.poll() is not None, "a file")
    process.kill()
    process.communicate()
    wait_for(lambda: not run.processes(), "the end of all processes")
    report = reconcile()
    assert report["records"] + report["excluded"].get("--start=latest", 0) == 10_200

    part = run.finish(*backfill(f"--from={between}"))
    assert part.code == 0, part.output
    assert f"still left out: 4,000 by --start=latest ({topic}/0: 0-1999, " in part.output
    assert run.placed() == landed((2_000, 5_100))
    assert reconcile()["excluded"] == {"--start=latest": 4_000}
    assert tree.false_claims() == []

    whole = run.finish(*backfill())
    assert whole.code == 0, whole.output
    assert "backfilled: " in whole.output
    assert "still left out" not in whole.output
    assert run.placed() == landed((0, 5_100))
    assert not load_left_out(run.output_dir).note.ranges
    assert reconcile()["excluded"] == {}
    assert markers_say() == [[]]
    assert tree.stale() == []
    assert run.finish(*backfill()).output.startswith(f"nothing of {topic} was left out")

    produce(50)
    end = moment()
    produce(20)
    ended = run.finish(*run.run_words(kafka, topic, *flags, f"--end={end}"))
    assert ended.code == 0, ended.output
    assert f"read up to --end={end}: " in ended.output
    assert run.placed() == landed((0, 5_150))
    report = reconcile()
    assert (report["records"], report["excluded"]) == (10_300, {f"--end={end}": 40})
    on = run.catch_up(kafka, topic, *flags)
    assert f"read now: what was left out by --end={end} ({topic}/0: from 5150 on" in on.output
    assert run.placed() == landed((0, 5_170))
    report = reconcile()
    assert (report["records"], report["excluded"]) == (10_340, {})
    assert tree.false_claims() == []
