"""The list of files that an epoch counts: `<output_dir>/_ledger/epochs/<epoch>.json`.

It is written once, before the epoch's job starts. The epoch lands every record that is in none of
these files. So a file of an earlier epoch that is not listed and appears later holds records that
are landed elsewhere too: it is a stray.

The list also names all epochs that had such a list before. These are over. No clock is compared to
tell which epoch came first.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import orjson

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.files.names import OutputFile
from beam_pipeline.files.parts import TEMPORARY_DIR
from beam_pipeline.storage.paths import StoredPath
from beam_pipeline.storage.protocol import StorageAwayError
from beam_pipeline.storage.urls import storage_of

EPOCHS = PurePosixPath("_ledger", "epochs")
COMPACTION_EPOCH = re.compile(r"[0-9]{8}T[0-9]{6}Zc[0-9a-f]{4}")
"""The epoch of merged files; it never begins, and so is never over."""

_SUFFIX = ".json"
_VERSION = 1


def compaction_epoch() -> str:
    """Return a new epoch for merged files."""
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}c{secrets.token_hex(2)}"


@dataclass(frozen=True)
class CountedFiles:
    """What one epoch counts.

    Attributes:
        epoch: the epoch.
        files: the names of the files whose offsets it does not land again.
        dead: the epochs that were over before it began.
    """

    epoch: str
    files: frozenset[str]
    dead: frozenset[str]

    def to_json(self) -> bytes:
        """Return the document."""
        return orjson.dumps(
            {
                "version": _VERSION,
                "epoch": self.epoch,
                "files": sorted(self.files),
                "dead": sorted(self.dead),
            }
        )

    def write(self, output_dir: StoredPath) -> None:
        """Write the list, unless the epoch has one.

        Raises:
            EnvironmentFailure: the epoch has another one.
            OSError: it can't be written.
        """
        path = _path(output_dir, self.epoch)
        storage, key = storage_of(path)
        content = self.to_json()
        if storage.put_if_match(key, content, None) is None and path.read_bytes() != content:
            raise EnvironmentFailure(f"{path}: another run has begun an epoch of the same name")


def read_counted_files(output_dir: StoredPath, epoch: str) -> CountedFiles:
    """Return what an epoch counts.

    Raises:
        FileNotFoundError: it has no list any more.
        EnvironmentFailure: the list can't be read.
    """
    path = _path(output_dir, epoch)
    try:
        document: dict[str, Any] = orjson.loads(path.read_bytes())
        if document["version"] != _VERSION:
            raise ValueError(f"version {document['version']}")
        return CountedFiles(epoch, _names(document["files"]), _names(document["dead"]))
    except (FileNotFoundError, StorageAwayError):
        raise
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise EnvironmentFailure(
            f"the list of counted files {path} can't be read ({error}); remove it together with "
            f"{output_dir / '_ledger/snapshot.json'} to have the ledger made anew from the files "
            "that are there"
        ) from None


def begun_epochs(output_dir: StoredPath) -> set[str]:
    """Return the epochs that have a list; those of older versions had none."""
    directory = output_dir / EPOCHS
    try:
        names = [path.name for path in directory.iterdir()]
    except FileNotFoundError:
        return set()
    return {
        name.removesuffix(_SUFFIX)
        for name in names
        if name.endswith(_SUFFIX) and not name.startswith(".")
    }


def remove_lists(output_dir: StoredPath, epochs: Iterable[str]) -> None:
    """Remove the lists of epochs, as far as they are there."""
    storage, prefix = storage_of(output_dir / EPOCHS)
    storage.delete([f"{prefix}/{epoch}{_SUFFIX}" for epoch in epochs])


def abort_uploads(root: StoredPath, epochs: Iterable[str]) -> int:
    """End the uploads that writers of some epochs have begun below a root; return how many.

    What was uploaded costs money until then, and its writer could still complete it. Uploads of
    others are left alone. In a directory there are none.
    """
    storage, prefix = storage_of(root)
    over = frozenset(epochs)
    aborted = 0
    for upload in list(storage.uploads(f"{prefix}/" if prefix else "")):
        if _epoch_of(PurePosixPath(upload.key).relative_to(prefix)) in over:
            storage.abort_upload(upload)
            aborted += 1
    return aborted


def _epoch_of(path: PurePosixPath) -> str | None:
    """Return the epoch that a path below the root names; None where it names none."""
    if path.parts[0] == TEMPORARY_DIR:
        return path.parts[1] if len(path.parts) > 2 else None
    file = OutputFile.parse(path)
    return file.epoch if file else None


def _path(output_dir: StoredPath, epoch: str) -> StoredPath:
    return output_dir / EPOCHS / f"{epoch}{_SUFFIX}"


def _names(names: list[str]) -> frozenset[str]:
    if not isinstance(names, list):
        raise TypeError("not a list of names")
    return frozenset(names)
