"""The doctor at a real broker."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from integration.pipeline_runs import send
from output_trees import OutputTree, sources

from beam_pipeline.cli import main
from beam_pipeline.kafka.admin import TopicSpec, create_topics, topic_config
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.runtime.preflight import make_dead_letter_topics


def findings(
    kafka: KafkaConnection, capsys: pytest.CaptureFixture[str], tmp_path: Path, *flags: str
) -> dict[str, dict[str, Any]]:
    words = ["doctor", "--json", f"--kafka_bootstrap_servers={kafka.bootstrap_servers}"]
    places = [f"--output_dir={tmp_path}/output", f"--dead_letter_dir={tmp_path}/dead"]
    capsys.readouterr()
    main([*words, *places, *flags])
    return {one["name"]: one for one in json.loads(capsys.readouterr().out)}


def test_broker_topics_and_clocks(
    kafka: KafkaConnection,
    fresh_topic: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    topic = fresh_topic(partitions=3)
    send(kafka, topic, [b"{}"])
    found = findings(kafka, capsys, tmp_path, f"--input_topics={topic}")
    assert {found[name]["state"] for name in ("broker", "topics", "clocks")} == {"ok"}
    assert f"{topic}: 3 partitions, records kept for 7.0 days" in found["topics"]["text"]
    found = findings(kafka, capsys, tmp_path, "--input_topics=no-such-topic")
    assert "no such topic" in found["topics"]["text"]
    assert "clocks" not in found


def test_a_file_with_secrets_that_every_user_can_read_is_told(
    kafka: KafkaConnection, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = tmp_path / "client.properties"
    config.write_text("ssl.key.password=hush\n")
    config.chmod(0o644)
    broker = findings(kafka, capsys, tmp_path, f"--kafka_config={config}")["broker"]
    assert broker["state"] == "note"
    assert f"answers; --kafka_config={config} has secrets" in broker["text"]
    assert "hush" not in broker["text"]
    config.chmod(0o600)
    broker = findings(kafka, capsys, tmp_path, f"--kafka_config={config}")["broker"]
    assert broker["state"] == "ok"


def test_a_record_of_the_future_tells_of_clocks_that_differ(
    kafka: KafkaConnection,
    fresh_topic: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    topic = fresh_topic(message_timestamp_type="CreateTime")
    send(kafka, topic, [b"{}"], timestamp=round((time.time() + 3600) * 1000))
    flags = [f"--input_topics={topic}", "--window_by=create_time"]
    found = findings(kafka, capsys, tmp_path, *flags)
    assert found["clocks"]["state"] == "note"
    assert f"{topic}/0 has records stamped more than 5 s from now" in found["clocks"]["text"]
    found = findings(kafka, capsys, tmp_path, f"--input_topics={topic}")
    assert found["topics"]["state"] == "note"
    assert "--max_out_of_order_seconds=60 longer" in found["topics"]["text"]


def test_a_dead_letter_topic_that_refuses_letters_is_told(
    kafka: KafkaConnection,
    fresh_topic: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    topic = fresh_topic()
    flags = [f"--input_topics={topic}"]
    found = findings(kafka, capsys, tmp_path, *flags)["dlq topics"]
    assert (found["state"], found["text"]) == ("ok", f"{topic}.dlq: will be made")
    strict = {
        "max.message.bytes": "1000",
        "cleanup.policy": "compact",
        "message.timestamp.before.max.ms": "1000",
    }
    create_topics(kafka, [TopicSpec(f"{topic}.dlq", 1, strict)])
    found = findings(kafka, capsys, tmp_path, *flags)["dlq topics"]
    assert found["state"] == "note"
    for problem in ("max.message.bytes=1000", "compacted", "message.timestamp.before.max.ms=1000"):
        assert problem in found["text"]


def test_a_dead_letter_topic_that_the_pipeline_makes_takes_all_that_its_input_topic_takes(
    kafka: KafkaConnection,
    fresh_topic: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    far = str(2**63 - 1)
    topic = fresh_topic(message_timestamp_type="CreateTime", message_timestamp_after_max_ms=far)
    make_dead_letter_topics(kafka, [topic], ".dlq")
    config = topic_config(kafka, [f"{topic}.dlq"])[f"{topic}.dlq"]
    assert config["message.timestamp.after.max.ms"] == far
    flags = [f"--input_topics={topic}", "--window_by=create_time"]
    found = findings(kafka, capsys, tmp_path, *flags)["dlq topics"]
    assert found["state"] == "ok"


def test_topics_behind_a_wrong_one_are_checked_too(
    kafka: KafkaConnection,
    fresh_topic: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    good, unstamped = fresh_topic(), fresh_topic(message_timestamp_type="CreateTime")
    words = [
        "doctor",
        "--json",
        f"--kafka_bootstrap_servers={kafka.bootstrap_servers}",
        f"--output_dir={tmp_path}/output",
        f"--dead_letter_dir={tmp_path}/dead",
        f"--input_topics=no-such-topic,{unstamped},{good}",
        "--window_by=append_time",
    ]
    capsys.readouterr()
    assert main(words) == 1
    found = json.loads(capsys.readouterr().out)
    topics = [(one["state"], one["text"]) for one in found if one["name"] == "topics"]
    assert [state for state, _ in topics] == ["wrong", "wrong", "ok"]
    assert "no-such-topic: no such topic" in topics[0][1]
    assert "needs LogAppendTime" in topics[1][1]
    later = {one["name"]: one["text"] for one in found}
    assert later["dlq topics"] == f"{good}.dlq: will be made"
    assert "clocks" in later


def test_partitions_are_compared_with_those_that_were_landed(
    kafka: KafkaConnection,
    fresh_topic: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    topic = fresh_topic(partitions=3)
    tree = OutputTree(tmp_path)
    tree.parquet(sources(topic, 0, range(5)))
    flags = [f"--input_topics={topic}"]
    found = findings(kafka, capsys, tmp_path, *flags)["partitions"]
    assert found["state"] == "note"
    assert found["text"].startswith(f"{topic}/1, {topic}/2 not landed yet")
    tree.letters(sources(topic, 7, range(5)))
    found = findings(kafka, capsys, tmp_path, *flags)["partitions"]
    assert found["state"] == "wrong"
    assert found["text"].startswith(f"{topic}/7 landed and not in the topic any more")
