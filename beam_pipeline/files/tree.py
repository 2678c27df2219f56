"""Reading the output directories: which files a reader of the dataset sees, and JSON lines."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import orjson

from beam_pipeline.errors import EnvironmentFailure, UsageError
from beam_pipeline.files.names import HIDDEN_PREFIXES
from beam_pipeline.storage.paths import AnyPath, ObjectPath, StoredPath
from beam_pipeline.storage.protocol import StorageAwayError

_DAY = re.compile(r"[^._=][^=]*=\d{4}-\d\d-\d\d", re.ASCII)
_HOUR = re.compile(r"[^._=][^=]*=\d\d", re.ASCII)


class BrokenLine(ValueError):
    """A line of a JSON lines file that is not one whole JSON object."""


def visible_paths(root: AnyPath) -> Iterator[AnyPath]:
    """Yield the files below `root` that readers of a dataset see, in no order.

    Names that begin with `_` or `.` are left out, directories with everything below them. There is
    nothing to yield if `root` does not exist.

    Raises:
        EnvironmentFailure: a directory can't be listed.
        StorageAwayError: the object store does not answer.
    """
    paths = _visible_files(root) if isinstance(root, Path) else _visible_objects(root)
    yield from cast("Iterator[AnyPath]", paths)


def _visible_files(root: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise EnvironmentFailure(f"{error.filename} can't be listed: {error.strerror}")

    for directory, children, names in os.walk(root, onerror=refuse):
        children[:] = [child for child in children if not child.startswith(HIDDEN_PREFIXES)]
        for name in names:
            if not name.startswith(HIDDEN_PREFIXES):
                yield Path(directory, name)


def _visible_objects(root: ObjectPath) -> Iterator[ObjectPath]:
    """Yield the visible objects; no request is made for what lies below hidden names."""
    for path in root.iterdir():
        if path.name.startswith(HIDDEN_PREFIXES):
            continue
        if path.listed is not None:
            yield path
        else:
            yield from _visible_below(path)


def _visible_below(root: ObjectPath) -> Iterator[ObjectPath]:
    start = len(root.key) + 1
    for path in root.listing():
        if not any(name.startswith(HIDDEN_PREFIXES) for name in path.key[start:].split("/")):
            yield path


def visible_files(directory: AnyPath, suffix: str, flag: str) -> list[AnyPath]:
    """Return the visible files with a suffix below a directory, sorted by path.

    Args:
        directory: the root, such as the output directory.
        suffix: the end of the files' names, `.parquet` or `.jsonl`.
        flag: the option that named the directory, for the error's text.

    Raises:
        UsageError: the directory does not exist, or nothing is below the prefix.
        EnvironmentFailure: a directory can't be listed.
    """
    if isinstance(directory, Path) and not directory.is_dir():
        raise UsageError(f"{flag}={directory} is not a directory; name the one the pipeline wrote")
    paths = sorted(visible_paths(directory), key=str)
    if not paths and isinstance(directory, ObjectPath) and not directory.is_dir():
        raise UsageError(f"{flag}={directory} has no objects; name what the pipeline wrote")
    return [path for path in paths if path.name.endswith(suffix)]


def newest_files(root: AnyPath, suffix: str) -> Iterator[AnyPath]:
    """Yield the visible files with a suffix below `root`, those of the latest hours first.

    Directories are listed one by one as they are needed.

    Raises:
        EnvironmentFailure: a directory can't be listed.
    """
    try:
        is_there = isinstance(root, ObjectPath) or root.is_dir()
        children: list[StoredPath] = list(root.iterdir()) if is_there else []
        entries = sorted(children, key=str, reverse=True)
    except StorageAwayError:
        raise
    except OSError as error:
        raise EnvironmentFailure(f"{error.filename} can't be listed: {error.strerror}") from None
    for entry in entries:
        if entry.name.startswith(HIDDEN_PREFIXES):
            continue
        if _has_entries(entry):
            yield from newest_files(cast("AnyPath", entry), suffix)
        elif entry.name.endswith(suffix):
            yield cast("AnyPath", entry)


def _has_entries(entry: StoredPath) -> bool:
    return entry.is_dir() if isinstance(entry, Path) else entry.listed is None


def partition_keys_in(root: StoredPath) -> set[tuple[str, str]]:
    """Return the names of day and hour in the directories below `root`; empty if it has no files.

    Looks below one directory for each name of a day.

    Raises:
        EnvironmentFailure: a directory can't be listed.
    """
    try:
        days = {name.partition("=")[0]: name for name in _names_in(root, _DAY)}
        return {
            (day, name.partition("=")[0])
            for day, first in days.items()
            for name in _names_in(root / first, _HOUR)
        }
    except StorageAwayError:
        raise
    except OSError as error:
        raise EnvironmentFailure(f"{error.filename} can't be listed: {error.strerror}") from None


def _names_in(directory: StoredPath, pattern: re.Pattern[str]) -> list[str]:
    if isinstance(directory, Path) and not directory.is_dir():
        return []
    return [path.name for path in directory.iterdir() if pattern.fullmatch(path.name)]


def json_lines(path: StoredPath) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON lines file, one at a time.

    Raises:
        BrokenLine: a line is not a JSON object, or the last line has no newline.
        OSError: the file can't be read.
    """
    with path.open("rb") as file:
        yield from json_objects(file)


def json_objects(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Yield the objects of the lines of a JSON lines file.

    Raises:
        BrokenLine: a line is not a JSON object, or the last line has no newline.
    """
    for number, line in enumerate(lines, start=1):
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise BrokenLine(f"line {number} is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise BrokenLine(f"line {number} is not a JSON object")
        if not line.endswith(b"\n"):
            raise BrokenLine(f"line {number} has no end")
        yield value
