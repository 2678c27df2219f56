"""Committers in children that are killed while files land, and while they merge files."""

from __future__ import annotations

import multiprocessing
import random
import signal
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import msgspec
import table_kill_child
from output_trees import OutputTree
from table_trees import Row, begin_epoch, check_snapshots, committed, job_for, rows_of, table_of

from beam_pipeline.covered_offsets import CoveredOffsets
from beam_pipeline.files.ledger import Ledger, content_of
from beam_pipeline.files.tree import visible_paths
from beam_pipeline.settings.table import TableJob
from beam_pipeline.tables.catalogs import open_catalog
from beam_pipeline.tools.compact.run import compact

LETTERS = "lake.orders__dead_letters"


@dataclass
class Lander:
    """What a pipeline does to its directories: it lands, is compacted, and begins epochs."""

    root: Path
    random: random.Random
    tree: OutputTree = field(init=False)
    shadow: OutputTree = field(init=False)
    rows: list[Row] = field(default_factory=list)
    letters: list[Row] = field(default_factory=list)
    offset: int = 0
    epochs: int = 0

    def __post_init__(self) -> None:
        self.tree, self.shadow = OutputTree(self.root / "o"), OutputTree(self.root / "s")
        begin_epoch(self.tree, self.tree.epoch)

    def step(self) -> None:
        """Do one thing."""
        chance = self.random.random()
        if chance < 0.6:
            self.land()
        elif chance < 0.8:
            self.land_letters()
        elif chance < 0.9:
            compact(self.tree.output_dir, target_bytes=1 << 20)
        else:
            self.begin_epoch()

    def land(self) -> Path:
        """Land a file of new records."""
        rows = self._new()
        self.rows += rows
        return self._land_rows(rows)

    def land_letters(self) -> None:
        """Land a file of new dead letters."""
        letters = self._new()
        self.letters += letters
        path = self.shadow.letters(letters)
        self._place(path, self.shadow.dead_letter_dir, self.tree.dead_letter_dir)

    def begin_epoch(self) -> None:
        """Begin an epoch that misses a file, as when its worker finished it late."""
        stray_rows = self._new()
        self.rows += stray_rows
        stray = self._land_rows(stray_rows)
        self.epochs += 1
        epoch = f"20261124T14{self.epochs:02d}00Zx0001"
        ledger = begin_epoch(self.tree, epoch, without=[stray])
        self.shadow.epoch = epoch
        cut = self.random.randint(1, len(stray_rows))
        self._land_rows([*stray_rows[:cut], *self._counted_new()])
        ledger.refresh()
        ledger.remove_strays()
        if stray_rows[cut:]:
            self._land_rows(stray_rows[cut:])
        assert not stray.exists()

    def _counted_new(self) -> list[Row]:
        rows = self._new()
        self.rows += rows
        return rows

    def _new(self) -> list[Row]:
        count = self.random.randint(1, 5)
        first, self.offset = self.offset, self.offset + count
        return [("orders", 0, offset) for offset in range(first, first + count)]

    def _land_rows(self, rows: list[Row]) -> Path:
        path = self.shadow.parquet(rows)
        return self._place(path, self.shadow.output_dir, self.tree.output_dir)

    def _place(self, path: Path, source: Path, target: Path) -> Path:
        placed = target / path.relative_to(source)
        placed.parent.mkdir(parents=True, exist_ok=True)
        return path.rename(placed)


@dataclass
class Killer:
    """Commits in children that are killed, and checks the tables after each."""

    lander: Lander
    catalog: Path | None = None
    ends: Counter[str] = field(default_factory=Counter)
    checked: set[int] = field(default_factory=set)
    merges: int = 0
    cuts: int = 0
    retired: int = 0

    @property
    def job(self) -> TableJob:
        """What the committers are told."""
        return job_for(self.lander.tree, self.catalog)

    def commit(self, point: str | None, *, kill_after: float | None = None) -> str:
        """Run a committer to its end or its death, while the lander goes on; return how it went."""
        child = self.start(point, is_alone=True)
        if kill_after is not None:
            child.join(kill_after)
            if child.is_alive():
                child.kill()
        while child.is_alive():
            if self.lander.random.random() < 0.3:
                self.lander.step()
            child.join(0.02)
        return self.end(child)

    def start(self, point: str | None = None, *, is_alone: bool = False) -> ForkServerProcess:
        """Start a committer; if it is the only one, it sweeps without a grace time."""
        job = msgspec.json.encode(self.job)
        child = _CONTEXT.Process(target=table_kill_child.commit, args=(job, point, is_alone))
        child.start()
        return child

    def end(self, child: ForkServerProcess) -> str:
        """Wait for a committer; count and return how it ended."""
        child.join()
        how = _how(child.exitcode)
        self.ends[how] += 1
        return how

    def check(self) -> None:
        """Check every snapshot that is new."""
        for name in ("lake.orders", LETTERS):
            catalog = open_catalog(self.job)
            if catalog.table_exists(name):
                table = catalog.load_table(name)
                check_snapshots(table, but=self.checked)
                for snapshot in table.metadata.snapshots:
                    if snapshot.snapshot_id not in self.checked and snapshot.summary is not None:
                        told = snapshot.summary.additional_properties
                        self.merges += "beam-pipeline.merged-files" in told
                        self.cuts += "beam-pipeline.cut-files" in told
                    self.checked.add(snapshot.snapshot_id)

    def retire(self) -> None:
        """Remove a landed file as its user may: one that is in the table, and in the ledger."""
        catalog, tree = open_catalog(self.job), self.lander.tree
        if not catalog.table_exists("lake.orders"):
            return
        ledger, held = Ledger(tree.output_dir, tree.dead_letter_dir), CoveredOffsets()
        ledger.load_snapshot()
        for topic, partition, offset in rows_of(catalog.load_table("lake.orders")):
            held.add_range(topic, partition, offset, offset)
        for path in sorted(visible_paths(tree.output_dir)):
            covered = content_of(path).covered
            if held.includes(covered) and ledger.covered.includes(covered):
                path.unlink()
                self.retired += 1
                return

    def check_at_rest(self) -> None:
        """Check that a round puts all that has landed into the tables."""
        assert self.merges
        committer = committed(self.job)
        self.checked.clear()  # a sweep may have come since
        self.check()
        assert rows_of(table_of(committer)) == sorted(self.lander.rows)
        if self.lander.letters:
            assert rows_of(table_of(committer, LETTERS)) == sorted(self.lander.letters)


_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["table_kill_child"])


def _how(exit_code: int | None) -> str:
    if exit_code == -signal.SIGKILL:
        return "killed"
    return {0: "done", table_kill_child.FAILED: "failed"}[exit_code or 0]
