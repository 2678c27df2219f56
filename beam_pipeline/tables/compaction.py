"""Compaction of a table: small files of closed windows become larger ones in one snapshot.

Rows, offsets and what is landed stay as they are. A merged file has the offsets of its sources, so
the plan of the next commit finds all of them in the table.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import NamedTuple

from beam_pipeline.covered_offsets import CoveredOffsets
from beam_pipeline.files.epochs import COMPACTION_EPOCH, compaction_epoch
from beam_pipeline.files.names import OutputFile
from beam_pipeline.tables.landed import Landed
from beam_pipeline.tables.plan import HeldFile, LandedFile
from beam_pipeline.tables.rewriting import Rewrite, RewriteError, finished, rewrite
from beam_pipeline.tables.table import LandedTable, PlanAgainError

TARGET_BYTES = 128 * 1024 * 1024
"""A merged file is made of at most so many bytes; a file above half of it is not merged."""

MAX_FILES = 1_000
"""How many files a snapshot replaces at most."""

_TIER = 8
_LATE = timedelta(minutes=10)
_OVER = ""
_MAX_TRIES = 5

_log = logging.getLogger(__name__)


class TableFile(NamedTuple):
    """A data file of a table.

    Attributes:
        path: its URI.
        held: what it holds.
        name: the name of the file that landed, or of that which it was merged to.
        size_bytes: its size.
        partition: the values of the table's partition.
    """

    path: str
    held: HeldFile
    name: OutputFile
    size_bytes: int
    partition: tuple[object, ...]


@dataclass(frozen=True)
class Rules:
    """Which files are merged.

    Attributes:
        closed_before: files whose windows ended later stay.
        min_files: how many files are worth a merge.
        by_size: whether only files of about the same size are merged. Without it each merge would
            write the merged file of the one before again.
        target_bytes: as `TARGET_BYTES`.
        max_files: as `MAX_FILES`.
        max_bytes: how many bytes of files a snapshot replaces at most, but for one merge.
    """

    closed_before: datetime
    min_files: int = 2
    by_size: bool = False
    target_bytes: int = TARGET_BYTES
    max_files: int = MAX_FILES
    max_bytes: int = 8 * TARGET_BYTES


def automatic_rules(now: datetime | None = None) -> Rules:
    """Return the rules of a committer: what is cheap, each byte a few times at most."""
    closed_before = (now or datetime.now(timezone.utc)) - _LATE
    return Rules(closed_before, min_files=_TIER, by_size=True, max_bytes=TARGET_BYTES)


class Merge(NamedTuple):
    """Files that become one.

    Attributes:
        files: in the order of their windows.
        epoch: that of the merged file.
    """

    files: Sequence[TableFile]
    epoch: str

    @property
    def size_bytes(self) -> int:
        """How large the files are together."""
        return sum(file.size_bytes for file in self.files)


@dataclass
class Compacted:
    """What a compaction did, or would do."""

    snapshots: int = 0
    files_before: int = 0
    files_after: int = 0
    rows: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    left_alone: list[str] = field(default_factory=list)

    def add(self, other: Compacted) -> None:
        """Add what another one did."""
        self.snapshots += other.snapshots
        self.files_before += other.files_before
        self.files_after += other.files_after
        self.rows += other.rows
        self.bytes_before += other.bytes_before
        self.bytes_after += other.bytes_after
        self.left_alone += other.left_alone


def choose(
    files: Iterable[TableFile], rules: Rules, is_over: Callable[[str], bool]
) -> Iterator[Merge]:
    """Yield what is to be merged, the oldest windows first.

    Files of one topic and one partition of the table are merged. Those of epochs that are over make
    files of their own. Those of an epoch that is not over may turn out to be strays when the next
    one begins, so each such epoch has merged files of its own, with its name: by it and the offsets
    the rows of strays are found again.
    """
    groups: dict[tuple[object, ...], list[TableFile]] = defaultdict(list)
    for file in files:
        if file.name.window_end > rules.closed_before:
            continue
        if file.size_bytes * 2 > rules.target_bytes:
            continue
        epoch = file.held.epoch
        if is_over(epoch) or COMPACTION_EPOCH.fullmatch(epoch):
            epoch = _OVER
        size = max(1, file.size_bytes)
        tier = int(math.log(rules.target_bytes / size, _TIER)) if rules.by_size else 0
        groups[file.name.topic, file.partition, epoch, tier].append(file)
    merges = []
    for (_, _, group_epoch, _), group in groups.items():
        epoch = str(group_epoch) or compaction_epoch()
        merges += [
            Merge(packed, epoch)
            for packed in _packed(group, rules)
            if len(packed) >= rules.min_files
        ]
    yield from sorted(merges, key=lambda merge: _place(merge.files[0]))


def _packed(files: list[TableFile], rules: Rules) -> Iterator[list[TableFile]]:
    packed: list[TableFile] = []
    packed_bytes = 0
    for file in sorted(files, key=_place):
        is_full = packed_bytes + file.size_bytes > rules.target_bytes
        if packed and (is_full or len(packed) == rules.max_files):
            yield packed
            packed, packed_bytes = [], 0
        packed.append(file)
        packed_bytes += file.size_bytes
    if packed:
        yield packed


def _place(file: TableFile) -> tuple[datetime, datetime, str, str]:
    return file.name.window_start, file.name.window_end, file.held.name, file.path


def table_files(table: LandedTable, landed: Landed) -> list[TableFile]:
    """Return the files of the table's newest snapshot that may be merged, as `read` saw it.

    Files of other writers, those with rows of strays, and those that are partitioned in another way
    than the table is now are not among them.
    """
    strays, spec_id = landed.strays(table.held.files), table.spec_id
    return [
        TableFile(path, held, name, data_file.file_size_in_bytes, partition)
        for path, (data_file, partition) in table.data_files().items()
        if path not in strays
        and data_file.spec_id == spec_id
        and (held := table.held.files.get(path)) is not None
        and (name := OutputFile.parse(held.name)) is not None
    ]


def compact_once(
    table: LandedTable, landed: Landed, rules: Rules, but: Collection[str] = ()
) -> Generator[None, None, Compacted]:
    """Merge what one snapshot may replace, and commit it; yield after each row group.

    Closing the generator early removes what was written.

    Args:
        table: the table.
        landed: the files that are to be in it.
        rules: what is merged.
        but: files that stay.

    Returns:
        what was done; `left_alone` are the first files of merges that failed.

    Raises:
        PlanAgainError: another commit has changed the files, or the outcome is not known.
        PipelineError, OSError: something does not serve or does not answer.
    """
    done = Compacted()
    table.read()
    if table.table is None or table.has_deletes():
        return done
    files = [file for file in table_files(table, landed) if file.path not in but]
    gone: list[str] = []
    come: list[LandedFile] = []
    for merge in _within(choose(files, rules, landed.counted.is_over), rules):
        try:
            come.append((yield from rewrite(_rewrite_of(merge, table), table.io)))
        except RewriteError as error:
            _log.warning("not merged: %s", error)
            done.left_alone += [file.path for file in merge.files]
            continue
        gone += [file.path for file in merge.files]
        done.bytes_before += merge.size_bytes
    if gone:
        done.bytes_after = table.replace(gone, come)
        done.snapshots = 1
        done.files_before, done.files_after = len(gone), len(come)
        done.rows = sum(file.rows for file in come)
    return done


def _within(merges: Iterable[Merge], rules: Rules) -> Iterator[Merge]:
    """Yield as many merges as one snapshot may have."""
    files = size_bytes = 0
    for merge in merges:
        files += len(merge.files)
        size_bytes += merge.size_bytes
        if files > len(merge.files) and (files > rules.max_files or size_bytes > rules.max_bytes):
            return
        yield merge


def _rewrite_of(merge: Merge, table: LandedTable) -> Rewrite:
    keep = CoveredOffsets()
    for file in merge.files:
        keep.update(file.held.covered)
    first = merge.files[0].name
    target = OutputFile(
        topic=first.topic,
        window_start=min(file.name.window_start for file in merge.files),
        window_end=max(file.name.window_end for file in merge.files),
        shard=0,
        epoch=merge.epoch,
        pane=0,
        suffix=first.suffix,
    )
    return table.rewrite_of([file.path for file in merge.files], target, keep)


def compact_all(
    table: LandedTable, landed: Landed, rules: Rules, on_merged: Callable[[int], None]
) -> Compacted:
    """Merge all that the rules say, a snapshot after the other.

    Args:
        table: the table.
        landed: the files that are to be in it.
        rules: what is merged.
        on_merged: called with how many files a snapshot has replaced.

    Raises:
        PlanAgainError: other commits came first again and again.
        PipelineError, OSError: something does not serve or does not answer.
    """
    together = Compacted()
    tries = 0
    while True:
        try:
            done = finished(compact_once(table, landed, rules, together.left_alone))
        except PlanAgainError as error:
            tries += 1
            if tries == _MAX_TRIES:
                raise
            _log.info("planned again: %s", error)
            continue
        tries = 0
        together.add(done)
        if not done.snapshots and not done.left_alone:
            return together
        on_merged(done.files_before)


def compaction_plan(table: LandedTable, landed: Landed, rules: Rules) -> Compacted:
    """Return what `compact_all` would do at first; it may merge some of that once more.

    Raises:
        PipelineError, OSError: something does not serve or does not answer.
    """
    planned = Compacted()
    table.read()
    if table.table is None or table.has_deletes():
        return planned
    for merge in choose(table_files(table, landed), rules, landed.counted.is_over):
        planned.files_before += len(merge.files)
        planned.files_after += 1
        planned.rows += sum(file.held.covered.count for file in merge.files)
        planned.bytes_before += merge.size_bytes
    return planned
