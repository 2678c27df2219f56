"""The landed files, and the immutable files that a table references in their place.

A table never references a file of the output directory: whoever removes that, to make room or to
compact the directory, would break the table. It references a hard link, which takes no space and
whose name has inode and time of the file. An object store has no links. There it references the
objects themselves, which are never replaced; nobody may remove them.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, Protocol

from beam_pipeline.covered_offsets import CoveredOffsets
from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.files.footer import FileFooter, FooterError, footer_of, read_metadata
from beam_pipeline.files.ledger import Ledger
from beam_pipeline.files.listing import TreeListing
from beam_pipeline.files.names import JSON_LINES_SUFFIX, PARQUET_SUFFIX, OutputFile
from beam_pipeline.files.reading import read_each
from beam_pipeline.storage.durable import make_directory, place_if_absent, sync
from beam_pipeline.storage.paths import ObjectPath, StoredPath
from beam_pipeline.tables.plan import HeldFile, LandedFile, StraddledListingError

_NAME_LENGTH = 200
_NO_LINKS = frozenset(
    {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EMLINK}
)


class Identity(NamedTuple):
    """One content of one name; the inode of an object is 0."""

    inode: int
    changed_ns: int
    size_bytes: int

    @staticmethod
    def of(path: StoredPath) -> Identity:
        """Return that of a file or an object.

        Raises:
            FileNotFoundError: it is gone.
        """
        status = path.stat()
        inode = status.st_ino if isinstance(status, os.stat_result) else 0
        return Identity(inode, status.st_mtime_ns, status.st_size)


class Materialize(Protocol):
    """Makes what the table references of a landed file, durably; returns it with its URI.

    Raises:
        StraddledListingError: the file has gone since it was listed.
    """

    def __call__(self, source: StoredPath, identity: Identity, file: LandedFile) -> LandedFile: ...


@dataclass
class Landed:
    """The files of one output directory that are to be in a table.

    Args:
        root: the directory.
        suffix: the end of their names.
        ledger: returns what the present epoch counts, each time anew.
        describe: reads a file; its URI is what the table will reference.
        materialize: makes what the table references.
        in_place: whether that is the landed file itself.
    """

    root: StoredPath
    suffix: str
    ledger: Callable[[], Ledger]
    describe: Callable[[StoredPath, Identity], LandedFile]
    materialize: Materialize
    in_place: bool = False
    _known: dict[StoredPath, tuple[Identity, LandedFile]] = field(default_factory=dict)
    _counted: Ledger | None = None
    listing: TreeListing = field(init=False)

    def __post_init__(self) -> None:
        self.listing = TreeListing(self.root)

    def look(self) -> list[LandedFile]:
        """Return the files that are there, without those whose records are landed again.

        The ledger is read after the listing: what it counts then was there before.

        Raises:
            EnvironmentFailure: a file or a directory can't be read.
            StorageAwayError: an object store does not answer.
        """
        listed: dict[StoredPath, Identity] = {}
        for path in self.listing.look(whole=False):
            if path in self._known or self._is_output(path):
                try:
                    listed[path] = Identity.of(path)
                except FileNotFoundError:  # gone since it was listed
                    continue
        if isinstance(self.root, Path):
            self._forget(self._known.keys() - listed.keys())
        new = [
            path
            for path, identity in listed.items()
            if path not in self._known or self._known[path][0] != identity
        ]
        for path, read in read_each(new, lambda path: self.describe(path, listed[path])):
            try:
                self._known[path] = listed[path], read()
            except FileNotFoundError:
                continue
            self.listing.note_landed(path)
        self._counted = ledger = self.ledger()
        return [
            file
            for _, file in self._known.values()
            if not ledger.lands_again(file.name, file.epoch, file.covered)
        ]

    def _is_output(self, path: StoredPath) -> bool:
        return path.name.endswith(self.suffix) and OutputFile.parse(path) is not None

    def strays(
        self, held: Mapping[str, HeldFile], counted: Ledger | None = None
    ) -> dict[str, CoveredOffsets]:
        """Return the held files with records that are landed again, and the offsets of these.

        Args:
            held: the files of the table.
            counted: what the present epoch counts; None is that of the last look.
        """
        ledger = counted or self.counted
        strays = {}
        for path, file in held.items():
            if file.is_rewritten:
                again = ledger.landed_again(file.epoch, file.covered)
                if not again.is_empty:
                    strays[path] = again
            elif ledger.lands_again(file.name, file.epoch, file.covered):
                strays[path] = file.covered
        return strays

    @property
    def counted(self) -> Ledger:
        """What the present epoch counts, as of the last look."""
        if self._counted is None:
            self._counted = self.ledger()
        return self._counted

    def materialized(self, files: Iterable[LandedFile]) -> list[LandedFile]:
        """Make what the table references of some files, and return them with their URIs.

        Raises:
            StraddledListingError: a file has gone since it was listed.
            EnvironmentFailure, OSError: one can't be made.
        """
        sources = {id(file): (path, identity) for path, (identity, file) in self._known.items()}
        made = []
        for file in files:
            path, identity = sources[id(file)]
            try:
                made.append(self.materialize(path, identity, file))
            except (FileNotFoundError, StraddledListingError):
                self._forget([path])
                raise StraddledListingError(f"{path} has gone since it was listed") from None
        return made

    def source_of(self, file: LandedFile) -> StoredPath:
        """Return the path of a file that `look` returned."""
        return next(path for path, (_, known) in self._known.items() if known is file)

    def _forget(self, paths: Iterable[StoredPath]) -> None:
        for path in list(paths):
            self._known.pop(path, None)


def ledger_reader(output_dir: StoredPath, dead_letter_dir: StoredPath) -> Callable[[], Ledger]:
    """Return a function that reads what the present epoch counts."""

    def read() -> Ledger:
        ledger = Ledger(output_dir, dead_letter_dir)
        ledger.load_snapshot()
        return ledger

    return read


def landed_file(uri: str, footer: FileFooter, suffix: str = PARQUET_SUFFIX) -> LandedFile:
    """Return a landed file as its footer describes it."""
    held = held_file(footer, suffix)
    window = footer.window_start, footer.window_end
    return LandedFile(
        uri, held.name, held.epoch, held.covered, window, footer.rows, footer.is_rewritten
    )


def held_file(footer: FileFooter, suffix: str = PARQUET_SUFFIX) -> HeldFile:
    """Return a file of a table as its footer describes it."""
    covered = CoveredOffsets()
    for (topic, partition), offsets in footer.offset_sets().items():
        covered.add(topic, partition, offsets)
    name = footer.output_file(suffix).name
    return HeldFile(name, footer.epoch, covered, footer.is_rewritten)


def footer_at(path: StoredPath) -> FileFooter:
    """Return the footer of a landed file.

    Raises:
        FileNotFoundError: the file is gone.
        EnvironmentFailure: it can't be read.
    """
    try:
        return footer_of(read_metadata(path).metadata or {})
    except FileNotFoundError:
        raise
    except (OSError, ValueError, FooterError) as error:
        raise EnvironmentFailure(f"{path}: its footer can't be read ({error})") from None


def link_uri(data: Path, path: StoredPath, identity: Identity, footer: FileFooter) -> str:
    """Return the URI of the link to a file below the data directory of a table."""
    version = f"{identity.inode:x}-{identity.changed_ns:x}"
    name = f"{path.stem[:_NAME_LENGTH]}-{version}{PARQUET_SUFFIX}"
    return f"file://{data}/{footer.window_start:%Y-%m-%d}/{name}"


def linked_rows(data: Path, root: Path, ledger: Callable[[], Ledger]) -> Landed:
    """Return the Parquet files of a directory; the table gets hard links below `data`."""

    def describe(path: StoredPath, identity: Identity) -> LandedFile:
        footer = footer_at(path)
        return landed_file(link_uri(data, path, identity, footer), footer)

    def link(source: StoredPath, identity: Identity, file: LandedFile) -> LandedFile:
        target = Path(file.uri.removeprefix("file://"))
        try:
            # Of an earlier try that was killed. It gets a new ctime, by which a sweep spares it.
            target.chmod(stat.S_IMODE(target.stat().st_mode))
        except FileNotFoundError:
            _link(Path(str(source)), identity, target)
        return file

    return Landed(root, PARQUET_SUFFIX, ledger, describe, link)


def _link(source: Path, identity: Identity, target: Path) -> None:
    """Give a file a second name; where the file system has no links, copy it."""
    _make_synced(target.parent)
    try:
        os.link(source, target)
    except FileExistsError:
        return
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _copy(source, identity, target)
        return
    if Identity.of(target) != identity:  # the name has another file since it was listed
        target.unlink(missing_ok=True)
        raise StraddledListingError
    sync(target.parent)


def _copy(source: Path, identity: Identity, target: Path) -> None:
    copy = target.with_name(f".{secrets.token_hex(8)}")
    try:
        shutil.copyfile(source, copy)
        if Identity.of(source) != identity:
            raise StraddledListingError
        place_if_absent(copy, target)
    finally:
        copy.unlink(missing_ok=True)


def _make_synced(directory: Path) -> None:
    if not directory.is_dir():
        _make_synced(directory.parent)
        make_directory(directory, private=False)
        sync(directory.parent)


def stored_rows(root: StoredPath, ledger: Callable[[], Ledger]) -> Landed:
    """Return the Parquet files of an object store; the table references them where they are."""

    def describe(path: StoredPath, identity: Identity) -> LandedFile:
        return landed_file(str(path), footer_at(path))

    def keep(source: StoredPath, identity: Identity, file: LandedFile) -> LandedFile:
        # Asked anew: a path of a listing knows that the object was there.
        if isinstance(source, ObjectPath) and not ObjectPath(source.storage, source.key).exists():
            raise StraddledListingError
        return file

    return Landed(root, PARQUET_SUFFIX, ledger, describe, keep, in_place=True)


def landed_letters(
    root: StoredPath,
    ledger: Callable[[], Ledger],
    describe: Callable[[StoredPath], LandedFile],
    write: Callable[[StoredPath, LandedFile], str],
) -> Landed:
    """Return the dead-letter files of a directory or store; `write` makes a Parquet file of one."""
    return Landed(
        root,
        JSON_LINES_SUFFIX,
        ledger,
        lambda path, identity: describe(path),
        lambda source, identity, file: replace(file, uri=write(source, file)),
    )
