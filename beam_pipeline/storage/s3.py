"""S3, and stores that speak its protocol, by boto3."""

from __future__ import annotations

import contextlib
import math
import os
import random
import time
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import unquote_plus
from xml.etree import ElementTree

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError, HTTPClientError, IncompleteReadError
from botocore.parsers import ResponseParserError
from s3transfer.utils import ReadFileChunk

from beam_pipeline.storage.config import StorageConfig
from beam_pipeline.storage.protocol import Content, StorageAwayError, StoredObject, Upload
from beam_pipeline.storage.remote import (
    CONNECT_SECONDS,
    CONNECTIONS,
    DELETE_BATCH,
    READ_SECONDS,
    RemoteStorage,
    silence,
)
from beam_pipeline.storage.s3_errors import Target, code_of, translated

# Limits of S3: https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
_LARGEST_PUT_BYTES = 5 * 1024**3
_MOST_PARTS = 10_000
_PART_BYTES = 64 * 1024**2

# With pauses of a random part of 1, 2, 4 and 8 s.
_ATTEMPTS = 5
_CONFLICT_ATTEMPTS = 8
_BODY_ATTEMPTS = 4

_TAKEN = frozenset({"PreconditionFailed", "412"})
# Another conditional request for the same key was under way.
_CONFLICTS = frozenset({"ConditionalRequestConflict", "OperationAborted"})
_MISSING = frozenset({"NoSuchKey", "404"})

_KINDS = {
    "CompleteMultipartUpload": "PUT",
    "CreateMultipartUpload": "PUT",
    "PutObject": "PUT",
    "UploadPart": "PUT",
    "GetObject": "GET",
    "HeadObject": "HEAD",
    "ListMultipartUploads": "LIST",
    "ListObjectsV2": "LIST",
    "AbortMultipartUpload": "DELETE",
    "DeleteObject": "DELETE",
    "DeleteObjects": "DELETE",
}


class _Connected(NamedTuple):
    client: Any
    target: Target


