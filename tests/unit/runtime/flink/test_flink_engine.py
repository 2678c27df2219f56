"""What a look at a job on Flink tells."""

from __future__ import annotations

from pathlib import Path

from rest_answers import Answers, answering

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
        engine._next_look += flink.LOOK_SECONDS
        assert engine.status().counters == {"read": 7}
