"""What a run does when nothing moves."""

from __future__ import annotations

from pathlib import Path

import pytest
from pipeline_settings import settings_of

from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.offset_sets import TopicPartition
from beam_pipeline.runtime import supervisor
from beam_pipeline.runtime.prism.engine import LocalTools, PrismEngine
from beam_pipeline.runtime.processes import free_port
from beam_pipeline.runtime.supervisor import RunPlan, Supervisor


def test_a_broker_that_is_away_at_a_standstill_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "STANDSTILL_SECONDS", 0.0)
    plan = RunPlan(
        connection=KafkaConnection(f"127.0.0.1:{free_port()}"),
        settings=settings_of(
            "--input_topics=orders",
            f"--output_dir={tmp_path / 'output'}",
            f"--dead_letter_dir={tmp_path / 'dead'}",
        ),
        beam_flags=[],
        max_restarts=0,
    )
    engine = PrismEngine(LocalTools(Path("java"), [], Path("prism")), tmp_path.joinpath)
    run = Supervisor(plan, engine, tmp_path.joinpath, [])
    run.status.state = "running"
    assert not run._reached({TopicPartition("orders", 0): 5})
    assert not run._reached({TopicPartition("orders", 0): 5}), "looks for holes in the log"
    assert run.status.remaining == 5
