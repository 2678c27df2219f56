"""`ObjectPath`: an object of a storage, with the methods of `pathlib.Path` that readers use."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple, TypeAlias, TypeVar

from beam_pipeline.storage.protocol import Storage, StoredObject

_BUFFER_BYTES = 1024 * 1024


class ObjectStatus(NamedTuple):
    """The fields of `os.stat_result` that an object has."""

    st_size: int
    st_mtime: float

    @property
    def st_mtime_ns(self) -> int:
        """The time of the last change, in nanoseconds since 1970."""
        return round(self.st_mtime * 1e9)


@dataclass(frozen=True, order=False)
class ObjectPath:
    """An object of a storage, or a prefix of several; the key of the root is empty.

    It reads only. What changes a storage goes through a `Storage`.

    Args:
        storage: where the object is.
        key: its key; empty for the root.
        listed: what a listing said of it, so that its size is not asked for again.
    """

    storage: Storage
    key: str = ""
    listed: StoredObject | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """The last name of the key."""
        return self.key.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """The end of the name, from its last dot on."""
        return PurePosixPath(self.key).suffix

    @property
    def stem(self) -> str:
        """The name without the suffix."""
        return PurePosixPath(self.key).stem

    @property
    def parent(self) -> ObjectPath:
        """The prefix above; the root's is the root."""
        return ObjectPath(self.storage, self.key.rpartition("/")[0])

    def __truediv__(self, other: str | PurePosixPath | Path) -> ObjectPath:
        return ObjectPath(self.storage, f"{self.key}/{other}" if self.key else str(other))

    def __str__(self) -> str:
        return f"{self.storage.url}/{self.key}" if self.key else self.storage.url

    def __lt__(self, other: ObjectPath) -> bool:
        return str(self) < str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectPath) and str(self) == str(other)

    def with_name(self, name: str) -> ObjectPath:
        """Return the path of another name in the same place."""
        return self.parent / name

    def relative_to(self, root: ObjectPath) -> PurePosixPath:
        """Return the path below `root`.

        Raises:
            ValueError: it is not below it.
        """
        return PurePosixPath(self.key).relative_to(PurePosixPath(root.key))

    def listing(self) -> Iterator[ObjectPath]:
        """Yield the objects below the path, however deep, in no order."""
        prefix = f"{self.key}/" if self.key else ""
        for entry in self.storage.objects(prefix):
            yield ObjectPath(self.storage, entry.key, entry)

    def exists(self) -> bool:
        """Return whether there is such an object."""
        try:
            self.storage.stat(self.key)
        except FileNotFoundError:
            return False
        return True

    def is_file(self) -> bool:
        """Return whether there is such an object."""
        return bool(self.key) and self.exists()

    def is_dir(self) -> bool:
        """Return whether there are objects below the path."""
        prefix = f"{self.key}/" if self.key else ""
        return next(iter(self.storage.objects(prefix)), None) is not None

    def iterdir(self) -> Iterator[ObjectPath]:
        """Yield the objects and prefixes right below the path; only objects are `listed`."""
        for child in self.storage.children(self.key):
            if isinstance(child, StoredObject):
                yield ObjectPath(self.storage, child.key, child)
            else:
                yield self / child

    def stat(self) -> ObjectStatus:
        """Return size and time.

        Raises:
            FileNotFoundError: there is no such object.
        """
        entry = self.listed or self.storage.stat(self.key)
        return ObjectStatus(entry.size_bytes, entry.modified_s)

    def read_bytes(self) -> bytes:
        """Return the content.

        Raises:
            FileNotFoundError: there is no such object.
        """
        return self.storage.read(self.key).data

    def open(self, mode: str = "rb") -> IO[bytes]:
        """Open the object for reading; `mode` must be `rb`.

        Raises:
            FileNotFoundError: there is no such object.
            ValueError: another mode.
        """
        if mode != "rb":
            raise ValueError(f"{self}: objects are opened in mode 'rb', not {mode!r}")
        return io.BufferedReader(_RangeReader(self), _BUFFER_BYTES)


StoredPath: TypeAlias = Path | ObjectPath
"""A file, an object, a directory or a prefix."""

AnyPath = TypeVar("AnyPath", bound=Path | ObjectPath)
"""The same kind of path in and out."""


def open_for_arrow(path: StoredPath) -> str | IO[bytes]:
    """Return what pyarrow reads a file from: a local path, or an open object."""
    return str(path) if isinstance(path, Path) else path.open()


class _RangeReader(io.RawIOBase):
    """An object as a file; each read is a ranged request."""

    def __init__(self, path: ObjectPath) -> None:
        super().__init__()
        self._path = path
        self._size = path.stat().st_size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        begin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = begin + offset
        return self._position

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        length = min(len(view), self._size - self._position)
        if length <= 0:
            return 0
        content = self._path.storage.read_range(self._path.key, self._position, length)
        view[: len(content)] = content
        self._position += len(content)
        return len(content)
