"""A nightly run whose records expired before it came."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import confluent_kafka
import pytest
from confluent_kafka.admin import AdminClient
from integration.pipeline_runs import PipelineRun, send

from beam_pipeline.files.expired import load_expired_note
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.offset_sets import TopicPartition

pytestmark = pytest.mark.field


def test_a_loss_ends_runs_with_exit_code_1_until_it_is_accepted(
    kafka: KafkaConnection, fresh_topic: Callable[..., str], tmp_path: Path
) -> None:
    topic, run = fresh_topic(), PipelineRun(tmp_path)
    schema = tmp_path / "event.json"
    schema.write_text(json.dumps({"type": "object", "properties": {"n": {"type": "integer"}}}))
    flags = (f"--schema={schema}", "--window_by=append_time", "--window_seconds=5")
    send(kafka, topic, [b'{"n": 1}'] * 5)
    run.catch_up(kafka, topic, *flags)
    columns = json.loads((run.output_dir / "_ledger" / "columns.json").read_bytes())["columns"]
    assert (columns["n"], columns["extra"]) == ("int64", "JSON text")

    send(kafka, topic, [b'{"n": 2}'] * 5)
    partition = confluent_kafka.TopicPartition(topic, 0, 10)
    admin = AdminClient({**kafka.for_librdkafka()})
    admin.delete_records([partition])[partition].result()
    words = run.run_words(kafka, topic, "--until=caught_up", *flags)
    lost = run.finish(*words)
    assert lost.code == 1
    assert f"{topic}/0: at most 5 records expired from the log before they were" in lost.output
    assert lost.output.rstrip().endswith("--accept_expired accepts the loss")

    reconcile = (
        "reconcile",
        f"--kafka_bootstrap_servers={kafka.bootstrap_servers}",
        f"--input_topics={topic}",
        f"--output_dir={run.output_dir}",
        f"--dead_letter_dir={run.dead_letter_dir}",
    )
    checked = run.finish(*reconcile)
    assert checked.code == 1
    assert "NOT clean: 5 expired unread" in checked.output
    assert run.finish(*reconcile, "--accept_expired").code == 0

    send(kafka, topic, [b'{"n": 3}'])
    assert run.finish(*words, "--accept_expired").code == 0
    note = load_expired_note(run.output_dir)
    assert list(note.accepted.of(TopicPartition(topic, 0))) == [5, 6, 7, 8, 9]
    assert run.finish(*words).code == 0
    checked = run.finish(*reconcile)
    assert checked.code == 0
    assert "5 expired unread, accepted" in checked.output
