"""Reads dead letters from the pipeline's files, by `schema/dead_letter.schema.json`.

The files have each letter exactly once; the dead-letter topic has it at least once.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.files.names import JSON_LINES_SUFFIX
from beam_pipeline.files.reading import read_each
from beam_pipeline.files.tree import BrokenLine, json_lines, json_objects, visible_files
from beam_pipeline.storage.paths import StoredPath
from beam_pipeline.storage.protocol import StorageAwayError
from beam_pipeline.times import parse_rfc3339

_SMALL_BYTES = 1024 * 1024

Header = tuple[str, "bytes | None"]


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter.

    Attributes:
        violations: (keyword, JSON pointer into the event) of each violation of the schema.
        failed_at: the time of the failure; aware, UTC.
        attempt: 1 for a record's first failure, one more for each replay.
        document: the whole line, parsed.
    """

    dlq_id: str
    code: str
    stage: str
    violations: tuple[tuple[str, str], ...]
    failed_at: datetime
    topic: str
    partition: int
    offset: int
    attempt: int
    document: dict[str, Any] = field(repr=False)

    @property
    def key(self) -> bytes | None:
        """The record's key, byte for byte."""
        return _bytes(self.document["key_b64"])

    @property
    def value(self) -> bytes | None:
        """The record's value, byte for byte; None for a tombstone."""
        return _bytes(self.document["value_b64"])

    @property
    def headers(self) -> list[Header]:
        """The record's headers, in order; names may repeat."""
        return [(header["key"], _bytes(header["value_b64"])) for header in self.document["headers"]]

    @staticmethod
    def from_document(document: dict[str, Any]) -> Letter:
        """Return the letter of a parsed line.

        Raises:
            KeyError, TypeError, ValueError: the line does not follow the schema.
        """
        error, source = document["error"], document["source"]
        return Letter(
            dlq_id=document["dlq_id"],
            code=error["code"],
            stage=document["stage"],
            violations=tuple(
                (violation["keyword"], violation["instance_path"])
                for violation in error["violations"]
            ),
            failed_at=parse_rfc3339(document["failed_at"]),
            topic=source["topic"],
            partition=source["partition"],
            offset=source["offset"],
            attempt=document["attempt"],
            document=document,
        )


def letter_files(dead_letter_dir: StoredPath) -> list[StoredPath]:
    """Return the dead-letter files, in the order of their windows.

    Raises:
        UsageError: the directory does not exist.
    """
    return visible_files(dead_letter_dir, JSON_LINES_SUFFIX, "--dead_letter_dir")


def read_letters(paths: Iterable[StoredPath]) -> Iterator[Letter]:
    """Yield the letters of some files, one at a time.

    Small objects are read ahead, whole and several at a time.

    Raises:
        EnvironmentFailure: a file can't be read, or a line does not follow the schema.
        StorageAwayError: the object store does not answer.
    """
    for path, read in read_each(paths, _small_content_of):
        try:
            content = read()
            lines = json_lines(path) if content is None else json_objects(io.BytesIO(content))
            for document in lines:
                yield Letter.from_document(document)
        except StorageAwayError:
            raise
        except (BrokenLine, OSError, KeyError, TypeError, ValueError) as error:
            raise EnvironmentFailure(
                f"dead letters {path}: {type(error).__name__}: {error}; "
                "move the file away to go on without it"
            ) from error


def _small_content_of(path: StoredPath) -> bytes | None:
    """Return the content of a small object; None for others and for files."""
    if isinstance(path, Path) or path.stat().st_size > _SMALL_BYTES:
        return None
    return path.read_bytes()


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text, validate=True)
