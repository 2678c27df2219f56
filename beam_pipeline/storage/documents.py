"""Small documents that are replaced whole: in a directory, or in an object store."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from beam_pipeline.storage.durable import make_directory, write_atomically
from beam_pipeline.storage.paths import ObjectPath, StoredPath


def write_document(
    path: StoredPath, content: bytes, *, durable: bool = True, private: bool = False
) -> None:
    """Write a document in one step, in place of another one; make the directory above it.

    Args:
        path: the document.
        content: its whole content.
        durable: as for `write_atomically`; what an object store has taken is durable.
        private: whether the file, and the directory if it is missing, are for their user alone. An
            object has the access rules of its bucket.

    Raises:
        OSError: it can't be written.
    """
    if isinstance(path, ObjectPath):
        path.storage.put(path.key, content)
        return
    make_directory(path.parent, private=private)
    write_atomically(path, content, durable=durable, private=private)


def documents_in(directory: StoredPath, suffix: str) -> list[StoredPath]:
    """Return the documents of a suffix right below a directory, sorted by name.

    Raises:
        OSError: the directory can't be listed. A missing one has no documents.
    """
    try:
        paths = [path for path in directory.iterdir() if path.name.endswith(suffix)]
    except FileNotFoundError:
        return []
    return sorted(paths, key=lambda path: path.name)


def remove_documents(paths: Iterable[StoredPath]) -> None:
    """Remove documents; those that are gone already are passed over.

    Raises:
        OSError: one can't be removed.
    """
    for path in paths:
        if isinstance(path, Path):
            path.unlink(missing_ok=True)
        else:
            path.storage.delete([path.key])
