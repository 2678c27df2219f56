"""`kill -9` at random moments, over everything that runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import pytest
from faults.scenario import BROKER, SUPERVISOR, VICTIMS, Scenario

CI_VICTIMS = (SUPERVISOR, "job and Python worker", "Prism", BROKER)


@pytest.mark.faults(ci=True)
def test_one_kill_each(scenario: Callable[..., Scenario]) -> None:
    killing = scenario("kill -9, one each")
    killing.start()
    killing.load.start()
    kill_each_once(killing, CI_VICTIMS)
    killing.await_progress()
    killing.settle()


@pytest.mark.faults
@pytest.mark.parametrize("part", range(1, 6))
def test_two_kills_each(scenario: Callable[..., Scenario], part: int) -> None:
    killing = scenario(f"kill -9, part {part}")
    killing.start()
    killing.load.start()
    for _ in range(2):
        kill_each_once(killing, VICTIMS)
    killing.await_progress()
    killing.settle()


def kill_each_once(killing: Scenario, victims: Sequence[str]) -> None:
    """Kills each victim, in random order: every other one with files being written, the rest at
    any moment, a start that is under way included."""
    random = killing.random
    for number, victim in enumerate(random.sample(victims, len(victims))):
        if number % 2 == 0:
            killing.await_progress()
            time.sleep(random.uniform(0, 4))
        else:
            time.sleep(random.uniform(0, 10))
        killing.kill(victim)
