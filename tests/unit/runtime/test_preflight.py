"""The checks before a run that need no cluster."""

from __future__ import annotations

import pytest

from beam_pipeline.errors import UsageError
from beam_pipeline.runtime.preflight import check_dead_letter_suffix


@pytest.mark.parametrize(
    ("topics", "suffix", "reason"),
    [
        (["orders"], "", "is an input topic itself"),
        (["orders", "orders-b"], "-b", "orders-b is an input topic itself"),
        (["orders"], " x", "is no name for a topic"),
        (["orders"], "/x", "is no name for a topic"),
        (["orders"], "y" * 245, "is no name for a topic"),
        (["orders"], "é", "is no name for a topic"),
    ],
)
def test_a_suffix_that_makes_no_dead_letter_topic_is_refused(
    topics: list[str], suffix: str, reason: str
) -> None:
    with pytest.raises(UsageError, match=reason) as refusal:
        check_dead_letter_suffix(topics, suffix)
    assert str(refusal.value).startswith("--dead_letter_topic_suffix=")


def test_a_usual_suffix_is_taken() -> None:
    check_dead_letter_suffix(["orders", "clicks"], ".dlq")
