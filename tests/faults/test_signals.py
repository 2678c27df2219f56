"""SIGTERM and SIGSTOP at random moments."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from faults.scenario import Scenario

STOPPED_SECONDS = 30


@pytest.mark.faults
def test_sigterm(scenario: Callable[..., Scenario]) -> None:
    ending = scenario("SIGTERM")
    ending.start()
    ending.load.start()
    for number in range(5):
        ending.await_moment(amid_writing=number % 2 == 0)
        ending.terminate()
        time.sleep(ending.random.uniform(0, 3))
        ending.start()
    ending.await_progress()
    ending.settle()


@pytest.mark.faults
def test_sigstop_of_the_supervisor_keeps_its_lease(scenario: Callable[..., Scenario]) -> None:
    stopping = scenario("SIGSTOP, supervisor")
    stopping.start()
    stopping.load.start()
    stopping.await_progress()
    time.sleep(stopping.random.uniform(0, 5))
    with stopping.stopped(stopping.supervisor.pid):
        began = time.monotonic()
        time.sleep(STOPPED_SECONDS - 5)
        words = stopping.run.run_words(stopping.kafka, stopping.topic, *stopping.flags)
        refused = stopping.run.finish(*words, timeout_seconds=30)
        time.sleep(max(0.0, began + STOPPED_SECONDS - time.monotonic()))
    assert refused.code == 1
    assert f"--output_dir={stopping.run.output_dir} is being written by another" in refused.output
    assert f"process {stopping.supervisor.pid} " in refused.output
    stopping.await_progress()
    stopping.settle()


@pytest.mark.faults
@pytest.mark.parametrize("victim", ["job and Python worker", "Prism"])
def test_sigstop_below_the_supervisor(scenario: Callable[..., Scenario], victim: str) -> None:
    stopping = scenario(f"SIGSTOP, {victim}")
    stopping.start()
    stopping.load.start()
    stopping.await_progress()
    time.sleep(stopping.random.uniform(0, 5))
    with stopping.stopped(stopping.pid_of(victim)):
        time.sleep(STOPPED_SECONDS)
    stopping.await_progress()
    stopping.settle()
