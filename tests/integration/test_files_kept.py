"""Compaction, deletion and two schema versions, on files that the pipeline itself wrote."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.dataset
import pytest
from integration.pipeline_runs import PipelineRun, send

from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.producer.events import EventFactory
from beam_pipeline.producer.source import wall_clock_ms
from beam_pipeline.tools.reconcile.run import reconcile


@pytest.fixture
def run(tmp_path: Path) -> PipelineRun:
    return PipelineRun(tmp_path / "run")


def events(count: int, seed: int, seconds_apart: int = 0) -> list[bytes | None]:
    factory, now_ms = EventFactory(seed), wall_clock_ms()
    return [
        json.dumps(factory.make(now_ms - 1000 * seconds_apart * number)).encode()
        for number in range(count)
    ]


def test_compacted_and_deleted_files_are_not_read_again(
    run: PipelineRun, kafka: KafkaConnection, fresh_topic: Callable[..., str]
) -> None:
    topic = fresh_topic(partitions=2)
    for partition in range(2):
        send(kafka, topic, [*events(30, partition, seconds_apart=7), b"{"], partition)
    run.catch_up(kafka, topic, "--num_shards=2")
    before = run.placed()
    assert reconcile(kafka, [topic], run.output_dir, run.dead_letter_dir).is_clean

    told = run.finish("compact", f"--output_dir={run.output_dir}")
    assert told.code == 0, told.output
    assert told.output.startswith("Merged ")
    assert run.placed() == before
    assert reconcile(kafka, [topic], run.output_dir, run.dead_letter_dir).is_clean
    hours = list(run.output_dir.glob("dt=*/hour=*"))
    assert len(list(run.output_dir.glob("dt=*/hour=*/*.parquet"))) == len(hours)

    send(kafka, topic, events(10, seed=5), 1)
    assert "read 10, valid 10, dead 0" in run.catch_up(kafka, topic).output
    assert reconcile(kafka, [topic], run.output_dir, run.dead_letter_dir).is_clean

    for path in [*run.output_dir.glob("dt=*/hour=*/*"), *run.dead_letter_dir.glob("dt=*/*/*")]:
        path.unlink()
    send(kafka, topic, events(3, seed=6), 0)
    assert "read 3, valid 3, dead 0" in run.catch_up(kafka, topic).output
    assert sum(run.placed().values()) == 3


def test_two_versions_and_an_own_transform(
    run: PipelineRun, kafka: KafkaConnection, fresh_topic: Callable[..., str]
) -> None:
    run.directory.mkdir(parents=True)
    (run.directory / "mine.py").write_text(
        "import pyarrow as pa\n"
        "def mark(batch):\n"
        "    if 'bad' in batch.column('name').to_pylist():\n"
        "        raise ValueError('a bad name')\n"
        "    marks = pa.array(['seen'] * batch.num_rows, pa.string())\n"
        "    return batch.append_column('mark', marks)\n"
    )
    paths = []
    for version, fields in ((1, ["name"]), (2, ["name", "email"])):
        document = {
            "x-version": version,
            "type": "object",
            "properties": {field: {"type": "string"} for field in fields},
            "required": fields,
        }
        paths.append(run.directory / f"v{version}.json")
        paths[-1].write_text(json.dumps(document))
    topic = fresh_topic()
    send(kafka, topic, [b'{"name":"old"}', b'{"name":"bad"}'], headers=[("v", b"1")])
    send(
        kafka,
        topic,
        [b'{"name":"new","email":"n@example.com"}', b'{"name":"old"}'],
        headers=[("v", b"2")],
    )
    send(kafka, topic, [b"\0\0\0\0\7" + b'{"name":"wire"}'])
    run.catch_up(
        kafka,
        topic,
        f"--schema={paths[0]},{paths[1]}",
        "--schema_version_field=header:v",
        "--window_by=append_time",
        "--transform=mine:mark",
    )
    assert reconcile(kafka, [topic], run.output_dir, run.dead_letter_dir).is_clean
    table = pyarrow.dataset.dataset(run.output_dir, partitioning="hive").to_table()
    assert {(row["name"], row["email"], row["mark"]) for row in table.to_pylist()} == {
        ("old", None, "seen"),
        ("new", "n@example.com", "seen"),
        ("wire", None, "seen"),
    }
    letters = {letter["source"]["offset"]: letter for letter in run.letters()}
    assert {offset: letter["error"]["code"] for offset, letter in letters.items()} == {
        1: "TRANSFORM_ERROR",
        3: "SCHEMA_VIOLATION",
    }
    assert letters[1]["error"]["message"] == "a bad name"
    assert letters[1]["stage"] == "transform_1"
