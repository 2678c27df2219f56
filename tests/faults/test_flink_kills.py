"""`kill -9` on Flink, under 500 records a second: whatever runs, at random moments."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from faults.load import LINES_PER_SECOND
from faults.scenario import BROKER, VICTIMS_ON_FLINK, Scenario
from integration.pipeline_runs import wait_for

RECORDS_PER_SECOND = 500
FLAGS = ("--engine=flink", "--checkpointing_interval=2000")


def flink_scenario(scenario: Callable[..., Scenario], name: str) -> Scenario:
    killing = scenario(name, *FLAGS)
    killing.load.events_per_second = RECORDS_PER_SECOND - LINES_PER_SECOND
    killing.start()
    killing.load.start()
    return killing


@pytest.mark.faults
@pytest.mark.parametrize("part", range(1, 5))
def test_a_kill_of_each(scenario: Callable[..., Scenario], part: int) -> None:
    killing = flink_scenario(scenario, f"Flink, kill -9, part {part}")
    victims = killing.random.sample(VICTIMS_ON_FLINK, len(VICTIMS_ON_FLINK))
    for number, victim in enumerate(victims):
        killing.await_moment(amid_writing=number % 2 == 0)
        killing.kill(victim)
    killing.await_progress()
    killing.settle()


@pytest.mark.faults
def test_the_job_is_restored_and_not_begun_anew(scenario: Callable[..., Scenario]) -> None:
    """Of all these deaths only one needs a submission, and that goes on in the same epoch."""
    killing = flink_scenario(scenario, "Flink, restored from checkpoints")
    for victim in ("TaskManager", "worker pool", "Python worker", BROKER, "JobManager"):
        killing.await_progress()
        killing.await_progress()
        killing.kill(victim)
    # A TaskManager writes on for a moment when its JobManager is gone.
    wait_for(lambda: "starting again" in killing.told(), "the next submission")
    killing.await_progress()
    epochs = {re.search(r"-e(\w+)-p", path.name)[1] for path in killing.files()}  # type: ignore[index]
    told = killing.told()
    assert len(epochs) == 1, told
    assert told.count("starting again from chk-") == 1, told
    assert "starting again after" not in told, told
    killing.settle()
