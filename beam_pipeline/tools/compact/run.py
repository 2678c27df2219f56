"""Carries out a compaction: a directory with its small files and one with large ones change places.

A file system has no step that puts one file in the place of several, so files merged side by side
would be lost or doubled for whoever looks, or kills, in between. Directories can change places in
one step (renameat2 with RENAME_EXCHANGE; ext4, XFS, Btrfs, tmpfs). So the new state of a directory
is made below `_tmp`, where no reader looks: links to the files that stay, and the merged ones. What
the exchange leaves below `_tmp` goes; after a kill the next compaction or run removes it.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyroaring import BitMap64

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.files.contents import UnreadableFile, file_offsets
from beam_pipeline.files.durable import exchange, sync
from beam_pipeline.files.footer import FOOTER_KEY
from beam_pipeline.files.names import PARQUET_SUFFIX
from beam_pipeline.files.row_groups import row_groups
from beam_pipeline.files.tree import visible_files
from beam_pipeline.offset_sets import TopicPartition, offset_set
from beam_pipeline.terminal import progress_bar
from beam_pipeline.tools.compact.plan import DirectoryPlan, Group, LeftAlone, plan_directory

TEMPORARY_DIR = "_tmp"
ROW_GROUP_BYTES = 64 * 1024 * 1024

_ROWS_AT_A_TIME = 65_536
COMPACTION_EPOCH = re.compile(r"[0-9]{8}T[0-9]{6}Zc[0-9a-f]{4}")


@dataclass(slots=True)
class CompactionReport:
    """What was done, or with `dry_run` would be; sizes in bytes."""

    directories: int = 0
    files_before: int = 0
    files_after: int = 0
    rows: int = 0
    bytes_before: int = 0
    bytes_after: int | None = 0
    left_alone: list[LeftAlone] = field(default_factory=list)


def compact(
    output_dir: Path,
    *,
    target_bytes: int,
    codec: str = "zstd",
    dry_run: bool = False,
    live_epochs: Collection[str] = (),
    now: datetime | None = None,
) -> CompactionReport:
    """Merges the small files of closed windows below `output_dir`, one directory at a time.

    The caller holds the lease on `output_dir`: nothing else may write there. Files of the epochs
    `live_epochs`, and of those that have parts below `_tmp`, are left alone: a runner may come
    back to them. The offsets that the files cover are the same before and after each step, in
    their rows and in their footers.

    Raises:
      UsageError: the directory is not there.
      EnvironmentFailure: a file can't be read or written, or the file system can't exchange
        directories; the files are as they were before the step.
    """
    if not dry_run:
        remove_leftovers(output_dir)
    epoch = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}c{secrets.token_hex(2)}"
    scratch = output_dir / TEMPORARY_DIR / epoch
    report = CompactionReport(bytes_after=None if dry_run else 0)
    directories = sorted(
        {path.parent for path in visible_files(output_dir, PARQUET_SUFFIX, "--output_dir")}
    )
    with progress_bar("Compacting", len(directories)) as progress:
        for directory in directories:
            try:
                plan = plan_directory(
                    directory,
                    target_bytes=target_bytes,
                    epoch=epoch,
                    live_epochs={*live_epochs, *_epochs_with_parts(output_dir)},
                    now=now or datetime.now(timezone.utc),
                )
                _add(report, plan)
                if plan.groups and report.bytes_after is not None:
                    report.bytes_after += _carry_out(plan, scratch, codec)
            except (OSError, pa.ArrowException) as error:
                raise EnvironmentFailure(
                    f"{directory} can't be compacted ({' '.join(str(error).split())}); no row of "
                    "it is lost or doubled"
                ) from None
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
            progress(1)
    return report


def remove_leftovers(output_dir: Path) -> None:
    """Removes what a compaction that was killed left below `_tmp`: none of it is in place."""
    for name in _temporary(output_dir):
        if COMPACTION_EPOCH.fullmatch(name):
            shutil.rmtree(output_dir / TEMPORARY_DIR / name)


def _epochs_with_parts(output_dir: Path) -> set[str]:
    return {name for name in _temporary(output_dir) if not COMPACTION_EPOCH.fullmatch(name)}


def _temporary(output_dir: Path) -> list[str]:
    directory = output_dir / TEMPORARY_DIR
    return sorted(child.name for child in directory.iterdir()) if directory.is_dir() else []


def _add(report: CompactionReport, plan: DirectoryPlan) -> None:
    report.left_alone += plan.left_alone
    report.directories += bool(plan.groups)
    for group in plan.groups:
        report.files_before += len(group.sources)
        report.files_after += 1
        report.rows += group.rows
        report.bytes_before += sum(source.size_bytes for source in group.sources)


def _carry_out(plan: DirectoryPlan, scratch: Path, codec: str) -> int:
    """Puts the merged files in place; how many bytes they have."""
    old, new = plan.directory, scratch / plan.directory.name
    new.mkdir(parents=True)
    _make_alike(new, old)
    written = 0
    for group in plan.groups:
        path = new / group.target.name
        merge(group, path, codec)
        _make_alike(path, group.sources[0].path)
        sync(path)
        written += path.stat().st_size
    merged = {source.path.name for group in plan.groups for source in group.sources}
    known = {entry.name for entry in old.iterdir()}
    for name in known - merged:
        os.link(old / name, new / name)
    sync(new)
    exchange(old, new)
    sync(old.parent)
    sync(new.parent)
    for entry in list(new.iterdir()):
        if entry.name in known:
            entry.unlink()
        else:  # from someone who does not know of the lease
            entry.rename(old / entry.name)
    new.rmdir()
    return written


def _make_alike(path: Path, other: Path) -> None:
    """Gives `path` the mode and the owner of `other`."""
    shutil.copymode(other, path)
    wanted, found = other.stat(), path.stat()
    if (wanted.st_uid, wanted.st_gid) != (found.st_uid, found.st_gid):
        os.chown(path, wanted.st_uid, wanted.st_gid)


def merge(group: Group, path: Path, codec: str = "zstd") -> None:
    """Writes the group's rows to `path`, and holds what was written to the group's footer.

    Raises:
      pa.ArrowException, OSError: a source can't be read, or `path` not be written.
      EnvironmentFailure: the file does not hold what its footer says.
    """
    schema = group.sources[0].schema
    with pq.ParquetWriter(path, schema, compression=codec) as writer:
        for table in row_groups(_batches_of(group, schema), schema, ROW_GROUP_BYTES):
            row_group = table.unify_dictionaries()
            writer.write_table(row_group, row_group_size=row_group.num_rows)
        writer.add_key_value_metadata({FOOTER_KEY: group.footer().to_json()})
    _verify(group, path)


def _batches_of(group: Group, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for source in group.sources:
        with pq.ParquetFile(source.path) as file:
            for batch in file.iter_batches(_ROWS_AT_A_TIME, use_threads=False):
                yield batch.replace_schema_metadata(schema.metadata)


def _verify(group: Group, path: Path) -> None:
    rows = 0
    held: dict[TopicPartition, BitMap64] = {}
    try:
        for partition, offsets in file_offsets(path):
            rows += int(np.size(offsets))
            held.setdefault(partition, BitMap64()).update(offset_set(offsets))
    except UnreadableFile as error:
        raise EnvironmentFailure(f"{path}: {error}; nothing was put in place") from None
    if rows != group.rows or held != group.offsets():
        raise EnvironmentFailure(
            f"{group.sources[0].path.parent}: footers and rows differ in what they hold, see "
            "reconcile; nothing was put in place"
        )
