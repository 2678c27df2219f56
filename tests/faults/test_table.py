"""`kill -9` of a run with a table: every record is in one of the two tables, once."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

import pytest
from faults.scenario import COMMITTER, SUPERVISOR, Scenario
from pyiceberg.catalog import load_catalog
from table_trees import check_snapshots, rows_of

TABLES = ("lake.events", "lake.events__dead_letters")


@pytest.mark.faults(ci=True)
def test_a_table_while_everything_is_killed(scenario: Callable[..., Scenario]) -> None:
    killing = scenario("table", "--table=lake.events", "--commit_interval=0.5")
    killing.start()
    killing.load.start()
    killing.await_progress()
    for victim in ("job and Python worker", SUPERVISOR, "Prism"):
        for _ in range(3):
            killing.pid_of(COMMITTER)
            time.sleep(killing.random.uniform(0, 2))
            killing.kill(COMMITTER)
        killing.await_moment(amid_writing=True)
        killing.kill(victim)
    killing.await_progress()
    killing.settle()
    database = killing.run.output_dir / "_table" / "catalog.db"
    catalog = load_catalog("beam_pipeline", type="sql", uri=f"sqlite:///{database}")
    placed: Counter[tuple[str, int, int]] = Counter()
    for name in TABLES:
        table = catalog.load_table(name)
        check_snapshots(table)
        placed.update(rows_of(table))
    assert placed == killing.log()
    assert len(catalog.load_table(TABLES[0]).history()) > 5
