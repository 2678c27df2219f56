"""The committer is killed at each point of its protocol, on the embedded catalog.

Meanwhile files land, the directory is compacted, epochs begin with strays, the table is compacted,
and what is not used is swept.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import table_kill_child
from table_killer import Killer, Lander

RANDOM_KILLS = 24


@pytest.fixture
def killer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Killer:
    # The fork server imports the child's module once, where it finds it.
    monkeypatch.setenv("PYTHONPATH", str(Path(table_kill_child.__file__).parent))
    return Killer(Lander(tmp_path, random.Random(1)))


def test_a_committer_that_is_killed_at_each_point(killer: Killer) -> None:
    """Before and after the tables exist, and with links and manifests of the one before."""
    reached = set()
    points = {**table_kill_child.POINTS, **table_kill_child.SQLITE_MERGE_POINTS}
    for _ in range(3):
        for point in points:
            killer.lander.land()
            killer.lander.land_letters()
            if killer.commit(point) == "killed":
                reached.add(point)
            killer.check()
            killer.retire()
    killer.check_at_rest()
    assert reached == points.keys()
    assert killer.cuts
    assert killer.retired
    assert killer.ends["killed"] >= 70
    assert killer.ends["failed"] == 0


def test_a_committer_that_is_killed_at_random_times(killer: Killer) -> None:
    while killer.ends["killed"] < RANDOM_KILLS:
        for _ in range(3):
            killer.lander.step()
        killer.commit(None, kill_after=killer.lander.random.uniform(0.05, 1.0))
        killer.check()
        killer.retire()
    killer.commit(None)
    killer.check()
    killer.check_at_rest()
    assert killer.ends["failed"] == 0


def test_two_committers_at_once(killer: Killer) -> None:
    for round_number in range(8):
        for _ in range(3):
            killer.lander.land()
            killer.lander.land_letters()
        children = [killer.start(), killer.start()]
        if round_number % 2:
            children[0].join(killer.lander.random.uniform(0.01, 0.3))
            children[0].kill()
        for child in children:
            killer.end(child)
        killer.check()
    killer.check_at_rest()
    assert killer.ends["failed"] == 0
