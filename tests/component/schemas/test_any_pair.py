"""Random pairs of schemas, in all drafts: no event refutes a yes of `schema check`."""

from __future__ import annotations

from random_changes import try_pairs


def test_no_event_refutes_a_yes() -> None:
    tried = try_pairs(seed=15, pairs=1_000)
    assert tried.unsound == []
    assert min(tried.counts[name] for name in ("yes", "no", "no, refuted")) > 50
