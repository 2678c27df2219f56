"""Directories that meet another schema, or each other, as in the field, by a real broker."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest
from confluent_kafka.admin import AdminClient, NewPartitions
from integration.pipeline_runs import Finished, PipelineRun, running, send, wait_for

from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.tools.reconcile.run import reconcile

pytestmark = pytest.mark.field

TIME = {"type": "string", "format": "date-time"}
FLAGS = ("--event_time_field=at", "--max_event_age_seconds=0", "--max_event_skew_seconds=0")


def of_type(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"at": TIME, **properties}}


INTEGERS: dict[str, Any] = of_type(n={"type": "integer"})


def land(
    run: PipelineRun, kafka: KafkaConnection, topic: str, schema: dict[str, Any], *flags: str
) -> Finished:
    path = run.directory.with_name("event.schema.json")
    path.write_text(json.dumps(schema))
    words = run.run_words(kafka, topic, "--until=caught_up", f"--schema={path}", *FLAGS, *flags)
    return run.finish(*words)


def event(**fields: object) -> bytes:
    return json.dumps({"at": "2026-11-26T10:00:00Z", **fields}).encode()


@pytest.mark.parametrize(
    ("schema", "sent", "words"),
    [
        (of_type(n={"type": "number"}), event(n=1.5), ["'n'", "int64", "double"]),
        (of_type(n={"type": ["integer", "string"]}), event(n="x"), ["'n'", "JSON text"]),
        (of_type(n={"type": "integer"}, N={"type": "string"}), event(n=1, N="x"), ["case"]),
        (of_type(N={"type": "integer"}), event(N=1), ["case"]),
    ],
    ids=["another type", "JSON text", "another case beside it", "another case"],
)
def test_a_schema_that_does_not_fit_the_files_is_refused(
    tmp_path: Path,
    kafka: KafkaConnection,
    fresh_topic: Callable[..., str],
    schema: dict[str, Any],
    sent: bytes,
    words: list[str],
) -> None:
    run, topic = PipelineRun(tmp_path / "run"), fresh_topic()
    send(kafka, topic, [event(n=1), event(n=2)])
    first = land(run, kafka, topic, INTEGERS)
    assert first.code == 0, first.output
    send(kafka, topic, [sent])
    refused = land(run, kafka, topic, schema)
    assert refused.code in (1, 2), refused.output
    assert "Traceback" not in refused.output
    last = refused.output.strip().splitlines()[-1]
    for word in words:
        assert word in last
    assert len(run.rows()) == 2


def test_a_change_of_the_schema_that_is_allowed_lands(
    tmp_path: Path, kafka: KafkaConnection, fresh_topic: Callable[..., str]
) -> None:
    run, topic = PipelineRun(tmp_path / "run"), fresh_topic()
    send(kafka, topic, [event(n=1)])
    assert land(run, kafka, topic, INTEGERS).code == 0
    send(kafka, topic, [event(n=1.5)])
    changed = land(run, kafka, topic, of_type(n={"type": "number"}), "--allow_schema_change")
    assert changed.code == 0, changed.output
    assert reconcile(kafka, [topic], run.output_dir, run.dead_letter_dir).is_clean


def test_a_column_more_is_told_and_read_as_null_in_older_files(
    tmp_path: Path, kafka: KafkaConnection, fresh_topic: Callable[..., str]
) -> None:
    run, topic = PipelineRun(tmp_path / "run"), fresh_topic()
    send(kafka, topic, [event(n=1)])
    assert land(run, kafka, topic, INTEGERS).code == 0
    send(kafka, topic, [event(n=2, more="x")])
    wider = land(run, kafka, topic, of_type(n={"type": "integer"}, more={"type": "string"}))
    assert wider.code == 0, wider.output
    assert "more" in wider.output
    files = f"{run.output_dir}/dt=*/hour=*/*.parquet"
    query = f"SELECT n, more FROM read_parquet('{files}', union_by_name = true) ORDER BY n"
    assert duckdb.connect().execute(query).fetchall() == [(1, None), (2, "x")]


@pytest.mark.parametrize("nested", ["dead letters in output", "output in dead letters", "one"])
def test_directories_in_each_other_are_warned_of_and_nothing_is_lost(
    tmp_path: Path, kafka: KafkaConnection, fresh_topic: Callable[..., str], nested: str
) -> None:
    run, topic = PipelineRun(tmp_path / "run"), fresh_topic()
    send(kafka, topic, [event(n=1), event(n="bad")])
    root = run.directory
    places: dict[str, tuple[Path, Path]] = {
        "dead letters in output": (root, root / "dead"),
        "output in dead letters": (root / "out", root),
        "one": (root, root),
    }
    output, dead = places[nested]
    flags = (f"--output_dir={output}", f"--dead_letter_dir={dead}")
    for _ in range(2):  # the second start reads what the first has landed
        finished = land(run, kafka, topic, INTEGERS, *flags)
        if nested == "one" and finished.code == 2:
            assert "--dead_letter_dir" in finished.output
            return
        assert finished.code == 0, finished.output
        assert "warning: " in finished.output
        assert reconcile(kafka, [topic], output, dead).is_clean


def test_partitions_that_are_added_wait_for_the_next_start_and_are_told(
    tmp_path: Path, kafka: KafkaConnection, fresh_topic: Callable[..., str]
) -> None:
    run, topic = PipelineRun(tmp_path / "run"), fresh_topic()
    path = tmp_path / "event.schema.json"
    path.write_text(json.dumps(INTEGERS))
    words = run.run_words(kafka, topic, f"--schema={path}", *FLAGS, "--discovery_interval=0")
    log = tmp_path / "run.out"
    with log.open("w") as output, running(run, words, output=output):
        send(kafka, topic, [event(n=1)])
        wait_for(lambda: "state running" in log.read_text(), "a running pipeline")
        admin = AdminClient({**kafka.for_librdkafka()})
        (grown,) = admin.create_partitions([NewPartitions(topic, 2)]).values()
        grown.result(30)
        wait_for(lambda: f"{topic}/1" in log.read_text(), "a notice of the new partition")
        send(kafka, topic, [event(n=2)], partition=1)
    assert land(run, kafka, topic, INTEGERS).code == 0
    assert sorted(row["n"] for row in run.rows()) == [1, 2]
    assert reconcile(kafka, [topic], run.output_dir, run.dead_letter_dir).is_clean
