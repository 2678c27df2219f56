"""Output trees with a committer beside them, for the tests of tables."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timezone
from pathlib import Path

from output_trees import OutputTree, sources
from pyiceberg.table import Table

from beam_pipeline.files.ledger import Ledger
from beam_pipeline.settings.table import TableJob, TableSettings
from beam_pipeline.tables.committer import Committer
from beam_pipeline.tables.compaction import Compacted, Rules, compact_once
from beam_pipeline.tables.pyiceberg_internals import referenced_paths
from beam_pipeline.tables.rewriting import finished

_ORIGIN = ("topic", "partition", "offset")

Row = tuple[str, int, int]
"""Topic, partition and offset."""


def job_for(
    tree: OutputTree, catalog: Path | None = None, partition_column: str | None = None
) -> TableJob:
    """A job whose committer puts the files of a tree into the table lake.orders."""
    table = TableSettings("lake.orders", None if catalog is None else str(catalog), 60.0)
    return TableJob(
        table,
        str(tree.output_dir),
        str(tree.dead_letter_dir),
        partition_column=partition_column,
    )


def committed(job: TableJob) -> Committer:
    """A new committer that has put everything that has landed into the tables."""
    committer = Committer(job)
    assert committer.round(), committer.progress.failure
    return committer


def compacted(committer: Committer, rules: Rules | None = None) -> Compacted:
    """Merge the small files of both tables as `table compact` does; return what was done."""
    together = Compacted()
    for published in committer.tables:
        chosen = rules or Rules(closed_before=datetime.now(timezone.utc))
        together.add(finished(compact_once(published.table, published.landed, chosen)))
    return together


def table_of(committer: Committer, name: str = "lake.orders") -> Table:
    """A table as its catalog has it."""
    rows, _ = committer.tables
    return rows.table.catalog.load_table(name)


def rows_of(table: Table, snapshot_id: int | None = None) -> list[Row]:
    """The origins of a table's rows, sorted; read from its files."""
    is_of_rows = "kafka_topic" in table.schema().column_names
    columns = tuple(f"{'kafka_' if is_of_rows else ''}{name}" for name in _ORIGIN)
    rows = table.scan(snapshot_id=snapshot_id, selected_fields=columns).to_arrow()
    return sorted(zip(*(rows.column(name).to_pylist() for name in columns), strict=True))


def check_snapshots(table: Table, but: Collection[int] = ()) -> None:
    """Check what must hold of every kept snapshot: no file and no record twice, sizes as told."""
    for snapshot in table.metadata.snapshots:
        if snapshot.snapshot_id in but:
            continue
        manifests = snapshot.manifests(table.io)
        files = [
            entry.data_file
            for manifest in manifests
            for entry in manifest.fetch_manifest_entry(table.io)
        ]
        paths = [file.file_path for file in files]
        assert len(paths) == len(set(paths)), f"a path is twice in {snapshot.snapshot_id}"
        for file in files:
            assert len(table.io.new_input(file.file_path)) == file.file_size_in_bytes
        rows = rows_of(table, snapshot.snapshot_id)
        assert len(rows) == len(set(rows)), f"a record is twice in {snapshot.snapshot_id}"
        assert len(rows) == sum(file.record_count for file in files)


def paths_of(table: Table) -> set[str]:
    """The data files of the newest snapshot."""
    snapshot = table.current_snapshot()
    return referenced_paths(snapshot, table.io) if snapshot else set()


def begin_epoch(tree: OutputTree, epoch: str, without: Sequence[Path] = ()) -> Ledger:
    """Begin an epoch that counts what is in the tree, but for files that come just then."""
    names = {path.name for path in without}
    ledger = Ledger(tree.output_dir, tree.dead_letter_dir)
    ledger.load_snapshot()
    hidden = [path.rename(path.with_name(f"_{path.name}")) for path in without]
    ledger.refresh()
    ledger.begin_epoch(epoch)
    for path in hidden:
        path.rename(path.with_name(path.name.removeprefix("_")))
    assert not names & ledger.files
    tree.epoch = epoch
    return ledger


def orders(*offsets: int, partition: int = 0) -> list[Row]:
    """Records of one partition of the topic orders."""
    return sources("orders", partition, offsets)
