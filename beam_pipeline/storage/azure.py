"""Azure Blob Storage, by azure-storage-blob."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from azure.core import MatchConditions
from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    HttpResponseError,
    IncompleteReadError,
    ResourceExistsError,
    ResourceModifiedError,
    ResourceNotFoundError,
    ServiceRequestError,
    ServiceResponseError,
)
from azure.identity import DefaultAzureCredential
from azure.storage.blob import BlobBlock, BlobPrefix, BlobProperties, ContainerClient
from azure.storage.blob import ExponentialRetry as Retry

from beam_pipeline.errors import EnvironmentFailure, UsageError
from beam_pipeline.storage.protocol import Content, StorageAwayError, StoredObject, Upload
from beam_pipeline.storage.remote import CONNECT_SECONDS, READ_SECONDS, RemoteStorage, silence

# The SDK holds what it sends in one request in memory.
_BLOCK_BYTES = 16 * 1024**2
_DELETE_BATCH = 256  # of the service
_READ_ATTEMPTS = 4
_RETRIES = 3  # after pauses of about 1, 3 and 5 s

_AWAY_STATUS = frozenset({408, 429, 500, 502, 503, 504})


class AzureStorage(RemoteStorage[ContainerClient]):
    """Objects below a prefix of a container; see `Storage`.

    Versions are ETags: each write has a new one. An upload that was not ended is no object and
    can't be listed; the service forgets it after a week.
    """

    def put_if_absent(self, source: Path, key: str) -> bool:
        return self._write(key, source, overwrite=False) is not None

    def put(self, key: str, content: bytes) -> None:
        self._write(key, content, overwrite=True)

    def put_file(self, source: Path, key: str) -> None:
        self._write(key, source, overwrite=True)

    def put_if_match(self, key: str, content: bytes, version: str | None) -> str | None:
        if version is None:
            return self._write(key, content, overwrite=False)
        return self._write(key, content, overwrite=True, version=version)

    def read(self, key: str) -> Content:
        for _ in range(_READ_ATTEMPTS):
            # A large object is read in several requests, and may be replaced between them.
            with self._errors(key), contextlib.suppress(ResourceModifiedError):
                stream = self._client.download_blob(self._name(key))
                return Content(stream.readall(), str(stream.properties.etag))
        raise StorageAwayError(f"{self._where(key)}: it was replaced while it was read")

    def read_range(self, key: str, start: int, length: int) -> bytes:
        if start < 0 or length <= 0:
            size = self.stat(key).size_bytes
            start = max(0, size + start) if start < 0 else start
            length = min(length, size - start)
        if length <= 0:
            return b""
        with self._errors(key):
            try:
                stream = self._client.download_blob(self._name(key), offset=start, length=length)
                return stream.readall()
            except HttpResponseError as error:
                if error.status_code == 416:
                    return b""
                raise

    def stat(self, key: str) -> StoredObject:
        with self._errors(key):
            properties = self._client.get_blob_client(self._name(key)).get_blob_properties()
            return self._stored(properties)

    def objects(self, prefix: str = "") -> Iterator[StoredObject]:
        with self._errors("", missing=False):
            blobs = self._client.list_blobs(self._name(prefix) or None, include=["metadata"])
            pages = blobs.by_page()
        while True:
            with self._errors("", missing=False):
                page = next(pages, None)
                if page is None:
                    return
                objects = [self._stored(blob) for blob in page if not _is_folder(blob)]
            yield from objects

    def children(self, key: str = "") -> list[StoredObject | str]:
        below = self._below(key)
        children: list[StoredObject | str] = []
        with self._errors("", missing=False):
            for entry in self._client.walk_blobs(below or None, include=["metadata"]):
                if isinstance(entry, BlobPrefix):
                    children.append(entry.name[len(below) : -1])
                elif not _is_folder(entry):
                    children.append(self._stored(entry))
        return children

    def delete(self, keys: Iterable[str]) -> None:
        names = iter(keys)
        while batch := list(islice(names, _DELETE_BATCH)):
            with self._errors(batch[0], missing=False):
                answers = self._client.delete_blobs(
                    *(self._name(key) for key in batch), raise_on_any_failure=False
                )
                for answer in answers:
                    code = answer.headers.get("x-ms-error-code")
                    if answer.status_code >= 400 and code != "BlobNotFound":
                        raise _refused(answer.status_code, code)

    def delete_if_match(self, key: str, version: str) -> bool:
        with self._errors(key, missing=False):
            try:
                self._client.delete_blob(
                    self._name(key),
                    etag=version,
                    match_condition=MatchConditions.IfNotModified,
                )
            except ResourceModifiedError:
                return False
            except ResourceNotFoundError as error:
                if _is_of_container(error):
                    raise
                return False
            return True

    def uploads(self, prefix: str = "") -> Iterator[Upload]:
        yield from ()

    def abort_upload(self, upload: Upload) -> None:
        pass

    def _make_client(self) -> ContainerClient:
        silence("azure")
        options: dict[str, Any] = {
            "connection_timeout": CONNECT_SECONDS,
            "read_timeout": READ_SECONDS,
            "max_single_put_size": _BLOCK_BYTES,
            "raw_request_hook": self._count_request,
            "retry_policy": Retry(
                initial_backoff=1, increment_base=2, retry_total=_RETRIES, random_jitter_range=1
            ),
        }
        container = self._root.bucket
        if connection := os.environ.get("AZURE_STORAGE_CONNECTION_STRING"):
            return ContainerClient.from_connection_string(connection, container, **options)
        account = self._config.account or os.environ.get("AZURE_STORAGE_ACCOUNT")
        endpoint = self._config.endpoint
        if endpoint is None:
            if account is None:
                raise UsageError(
                    f"{self.url}: no storage account; set `account` in --storage_config, "
                    "AZURE_STORAGE_ACCOUNT, or AZURE_STORAGE_CONNECTION_STRING"
                )
            endpoint = f"https://{account}.blob.core.windows.net"
        return ContainerClient(endpoint, container, DefaultAzureCredential(), **options)

    def _count_request(self, request: Any) -> None:
        method = request.http_request.method
        comp = parse_qs(urlsplit(request.http_request.url).query).get("comp", [""])[0]
        by_operation = {"list": "LIST", "batch": "DELETE"}
        self._count(by_operation.get(comp, method))

    def _write(
        self, key: str, content: bytes | Path, *, overwrite: bool, version: str | None = None
    ) -> str | None:
        """Write an object; return its ETag, or None if the condition fails."""
        condition: dict[str, Any] = {}
        if version is not None:
            condition = {"etag": version, "match_condition": MatchConditions.IfNotModified}
        size = content.stat().st_size if isinstance(content, Path) else len(content)
        with self._errors(key, missing=False):
            try:
                if size > _BLOCK_BYTES:
                    if not overwrite:
                        condition = {"match_condition": MatchConditions.IfMissing}
                    return self._write_blocks(key, content, condition)
                data = content.read_bytes() if isinstance(content, Path) else content
                blob = self._client.get_blob_client(self._name(key))
                return str(blob.upload_blob(data, overwrite=overwrite, **condition)["etag"])
            except (ResourceExistsError, ResourceModifiedError):
                return None
            except ResourceNotFoundError as error:
                if version is None or _is_of_container(error):
                    raise
                return None
            except HttpResponseError as error:
                if getattr(error, "error_code", None) != "InvalidBlockList":
                    raise
        # Another writer of the same object committed, and the service forgot these blocks.
        if overwrite and version is None:
            raise StorageAwayError(f"{self._where(key)}: another writer got in the way")
        return None

    def _write_blocks(self, key: str, content: bytes | Path, condition: dict[str, Any]) -> str:
        """Send a large content in blocks, and make the object of them in one request.

        The SDK numbers blocks by their offset, so two writers of one object would mix theirs. The
        names here are random.
        """
        blob = self._client.get_blob_client(self._name(key))
        blocks = []
        for data in _pieces(content):
            name = secrets.token_hex(16)
            blob.stage_block(name, data)
            blocks.append(BlobBlock(name))
        return str(blob.commit_block_list(blocks, **condition)["etag"])

    def _stored(self, properties: BlobProperties) -> StoredObject:
        modified = properties.last_modified.timestamp()
        return StoredObject(self._key(properties.name), properties.size, modified)

    def _translated(self, error: Exception, key: str, *, missing: bool) -> Exception | None:
        if not isinstance(error, AzureError | ValueError):
            return None
        if missing and isinstance(error, ResourceNotFoundError) and not _is_of_container(error):
            return self._missing(key)
        url, where = self.url, self._where(key)
        if isinstance(error, ServiceRequestError | ServiceResponseError | IncompleteReadError):
            return StorageAwayError(f"{where}: no answer{self._at()} ({type(error).__name__})")
        if not isinstance(error, HttpResponseError):
            return UsageError(f"{url}: {' '.join(str(error).split())[:300]}")
        code = getattr(error, "error_code", None) or error.status_code or type(error).__name__
        code = str(getattr(code, "value", code))
        if error.status_code in _AWAY_STATUS or code == "ContainerBeingDeleted":
            return StorageAwayError(f"{where}: the store can't serve now ({code}){self._at()}")
        if isinstance(error, ResourceNotFoundError):
            return EnvironmentFailure(
                f"{url}: there is no container {self._root.bucket!r}{self._at()}; create it, or "
                "correct the URL"
            )
        if error.status_code is None and isinstance(error, ClientAuthenticationError):
            return EnvironmentFailure(
                f"{url}: no credentials for Azure; sign in with `az login`, or set "
                "AZURE_STORAGE_CONNECTION_STRING"
            )
        if code in ("AuthenticationFailed", "AuthorizationFailure") or error.status_code == 401:
            return EnvironmentFailure(
                f"{url}: the store{self._at()} refuses the credentials ({code}); sign in again "
                "with `az login`, or correct AZURE_STORAGE_CONNECTION_STRING, and check the clock"
            )
        if error.status_code == 403:
            return EnvironmentFailure(
                f"{where}: access denied ({code}); the pipeline needs the role Storage Blob Data "
                "Contributor"
            )
        return EnvironmentFailure(
            f"{where}: the store{self._at()} refuses a request ({code}); correct the URL, or the "
            "endpoint in --storage_config"
        )

    def _at(self) -> str:
        client: ContainerClient | None = self._here.client
        if client is None:
            return ""
        parts = urlsplit(client.url)  # a signature may be in its query
        return f" at {parts.scheme}://{parts.netloc}"


def _refused(status: int, code: str | None) -> HttpResponseError:
    """Return the error of one request of a batch, of which the SDK makes none."""
    kind = ResourceNotFoundError if status == 404 else HttpResponseError
    error = kind(code)
    error.status_code = status
    error.error_code = code  # type: ignore[attr-defined]
    return error


def _pieces(content: bytes | Path) -> Iterator[bytes]:
    if isinstance(content, Path):
        with content.open("rb") as file:
            while piece := file.read(_BLOCK_BYTES):
                yield piece
    else:
        for start in range(0, len(content), _BLOCK_BYTES):
            yield content[start : start + _BLOCK_BYTES]


def _is_folder(blob: BlobProperties) -> bool:
    """Return whether it is a folder, which an account with hierarchical names lists as a blob."""
    return (blob.metadata or {}).get("hdi_isfolder") == "true"


def _is_of_container(error: ResourceNotFoundError) -> bool:
    """Return whether the container is missing, not an object."""
    return getattr(error, "error_code", None) == "ContainerNotFound"
