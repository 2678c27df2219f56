"""What flags take and refuse."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path

import pytest
from pipeline_settings import settings_of

from beam_pipeline.errors import UsageError
from beam_pipeline.files.names import MAX_TOPIC_LENGTH, PARQUET_SUFFIX, OutputFile
from beam_pipeline.job_file import JobFile
from beam_pipeline.runtime.epochs import new_epoch


def test_topics_are_separated_by_commas() -> None:
    assert settings_of("--input_topics=orders, clicks,").topics() == ("orders", "clicks")
    assert settings_of("--input_topics=orders,clicks,orders").topics() == ("orders", "clicks")


@pytest.mark.parametrize("flags", [[], ["--input_topics="], ["--input_topics= , "]])
def test_no_topic_is_refused(flags: list[str]) -> None:
    with pytest.raises(UsageError, match="--input_topics is missing"):
        settings_of(*flags).topics()


def test_a_topic_too_long_for_file_names_is_refused() -> None:
    with pytest.raises(UsageError, match=f"{MAX_TOPIC_LENGTH + 1} characters"):
        settings_of(f"--input_topics={'t' * (MAX_TOPIC_LENGTH + 1)}")


def test_the_longest_topic_has_file_names() -> None:
    (topic,) = settings_of(f"--input_topics={'_' * MAX_TOPIC_LENGTH}").topics()
    start, end = (datetime(2026, 1, 1, hour, tzinfo=timezone.utc) for hour in (0, 1))
    file = OutputFile(topic, start, end, 9_999, new_epoch(), 9_999_999, PARQUET_SUFFIX)
    assert OutputFile.parse(file.name) == file
    assert len(file.name) <= 255


def test_settings_come_back_from_the_jobs_file(tmp_path: Path) -> None:
    settings = settings_of("--input_topics=a,b", "--transform=m:F", "--window_seconds=7")
    job_file = JobFile(settings, "e1", [{"topic": "a"}], str(tmp_path / "status.json"))
    job_file.write(tmp_path / "job.json")
    assert JobFile.read(tmp_path / "job.json") == job_file


@pytest.mark.parametrize(
    ("flag", "refusal"),
    [
        ("--window_seconds=0", "--window_seconds=0: must be 1 or more"),
        ("--window_seconds=86401", "--window_seconds=86401: must be at most 86400"),
        ("--num_shards=0", "--num_shards=0: must be 1 or more"),
        ("--early_pane_seconds=-1", "--early_pane_seconds=-1: must be 0 or more"),
        ("--transform=m", "--transform=m: must be package.module:Name"),
        ("--partition_keys=dt", "--partition_keys=dt: must be two names"),
        ("--partition_keys=a,b,c", "--partition_keys=a,b,c: must be two names"),
        ("--partition_keys=dt,DT", "--partition_keys=dt,DT: must be two names"),
        ("--partition_keys=_dt,hour", "--partition_keys=_dt,hour: must be two names"),
        ("--partition_keys=d/t,hour", "--partition_keys=d/t,hour: must be two names"),
        ("--partition_keys=dt,Kafka_Offset", "--partition_keys=dt,Kafka_Offset: must be two names"),
        ("--kafka_columns=key", "--kafka_columns=key: topic is missing; every file has topic"),
        ("--kafka_columns=topic,bytes", "--kafka_columns=topic,bytes: 'bytes' is none of topic"),
        ("--kafka_columns=", "--kafka_columns=: '' is none of topic"),
    ],
)
def test_values_out_of_range_are_refused(flag: str, refusal: str) -> None:
    with pytest.raises(UsageError, match=refusal):
        settings_of(flag)


def test_the_kafka_columns_have_one_order() -> None:
    assert settings_of().kafka_columns[-2:] == ("key", "headers")
    shuffled = settings_of("--kafka_columns=value, offset,topic,timestamp,partition,value")
    assert shuffled.kafka_columns == ("topic", "partition", "offset", "timestamp", "value")


def test_a_field_named_like_a_column_of_the_record_is_refused_while_files_have_that(
    tmp_path: Path,
) -> None:
    schema = tmp_path / "event.json"
    schema.write_text(json.dumps({"properties": {"kafka_key": {"type": "integer"}}}))
    without = "--kafka_columns=topic,partition,offset,timestamp,headers"
    with pytest.raises(UsageError, match=f"column 'kafka_key' has the name .* give {without}"):
        settings_of(f"--schema={schema}").contract()
    contract = settings_of(f"--schema={schema}", without).contract()
    assert "kafka_key" in contract.event_schema.names


def test_two_directories_have_two_consumer_groups() -> None:
    groups = {settings_of(f"--output_dir={name}").consumer_group for name in ("a", "b", "./a")}
    assert len(groups) == 2
    assert settings_of("--consumer_group=mine").consumer_group == "mine"


def test_the_contract_is_loaded_and_its_event_time_found() -> None:
    settings = settings_of("--input_topics=a")
    assert settings.event_time_path(settings.contract()) == "event_time"
    by_append_time = settings_of("--window_by=append_time")
    assert by_append_time.event_time_path(by_append_time.contract()) is None
    with pytest.raises(UsageError, match=r"--event_time_field=nowhere: .* has no property"):
        settings_of("--input_topics=a", "--event_time_field=nowhere").ingest_config("e1")


@pytest.mark.parametrize(
    ("keywords", "flags", "unit"),
    [
        ({}, [], "ms"),
        ({"x-event-time-unit": "s"}, [], "s"),
        ({"x-event-time-unit": "s"}, ["--event_time_unit=us"], "us"),
        ({"x-event-time-unit": "s"}, ["--event_time_field=at"], "s"),
        ({"x-event-time-unit": "s"}, ["--event_time_field=other"], "ms"),
        ({}, ["--event_time_unit=s"], "s"),
    ],
)
def test_the_unit_of_event_times(
    tmp_path: Path, keywords: dict[str, str], flags: list[str], unit: str
) -> None:
    path = tmp_path / "event.json"
    number = {"type": "integer"}
    document = {"type": "object", "properties": {"at": number, "other": number}}
    path.write_text(json.dumps({**document, "x-event-time": "at", **keywords}))
    settings = settings_of(
        "--input_topics=a", "--kafka_bootstrap_servers=h:1", f"--schema={path}", *flags
    )
    assert settings.ingest_config("e1").rules.event_time_unit == unit


def test_a_unit_is_for_numbers(tmp_path: Path) -> None:
    path = tmp_path / "event.json"
    document = {"type": "object", "properties": {"at": {"type": "string"}}, "x-event-time": "at"}
    path.write_text(json.dumps(document))
    settings = settings_of(f"--schema={path}", "--event_time_unit=s")
    with pytest.raises(UsageError, match="has no numbers there, but string; leave --event_time"):
        settings.event_time_path(settings.contract())
    path.write_text(json.dumps({**document, "x-event-time-unit": "minutes"}))
    with pytest.raises(UsageError, match="x-event-time-unit is 'minutes'; it must be one of s, ms"):
        settings.contract()


@pytest.mark.parametrize("field", ["dt", "hour", "Hour"])
def test_a_field_named_like_a_partition_key_needs_other_keys(tmp_path: Path, field: str) -> None:
    schema = tmp_path / "event.json"
    schema.write_text(json.dumps({"type": "object", "properties": {field: {"type": "integer"}}}))
    with pytest.raises(UsageError, match=f"column '{field}' has the name of a partition key"):
        settings_of(f"--schema={schema}").contract()
    settings = settings_of(f"--schema={schema}", "--partition_keys=file_dt, file_hour")
    assert settings.partition_keys == ("file_dt", "file_hour")
    assert field in settings.contract().event_schema.names
