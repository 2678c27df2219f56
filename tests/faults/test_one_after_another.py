"""The selection for every change: faults of several kinds, one after another, under one load."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from faults.scenario import BROKER, SUPERVISOR, Scenario

SIGTERM, VANISHING = "SIGTERM", "output directory vanishes"
FAULTS = (SUPERVISOR, "job and Python worker", "Prism", BROKER, SIGTERM, VANISHING)


@pytest.mark.faults(ci=True)
def test_one_fault_after_another(scenario: Callable[..., Scenario]) -> None:
    mixed = scenario("one after another")
    mixed.start()
    mixed.load.start()
    for number, fault in enumerate(mixed.random.sample(FAULTS, len(FAULTS))):
        # A start that is under way would refuse in other words.
        mixed.await_moment(amid_writing=number % 2 == 0 or fault == VANISHING)
        if fault == SIGTERM:
            mixed.terminate()
            mixed.start()
        elif fault == VANISHING:
            mixed.vanish(mixed.run.output_dir)
        else:
            mixed.kill(fault)
    mixed.settle()
