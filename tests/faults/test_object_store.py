"""Files in an object store: kills of everything, the store among it, and zombies."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest
from faults.scenario import STORE, VICTIMS, VICTIMS_ON_FLINK, Scenario
from faults.test_flink_kills import flink_scenario
from integration.pipeline_runs import wait_for
from stores import Store
from unreliable_store import FAULTS, unreliable

OUTAGE_SECONDS = 60.0
LEASE_SECONDS = 30.0


@pytest.mark.faults
@pytest.mark.parametrize("part", range(1, 5))
def test_two_kills_each(store_scenario: Callable[..., Scenario], part: int) -> None:
    killing = store_scenario(f"object store, kill -9, part {part}")
    killing.start()
    killing.load.start()
    for _ in range(2):
        victims = killing.random.sample([*VICTIMS, STORE], len(VICTIMS) + 1)
        for number, victim in enumerate(victims):
            killing.await_moment(amid_writing=number % 2 == 0)
            killing.kill(victim)
    killing.await_progress()
    killing.settle()


@pytest.mark.faults
@pytest.mark.parametrize("server", ["gcs_server", "azure_server"])
def test_kills_with_another_store(
    server: str,
    scenario: Callable[..., Scenario],
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ten each; the store itself stays, since these servers may lose what they have answered."""
    store: Store = request.getfixturevalue(server)
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    killing = scenario(f"{store.scheme}://, kill -9")
    killing.run.store = store
    killing.start()
    killing.load.start()
    for _ in range(2):
        for number, victim in enumerate(killing.random.sample(VICTIMS, len(VICTIMS))):
            killing.await_moment(amid_writing=number % 2 == 0)
            killing.kill(victim)
    killing.await_progress()
    killing.settle()


@pytest.mark.faults
@pytest.mark.parametrize("part", range(1, 5))
def test_kills_on_flink(store_scenario: Callable[..., Scenario], part: int) -> None:
    killing = flink_scenario(store_scenario, f"object store, Flink, part {part}")
    victims = [*VICTIMS_ON_FLINK, STORE]
    for number, victim in enumerate(killing.random.sample(victims, len(victims))):
        killing.await_moment(amid_writing=number % 2 == 0)
        killing.kill(victim)
    killing.await_progress()
    killing.settle()


@pytest.mark.faults
def test_a_store_that_is_away_for_a_minute(store_scenario: Callable[..., Scenario]) -> None:
    """It is waited for: nothing is started again, and nothing is lost."""
    waiting = store_scenario("object store away for a minute")
    assert waiting.store is not None
    waiting.start()
    waiting.load.start()
    waiting.await_progress()
    waiting.kills[STORE] += 1
    waiting.store.kill()
    time.sleep(OUTAGE_SECONDS)
    waiting.require_running()
    waiting.store.start()
    waiting.await_progress()
    told = waiting.told()
    assert "starting again" not in told, told
    assert "the object store has not answered since" in told, told
    assert "the object store answers again" in told, told
    waiting.settle()


@pytest.mark.faults
def test_a_store_that_fails_at_random(store_scenario: Callable[..., Scenario]) -> None:
    """Every twelfth request is refused for now, slow, cut off, or done without an answer."""
    failing = store_scenario("object store fails at random")
    assert failing.run.store is not None
    with unreliable(failing.run.store, failing.seed, share=1 / 12) as (store, proxy):
        failing.run.store = store
        failing.start()
        failing.load.start()
        for _ in range(8):
            failing.await_progress()
        failing.kill("job and Python worker")
        failing.await_progress()
        failing.settle()
    assert set(proxy.faults) == set(FAULTS), proxy.faults


@pytest.mark.faults(ci=True)
def test_zombies_of_another_machine(store_scenario: Callable[..., Scenario]) -> None:
    """All processes of a run stand still, another run takes over, and the first ones wake up."""
    first = store_scenario("object store, zombies")
    first.start()
    first.load.start()
    first.await_progress()
    frozen = first.children()
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    stopped, log = first.supervisor, first.run_log(1)
    first.start()  # waits until the lease has not been renewed for a while
    first.await_progress()
    for pid in frozen:
        os.kill(pid, signal.SIGCONT)
    code = wait_for(lambda: stopped.poll(), "the end of the first run", LEASE_SECONDS)
    told = log.read_text(encoding="utf-8")
    assert code == 1, told
    assert "took the lease over" in told.splitlines()[-1], told
    first.await_progress()
    first.settle()
