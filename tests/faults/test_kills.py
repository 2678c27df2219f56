"""`kill -9` at random moments, over everything that runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from faults.scenario import VICTIMS, Scenario


@pytest.mark.faults
@pytest.mark.parametrize("part", range(1, 6))
def test_two_kills_each(scenario: Callable[..., Scenario], part: int) -> None:
    killing = scenario(f"kill -9, part {part}")
    killing.start()
    killing.load.start()
    for _ in range(2):
        for number, victim in enumerate(killing.random.sample(VICTIMS, len(VICTIMS))):
            killing.await_moment(amid_writing=number % 2 == 0)
            killing.kill(victim)
    killing.await_progress()
    killing.settle()
