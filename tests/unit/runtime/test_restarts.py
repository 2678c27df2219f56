"""Restarts in a row are limited, and a stable epoch or an outage of the broker does not count."""

from __future__ import annotations

import pytest

from beam_pipeline.runtime.restarts import RestartLimits, Restarts


def backoffs(restarts: Restarts, failures: int, ran_seconds: float = 1.0) -> list[float | None]:
    return [restarts.backoff_after(ran_seconds, is_outage=False) for _ in range(failures)]


def test_the_backoff_doubles_up_to_a_limit_and_then_the_restarts_are_used_up() -> None:
    restarts = Restarts(RestartLimits(max_restarts=7))
    assert backoffs(restarts, 8) == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, None]


def test_without_restarts_the_first_failure_is_the_last() -> None:
    assert backoffs(Restarts(RestartLimits(max_restarts=0)), 1) == [None]


@pytest.mark.parametrize("broker_is_away", [False, True])
def test_an_epoch_that_ran_for_ten_minutes_starts_the_count_anew(broker_is_away: bool) -> None:
    restarts = Restarts(RestartLimits(max_restarts=2))
    assert backoffs(restarts, 2) == [1.0, 2.0]
    if broker_is_away:
        assert restarts.backoff_after(601.0, is_outage=True) == 0.0
        assert backoffs(restarts, 3) == [1.0, 2.0, None]
    else:
        assert backoffs(restarts, 1, ran_seconds=601.0) == [1.0]
        assert backoffs(restarts, 2, ran_seconds=600.0) == [2.0, None]


def test_an_outage_of_the_broker_is_not_counted() -> None:
    restarts = Restarts(RestartLimits(max_restarts=1))
    for _ in range(3):
        assert restarts.backoff_after(1.0, is_outage=True) == 0.0
    assert backoffs(restarts, 2) == [1.0, None]
