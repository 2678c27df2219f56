"""What the storages of object stores share: the root, a client for each process, counts."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from typing import Any, Generic, NamedTuple, TypeVar

from beam_pipeline.errors import UsageError
from beam_pipeline.storage.config import StorageConfig

_Client = TypeVar("_Client")

CONNECT_SECONDS, READ_SECONDS = 5, 60
CONNECTIONS = 32
DELETE_BATCH = 1000  # the most keys of one DeleteObjects request of S3


class Root(NamedTuple):
    """The root of a storage in a bucket.

    Attributes:
        url: the URL without a slash at its end.
        bucket: the bucket, or the container.
        prefix: what all keys begin with: empty, or with a slash at its end.
    """

    url: str
    bucket: str
    prefix: str


def parse_root(url: str) -> Root:
    """Take the URL of a storage to pieces.

    >>> parse_root("s3://bucket/events/orders/")
    Root(url='s3://bucket/events/orders', bucket='bucket', prefix='events/orders/')

    Raises:
        UsageError: there is no bucket in it, a name is empty or made of dots, or it seems to hold
            credentials.
    """
    scheme, _, rest = url.partition("://")
    bucket, _, prefix = rest.partition("/")
    if "@" in bucket or ":" in bucket:
        # The URL is not repeated: it may hold a password.
        raise UsageError(
            f"the URL {scheme}://… has an @ or a : before its first slash; give "
            f"{scheme}://BUCKET/PREFIX. Credentials come from the store's own SDK: environment, "
            "profile or the machine's role"
        )
    if not bucket:
        raise UsageError(f"{url}: there is no bucket; give {scheme}://BUCKET/PREFIX")
    prefix = prefix.removesuffix("/")
    if any(name in ("", ".", "..") for name in prefix.split("/")) and prefix:
        raise UsageError(f"{url}: a name between two slashes must not be empty, '.' or '..'")
    if not prefix:
        return Root(f"{scheme}://{bucket}", bucket, "")
    return Root(f"{scheme}://{bucket}/{prefix}", bucket, f"{prefix}/")


class RemoteStorage(ABC, Generic[_Client]):
    """A storage in a bucket, without its operations.

    The client is made at its first use in each process, and is never pickled.
    """

    def __init__(self, url: str, config: StorageConfig) -> None:
        """Remember what to open; open nothing.

        Raises:
            UsageError: as `parse_root`.
        """
        self._root = parse_root(url)
        self._config = config
        self._processes: dict[int, _InProcess] = {}

    @property
    def url(self) -> str:
        """The URL of the root."""
        return self._root.url

    @property
    def requests(self) -> Counter[str]:
        """How many requests of each kind were made in this process."""
        here = self._here
        with here.lock:
            return Counter(here.requests)

    @abstractmethod
    def _make_client(self) -> _Client: ...

    @property
    def _client(self) -> _Client:
        here = self._here
        with here.lock:
            if here.client is None:
                here.client = self._make_client()
            client: _Client = here.client
            return client

    @property
    def _here(self) -> _InProcess:
        # setdefault is atomic. A lock of the parent may be held for ever in a child.
        return self._processes.setdefault(os.getpid(), _InProcess())

    def _count(self, kind: str) -> None:
        here = self._here
        with here.lock:
            here.requests[kind] += 1

    def _name(self, key: str) -> str:
        """Return the name of a key in the bucket."""
        return self._root.prefix + key

    def _key(self, name: str) -> str:
        return name[len(self._root.prefix) :]

    def _below(self, key: str) -> str:
        """Return what the names below a key begin with; the key of the root is empty."""
        return self._name(f"{key}/" if key else "")

    def _where(self, key: str) -> str:
        return f"{self.url}/{key}" if key else self.url

    @contextlib.contextmanager
    def _errors(self, key: str, *, missing: bool = True) -> Iterator[None]:
        """Raise what the pipeline understands in place of the SDK's errors.

        Args:
            key: the object; empty for the whole storage.
            missing: whether a missing object is a FileNotFoundError.
        """
        try:
            yield
        except Exception as error:
            translated = self._translated(error, key, missing=missing)
            if translated is None:
                raise
            raise translated from None

    @abstractmethod
    def _translated(self, error: Exception, key: str, *, missing: bool) -> Exception | None:
        """Return what `_errors` raises in place of an error; None for one that is not the SDK's."""

    def _missing(self, key: str) -> FileNotFoundError:
        reason = os.strerror(errno.ENOENT)
        return FileNotFoundError(errno.ENOENT, reason, self._where(key))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_processes": {}}


def silence(logger: str) -> None:
    """Keep an SDK from logging each request, as some do at INFO, the level of Beam's workers.

    A level that someone has set stays.
    """
    if logging.getLogger(logger).level == logging.NOTSET:
        logging.getLogger(logger).setLevel(logging.WARNING)


class _InProcess:
    """What a storage has in one process."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.client: Any = None
        self.bucket_was_seen = False
        self.requests: Counter[str] = Counter()
