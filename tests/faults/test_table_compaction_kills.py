"""`kill -9` of a run whose table is compacted, and of what compacts it: no record is lost."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import pytest
from faults.scenario import COMMITTER, SUPERVISOR, Scenario
from integration.pipeline_runs import wait_for
from pyiceberg.catalog import Catalog, load_catalog
from table_trees import check_snapshots, paths_of, rows_of

TABLES = ("lake.events", "lake.events__dead_letters")


@dataclass
class Compactors:
    """Runs `table compact` again and again, and kills each second one, while the block lasts."""

    words: list[str]
    random: Random
    ends: Counter[str] = field(default_factory=Counter)
    _is_over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Compactors:
        self._thread = threading.Thread(target=self._compact)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _compact(self) -> None:
        while not self._is_over.is_set():
            process = subprocess.Popen(self.words, stdout=subprocess.PIPE, text=True)
            if self.random.random() < 0.5:
                time.sleep(self.random.uniform(1, 4))
                process.kill()
            told, _ = process.communicate()
            if process.returncode:
                self.ends["killed" if process.returncode < 0 else "gave up"] += 1
            else:
                self.ends["merged" if "merged" in told else "nothing to merge"] += 1


@pytest.mark.faults
def test_a_table_that_is_compacted_while_everything_is_killed(
    scenario: Callable[..., Scenario],
) -> None:
    killing = scenario("table, compacted", "--table=lake.events", "--commit_interval=0.5")
    killing.start()
    killing.load.start()
    killing.await_progress()
    catalog = wait_for(lambda: catalog_of(killing), "a table", 60)
    places = (
        f"--{name}={getattr(killing.run, name)}" for name in ("output_dir", "dead_letter_dir")
    )
    words = [sys.executable, "-m", "beam_pipeline", "table", "compact", "--table=lake.events"]
    with Compactors([*words, *places], killing.random) as compactors:
        for victim in ("job and Python worker", SUPERVISOR, "Prism", SUPERVISOR):
            for _ in range(3):
                killing.pid_of(COMMITTER)
                time.sleep(killing.random.uniform(0, 2))
                killing.kill(COMMITTER)
            killing.await_moment(amid_writing=True)
            killing.kill(victim)
        killing.await_progress()
    killing.kills["table compact"] += compactors.ends["killed"]
    killing.settle()
    placed: Counter[tuple[str, int, int]] = Counter()
    for name in TABLES:
        table = catalog.load_table(name)
        check_snapshots(table)
        placed.update(rows_of(table))
    assert placed == killing.log()
    assert compactors.ends["merged"] > 1, compactors.ends
    assert compactors.ends["killed"] > 1, compactors.ends
    assert len(paths_of(catalog.load_table(TABLES[0]))) < len(killing.files())


def catalog_of(killing: Scenario) -> Catalog | None:
    """The catalog, once it has the table."""
    database = killing.run.output_dir / "_table" / "catalog.db"
    if not database.exists():
        return None
    catalog = load_catalog("beam_pipeline", type="sql", uri=f"sqlite:///{database}")
    return catalog if catalog.table_exists(TABLES[0]) else None
