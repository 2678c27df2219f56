"""The supervisor's pieces that need no process."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_engine import ORDERS, FakeEngine, FakeSource
from pipeline_settings import settings_of

from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.runtime import supervisor
from beam_pipeline.runtime.run_plan import RunPlan
from beam_pipeline.runtime.supervisor import Supervisor


@pytest.mark.parametrize("is_reachable", [True, False])
def test_a_broker_that_is_away_at_a_standstill_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_reachable: bool
) -> None:
    monkeypatch.setattr(supervisor, "STANDSTILL_SECONDS", 0.0)
    plan = RunPlan(
        connection=KafkaConnection("127.0.0.1:9"),
        settings=settings_of(
            "--input_topics=orders",
            f"--output_dir={tmp_path / 'output'}",
            f"--dead_letter_dir={tmp_path / 'dead'}",
        ),
        beam_flags=[],
        max_restarts=0,
    )
    source = FakeSource([is_reachable])
    run = Supervisor(plan, FakeEngine(), tmp_path.joinpath, [], source=source)
    run.status.state = "running"
    assert not run._is_reached({ORDERS: 5})
    assert not run._is_reached({ORDERS: 5}), "looks for offsets without a record"
    assert source.asked["cover_offset_gaps"] == is_reachable
    assert run.status.remaining == 5
