"""A directory of a file system as a storage."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.storage.durable import (
    PRIVATE_FILE_MODE,
    make_directory,
    place_if_absent,
    sync,
    write_atomically,
)
from beam_pipeline.storage.protocol import Content, StoredObject, Upload

_LOCK = ".lock"
_INCOMING = ".incoming-"


@dataclass(frozen=True)
class DirectoryStorage:
    """Files below a directory; see `Storage`. Directories that are missing are made, each synced.

    `put_if_match` and `delete_if_match` hold an flock for a moment, so they are atomic between the
    processes that see each other's locks.

    Args:
        root: the directory, which need not exist.
        private: whether directories and files that are made here are for their user alone.
    """

    root: Path
    private: bool = False
    requests: Counter[str] = field(default_factory=Counter, compare=False)

    @property
    def url(self) -> str:
        """The directory as it was given."""
        return str(self.root)

    def put_if_absent(self, source: Path, key: str) -> bool:
        path = self._path_to_write(key)
        try:
            return place_if_absent(source, path)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
        with self._copied(source, path) as copy:
            return place_if_absent(copy, path)

    def put(self, key: str, content: bytes) -> None:
        write_atomically(self._path_to_write(key), content, durable=True, private=self.private)

    def put_file(self, source: Path, key: str) -> None:
        path = self._path_to_write(key)
        sync(source)
        try:
            source.replace(path)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            with self._copied(source, path) as copy:
                sync(copy)
                copy.replace(path)
        sync(path.parent)

    def put_if_match(self, key: str, content: bytes, version: str | None) -> str | None:
        path = self._path_to_write(key)
        with _locked(path.parent, self.private):
            if self._version_of(path) != version:
                return None
            write_atomically(path, content, durable=True, private=self.private)
            return _version(content)

    def read(self, key: str) -> Content:
        data = (self.root / key).read_bytes()
        return Content(data, _version(data))

    def read_range(self, key: str, start: int, length: int) -> bytes:
        with (self.root / key).open("rb") as file:
            if start < 0:
                start = max(0, os.fstat(file.fileno()).st_size + start)
            file.seek(start)
            return file.read(length)

    def stat(self, key: str) -> StoredObject:
        status = (self.root / key).stat()
        return StoredObject(key, status.st_size, status.st_mtime)

    def objects(self, prefix: str = "") -> Iterator[StoredObject]:
        above = prefix.rpartition("/")[0]
        for directory, _, names in os.walk(self.root / above, onerror=_refuse):
            below = os.path.relpath(directory, self.root)
            for name in names:
                key = name if below == os.curdir else f"{below}/{name}"
                if _is_own(name) or not key.startswith(prefix):
                    continue
                with contextlib.suppress(FileNotFoundError):  # removed since it was listed
                    yield self.stat(key)

    def children(self, key: str = "") -> list[StoredObject | str]:
        children: list[StoredObject | str] = []
        try:
            with os.scandir(self.root / key) as entries:
                for entry in entries:
                    if entry.is_dir():
                        children.append(entry.name)
                    elif not _is_own(entry.name):
                        name = f"{key}/{entry.name}" if key else entry.name
                        with contextlib.suppress(FileNotFoundError):  # as in `objects`
                            status = entry.stat()
                            children.append(StoredObject(name, status.st_size, status.st_mtime))
        except OSError as error:
            _refuse(error)
        return children

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            (self.root / key).unlink(missing_ok=True)

    def delete_if_match(self, key: str, version: str) -> bool:
        path = self.root / key
        if not path.parent.is_dir():
            return False
        with _locked(path.parent, self.private):
            if self._version_of(path) != version:
                return False
            path.unlink()
            return True

    def uploads(self, prefix: str = "") -> Iterator[Upload]:
        yield from ()

    def abort_upload(self, upload: Upload) -> None:
        pass

    def _path_to_write(self, key: str) -> Path:
        path = self.root / key
        self._make(path.parent)
        return path

    def _make(self, directory: Path) -> None:
        if not directory.is_dir():
            self._make(directory.parent)
            make_directory(directory, private=self.private)
            sync(directory.parent)

    def _version_of(self, path: Path) -> str | None:
        try:
            return _version(path.read_bytes())
        except FileNotFoundError:
            return None

    @contextlib.contextmanager
    def _copied(self, source: Path, path: Path) -> Iterator[Path]:
        """Copy a file of another file system beside `path`; remove it and the copy at the end."""
        copy = path.with_name(f"{_INCOMING}{secrets.token_hex(8)}")
        try:
            shutil.copyfile(source, copy)
            if self.private:
                copy.chmod(0o600)
            yield copy
            source.unlink(missing_ok=True)
        finally:
            copy.unlink(missing_ok=True)


def _is_own(name: str) -> bool:
    return name == _LOCK or name.startswith(_INCOMING)


def _version(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@contextlib.contextmanager
def _locked(directory: Path, private: bool) -> Iterator[None]:
    mode = PRIVATE_FILE_MODE if private else 0o666
    descriptor = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT, mode)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _refuse(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise EnvironmentFailure(f"{error.filename} can't be listed: {error.strerror}")
