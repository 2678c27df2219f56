"""Notes on dead-letter files: which of them the dead-letter topic has.

A note is `<dead_letter_dir>/_published/<name of the file>`, a JSON object. It is written once each
letter of the file is acknowledged by the topic, or refused for good. A file without a note is sent
again.

A note holds size, time of change and hash of the file's content, since a runner that restores a
checkpoint writes a file again under the same name. A note does not count for other content.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from beam_pipeline.files.names import JSON_LINES_SUFFIX, OutputFile
from beam_pipeline.files.tree import visible_paths
from beam_pipeline.storage.durable import make_directory, write_atomically

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

    def is_of(self, path: Path) -> bool:
        """Return whether the file has the content that the note is about.

        Raises:
            OSError: the file can't be read.
        """
        status = path.stat()
        if status.st_size != self.size:
            return False
        # A file that was restored from a copy may have another time.
        return status.st_mtime_ns == self.mtime_ns or _sha256(path) == self.sha256


def notes_directory(dead_letter_dir: Path) -> Path:
    """Return the directory of the notes."""
    return dead_letter_dir / NOTES_DIRECTORY


def read_note(dead_letter_dir: Path, file_name: str) -> SentNote | None:
    """Return the note on a file; None if there is none that can be read."""
    return _parse(_note_path(dead_letter_dir, file_name))


def read_notes(dead_letter_dir: Path) -> Iterator[tuple[str, SentNote]]:
    """Yield the names of the files with a note, and the notes. Notes that are torn are left out."""
    for path in sorted(notes_directory(dead_letter_dir).glob(f"*{JSON_LINES_SUFFIX}")):
        note = _parse(path)
        if note is not None:
            yield path.name, note


def write_note(dead_letter_dir: Path, file_name: str, note: SentNote, *, private: bool) -> None:
    """Write the note on a file, atomically. A power cut may lose it: the file is sent again then.

    Raises:
        OSError: it can't be written.
    """
    make_directory(notes_directory(dead_letter_dir), private=private)
    content = json.dumps({"version": _VERSION, **asdict(note)}).encode()
    path = _note_path(dead_letter_dir, file_name)
    write_atomically(path, content, durable=False, private=private)


def letter_paths(dead_letter_dir: Path) -> list[Path]:
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


def accept_as_sent(dead_letter_dir: Path, *, private: bool) -> int:
    """Begin the notes of a directory that has none, and return how many files it had.

    Its files are from a version that sent letters while it ran. They count as sent.

    Raises:
        EnvironmentFailure: a directory can't be listed.
        OSError: a note can't be written.
    """
    if notes_directory(dead_letter_dir).is_dir():
        return 0
    paths = letter_paths(dead_letter_dir)
    make_directory(notes_directory(dead_letter_dir), private=private)
    for path in paths:
        status = path.stat()
        note = SentNote(status.st_size, status.st_mtime_ns, "", 0)
        write_note(dead_letter_dir, path.name, note, private=private)
    return len(paths)


def remove_stale_notes(dead_letter_dir: Path) -> None:
    """Remove the notes on files that are gone.

    Raises:
        EnvironmentFailure: a directory can't be listed.
    """
    present = {path.name for path in letter_paths(dead_letter_dir)}
    for path in notes_directory(dead_letter_dir).glob(f"*{JSON_LINES_SUFFIX}"):
        if path.name not in present:
            with contextlib.suppress(OSError):
                path.unlink()


def _note_path(dead_letter_dir: Path, file_name: str) -> Path:
    return notes_directory(dead_letter_dir) / file_name


def _parse(path: Path) -> SentNote | None:
    try:
        document = json.loads(path.read_bytes())
        if document.pop("version") != _VERSION:
            return None
        refused = tuple(RefusedLetter(**letter) for letter in document.pop("refused"))
        return SentNote(**document, refused=refused)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
