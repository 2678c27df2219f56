"""Notes on dead-letter files: which of them the dead-letter topic has.

A note is `<dead_letter_dir>/_published/<name of the file>`, a JSON object. It is written once each
letter of the file is acknowledged by the topic, or refused for good. A file without a note is sent
again.

A note holds size, time of change and hash of the file's content, since a runner of an older version
that restored a checkpoint wrote a file again under the same name. A note does not count for other
content. Objects are never written again, so there a note of the same size counts.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import cast

from beam_pipeline.files.names import JSON_LINES_SUFFIX, OutputFile
from beam_pipeline.files.reading import read_each
from beam_pipeline.files.tree import visible_paths
from beam_pipeline.storage.documents import documents_in, remove_documents, write_document
from beam_pipeline.storage.durable import make_directory
from beam_pipeline.storage.paths import AnyPath, ObjectPath, StoredPath
from beam_pipeline.storage.protocol import StorageAwayError

NOTES_DIRECTORY = "_published"
_VERSION = 1


@dataclass(frozen=True, slots=True)
class RefusedLetter:
    """A letter that the topic refused in every form, and the broker's reason."""

    dlq_id: str
    topic: str
    partition: int
    offset: int
    reason: str


@dataclass(frozen=True, slots=True)
class SentNote:
    """What became of the letters of one file.

    Attributes:
        size, mtime_ns: those of the file when it was read.
        sha256: the hash of its content; empty for a file of a version that wrote no notes.
        letters: how many letters it has; 0 for a file of a version that wrote no notes.
        changed: how many of them the topic has in another form than the record's own.
        refused: those that the topic does not have.
    """

    size: int
    mtime_ns: int
    sha256: str
    letters: int
    changed: int = 0
    refused: tuple[RefusedLetter, ...] = ()

    def is_of(self, path: StoredPath) -> bool:
        """Return whether the file has the content that the note is about.

        Raises:
            OSError: the file can't be read.
        """
        status = path.stat()
        if status.st_size != self.size:
            return False
        if isinstance(path, ObjectPath):
            return True
        # A file that was restored from a copy may have another time.
        return status.st_mtime_ns == self.mtime_ns or _sha256(path) == self.sha256


def notes_directory(dead_letter_dir: AnyPath) -> AnyPath:
    """Return the directory of the notes."""
    return cast("AnyPath", dead_letter_dir / NOTES_DIRECTORY)


def read_note(dead_letter_dir: StoredPath, file_name: str) -> SentNote | None:
    """Return the note on a file; None if there is none that can be read.

    Raises:
        StorageAwayError: the object store does not answer.
    """
    return _parse(_note_path(dead_letter_dir, file_name))


def read_notes(dead_letter_dir: StoredPath) -> Iterator[tuple[str, SentNote]]:
    """Yield the names of the files with a note, and the notes. Notes that are torn are left out.

    Raises:
        OSError: the notes can't be listed.
    """
    for path, parse in read_each(_note_paths(dead_letter_dir), _parse):
        note = parse()
        if note is not None:
            yield path.name, note


def noted_files(dead_letter_dir: StoredPath) -> set[str]:
    """Return the names of the files with a note, by one listing.

    Raises:
        OSError: the notes can't be listed.
    """
    try:
        names = {path.name for path in notes_directory(dead_letter_dir).iterdir()}
    except FileNotFoundError:
        return set()
    return {name for name in names if name.endswith(JSON_LINES_SUFFIX)}


def begin_notes(dead_letter_dir: StoredPath, *, private: bool) -> None:
    """Make the directory of the notes; its absence means that no version with notes wrote there.

    An object store needs none: no version without notes wrote to one.

    Raises:
        OSError: it can't be made.
    """
    if not isinstance(dead_letter_dir, ObjectPath):
        make_directory(notes_directory(dead_letter_dir), private=private)


def write_note(
    dead_letter_dir: StoredPath, file_name: str, note: SentNote, *, private: bool
) -> None:
    """Write the note on a file, atomically. A power cut may lose it: the file is sent again then.

    Raises:
        OSError: it can't be written.
    """
    content = json.dumps({"version": _VERSION, **asdict(note)}).encode()
    path = _note_path(dead_letter_dir, file_name)
    write_document(path, content, durable=False, private=private)


def letter_paths(dead_letter_dir: AnyPath) -> list[AnyPath]:
    """Return the dead-letter files in place, in the order of their names.

    Raises:
        EnvironmentFailure: a directory can't be listed.
    """
    return sorted(
        (
            path
            for path in visible_paths(dead_letter_dir)
            if path.name.endswith(JSON_LINES_SUFFIX) and OutputFile.parse(path) is not None
        ),
        key=lambda path: path.name,
    )


def accept_as_sent(dead_letter_dir: StoredPath, *, private: bool) -> int:
    """Begin the notes of a directory that has none, and return how many files it had.

    Its files are from a version that sent letters while it ran. They count as sent. No such version
    wrote to an object store: nothing is done there.

    Raises:
        EnvironmentFailure: a directory can't be listed.
        OSError: a note can't be written.
    """
    if isinstance(dead_letter_dir, ObjectPath) or notes_directory(dead_letter_dir).is_dir():
        return 0
    paths = letter_paths(dead_letter_dir)
    begin_notes(dead_letter_dir, private=private)
    for path in paths:
        status = path.stat()
        note = SentNote(status.st_size, status.st_mtime_ns, "", 0)
        write_note(dead_letter_dir, path.name, note, private=private)
    return len(paths)


def remove_stale_notes(dead_letter_dir: StoredPath) -> None:
    """Remove the notes on files that are gone; a note that can't be removed stays.

    Raises:
        EnvironmentFailure: a directory can't be listed.
    """
    present = {path.name for path in letter_paths(dead_letter_dir)}
    with contextlib.suppress(OSError):
        remove_documents(path for path in _note_paths(dead_letter_dir) if path.name not in present)


def _note_paths(dead_letter_dir: StoredPath) -> list[StoredPath]:
    return documents_in(notes_directory(dead_letter_dir), JSON_LINES_SUFFIX)


def _note_path(dead_letter_dir: StoredPath, file_name: str) -> StoredPath:
    return notes_directory(dead_letter_dir) / file_name


def _parse(path: StoredPath) -> SentNote | None:
    try:
        document = json.loads(path.read_bytes())
        if document.pop("version") != _VERSION:
            return None
        refused = tuple(RefusedLetter(**letter) for letter in document.pop("refused"))
        return SentNote(**document, refused=refused)
    except StorageAwayError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def _sha256(path: StoredPath) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
