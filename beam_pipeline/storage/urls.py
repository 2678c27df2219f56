"""Opens the storage of a flag's value: a directory, or the URL of a bucket with a prefix."""

from __future__ import annotations

import functools
import re
from pathlib import Path

from beam_pipeline.errors import UsageError
from beam_pipeline.storage.config import StorageConfig
from beam_pipeline.storage.directory import DirectoryStorage
from beam_pipeline.storage.paths import ObjectPath, StoredPath
from beam_pipeline.storage.protocol import Storage

_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<rest>.*)")


def is_url(text: str) -> bool:
    """Return whether a flag's value is the URL of an object store, not a directory.

    >>> is_url("s3://bucket/events"), is_url("data/output")
    (True, False)
    """
    return _URL.fullmatch(text) is not None


def absolute(text: str) -> str:
    """Return a flag's value that means the same in another working directory.

    >>> absolute("s3://bucket/events/")
    's3://bucket/events'
    """
    return text.rstrip("/") if is_url(text) else str(Path(text).absolute())


@functools.cache
def open_storage(url: str, config: StorageConfig, *, private: bool = False) -> Storage:
    """Return the storage of a directory or a URL, the same for each call; nothing is opened yet.

    Args:
        url: a directory, or `s3://BUCKET/PREFIX`, `gs://…`, `az://CONTAINER/PREFIX`.
        config: how object stores are reached.
        private: whether what is made in a directory is for its user alone.

    Raises:
        UsageError: no storage has such URLs, or its package is not installed.
    """
    match = _URL.fullmatch(url)
    if match is None:
        return DirectoryStorage(Path(url), private)
    raise UsageError(
        f"{url}: no such kind of storage; give a directory, or a URL that begins with s3://, gs:// "
        "or az://"
    )


def stored_path(url: str, config: StorageConfig) -> StoredPath:
    """Return the path of a directory, or of the prefix that a URL names.

    Raises:
        UsageError: no storage has such URLs, or its package is not installed.
    """
    return ObjectPath(open_storage(absolute(url), config)) if is_url(url) else Path(url)


def storage_of(path: StoredPath, *, private: bool = False) -> tuple[Storage, str]:
    """Return a storage and the key by which a path is in it."""
    if isinstance(path, Path):
        return DirectoryStorage(path.parent, private), path.name
    return path.storage, path.key
