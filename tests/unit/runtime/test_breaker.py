"""The circuit breaker over made-up counters and a made-up clock."""

from __future__ import annotations

import pytest

from beam_pipeline.config import BreakerLimits
from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.runtime.breaker import MIN_RECORDS, CircuitBreaker

LIMITS = BreakerLimits(max_dead_ratio=0.5, window_seconds=60)


def test_it_trips_on_too_many_dead_letters_within_the_window() -> None:
    breaker = CircuitBreaker(LIMITS)
    breaker.check({"read": 0, "dead": 0}, now=0)
    breaker.check({"read": 1000, "dead": 10}, now=10)
    with pytest.raises(EnvironmentFailure, match=r"--max_dead_ratio=0\.5"):
        breaker.check({"read": 3000, "dead": 2000}, now=20)


def test_old_dead_letters_leave_the_window() -> None:
    breaker = CircuitBreaker(LIMITS)
    breaker.check({"read": 0, "dead": 0}, now=0)
    breaker.check({"read": 1000, "dead": 490}, now=1)
    for second in range(2, 200):
        breaker.check({"read": 1000 + second * 10, "dead": 490}, now=second)
    with pytest.raises(EnvironmentFailure, match="of the last"):
        breaker.check({"read": 3200, "dead": 690 + 490}, now=200)


def test_few_records_say_nothing() -> None:
    breaker = CircuitBreaker(LIMITS)
    breaker.check({"read": 0, "dead": 0}, now=0)
    breaker.check({"read": MIN_RECORDS - 1, "dead": MIN_RECORDS - 1}, now=1)


def test_exactly_the_ratio_is_allowed() -> None:
    breaker = CircuitBreaker(LIMITS)
    breaker.check({"read": 0, "dead": 0}, now=0)
    breaker.check({"read": 1000, "dead": 500}, now=1)
