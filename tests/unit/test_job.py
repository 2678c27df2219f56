"""What the process that submits a job tells of it."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from apache_beam.runners.runner import PipelineResult, PipelineState

from beam_pipeline import job


class RunningJob(PipelineResult):
    """A job that runs until it is cancelled, and has no counters."""

    def __init__(self) -> None:
        super().__init__(PipelineState.RUNNING)

    def metrics(self) -> Any:
        class Metrics:
            def query(self) -> dict[str, list[Any]]:
                return {"counters": []}

        return Metrics()

    def cancel(self) -> None:
        """Nothing is left to end."""


@pytest.mark.parametrize("detach", [False, True])
def test_only_a_job_that_is_attended_has_its_counters_told(tmp_path: Path, detach: bool) -> None:
    stop = threading.Event()
    timer = threading.Timer(1.5 * job.STATUS_INTERVAL_SECONDS, stop.set)
    timer.start()
    status_file = tmp_path / "status.json"
    assert job._watch(RunningJob(), stop, status_file, detach) == 0
    timer.join()
    if detach:
        assert not status_file.exists()
    else:
        assert json.loads(status_file.read_text()) == {"state": "RUNNING", "counters": {}}
