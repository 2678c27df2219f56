"""The reading side of the output directories: which files a reader of the tree would see."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from beam_pipeline.errors import EnvironmentFailure, UsageError
from beam_pipeline.files.names import HIDDEN_PREFIXES


class BrokenLine(ValueError):
    """A line of a JSON lines file that is not one whole JSON object."""


def visible_files(directory: Path, suffix: str, flag: str) -> list[Path]:
    """Lists the files below a directory that readers of a dataset see, in the order of their paths.

    Names that begin with `_` or `.` are passed over, directories with all that is in them.

    Args:
        directory: the root, such as the output directory.
        suffix: the end of the files' names, `.parquet` or `.jsonl`.
        flag: the option that named the directory, for the error's text.

    Raises:
        UsageError: the directory is not there.
        EnvironmentFailure: it, or one below it, can't be listed.
    """
    if not directory.is_dir():
        raise UsageError(f"{flag}={directory} is not a directory; name the one the pipeline wrote")
    found: list[Path] = []

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise EnvironmentFailure(f"{flag}: can't list {error.filename}: {error.strerror}")

    for parent, directories, names in os.walk(directory, onerror=refuse):
        directories[:] = [name for name in directories if not name.startswith(HIDDEN_PREFIXES)]
        found.extend(
            Path(parent, name)
            for name in names
            if name.endswith(suffix) and not name.startswith(HIDDEN_PREFIXES)
        )
    return sorted(found)


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Reads a JSON lines file, one object at a time.

    Raises:
        BrokenLine: a line is not a JSON object, or the last one has no end.
        OSError: the file can't be read.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                value = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise BrokenLine(f"line {number} is not JSON: {error}") from error
            if not isinstance(value, dict):
                raise BrokenLine(f"line {number} is not a JSON object")
            if not line.endswith(b"\n"):
                raise BrokenLine(f"line {number} has no end")
            yield value
