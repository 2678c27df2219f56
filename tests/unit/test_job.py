"""What the process that submits a job tells of it."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from apache_beam.metrics import monitoring_infos
from apache_beam.portability.api import beam_job_api_pb2
from apache_beam.runners.runner import PipelineResult, PipelineState

from beam_pipeline import job
from beam_pipeline.records import METRICS_NAMESPACE


def counter(step: str, name: str, count: int, namespace: str = METRICS_NAMESPACE) -> Any:
    return monitoring_infos.int64_user_counter(namespace, name, count, ptransform=step)


class JobService:
    """What a runner says of one job's counters."""

    def GetJobMetrics(self, request: Any) -> Any:
        assert request.job_id == "job-1"
        attempted = [counter("validate", "read", 40), counter("write", "files", 1)]
        committed = [
            counter("validate", "read", 120),
            counter("write", "rows", 70),
            counter("write late", "rows", 50),
            counter("validate", "read", 999, namespace="another"),
            monitoring_infos.int64_counter("beam:metric:element_count:v1", 999, "validate"),
        ]
        return beam_job_api_pb2.GetJobMetricsResponse(
            metrics=beam_job_api_pb2.MetricResults(attempted=attempted, committed=committed)
        )


class RunningJob(PipelineResult):
    """A job that runs until it is cancelled."""

    _job_id = "job-1"
    _job_service = JobService()

    def __init__(self) -> None:
        super().__init__(PipelineState.RUNNING)  # type: ignore[no-untyped-call]

    def cancel(self) -> None:
        """Nothing is left to end."""


class StopAfterOneLook(threading.Event):
    """A stop signal that comes while it is waited for the second time, without any delay."""

    def wait(self, timeout: float | None = None) -> bool:
        was_set = self.is_set()
        self.set()
        return was_set


def test_counters_are_summed_over_steps_and_what_is_committed_counts() -> None:
    assert job.counters_of(RunningJob()) == {"read": 120, "rows": 120, "files": 1}


@pytest.mark.parametrize("detach", [False, True])
def test_only_a_job_that_is_attended_has_its_counters_told(tmp_path: Path, detach: bool) -> None:
    status_file = tmp_path / "status.json"
    assert job._watch(RunningJob(), StopAfterOneLook(), status_file, detach) == 0
    if detach:
        assert not status_file.exists()
    else:
        counters = job.counters_of(RunningJob())
        assert json.loads(status_file.read_text()) == {"state": "RUNNING", "counters": counters}
