"""A FileIO for pyiceberg whose files are on disk before a catalog points at them.

pyiceberg syncs nothing. After a power cut, SQLite would point at an empty metadata file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pyiceberg.io import OutputStream
from pyiceberg.io.pyarrow import PyArrowFile, PyArrowFileIO

from beam_pipeline.storage.durable import sync

_LOCAL = "file://"


class DurableFileIO(PyArrowFileIO):
    """pyarrow's FileIO; files of a local file system are synced when they are closed.

    Object stores are durable by themselves.
    """

    def new_output(self, location: str) -> PyArrowFile:
        if not location.startswith(_LOCAL):
            return super().new_output(location)
        scheme, netloc, path = self.parse_location(location, self.properties)
        return _DurableFile(fs=self.fs_by_scheme(scheme, netloc), location=location, path=path)


class _DurableFile(PyArrowFile):
    def create(self, overwrite: bool = False) -> OutputStream:
        path = Path(self.location.removeprefix(_LOCAL))
        new_directories = [directory for directory in path.parents if not directory.exists()]
        return _DurableStream(super().create(overwrite=overwrite), path, new_directories)


class _DurableStream:
    def __init__(self, stream: OutputStream, path: Path, new_directories: list[Path]) -> None:
        self._stream = stream
        self._path = path
        self._new_directories = new_directories

    @property
    def closed(self) -> bool:
        return bool(getattr(self._stream, "closed", False))

    def write(self, b: bytes) -> int:
        return self._stream.write(b)

    def tell(self) -> int:
        return self._stream.tell()

    def __enter__(self) -> OutputStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self.closed:
            return
        self._stream.close()
        for path in self._to_sync():
            sync(path)

    def _to_sync(self) -> Iterator[Path]:
        yield self._path
        yield self._path.parent
        for directory in self._new_directories:
            yield directory.parent
