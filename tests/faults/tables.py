"""The verdict on the tables of a scenario: `reconcile --table`, and a count of their rows."""

from __future__ import annotations

import json
from collections import Counter

from faults.scenario import Scenario
from integration.pipeline_runs import Finished
from pyiceberg.catalog import load_catalog
from pyiceberg.table import Table
from table_trees import Row, check_snapshots, rows_of

TABLE = "lake.events"
FLAGS = (f"--table={TABLE}", "--commit_interval=0.5")
_NAMES = (TABLE, f"{TABLE}__dead_letters")


def open_tables(killing: Scenario) -> list[Table]:
    """The table of the rows and that of the dead letters, as the catalog has them now."""
    database = killing.run.output_dir / "_table" / "catalog.db"
    catalog = load_catalog("beam_pipeline", type="sql", uri=f"sqlite:///{database}")
    return [catalog.load_table(name) for name in _NAMES]


def reconcile_tables(killing: Scenario, *flags: str) -> Finished:
    """Run `reconcile --table`; a running pipeline is compared up to what should have landed."""
    return killing.run.finish(
        "reconcile",
        f"--kafka_bootstrap_servers={killing.kafka.bootstrap_servers}",
        f"--input_topics={killing.topic}",
        *killing.run.place_flags(),
        f"--table={TABLE}",
        "--json",
        *flags,
    )


def check_tables(killing: Scenario) -> Table:
    """Check that each record of the log is in one of the two tables once; return that of the rows.

    Each kept snapshot is checked too: no file and no record is in it twice.
    """
    placed: Counter[Row] = Counter()
    tables = open_tables(killing)
    for table in tables:
        check_snapshots(table)
        placed.update(rows_of(table))
    expected = killing.log()
    reconciled = reconcile_tables(killing, "--up_to=end")
    verdict = f"seed {killing.seed}, {dict(killing.kills)}\n{reconciled.output[:2000]}"
    assert placed == expected, verdict
    assert reconciled.code == 0, verdict
    report = json.loads(reconciled.output)
    assert (report["missing"], report["doubled"], report["records"]) == (0, 0, expected.total())
    assert (report["table"]["lag"], report["table"]["foreign_snapshots"]) == (0, [])
    return tables[0]
