"""Records are due in the rhythm of their own times."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_pipeline.producer.pacing import Rhythm, time_in


def value_at(time_ms: Any) -> bytes:
    return json.dumps({"meta": {"at": time_ms}}).encode()


@given(st.lists(st.none() | st.integers(0, 10**12), max_size=8), st.floats(0.01, 1000.0))
def test_gaps_are_kept_and_no_record_waits_for_an_earlier_one(
    times_ms: list[int | None], speed: float
) -> None:
    rhythm = Rhythm("meta.at", speed)
    known: list[int] = []
    before = 0.0
    for time_ms in times_ms:
        due = rhythm.due(value_at(time_ms))
        if time_ms is not None:
            known.append(time_ms)
        latest = max(known) - known[0] if known else 0
        # A double holds seconds since 1970 to a tenth of a microsecond; a slow replay stretches it.
        assert due == pytest.approx(latest / 1000 / speed, abs=1e-6 / speed)
        assert due >= before
        before = due


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (value_at("2013-01-01T10:15:00Z"), datetime(2013, 1, 1, 10, 15, tzinfo=timezone.utc)),
        (value_at("2013-01-01t12:15:00+02:00"), datetime(2013, 1, 1, 10, 15, tzinfo=timezone.utc)),
        (value_at(1500), datetime.fromtimestamp(1.5, timezone.utc)),
        (value_at("2013-01-01T10:15:00"), None),
        (value_at("soon"), None),
        (value_at(True), None),
        (value_at(None), None),
        (b'{"meta":5}', None),
        (b"[1]", None),
        (b"{", None),
        (b"", None),
        (None, None),
    ],
)
def test_the_time_of_a_record(value: bytes | None, seconds: datetime | None) -> None:
    assert time_in(value, "meta.at") == (None if seconds is None else seconds.timestamp())
