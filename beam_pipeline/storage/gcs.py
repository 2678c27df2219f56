"""Google Cloud Storage, by its JSON API."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import requests
from google.api_core import exceptions
from google.auth import exceptions as auth_exceptions
from google.cloud.storage import Client
from google.cloud.storage.retry import DEFAULT_RETRY
from google.resumable_media import DataCorruption
from requests.adapters import HTTPAdapter

from beam_pipeline.errors import EnvironmentFailure, UsageError
from beam_pipeline.storage.protocol import Content, StorageAwayError, StoredObject, Upload
from beam_pipeline.storage.remote import CONNECT_SECONDS, CONNECTIONS, READ_SECONDS, RemoteStorage

_RETRY = DEFAULT_RETRY.with_delay(initial=0.5, maximum=4.0, multiplier=2.0).with_timeout(10.0)
_PATIENCE = {"retry": _RETRY, "timeout": (CONNECT_SECONDS, READ_SECONDS)}
# The SDK holds a chunk in memory, and has 100 MiB unless told. Smaller files are one request.
_CHUNK_BYTES = 16 * 1024**2
_FIELDS = "nextPageToken,prefixes,items(name,size,updated)"
_DELETING_THREADS = 8

_AWAY_ERRORS = (
    DataCorruption,
    auth_exceptions.TransportError,
    exceptions.RetryError,
    exceptions.ServerError,
    exceptions.TooManyRequests,
    requests.exceptions.RequestException,
)
_SDK_ERRORS = (
    *_AWAY_ERRORS,
    auth_exceptions.GoogleAuthError,
    exceptions.GoogleAPIError,
    ValueError,
)


class GcsStorage(RemoteStorage[Any]):
    """Objects below a prefix of a bucket; see `Storage`.

    Versions are generations: each write has a new one. An upload that was not ended is no object
    and can't be listed; the store forgets it after a week.
    """

    def put_if_absent(self, source: Path, key: str) -> bool:
        return self._upload(key, source, if_generation_match=0) is not None

    def put(self, key: str, content: bytes) -> None:
        self._upload(key, content)

    def put_file(self, source: Path, key: str) -> None:
        self._upload(key, source)

    def put_if_match(self, key: str, content: bytes, version: str | None) -> str | None:
        if version is not None and not version.isdecimal():
            return None
        return self._upload(key, content, if_generation_match=int(version or 0))

    def read(self, key: str) -> Content:
        with self._errors(key):
            blob = self._blob(key)
            content = blob.download_as_bytes(**_PATIENCE)
            # It is a header of the same answer.
            return Content(content, str(blob.generation))

    def read_range(self, key: str, start: int, length: int) -> bytes:
        if length <= 0:
            self.stat(key)
            return b""
        byte_range = {"start": start} if start < 0 else {"start": start, "end": start + length - 1}
        try:
            with self._errors(key):
                content: bytes = self._blob(key).download_as_bytes(
                    **byte_range, checksum=None, **_PATIENCE
                )
                return content[:length]
        except _BeyondTheEnd:
            return b""

    def stat(self, key: str) -> StoredObject:
        with self._errors(key):
            blob = self._blob(key)
            blob.reload(**_PATIENCE)
            return self._stored(blob)

    def objects(self, prefix: str = "") -> Iterator[StoredObject]:
        for page in self._pages(self._name(prefix)):
            yield from page.objects

    def children(self, key: str = "") -> list[StoredObject | str]:
        below = self._below(key)
        children: list[StoredObject | str] = []
        for page in self._pages(below, delimiter="/"):
            children += page.objects
            children += [prefix[len(below) : -1] for prefix in page.prefixes]
        return children

    def delete(self, keys: Iterable[str]) -> None:
        with ThreadPoolExecutor(_DELETING_THREADS) as pool:
            for _ in pool.map(self._delete, keys):
                pass

    def delete_if_match(self, key: str, version: str) -> bool:
        return version.isdecimal() and self._delete(key, if_generation_match=int(version))

    def uploads(self, prefix: str = "") -> Iterator[Upload]:
        yield from ()

    def abort_upload(self, upload: Upload) -> None:
        pass

    def _make_client(self) -> Any:
        endpoint = self._config.endpoint
        client = Client(
            project=self._config.project,
            client_options={"api_endpoint": endpoint} if endpoint else None,
        )
        client._http.hooks["response"].append(self._count_answer)
        for scheme in ("http://", "https://"):
            client._http.mount(scheme, HTTPAdapter(pool_maxsize=CONNECTIONS))
        return client

    def _count_answer(self, answer: requests.Response, **_: object) -> None:
        method, path = answer.request.method or "", answer.request.path_url
        if method == "GET" and "alt=media" not in path:
            method = "LIST" if path.partition("?")[0].endswith("/o") else "HEAD"
        self._count("PUT" if method == "POST" else method)

    def _blob(self, key: str) -> Any:
        return self._client.bucket(self._root.bucket).blob(self._name(key))

    def _upload(self, key: str, content: bytes | Path, **condition: int) -> str | None:
        """Write an object; return its generation, or None if the condition fails."""
        how = {**condition, **_PATIENCE}
        with self._errors(key, missing=False):
            blob = self._blob(key)
            blob.chunk_size = _CHUNK_BYTES
            try:
                if isinstance(content, Path):
                    with content.open("rb") as file:
                        blob.upload_from_file(file, size=content.stat().st_size, **how)
                else:
                    blob.upload_from_string(content, **how)
            except exceptions.PreconditionFailed:
                return None
            except exceptions.NotFound:
                if not condition.get("if_generation_match"):
                    raise
                self._require_bucket()
                return None
            return str(blob.generation)

    def _delete(self, key: str, **condition: int) -> bool:
        with self._errors(key, missing=False):
            try:
                self._blob(key).delete(**condition, **_PATIENCE)
            except exceptions.PreconditionFailed:
                return False
            except exceptions.NotFound:
                self._require_bucket()
                return False
            return True

    def _pages(self, prefix: str, delimiter: str | None = None) -> Iterator[_Page]:
        with self._errors("", missing=False):
            blobs = self._client.list_blobs(
                self._root.bucket, prefix=prefix, delimiter=delimiter, fields=_FIELDS, **_PATIENCE
            )
            pages = blobs.pages
        while True:
            before = set(blobs.prefixes)
            with self._errors("", missing=False):
                page = next(pages, None)
                if page is None:
                    return
                objects = [self._stored(blob) for blob in page if not blob.name.endswith("/")]
            yield _Page(objects, sorted(set(blobs.prefixes) - before))

    def _require_bucket(self) -> None:
        """Raise EnvironmentFailure without the bucket: missing objects and buckets are both 404."""
        here = self._here
        if not here.bucket_was_seen:
            with self._errors("", missing=False):
                blobs = self._client.list_blobs(self._root.bucket, max_results=1, **_PATIENCE)
                next(iter(blobs), None)
            here.bucket_was_seen = True

    def _stored(self, blob: Any) -> StoredObject:
        return StoredObject(self._key(blob.name), blob.size, blob.updated.timestamp())

    def _translated(self, error: Exception, key: str, *, missing: bool) -> Exception | None:
        if isinstance(error, exceptions.RequestRangeNotSatisfiable):
            return _BeyondTheEnd()
        if missing and isinstance(error, exceptions.NotFound):
            self._require_bucket()
            return self._missing(key)
        if not isinstance(error, _SDK_ERRORS):
            return None
        url, where = self.url, self._where(key)
        endpoint = self._config.endpoint or os.environ.get("STORAGE_EMULATOR_HOST")
        at = f" at {endpoint}" if endpoint else ""
        if isinstance(error, auth_exceptions.DefaultCredentialsError):
            return EnvironmentFailure(
                f"{url}: no credentials for Google Cloud; sign in with `gcloud auth "
                "application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS"
            )
        if isinstance(error, _AWAY_ERRORS):
            return StorageAwayError(f"{where}: no answer{at} ({_kind(error)})")
        if isinstance(error, auth_exceptions.GoogleAuthError | exceptions.Unauthorized):
            return EnvironmentFailure(
                f"{url}: the store{at} refuses the credentials ({_kind(error)}); sign in again "
                "with `gcloud auth application-default login`, and check the clock"
            )
        if isinstance(error, exceptions.Forbidden):
            return EnvironmentFailure(
                f"{where}: access denied; the pipeline needs storage.objects.create, .delete, "
                ".get and .list, as the role Storage Object User has"
            )
        if isinstance(error, exceptions.NotFound):
            return EnvironmentFailure(
                f"{url}: there is no bucket {self._root.bucket!r}{at}; create it, or correct the "
                "URL"
            )
        if isinstance(error, exceptions.GoogleAPIError):
            return EnvironmentFailure(
                f"{where}: the store{at} refuses a request ({_kind(error)}); correct the URL, or "
                "the endpoint in --storage_config"
            )
        return UsageError(f"{url}: {' '.join(str(error).split())[:300]}")


class _Page(NamedTuple):
    objects: list[StoredObject]
    prefixes: list[str]


class _BeyondTheEnd(Exception):
    """The range begins at or after the end."""


def _kind(error: Exception) -> str:
    """Return the name of an error, without its text: that may hold a token."""
    cause = getattr(error, "cause", None)
    return type(cause or error).__name__
