"""What the next commit adds to a table and removes from it, decided by offsets alone.

The files that landed are the truth. A landed file is in the table if files of the table hold all
its offsets: the file itself, or one that it was compacted into.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from beam_pipeline.covered_offsets import CoveredOffsets


class StraddledListingError(Exception):
    """The offsets of the files overlap: the listing saw some before and some after a change."""


@dataclass(frozen=True, eq=False)
class LandedFile:
    """A file in an output directory.

    Attributes:
        uri: the path that it has in the table; for dead letters their own path.
        name: its name.
        epoch: the epoch that wrote it.
        covered: its offsets.
        window: start and end of its window.
        rows: how many rows it has.
    """

    uri: str
    name: str
    epoch: str
    covered: CoveredOffsets
    window: tuple[datetime, datetime]
    rows: int

    @property
    def held(self) -> HeldFile:
        """The file as one of a table."""
        return HeldFile(self.name, self.epoch, self.covered)


@dataclass(frozen=True)
class Plan:
    """One commit.

    Attributes:
        add: landed files that the table gets, the oldest windows first.
        drop: paths that it loses.
        waiting: how many landed files are not in the table before the commit.
    """

    add: Sequence[LandedFile] = ()
    drop: Sequence[str] = ()
    waiting: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to commit."""
        return not self.add and not self.drop


class HeldFile(NamedTuple):
    """A data file of a table.

    Attributes:
        name: the name of the output file that it is.
        epoch: the epoch that wrote it.
        covered: its offsets.
    """

    name: str
    epoch: str
    covered: CoveredOffsets


@dataclass
class HeldFiles:
    """The data files of a table's newest snapshot by their paths, and their offsets together."""

    files: dict[str, HeldFile] = field(default_factory=dict)
    covered: CoveredOffsets = field(default_factory=CoveredOffsets)

    def add(self, path: str, file: HeldFile) -> None:
        """Add a file."""
        self.files[path] = file
        self.covered.update(file.covered)

    def without(self, paths: Collection[str]) -> HeldFiles:
        """Return the files without some; itself if there are none of these."""
        if not paths:
            return self
        held = HeldFiles()
        for path, file in self.files.items():
            if path not in paths:
                held.add(path, file)
        return held


def plan(
    landed: Collection[LandedFile],
    held: HeldFiles,
    strays: Collection[str],
    max_files: int,
    elsewhere: Iterable[LandedFile] = (),
    *,
    in_place: bool = False,
) -> Plan:
    """Return the next commit.

    A held file whose offsets overlap with those of new files is replaced by them: a compaction of
    the directory has put it together with files that the table does not have yet. With it go all
    landed files that have offsets of it.

    A stray is dropped when the first of its records has landed again, for this table or another.
    Until then readers would miss them.

    Args:
        landed: the files in the directory.
        held: the files of the table.
        strays: the held files that a worker of a dead epoch finished late; the present epoch lands
            their records.
        max_files: how many files a commit adds at most, unless it drops any.
        elsewhere: landed files of the other table.
        in_place: whether the table references files that the run removes when they are strays, so
            that these are dropped at once.

    Raises:
        StraddledListingError: an offset would be in the table twice, or would get lost.
    """
    drop = set(strays) if in_place else _landed_again(strays, held.files, [*landed, *elsewhere])
    kept = held.without(drop)
    others = [file for file in landed if file.uri not in kept.files]
    add = [file for file in others if not kept.covered.includes(file.covered)]
    waiting = len(add)
    if _overlap(add, kept.covered):
        replaced = _replaced(add, others, kept.files)
        lost = CoveredOffsets()
        for path in replaced:
            lost.update(kept.files[path].covered)
        kept = kept.without(replaced)
        drop |= replaced
        if not _union(file.covered for file in add).includes(lost):
            raise StraddledListingError("records of the table are in no landed file")
    _check_disjoint(add, kept.covered)
    add.sort(key=lambda file: (*file.window, file.uri))
    if not drop:
        del add[max_files:]
    return Plan(add, sorted(drop), waiting)


def _landed_again(
    strays: Collection[str], held: Mapping[str, HeldFile], landed: Iterable[LandedFile]
) -> set[str]:
    """Return the strays of which a landed file has a record."""
    if not strays:
        return set()
    covered = _union(file.covered for file in landed)
    return {path for path in strays if held[path].covered.overlaps(covered)}


def _replaced(
    add: list[LandedFile], others: Sequence[LandedFile], held: Mapping[str, HeldFile]
) -> set[str]:
    """Return the held files that overlap with new ones; extends `add` by what they need."""
    replaced: set[str] = set()
    added = {file.uri for file in add}
    while True:
        new = _union(file.covered for file in add)
        more = {path for path, file in held.items() if file.covered.overlaps(new)} - replaced
        if not more:
            return replaced
        replaced |= more
        lost = _union(held[path].covered for path in more)
        for file in others:
            if file.uri not in added and file.covered.overlaps(lost):
                added.add(file.uri)
                add.append(file)


def _overlap(files: Iterable[LandedFile], covered: CoveredOffsets) -> bool:
    return any(file.covered.overlaps(covered) for file in files)


def _check_disjoint(add: Sequence[LandedFile], covered: CoveredOffsets) -> None:
    together = _union(file.covered for file in add)
    if together.count != sum(file.covered.count for file in add) or together.overlaps(covered):
        raise StraddledListingError("two files have the same offset")


def _union(parts: Iterable[CoveredOffsets]) -> CoveredOffsets:
    together = CoveredOffsets()
    for part in parts:
        together.update(part)
    return together
