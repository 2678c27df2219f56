"""What the pipeline needs of a storage: few operations, each atomic for one key."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol


class StorageAwayError(OSError):
    """The storage gave no answer, or can't serve now; the same call may work later.

    Whether a change was made is unknown.
    """


class StoredObject(NamedTuple):
    """One object of a listing.

    Attributes:
        key: its key, relative to the root of the storage, with `/` between names.
        size_bytes: the size of its content.
        modified_s: when it was written, in seconds since 1970 by the storage's clock.
    """

    key: str
    size_bytes: int
    modified_s: float


class Content(NamedTuple):
    """The content of an object, and the version of it that `put_if_match` takes."""

    data: bytes
    version: str


class Upload(NamedTuple):
    """An upload in several requests that was begun and has not ended."""

    key: str
    id: str
    started_s: float


class Storage(Protocol):
    """Objects below one root: a directory, or a prefix of a bucket.

    Keys are relative to the root, have `/` between names, and don't begin or end with one. An
    implementation can be pickled, opens nothing before its first call, and opens its client anew in
    a process that was forked. Its methods may be called from several threads.

    Each method tries again for some seconds when the storage is away, and then raises
    `StorageAwayError`. `EnvironmentFailure` is raised with one line for what a user has to mend: no
    such bucket, access denied, wrong region or endpoint, a wrong clock, an expired token.

    Attributes:
        url: the root as people know it, such as `s3://events/orders`; no secret is in it.
        requests: how many requests of each kind (PUT, GET, HEAD, LIST, DELETE) this object has made
            in this process; a directory makes none.
    """

    @property
    def url(self) -> str: ...

    @property
    def requests(self) -> Counter[str]: ...

    def put_if_absent(self, source: Path, key: str) -> bool:
        """Make an object of a local file in one step, unless the key is taken.

        Nobody ever sees a part of it. `source` may be gone afterwards.

        Returns:
            whether the object was made. False may also mean that it was made by this very call,
            whose first answer was lost: only the content tells.
        """

    def put(self, key: str, content: bytes) -> None:
        """Write an object, in place of another one if there is one, in one step."""

    def put_file(self, source: Path, key: str) -> None:
        """Write an object from a local file, in place of another one, in one step.

        `source` may be gone afterwards.
        """

    def put_if_match(self, key: str, content: bytes, version: str | None) -> str | None:
        """Replace an object of that version; with None, make it where there is none.

        Returns:
            the new version, or None if the object has another version, is there, or is gone. None
            may also mean that this very call replaced it and the first answer was lost.
        """

    def read(self, key: str) -> Content:
        """Return the whole content.

        Raises:
            FileNotFoundError: there is no such object.
        """

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """Return `length` bytes from `start` on, fewer at the end; a negative `start` is from it.

        Raises:
            FileNotFoundError: there is no such object.
        """

    def stat(self, key: str) -> StoredObject:
        """Return the size and time of one object.

        Raises:
            FileNotFoundError: there is no such object.
        """

    def objects(self, prefix: str = "") -> Iterator[StoredObject]:
        """Yield the objects whose keys begin with `prefix`, in no order."""

    def children(self, key: str = "") -> list[StoredObject | str]:
        """Return what is right below a key: objects, and the names that have objects below them.

        `key` is empty for the root. The result is in no order, and empty where nothing is.
        """

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; those that are gone already are passed over."""

    def delete_if_match(self, key: str, version: str) -> bool:
        """Remove an object of that version.

        Returns:
            whether that version is gone. False if the object has another version, and also if it
            was gone already, except on S3, which does not tell that apart.
        """

    def uploads(self, prefix: str = "") -> Iterator[Upload]:
        """Yield the uploads that have not ended and whose keys begin with `prefix`."""

    def abort_upload(self, upload: Upload) -> None:
        """End an upload without an object; one that has ended is passed over."""
