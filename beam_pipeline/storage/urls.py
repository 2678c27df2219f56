"""Opens the storage of a flag's value: a directory, or the URL of a bucket with a prefix."""

from __future__ import annotations

import functools
import re
from pathlib import Path

from beam_pipeline.errors import UsageError
from beam_pipeline.resources import project_root
from beam_pipeline.storage.config import StorageConfig
from beam_pipeline.storage.directory import DirectoryStorage
from beam_pipeline.storage.paths import ObjectPath, StoredPath
from beam_pipeline.storage.protocol import Storage

_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<rest>.*)")

_EXTRAS = {"s3": "s3", "gs": "gcs", "az": "azure"}


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


def open_storage(url: str, config: StorageConfig, *, private: bool = False) -> Storage:
    """Return the storage of a directory or a URL, the same for each call; nothing is opened yet.

    Args:
        url: a directory, or `s3://BUCKET/PREFIX`, `gs://…`, `az://CONTAINER/PREFIX`.
        config: how object stores are reached.
        private: whether what is made in a directory is for its user alone.

    Raises:
        UsageError: no storage has such URLs, or its package is not installed.
    """
    return _open(absolute(url), config) if is_url(url) else DirectoryStorage(Path(url), private)


@functools.cache  # a client and its connections for all that is done in a process
def _open(url: str, config: StorageConfig) -> Storage:
    scheme = url.partition("://")[0]
    try:
        if scheme == "s3":
            from beam_pipeline.storage.s3 import S3Storage

            return S3Storage(url, config)
        if scheme == "gs":
            from beam_pipeline.storage.gcs import GcsStorage

            return GcsStorage(url, config)
        if scheme == "az":
            from beam_pipeline.storage.azure import AzureStorage

            return AzureStorage(url, config)
    except ImportError as error:
        raise _not_installed(scheme, error) from None
    raise UsageError(
        f"{url}: no such kind of storage; give a directory, or a URL that begins with s3://, gs:// "
        "or az://"
    )


def _not_installed(scheme: str, error: ImportError) -> UsageError:
    """Return the message about the packages of an extra that are missing."""
    extra = _EXTRAS[scheme]
    remedy = f'pip install "beam-pipeline[{extra}]"'
    if project_root():
        remedy += f", in a checkout pip install --require-hashes -r requirements/{extra}.txt"
    return UsageError(f"{scheme}:// needs a package that is not installed ({error}): {remedy}")


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
