"""What `run` says at its end."""

from __future__ import annotations

from collections import Counter

import pytest

from beam_pipeline.commands.run import _coerced_text
from beam_pipeline.runtime.supervisor import RunStatus


@pytest.mark.parametrize(
    ("counters", "text"),
    [
        ({"read": 5}, ""),
        ({"coerced.n": 0}, ""),
        ({"coerced.n": 1_200, "coerced.a.b": 1, "valid": 3}, "coerced: a.b 1, n 1,200"),
        ({"coerced.\x1b[1m": 1}, "coerced: \\x1b[1m 1"),
    ],
)
def test_coerced_values_are_named_by_field(counters: dict[str, int], text: str) -> None:
    assert _coerced_text(RunStatus(counters=Counter(counters))) == text


def test_of_many_fields_the_others_are_counted() -> None:
    counters = Counter({f"coerced.f{number:02}": 1 for number in range(25)})
    text = _coerced_text(RunStatus(counters=counters))
    assert text.endswith("f19 1 and 5 more fields")
