"""Upkeep of a table: the version hint, and the sweep of what no snapshot has."""

from __future__ import annotations

import contextlib
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pyarrow.fs as pafs
from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.io.pyarrow import PyArrowFileIO
from pyiceberg.table import Table

from beam_pipeline.storage.durable import write_atomically
from beam_pipeline.tables.pyiceberg_internals import paths_by_manifest

GRACE_SECONDS = 24 * 3600.0
"""How old a file must be before it is swept: a commit, or a reader, may still be at it."""

_LOCAL = "file://"
_HINT = "version-hint.text"
_METADATA_SUFFIX = ".metadata.json"


def write_hint(table: Table) -> None:
    """Write which metadata file is the newest, for readers that open the table's directory.

    In a local directory only. A reader may find the one before for a moment.

    Raises:
        OSError: it can't be written.
    """
    location = table.metadata_location
    if location.startswith(_LOCAL):
        path = Path(location.removeprefix(_LOCAL))
        stem = path.name.removesuffix(_METADATA_SUFFIX)
        write_atomically(path.with_name(_HINT), stem.encode(), durable=False, private=False)


class StoredFile(NamedTuple):
    """A file of a table's own.

    Attributes:
        uri: its URI.
        size_bytes: its size.
        changed_s: when it got its content or its name, whatever came last, in seconds since 1970.
    """

    uri: str
    size_bytes: int
    changed_s: float


def sweep(table: Table, *extra_directories: str, grace_seconds: float = GRACE_SECONDS) -> int:
    """Remove files that no snapshot of the table has; return how many.

    Args:
        table: the table, as the catalog has it now.
        extra_directories: URIs of directories with files of this table alone, beside its own.
        grace_seconds: files that are younger stay.

    Raises:
        OSError: the files can't be listed or removed.
    """
    unused = unused_files(table, *extra_directories, grace_seconds=grace_seconds)
    return sum(_remove(file, table) for file in unused)


def _remove(file: StoredFile, table: Table) -> bool:
    """Remove a file, unless a commit has taken it up since it was listed."""
    with contextlib.suppress(FileNotFoundError):
        if file.uri.startswith(_LOCAL) and _stored(Path(file.uri.removeprefix(_LOCAL))) != file:
            return False
        table.io.delete(file.uri)
        return True
    return False


def unused_files(
    table: Table, *extra_directories: str, grace_seconds: float = GRACE_SECONDS
) -> list[StoredFile]:
    """Return the files that `sweep` would remove.

    Raises:
        OSError: the files can't be listed.
    """
    files = table.io
    if not isinstance(files, PyArrowFileIO):
        return []
    base = table.location().rstrip("/")
    directories = dict.fromkeys([f"{base}/metadata", f"{base}/data", *extra_directories])
    before_s = time.time() - grace_seconds
    old = [
        file
        for directory in directories
        for file in _files_in(files, directory)
        if file.changed_s < before_s
    ]
    if not old:
        return []
    try:  # read after the listing: what was committed since is in it
        used = used_files(table.refresh())
    except NoSuchTableError:
        return []
    return [file for file in old if file.uri not in used]


def used_files(table: Table) -> set[str]:
    """Return all files that the table's kept snapshots and its metadata name."""
    metadata = table.metadata
    used = {table.metadata_location}
    used.update(entry.metadata_file for entry in metadata.metadata_log)
    used.update(statistics.statistics_path for statistics in metadata.statistics)
    used.update(snapshot.manifest_list for snapshot in metadata.snapshots)
    for manifest, paths in paths_by_manifest(metadata.snapshots, table.io).items():
        used.add(manifest)
        used.update(paths)
    hint = table.metadata_location.rpartition("/")[0]
    used.add(f"{hint}/{_HINT}")
    return used


def _stored(path: Path) -> StoredFile | None:
    """Return a local file; None if it is none.

    Raises:
        FileNotFoundError: it is gone.
    """
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        return None
    # A link has the time of the file that landed; its ctime is that of the link.
    changed_s = max(status.st_mtime, status.st_ctime)
    return StoredFile(f"{_LOCAL}{path}", status.st_size, changed_s)


def _files_in(files: PyArrowFileIO, directory: str) -> Iterator[StoredFile]:
    """Yield the files below a directory."""
    if directory.startswith(_LOCAL):
        for local_path in Path(directory.removeprefix(_LOCAL)).rglob("*"):
            with contextlib.suppress(FileNotFoundError):
                if (file := _stored(local_path)) is not None:
                    yield file
        return
    scheme, netloc, path = files.parse_location(directory)
    file_system = files.fs_by_scheme(scheme, netloc)
    selector = pafs.FileSelector(path, allow_not_found=True, recursive=True)
    prefix = directory.removesuffix(urlsplit(directory).path)
    for entry in file_system.get_file_info(selector):
        if entry.type is pafs.FileType.File and entry.mtime_ns is not None:
            uri = f"{prefix}{entry.path.removeprefix(netloc)}"
            yield StoredFile(uri, entry.size, entry.mtime_ns / 1e9)
