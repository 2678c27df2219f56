"""Carries out a compaction: a directory of small files is exchanged with one of merged files.

No file system replaces several files by one in a single step. Merging files in place would show a
reader lost or doubled rows, and so would a kill. But two directories can be exchanged in one step
(renameat2 with RENAME_EXCHANGE; ext4, XFS, Btrfs, tmpfs). So the new state of a directory is made
below `_tmp`, where no reader looks: hard links to the files that stay, and the merged files. After
the exchange the old state below `_tmp` is removed, after a kill by the next compaction or run.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import pyarrow as pa

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.files.epochs import COMPACTION_EPOCH, compaction_epoch
from beam_pipeline.files.markers import MARKER_NAME, read_marker, sizes_in, with_files, write_marker
from beam_pipeline.files.names import PARQUET_SUFFIX
from beam_pipeline.files.tree import visible_files
from beam_pipeline.storage.durable import exchange, sync
from beam_pipeline.terminal import progress_bar
from beam_pipeline.tools.compact.merge import merge
from beam_pipeline.tools.compact.plan import DirectoryPlan, LeftAlone, plan_directory

TEMPORARY_DIR = "_tmp"


@dataclass(slots=True)
class CompactionReport:
    """What a compaction did, or with `dry_run` would do; sizes in bytes."""

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
    keep_lease: Callable[[], None] = lambda: None,
) -> CompactionReport:
    """Merge the small files of closed windows below `output_dir`, one directory at a time.

    The caller must hold the lease on `output_dir`, so that nothing else writes there. Files of
    `live_epochs`, and of epochs with parts below `_tmp`, stay: a runner may come back to them. The
    files cover the same offsets before and after each step, by their rows and by their footers.

    Args:
        output_dir: the root of the Parquet files.
        target_bytes: the size of a merged file at most.
        codec: the compression of merged files.
        dry_run: plan only.
        live_epochs: epochs whose files stay.
        now: the time by which windows have closed; None means the current time.
        keep_lease: called for each row group and before each exchange; renews the caller's lease,
            and raises where it is lost.

    Raises:
        UsageError: the directory does not exist.
        EnvironmentFailure: a file can't be read or written, or the file system can't exchange
            directories. The directory at fault is as it was before.
    """
    if not dry_run:
        remove_leftovers(output_dir)
    epoch = compaction_epoch()
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
                    report.bytes_after += _carry_out(plan, scratch, codec, keep_lease)
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
    """Remove what a killed compaction left below `_tmp`; readers never saw it."""
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


def _carry_out(
    plan: DirectoryPlan, scratch: Path, codec: str, keep_lease: Callable[[], None]
) -> int:
    """Put the merged files in place; return their size in bytes."""
    old, new = plan.directory, scratch / plan.directory.name
    new.mkdir(parents=True)
    _make_alike(new, old)
    written = 0
    for group in plan.groups:
        path = new / group.target.name
        merge(group, path, codec, keep_lease)
        _make_alike(path, group.sources[0].path)
        sync(path)
        written += path.stat().st_size
    merged = {source.path.name for group in plan.groups for source in group.sources}
    known = {entry.name for entry in old.iterdir()}
    for name in known - merged:
        os.link(old / name, new / name)
    _renew_marker(new, old)
    sync(new)
    keep_lease()
    exchange(old, new)
    sync(old.parent)
    sync(new.parent)
    for entry in list(new.iterdir()):
        if entry.name in known:
            entry.unlink()
        else:  # written by a process that ignores the lease
            entry.rename(old / entry.name)
    new.rmdir()
    return written


def _renew_marker(directory: Path, earlier: Path) -> None:
    """Make the marker of an hour say which files it has now; its rows are the same."""
    marker, version = read_marker(directory)
    if marker is not None:
        sizes = sizes_in(directory, PARQUET_SUFFIX)
        write_marker(directory, with_files(marker, sizes, datetime.now(timezone.utc)), version)
        _make_alike(directory / MARKER_NAME, earlier / MARKER_NAME)


def _make_alike(path: Path, model: Path) -> None:
    """Give `path` the mode and the owner of `model`."""
    shutil.copymode(model, path)
    wanted, current = model.stat(), path.stat()
    if (wanted.st_uid, wanted.st_gid) != (current.st_uid, current.st_gid):
        os.chown(path, wanted.st_uid, wanted.st_gid)
