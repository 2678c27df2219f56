"""What `flink status` says of a job."""

from __future__ import annotations

import argparse
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rest_answers import Answers, answering
from rich.console import Console

from beam_pipeline.commands import flink
from beam_pipeline.files.left_out import LeftOutNote, LeftOutRange, load_left_out
from beam_pipeline.offset_sets import TopicPartition
from beam_pipeline.runtime.flink.job_record import FlinkJobRecord
from beam_pipeline.runtime.flink.rest import FlinkJob

JOB = ("GET", "/v1/jobs/j1")
CHECKPOINTS = ("GET", "/v1/jobs/j1/checkpoints")
METRICS = "/v1/jobs/j1/vertices/v1/subtasks/metrics"
READ = "Validate.beam_pipeline_read"
BEGUN: Answers = {
    JOB: (200, {"vertices": []}),
    CHECKPOINTS: (
        200,
        {"counts": {"completed": 0, "failed": 1, "restored": 0}, "latest": {"completed": None}},
    ),
}


class Fetching(dict[tuple[str, str], tuple[int, Any]]):
    """Answers of a cluster that fetches metrics once it has been asked for them."""

    asked = False

    def __getitem__(self, request: tuple[str, str]) -> tuple[int, Any]:
        if request == ("GET", METRICS):
            fetched, self.asked = self.asked, True
            return 200, [{"id": READ}] if fetched else []
        return super().__getitem__(request)


def status(answers: Answers, tmp_path: Path) -> list[str]:
    """The lines on checkpoints and counters."""
    out = StringIO()
    with answering(answers) as rest:
        record = FlinkJobRecord("e1", rest.master, "dead", 0)
        job = FlinkJob("j1", record.job_name, "RUNNING")
        args = argparse.Namespace(output_dir=str(tmp_path), storage_config=None)
        assert flink._status(record, job, args, Console(file=out)) == 0
    return out.getvalue().splitlines()[2:]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flink, "METRICS_FETCH_SECONDS", 0.0)


def test_what_is_not_there_yet_is_not_told(tmp_path: Path) -> None:
    assert status(BEGUN, tmp_path) == [
        "checkpoints: 0 completed, 1 failed, 0 restored",
        "since the last restore: nothing counted yet",
    ]


def test_what_is_left_out_is_told(tmp_path: Path) -> None:
    left_out = LeftOutRange(TopicPartition("orders", 0), 0, 9, "--start=latest")
    load_left_out(tmp_path).replaced_by(LeftOutNote((left_out,)), tmp_path)
    assert status(BEGUN, tmp_path)[2:] == ["left out: 9 by --start=latest (orders/0: 0-8)"]


def test_counters_are_those_of_now(tmp_path: Path) -> None:
    counters = {
        JOB: (200, {"vertices": [{"id": "v1"}]}),
        ("GET", f"{METRICS}?agg=sum&get={READ}"): (200, [{"id": READ, "sum": 1500.0}]),
    }
    assert status(Fetching({**BEGUN, **counters}), tmp_path)[1] == (
        "since the last restore: read 1,500"
    )
