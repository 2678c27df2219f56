"""What a look at a job on Flink tells."""

from __future__ import annotations

from pathlib import Path

import pytest
from rest_answers import Answers, answering

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.runtime.flink import engine as flink
from beam_pipeline.runtime.flink.engine import FlinkEngine, FlinkSettings, FlinkTools

JOB = {"jid": "j1", "name": "", "state": "RUNNING", "start-time": 1, "vertices": [{"id": "v1"}]}
METRICS = "/v1/jobs/j1/vertices/v1/subtasks/metrics"
READ = "Validate.beam_pipeline_read"
ANSWERS: Answers = {
    ("GET", "/v1/jobs/overview"): (200, {"jobs": [JOB]}),
    ("GET", "/v1/jobs/j1"): (200, JOB),
    ("GET", METRICS): (200, [{"id": READ}]),
    ("GET", f"{METRICS}?agg=sum&get={READ}"): (200, [{"id": READ, "sum": 7.0}]),
}


def test_counters_stand_between_two_looks(tmp_path: Path) -> None:
    with answering(ANSWERS) as rest:
        settings = FlinkSettings(1, 10_000, master=rest.master, worker_pool="localhost:50000")
        engine = FlinkEngine(
            FlinkTools(Path("java"), [], None), settings, tmp_path, tmp_path.joinpath
        )
        assert engine.status().counters == {"read": 7}
        engine._next_poll += flink.POLL_SECONDS
        assert engine.status().counters == {"read": 7}


def test_a_start_that_fails_is_not_restored_by_the_next_epoch(tmp_path: Path) -> None:
    """The next epoch resumes from the files; a savepoint goes with the epoch that took it."""
    settings = FlinkSettings(1, 10_000, master="127.0.0.1:9", savepoint="file:///s/savepoint-1")
    engine = FlinkEngine(
        FlinkTools(Path("/nowhere/java"), [], None), settings, tmp_path, tmp_path.joinpath
    )
    for epoch in ("epoch1", "epoch2"):
        with pytest.raises(EnvironmentFailure, match="/nowhere/java"):
            engine.start(epoch)
        assert engine.checkpoint() is None
    assert engine._restore_from is None
