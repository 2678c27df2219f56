"""`kill -9` of a run with a table: every record is in one of the two tables, once."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from faults.scenario import COMMITTER, SUPERVISOR, Scenario
from faults.tables import FLAGS, check_tables, open_tables, reconcile_tables
from integration.pipeline_runs import wait_for
from table_trees import Row, paths_of, rows_of

from beam_pipeline.tables.pyiceberg_internals import referenced_paths


@pytest.mark.faults(ci=True)
def test_a_table_while_everything_is_killed(scenario: Callable[..., Scenario]) -> None:
    killing = scenario("table", *FLAGS)
    killing.start()
    killing.load.start()
    killing.await_progress()
    for victim in ("job and Python worker", SUPERVISOR, "Prism"):
        kill_committers(killing)
        killing.await_moment(amid_writing=True)
        killing.kill(victim)
    killing.await_progress()
    running = reconcile_tables(killing)
    assert (running.code, json.loads(running.output)["up_to"][:5]) == (0, "up to"), running.output
    killing.settle()
    assert len(check_tables(killing).history()) > 5


@pytest.mark.faults
def test_a_table_on_flink(scenario: Callable[..., Scenario]) -> None:
    """Restored from checkpoints, and begun anew with a file in the table that is a stray then."""
    killing = scenario("table, Flink", "--engine=flink", "--checkpointing_interval=2000", *FLAGS)
    killing.start()
    killing.load.start()
    killing.await_progress()
    for victim in ("TaskManager", "worker pool", "Python worker", "JobManager", SUPERVISOR):
        kill_committers(killing)
        killing.await_moment(amid_writing=True)
        killing.kill(victim)
    killing.await_progress()
    replace_a_stray(killing)
    kill_committers(killing)
    killing.await_progress()
    killing.settle()
    check_tables(killing)


def replace_a_stray(killing: Scenario) -> None:
    """Kill the supervisor, and have the next epoch count without a file that the table has.

    As when its worker finished it just then. No snapshot may lack its records, or have them twice.
    """
    stray, link = wait_for(lambda: newest_in_table(killing), "a file in the table")
    rows = origins_in(stray)
    killing.kills[SUPERVISOR] += 1
    killing.supervisor.kill()
    killing.supervisor.wait(10)
    wait_for(lambda: not killing.children(), "the end of every process", 20)
    epoch, hidden = epoch_of(killing), stray.rename(stray.with_name(f"_{stray.name}"))
    before = {snapshot.snapshot_id for snapshot in open_tables(killing)[0].metadata.snapshots}
    killing.start()
    wait_for(lambda: epoch_of(killing) != epoch, f"an epoch\n{killing.told()}", 60)
    hidden.rename(stray)
    wait_for(lambda: not stray.exists(), f"the removal of the stray\n{killing.told()}", 60)
    wait_for(
        lambda: link not in paths_of(open_tables(killing)[0]), f"its end\n{killing.told()}", 120
    )
    table = open_tables(killing)[0]
    after = [one for one in table.metadata.snapshots if one.snapshot_id not in before]
    dropping = next(one for one in after if link not in referenced_paths(one, table.io))
    assert dropping.summary is not None
    assert int(dropping.summary.additional_properties["added-data-files"]) > 0
    for snapshot in after[: after.index(dropping)]:
        assert rows <= set(rows_of(table, snapshot.snapshot_id))
    assert rows & set(rows_of(table, dropping.snapshot_id))


def newest_in_table(killing: Scenario) -> tuple[Path, str] | None:
    """The newest output file of the present epoch that the table has, and its path there."""
    links = {link.rpartition("/")[2]: link for link in paths_of(open_tables(killing)[0])}
    for path in sorted(killing.run.output_dir.glob("dt=*/hour=*/*.parquet"), reverse=True):
        for name, link in links.items():
            if f"-e{epoch_of(killing)}-" in path.name and name.startswith(f"{path.stem}-"):
                return path, link
    return None


def origins_in(path: Path) -> set[Row]:
    """Where the rows of a file are from."""
    columns = ["kafka_topic", "kafka_partition", "kafka_offset"]
    rows = pq.read_table(path, columns=columns, partitioning=None)
    return set(zip(*(rows.column(name).to_pylist() for name in columns), strict=True))


def epoch_of(killing: Scenario) -> str:
    """The epoch that has begun last."""
    snapshot = killing.run.output_dir / "_ledger" / "snapshot.json"
    epoch: str = json.loads(snapshot.read_bytes())["epoch"]
    return epoch


def kill_committers(killing: Scenario, times: int = 3) -> None:
    """Kill the committer at random moments, and those that are started after it."""
    for _ in range(times):
        killing.pid_of(COMMITTER)
        time.sleep(killing.random.uniform(0, 2))
        killing.kill(COMMITTER)
