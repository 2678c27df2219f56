"""Records of Flink jobs: how a savepoint finds its epoch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from beam_pipeline.covered_offsets import CoveredOffsets
from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.runtime.flink.job_record import (
    RECORDS,
    FlinkJobRecord,
    job_records,
    record_of_savepoint,
    remove_records,
)

JOB = "fcffeee43420d4bb11e9bfaaff52d30f"
OTHER_JOB = "a8110c47da2952a9f247e92fc3b53f3f"


def record(epoch: str = "e1", *job_ids: str, submitted_at: float = 1.0) -> FlinkJobRecord:
    covered = CoveredOffsets()
    covered.add_range("orders", 0, 5, 9)
    return FlinkJobRecord(
        epoch, "host:8081", "dead", 3600, covered.to_json(), job_ids=job_ids,
        submitted_at=submitted_at,
    )  # fmt: skip


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = record("e1", JOB).with_savepoint("file:///s/savepoint-fcffee-1")
    written.save(tmp_path)
    assert job_records(tmp_path) == [written]
    assert [path.name for path in (tmp_path / RECORDS).iterdir()] == ["e1.json"]


def test_the_newest_comes_first(tmp_path: Path) -> None:
    for number, epoch in enumerate(("b", "c", "a")):
        record(epoch, submitted_at=float(number)).save(tmp_path)
    assert [found.epoch for found in job_records(tmp_path)] == ["a", "c", "b"]


@pytest.mark.parametrize(
    "savepoint",
    [
        "file:///shared/savepoint-fcffee-4a1f7d77bc45",
        "file:///shared/savepoint-fcffee-4a1f7d77bc45/",
        f"s3://bucket/checkpoints/{JOB}/chk-12",
        "/moved/elsewhere",
    ],
)
def test_a_savepoint_is_of_the_job_in_its_name_or_of_the_one_that_noted_it(
    tmp_path: Path, savepoint: str
) -> None:
    record("e1", OTHER_JOB, JOB).with_savepoint("/moved/elsewhere").save(tmp_path)
    assert record_of_savepoint(tmp_path, savepoint).epoch == "e1"


@pytest.mark.parametrize(
    "savepoint", ["file:///s/savepoint-a8110c-1", f"/c/{OTHER_JOB}/chk-1", "fcffee", "/unknown"]
)
def test_a_savepoint_of_another_job_is_refused(tmp_path: Path, savepoint: str) -> None:
    record("e1", JOB).save(tmp_path)
    with pytest.raises(EnvironmentFailure, match=f"--from_savepoint={savepoint}"):
        record_of_savepoint(tmp_path, savepoint)


def test_a_savepoint_of_a_job_that_passed_records_is_refused(tmp_path: Path) -> None:
    replace(record("e1", JOB), is_part=True).save(tmp_path)
    with pytest.raises(EnvironmentFailure, match="landed only a part of the log"):
        record_of_savepoint(tmp_path, f"/c/{JOB}/chk-1")


def test_records_of_other_epochs_go(tmp_path: Path) -> None:
    record("e1", JOB).save(tmp_path)
    record("e2").save(tmp_path)
    remove_records(tmp_path, but_epoch="e2")
    assert [found.epoch for found in job_records(tmp_path)] == ["e2"]
    remove_records(tmp_path)
    assert job_records(tmp_path) == []


def test_a_broken_record_is_told(tmp_path: Path) -> None:
    record("e1").save(tmp_path)
    (tmp_path / RECORDS / "e1.json").write_text("{}")
    with pytest.raises(EnvironmentFailure, match=r"e1\.json can't be read"):
        job_records(tmp_path)
