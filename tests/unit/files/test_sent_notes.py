"""Notes on dead-letter files: which of them the dead-letter topic has."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from output_trees import OutputTree

from beam_pipeline.files.sent_notes import (
    RefusedLetter,
    SentNote,
    accept_as_sent,
    letter_paths,
    notes_directory,
    read_note,
    read_notes,
    remove_stale_notes,
    write_note,
)


@pytest.fixture
def tree(tmp_path: Path) -> OutputTree:
    return OutputTree(tmp_path)


def note_of(path: Path, sha256: str = "ab") -> SentNote:
    status = path.stat()
    refused = (RefusedLetter("5e", "orders", 0, 7, "too large"),)
    return SentNote(status.st_size, status.st_mtime_ns, sha256, 1, 0, refused)


def test_a_note_comes_back_and_is_of_its_file_alone(tree: OutputTree) -> None:
    path = tree.letters([("orders", 0, 7)])
    write_note(tree.dead_letter_dir, path.name, note_of(path), private=True)
    note = read_note(tree.dead_letter_dir, path.name)
    assert note == note_of(path)
    assert note is not None
    assert note.is_of(path)
    assert list(read_notes(tree.dead_letter_dir)) == [(path.name, note)]
    assert letter_paths(tree.dead_letter_dir) == [path]
    (file,) = notes_directory(tree.dead_letter_dir).iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_file_that_was_replaced_has_no_note(tree: OutputTree) -> None:
    path = tree.letters([("orders", 0, 7)])
    note = note_of(path)
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"offset":7', b'"offset":8'))
    os.utime(path, ns=(1, 1))
    assert not note.is_of(path)


def test_a_copy_of_a_file_has_its_note(tree: OutputTree) -> None:
    import hashlib

    path = tree.letters([("orders", 0, 7)])
    note = note_of(path, hashlib.sha256(path.read_bytes()).hexdigest())
    os.utime(path, ns=(1, 1))
    assert note.is_of(path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"version":2,"refused":[]}'])
def test_a_torn_note_is_none(tree: OutputTree, content: bytes) -> None:
    path = tree.letters([("orders", 0, 7)])
    write_note(tree.dead_letter_dir, path.name, note_of(path), private=False)
    (notes_directory(tree.dead_letter_dir) / path.name).write_bytes(content)
    assert read_note(tree.dead_letter_dir, path.name) is None
    assert list(read_notes(tree.dead_letter_dir)) == []


def test_notes_go_with_their_files(tree: OutputTree) -> None:
    kept, gone = tree.letters([("orders", 0, 1)]), tree.letters([("orders", 0, 2)])
    for path in (kept, gone):
        write_note(tree.dead_letter_dir, path.name, note_of(path), private=True)
    gone.unlink()
    remove_stale_notes(tree.dead_letter_dir)
    assert [name for name, _ in read_notes(tree.dead_letter_dir)] == [kept.name]


def test_files_of_a_version_without_notes_count_as_sent_once(tree: OutputTree) -> None:
    old = tree.letters([("orders", 0, 1)])
    assert accept_as_sent(tree.dead_letter_dir, private=True) == 1
    new = tree.letters([("orders", 0, 2)])
    assert accept_as_sent(tree.dead_letter_dir, private=True) == 0
    note = read_note(tree.dead_letter_dir, old.name)
    assert note is not None
    assert note.is_of(old)
    assert read_note(tree.dead_letter_dir, new.name) is None
