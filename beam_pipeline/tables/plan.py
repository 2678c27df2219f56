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
        is_rewritten: whether it was made of files of the table, so that none that landed has its
            name.
    """

    uri: str
    name: str
    epoch: str
    covered: CoveredOffsets
    window: tuple[datetime, datetime]
    rows: int
    is_rewritten: bool = False

    @property
    def held(self) -> HeldFile:
        """The file as one of a table."""
        return HeldFile(self.name, self.epoch, self.covered, self.is_rewritten)


@dataclass(frozen=True)
class Plan:
    """One commit.

    Attributes:
        add: landed files that the table gets, the oldest windows first.
        drop: paths that it loses.
        cut: paths that it loses, and the offsets of each whose rows stay, in a file of their own.
        waiting: how many landed files are not in the table before the commit.
    """

    add: Sequence[LandedFile] = ()
    drop: Sequence[str] = ()
    cut: Mapping[str, CoveredOffsets] = field(default_factory=dict)
    waiting: int = 0

    @property
    def gone(self) -> Sequence[str]:
        """All paths that the table loses."""
        return [*self.drop, *self.cut]

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to commit."""
        return not self.add and not self.gone


class HeldFile(NamedTuple):
    """A data file of a table.

    Attributes:
        name: the name of the output file that it is.
        epoch: the epoch that wrote it.
        covered: its offsets.
        is_rewritten: as in `LandedFile`.
    """

    name: str
    epoch: str
    covered: CoveredOffsets
    is_rewritten: bool = False


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
        return self.cut(dict.fromkeys(paths, CoveredOffsets()))

    def cut(self, rests: Mapping[str, CoveredOffsets]) -> HeldFiles:
        """Return the files, some with the rest of their offsets, or without those that have none.

        It is itself if there are none of these.
        """
        if not rests:
            return self
        held = HeldFiles()
        for path, file in self.files.items():
            rest = rests.get(path, file.covered)
            if not rest.is_empty:
                held.add(path, file._replace(covered=rest))
        return held


def plan(
    landed: Collection[LandedFile],
    held: HeldFiles,
    strays: Mapping[str, CoveredOffsets],
    max_files: int,
    elsewhere: Iterable[LandedFile] = (),
    *,
    in_place: bool = False,
) -> Plan:
    """Return the next commit.

    A held file whose offsets overlap with those of new files is replaced by them: a compaction of
    the directory has put it together with files that the table does not have yet. With it go all
    landed files that have offsets of it. If these don't have all of its offsets, since the table
    was compacted and files of the directory were removed, it is cut to the offsets that are not
    added.

    A stray is dropped when the first of its records has landed again, for this table or another.
    Until then readers would miss them.

    Args:
        landed: the files in the directory.
        held: the files of the table.
        strays: the held files with records of a dead epoch's worker that finished late, and the
            offsets of these; the present epoch lands them.
        max_files: how many files a commit adds at most, unless the table loses any.
        elsewhere: landed files of the other table.
        in_place: whether the table references files that the run removes when they are strays, so
            that these are dropped at once.

    Raises:
        StraddledListingError: an offset would be in the table twice.
    """
    if not in_place:
        strays = _landed_again(strays, [*landed, *elsewhere])
    rests = {path: held.files[path].covered.without(again) for path, again in strays.items()}
    kept = held.cut(rests)
    others = [file for file in landed if file.uri not in kept.files]
    add = [file for file in others if not kept.covered.includes(file.covered)]
    waiting = len(add)
    if _overlap(add, kept.covered):
        new, replaced = _replaced(add, others, kept.files)
        covered = _union(file.covered for file in new)
        if not covered.includes(_union(kept.files[path].covered for path in replaced)):
            new, covered = add, _union(file.covered for file in add)
        add = new
        cut_files = {
            path: file.covered.without(covered)
            for path, file in kept.files.items()
            if file.covered.overlaps(covered)
        }
        rests |= cut_files
        kept = kept.cut(cut_files)
    _check_disjoint(add, kept.covered)
    add.sort(key=lambda file: (*file.window, file.uri))
    if not rests:
        del add[max_files:]
    cut = {path: rest for path, rest in sorted(rests.items()) if not rest.is_empty}
    return Plan(add, sorted(rests.keys() - cut.keys()), cut, waiting)


def _landed_again(
    strays: Mapping[str, CoveredOffsets], landed: Iterable[LandedFile]
) -> Mapping[str, CoveredOffsets]:
    """Return the strays of which a landed file has a record."""
    if not strays:
        return strays
    covered = _union(file.covered for file in landed)
    return {path: again for path, again in strays.items() if again.overlaps(covered)}


def _replaced(
    new: Sequence[LandedFile], others: Sequence[LandedFile], held: Mapping[str, HeldFile]
) -> tuple[list[LandedFile], set[str]]:
    """Return new files with those that also have offsets of files that they replace, and these."""
    replaced: set[str] = set()
    add = list(new)
    added = {file.uri for file in add}
    while True:
        covered = _union(file.covered for file in add)
        more = {path for path, file in held.items() if file.covered.overlaps(covered)} - replaced
        if not more:
            return add, replaced
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
