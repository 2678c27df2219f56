"""Upkeep of a table: the version hint, and the sweep of what no snapshot has."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow.fs as pafs
from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.io.pyarrow import PyArrowFileIO
from pyiceberg.table import Table

from beam_pipeline.storage.durable import write_atomically
from beam_pipeline.tables.pyiceberg_internals import referenced_paths

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


def sweep(table: Table, *extra_directories: str, grace_seconds: float = GRACE_SECONDS) -> int:
    """Remove files that no snapshot of the table has; return how many.

    Args:
        table: the table, as the catalog has it now.
        extra_directories: URIs of directories with files of this table alone, beside its own.
        grace_seconds: files that are younger stay.

    Raises:
        OSError: the files can't be listed or removed.
    """
    files = table.io
    if not isinstance(files, PyArrowFileIO):
        return 0
    base = table.location().rstrip("/")
    directories = dict.fromkeys([f"{base}/metadata", f"{base}/data", *extra_directories])
    before_s = time.time() - grace_seconds
    old = [uri for directory in directories for uri in _files_in(files, directory, before_s)]
    if not old:
        return 0
    try:  # read after the listing: what was committed since is in it
        used = used_files(table.refresh())
    except NoSuchTableError:
        return 0
    unused = [uri for uri in old if uri not in used]
    for uri in unused:
        with contextlib.suppress(FileNotFoundError):
            files.delete(uri)
    return len(unused)


def used_files(table: Table) -> set[str]:
    """Return all files that the table's kept snapshots and its metadata name."""
    metadata = table.metadata
    used = {table.metadata_location}
    used.update(entry.metadata_file for entry in metadata.metadata_log)
    used.update(statistics.statistics_path for statistics in metadata.statistics)
    for snapshot in metadata.snapshots:
        used.add(snapshot.manifest_list)
        used.update(manifest.manifest_path for manifest in snapshot.manifests(table.io))
        used.update(referenced_paths(snapshot, table.io))
    hint = table.metadata_location.rpartition("/")[0]
    used.add(f"{hint}/{_HINT}")
    return used


def _files_in(files: PyArrowFileIO, directory: str, before_s: float) -> Iterator[str]:
    """Yield the URIs of the files below a directory that are older than a time."""
    scheme, netloc, path = files.parse_location(directory)
    file_system = files.fs_by_scheme(scheme, netloc)
    selector = pafs.FileSelector(path, allow_not_found=True, recursive=True)
    prefix = directory.removesuffix(urlsplit(directory).path) if scheme != "file" else _LOCAL
    for entry in file_system.get_file_info(selector):
        if entry.type is not pafs.FileType.File or entry.mtime_ns is None:
            continue
        if entry.mtime_ns / 1e9 < before_s:
            below = entry.path.removeprefix(netloc) if scheme != "file" else entry.path
            yield f"{prefix}{below}"
