"""`kill -9` of a run with a table: every record is in one of the two tables, once."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from faults.scenario import COMMITTER, SUPERVISOR, Scenario
from faults.tables import FLAGS, check_tables


@pytest.mark.faults(ci=True)
def test_a_table_while_everything_is_killed(scenario: Callable[..., Scenario]) -> None:
    killing = scenario("table", *FLAGS)
    killing.start()
    killing.load.start()
    killing.await_progress()
    for victim in ("job and Python worker", SUPERVISOR, "Prism"):
        kill_committers(killing)
        killing.await_moment(amid_writing=True)
        killing.kill(victim)
    killing.await_progress()
    killing.settle()
    assert len(check_tables(killing).history()) > 5


def kill_committers(killing: Scenario, times: int = 3) -> None:
    """Kill the committer at random moments, and those that are started after it."""
    for _ in range(times):
        killing.pid_of(COMMITTER)
        time.sleep(killing.random.uniform(0, 2))
        killing.kill(COMMITTER)