class S3Storage(RemoteStorage[_Connected]):
    """Objects below a prefix of a bucket; see `Storage`.

    Versions are ETags: the same content has the same version.
    """

    def __init__(
        self, url: str, config: StorageConfig, *, largest_put_bytes: int = _LARGEST_PUT_BYTES
    ) -> None:
        """Remember what to open; open nothing.

        Args:
            url: `s3://BUCKET/PREFIX`.
            config: endpoint, region, profile and path style; what is None is left to boto3.
            largest_put_bytes: larger files are uploaded in parts; at least 5 MiB, the least that S3
                takes as a part.

        Raises:
            UsageError: it is no such URL.
        """
        super().__init__(url, config)
        self._largest_put_bytes = largest_put_bytes

    def put_if_absent(self, source: Path, key: str) -> bool:
        return self._put_file(source, key, {"IfNoneMatch": "*"}) is not None

    def put(self, key: str, content: bytes) -> None:
        self._put(key, content, {})

    def put_file(self, source: Path, key: str) -> None:
        self._put_file(source, key, {})

    def put_if_match(self, key: str, content: bytes, version: str | None) -> str | None:
        condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}
        return self._put(key, content, condition)

    def read(self, key: str) -> Content:
        return self._get(key, {})

    def read_range(self, key: str, start: int, length: int) -> bytes:
        if length <= 0:
            self.stat(key)
            return b""
        byte_range = f"{start}-{start + length - 1}" if start >= 0 else str(start)
        try:
            return self._get(key, {"Range": f"bytes={byte_range}"}).data[:length]
        except _BeyondTheEnd:
            return b""

    def stat(self, key: str) -> StoredObject:
        with self._errors(key):
            which = {"Bucket": self._root.bucket, "Key": self._name(key)}
            try:
                answer = self._client.client.head_object(**which)
            except ClientError as error:
                if not code_of(error).startswith("4"):
                    raise
                # The answer to a HEAD has no body, so it does not tell an object that is missing
                # from a bucket, nor an expired token from another fault. That to a GET does.
                answer = self._client.client.get_object(**which)
                answer["Body"].close()
        return StoredObject(key, answer["ContentLength"], answer["LastModified"].timestamp())

    def objects(self, prefix: str = "") -> Iterator[StoredObject]:
        for page in self._pages("list_objects_v2", Prefix=self._name(prefix)):
            yield from self._listed(page)

    def children(self, key: str = "") -> list[StoredObject | str]:
        below = self._below(key)
        children: list[StoredObject | str] = []
        for page in self._pages("list_objects_v2", Prefix=below, Delimiter="/"):
            children += self._listed(page)
            for entry in page.get("CommonPrefixes", ()):
                children.append(entry["Prefix"][len(below) : -1])
        return children

    def delete(self, keys: Iterable[str]) -> None:
        names = iter(keys)
        while batch := list(islice(names, DELETE_BATCH)):
            with self._errors(batch[0]):
                self._delete([self._name(key) for key in batch])

    def delete_if_match(self, key: str, version: str) -> bool:
        for _ in _attempts(_CONFLICT_ATTEMPTS):
            with self._errors(key, missing=False):
                try:
                    self._client.client.delete_object(
                        Bucket=self._root.bucket, Key=self._name(key), IfMatch=version
                    )
                    return True
                except ClientError as error:
                    if code_of(error) in _TAKEN | _MISSING:
                        return False
                    if code_of(error) not in _CONFLICTS:
                        raise
        raise self._contended(key)

    def uploads(self, prefix: str = "") -> Iterator[Upload]:
        for page in self._pages("list_multipart_uploads", Prefix=self._name(prefix)):
            for entry in page.get("Uploads", ()):
                started = entry["Initiated"].timestamp()
                yield Upload(self._key(entry["Key"]), entry["UploadId"], started)

    def abort_upload(self, upload: Upload) -> None:
        with self._errors(upload.key):
            try:
                self._client.client.abort_multipart_upload(
                    Bucket=self._root.bucket, Key=self._name(upload.key), UploadId=upload.id
                )
            except ClientError as error:
                if code_of(error) != "NoSuchUpload":
                    raise

    def _make_client(self) -> _Connected:
        silence("botocore")
        config = self._config
        session = boto3.session.Session(profile_name=config.profile, region_name=config.region)
        endpoint = config.endpoint or os.environ.get(
            "AWS_ENDPOINT_URL_S3", os.environ.get("AWS_ENDPOINT_URL")
        )
        path_style = endpoint is not None if config.path_style is None else config.path_style
        client = session.client(
            "s3",
            # A store that is not Amazon's has no regions, but boto3 signs with one.
            region_name=session.region_name or ("us-east-1" if endpoint else None),
            endpoint_url=config.endpoint,
            config=Config(
                connect_timeout=CONNECT_SECONDS,
                read_timeout=READ_SECONDS,
                max_pool_connections=CONNECTIONS,
                retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
                s3={"addressing_style": "path" if path_style else "auto"},
                # Older stores refuse the trailers with checksums: boto/boto3#4392
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )
        client.meta.events.register("before-send.s3", self._count_request)
        client.meta.events.register_last("before-parse.s3.ListObjectsV2", _parse_listing)
        credentials = session.get_credentials()
        endpoint_url = client.meta.endpoint_url
        return _Connected(client, Target(self.url, self._root.bucket, endpoint_url, credentials))

    def _count_request(self, event_name: str, **_: object) -> None:
        operation = event_name.rpartition(".")[2]
        self._count(_KINDS.get(operation, "GET"))

    def _put(self, key: str, body: bytes | Path, condition: dict[str, str]) -> str | None:
        """Write an object with one request; return its ETag, or None if the condition fails."""
        for _ in _attempts(_CONFLICT_ATTEMPTS):
            with self._errors(key, missing=False), _open(body) as content:
                try:
                    answer = self._client.client.put_object(
                        Bucket=self._root.bucket, Key=self._name(key), Body=content, **condition
                    )
                    return str(answer["ETag"])
                except ClientError as error:
                    if condition and code_of(error) in _TAKEN | _MISSING:
                        return None
                    if code_of(error) not in _CONFLICTS:
                        raise
        raise self._contended(key)

    def _put_file(self, source: Path, key: str, condition: dict[str, str]) -> str | None:
        if source.stat().st_size <= self._largest_put_bytes:
            return self._put(key, source, condition)
        for _ in _attempts(_CONFLICT_ATTEMPTS):
            with self._errors(key, missing=False):
                try:
                    return self._put_parts(source, key, condition)
                except ClientError as error:
                    if condition and code_of(error) in _TAKEN:
                        return None
                    if code_of(error) == "NoSuchUpload":
                        self._settle(key)
                        return None
                    if code_of(error) not in _CONFLICTS:
                        raise
        raise self._contended(key)

    def _put_parts(self, source: Path, key: str, condition: dict[str, str]) -> str:
        """Upload a file in parts; whatever fails, the upload is aborted."""
        client = self._client.client
        which = {"Bucket": self._root.bucket, "Key": self._name(key)}
        which["UploadId"] = client.create_multipart_upload(**which)["UploadId"]
        try:
            size = source.stat().st_size
            part_bytes = max(
                min(_PART_BYTES, self._largest_put_bytes), math.ceil(size / _MOST_PARTS)
            )
            parts = []
            for number, start in enumerate(range(0, size, part_bytes), 1):
                with ReadFileChunk.from_filename(str(source), start, part_bytes) as body:
                    answer = client.upload_part(**which, PartNumber=number, Body=body)
                parts.append({"PartNumber": number, "ETag": answer["ETag"]})
            answer = client.complete_multipart_upload(
                **which, MultipartUpload={"Parts": parts}, **condition
            )
            return str(answer["ETag"])
        except BaseException:
            with contextlib.suppress(Exception):
                client.abort_multipart_upload(**which)
            raise

    def _settle(self, key: str) -> None:
        """Find out what became of an upload that the store no longer knows.

        The answer to the request that completed it may have been lost, or another process aborted
        it.

        Raises:
            StorageAwayError: there is no object.
        """
        try:
            self.stat(key)
        except FileNotFoundError:
            raise StorageAwayError(
                f"{self._where(key)}: its upload was aborted before its end"
            ) from None

    def _get(self, key: str, byte_range: dict[str, str]) -> Content:
        for _ in _attempts(_BODY_ATTEMPTS):
            with self._errors(key), contextlib.suppress(_BrokenBody):
                try:
                    answer = self._client.client.get_object(
                        Bucket=self._root.bucket, Key=self._name(key), **byte_range
                    )
                except ClientError as error:
                    if code_of(error) in ("InvalidRange", "416"):
                        raise _BeyondTheEnd from None
                    raise
                return Content(_body(answer["Body"]), answer["ETag"])
        raise StorageAwayError(f"{self._where(key)}: the connection broke while it was read")

    def _pages(self, operation: str, **arguments: str) -> Iterator[dict[str, Any]]:
        """Yield the pages of a listing; an error of the caller's is not taken for a request's."""
        with self._errors("", missing=False):
            paginator = self._client.client.get_paginator(operation)
            pages = iter(paginator.paginate(Bucket=self._root.bucket, **arguments))
        while True:
            with self._errors("", missing=False):
                page = next(pages, None)
            if page is None:
                return
            yield page

    def _listed(self, page: dict[str, Any]) -> Iterator[StoredObject]:
        for name, size, modified in page[_LISTED]:
            if not name.endswith("/"):  # a console's marker of a folder
                yield StoredObject(self._key(name), size, modified)

    def _delete(self, names: list[str]) -> None:
        client, bucket = self._client.client, self._root.bucket
        if len(names) == 1:
            client.delete_object(Bucket=bucket, Key=names[0])
            return
        objects = [{"Key": name} for name in names]
        answer = client.delete_objects(Bucket=bucket, Delete={"Objects": objects, "Quiet": True})
        for refused in answer.get("Errors", ()):
            if refused["Code"] not in _MISSING:
                raise ClientError({"Error": refused}, "DeleteObjects")

    def _contended(self, key: str) -> StorageAwayError:
        return StorageAwayError(f"{self._where(key)}: other writers of the same key got in the way")

    def _translated(self, error: Exception, key: str, *, missing: bool) -> Exception | None:
        if missing and isinstance(error, ClientError) and code_of(error) in _MISSING:
            return self._missing(key)
        return translated(error, self._target(), self._where(key))

    def _target(self) -> Target:
        connected: _Connected | None = self._here.client
        if connected is not None:
            return connected.target
        return Target(self.url, self._root.bucket, self._config.endpoint or "", None)


class _BeyondTheEnd(Exception):
    """The range begins at or after the end."""


class _BrokenBody(Exception):
    """The connection broke while a body was read."""


_LISTED = "Listed"


def _parse_listing(
    response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: object
) -> None:
    """Read the objects of a page in place of botocore's parser, which takes four times as long.

    It leaves `(name, size, modified)` in the answer, under `_LISTED`. An event of botocore calls
    it: https://botocore.amazonaws.com/v1/documentation/api/latest/topics/events.html
    """
    if response_dict["status_code"] != 200:
        return
    page = ElementTree.fromstring(response_dict["body"])
    space, brace, kind = page.tag.rpartition("}")
    if kind != "ListBucketResult":
        raise ResponseParserError(f"a listing begins with {kind}")
    namespace = space + brace
    is_quoted = page.findtext(f"{namespace}EncodingType") == "url"
    listed = []
    for entry in page.findall(f"{namespace}Contents"):
        name = entry.findtext(f"{namespace}Key", "")
        size = int(entry.findtext(f"{namespace}Size", "0"))
        modified = _seconds(entry.findtext(f"{namespace}LastModified", ""))
        listed.append((unquote_plus(name) if is_quoted else name, size, modified))
        page.remove(entry)
    response_dict["body"] = ElementTree.tostring(page)
    customized_response_dict[_LISTED] = listed


def _seconds(text: str) -> float:
    """Return the seconds since 1970 of such a time as 2026-11-26T20:30:00.123Z."""
    # Python 3.10's fromisoformat knows neither a Z nor three digits less or more than 3 and 6.
    whole, _, fraction = text.removesuffix("Z").partition(".")
    moment = datetime.fromisoformat(whole).replace(tzinfo=timezone.utc)
    return moment.timestamp() + (float(f"0.{fraction}") if fraction else 0.0)


def _body(stream: Any) -> bytes:
    try:
        with contextlib.closing(stream):
            content: bytes = stream.read()
            return content
    except (HTTPClientError, IncompleteReadError):
        raise _BrokenBody from None


def _open(body: bytes | Path) -> contextlib.AbstractContextManager[bytes | BinaryIO]:
    return body.open("rb") if isinstance(body, Path) else contextlib.nullcontext(body)


def _attempts(most: int) -> Iterator[int]:
    """Yield the number of each attempt, after a random pause except for the first."""
    for number in range(most):
        if number:
            time.sleep(random.uniform(0.0, min(2.0, 0.05 * 2**number)))
        yield number
