"""The record that a dead letter becomes on its topic, and the forms that a topic may take instead.

Pure, no I/O. A letter is a line of a dead-letter file, parsed (`schema/dead_letter.schema.json`).
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from confluent_kafka import KafkaError

from beam_pipeline.records import ATTEMPT_HEADER, ID_HEADER, REDRIVE_HEADER, Header
from beam_pipeline.times import ms_of_rfc3339

NOW_MS = 0
"""librdkafka's timestamp for "now"."""

REFUSALS = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.INVALID_MSG,
        KafkaError.INVALID_RECORD,
        KafkaError.INVALID_TIMESTAMP,
        KafkaError.UNSUPPORTED_FOR_MESSAGE_FORMAT,
        KafkaError._INVALID_DIFFERENT_RECORD,
    }
)
"""Errors about a record itself; all others are about the topic, the cluster or the network. A
broker refuses a whole batch for one record in it."""

_TOO_LARGE = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE})
# The headers that a record keeps in its smallest form.
_ESSENTIAL = frozenset(
    {
        ID_HEADER,
        "dlq.error.code",
        "dlq.value.length",
        "__connect.errors.topic",
        "__connect.errors.partition",
        "__connect.errors.offset",
    }
)
_LONG = frozenset({"__connect.errors.exception.message", "__connect.errors.exception.stacktrace"})


@dataclass(frozen=True, slots=True)
class TopicRecord:
    """A record for a dead-letter topic.

    Attributes:
        key, value: those of the original record.
        own_headers: those of the original record, unchanged.
        added_headers: what this pipeline says about the failure; behind the record's own.
        timestamp_ms: that of the original record, in milliseconds since 1970.
        changes: the names of the changes that were made to it.
    """

    dlq_id: str
    key: bytes | None
    value: bytes | None = field(repr=False)
    own_headers: tuple[Header, ...]
    added_headers: tuple[tuple[str, bytes], ...]
    timestamp_ms: int
    changes: tuple[str, ...] = ()

    @property
    def headers(self) -> list[Header]:
        """All headers, in order. A reader that takes the last one of a name gets ours."""
        return [*self.own_headers, *self.added_headers]


def record_of(letter: Mapping[str, Any]) -> TopicRecord:
    """Return the record of a letter, with the original's key, value, headers and timestamp.

    Raises:
        KeyError, TypeError, ValueError: the letter does not follow its schema.
    """
    own = [(header["key"], _bytes(header["value_b64"])) for header in letter["headers"]]
    added = error_headers(letter)
    # librdkafka takes names as C strings, and would send what stands before the NUL.
    sendable = tuple(header for header in own if "\0" not in header[0])
    if len(sendable) < len(own):
        added.append(_left_out(len(own) - len(sendable)))
    return TopicRecord(
        dlq_id=letter["dlq_id"],
        key=_bytes(letter["key_b64"]),
        value=_bytes(letter["value_b64"]),
        own_headers=sendable,
        added_headers=tuple(added),
        timestamp_ms=timestamp_ms_of(letter) or NOW_MS,
    )


def timestamp_ms_of(letter: Mapping[str, Any]) -> int | None:
    """Return the timestamp of the letter's record, in milliseconds since 1970.

    It is None for a time outside the years 1 to 9999 in a file of a version before `timestamp_ms`.
    """
    source = letter["source"]
    if source["timestamp"] is None:
        timestamp_ms: int | None = source.get("timestamp_ms")
        return timestamp_ms
    return _ms_of_rfc3339(source["timestamp"])


# Each letter is asked twice, and many letters of a file have one time.
_ms_of_rfc3339 = functools.lru_cache(maxsize=1_024)(ms_of_rfc3339)


def error_headers(letter: Mapping[str, Any]) -> list[tuple[str, bytes]]:
    """Return the headers that a letter has on its topic, besides those of the original record.

    The names are those of Kafka Connect (`DeadLetterQueueReporter`, `__connect.errors.*`) and
    `dlq.*`. Values are UTF-8 text, numbers too. What the letter does not have is left out.
    """
    error, source, schema = letter["error"], letter["source"], letter["schema"]
    first = error["violations"][0] if error["violations"] else {}
    values: dict[str, str | int | None] = {
        "__connect.errors.topic": source["topic"],
        "__connect.errors.partition": source["partition"],
        "__connect.errors.offset": source["offset"],
        "__connect.errors.connector.name": "beam-pipeline",
        "__connect.errors.task.id": 0,
        "__connect.errors.stage": letter["stage"],
        "__connect.errors.class.name": f"beam_pipeline.{letter['stage']}",
        "__connect.errors.exception.class.name": error["class"],
        "__connect.errors.exception.message": error["message"],
        "__connect.errors.exception.stacktrace": error["stacktrace"],
        ID_HEADER: letter["dlq_id"],
        "dlq.error.code": error["code"],
        "dlq.error.keyword": first.get("keyword"),
        "dlq.error.instance_path": first.get("instance_path"),
        "dlq.schema.id": schema["id"],
        "dlq.schema.sha256": schema["sha256"],
        "dlq.original.timestamp": timestamp_ms_of(letter),
        "dlq.failed_at": letter["failed_at"],
        "dlq.epoch": letter["epoch"],
        ATTEMPT_HEADER: letter["attempt"],
        REDRIVE_HEADER: _redrive_of(letter),
    }
    return [
        (name, value.encode(errors="replace") if isinstance(value, str) else b"%d" % value)
        for name, value in values.items()
        if value is not None
    ]


def next_form(record: TopicRecord, error_code: int) -> TopicRecord | None:
    """Return the record in a form that the topic may take after it has refused this one.

    Each change is made once, the smallest loss first.

    Returns:
        the changed record; None when there is nothing left to change.
    """
    for name, change in _changes_for(error_code):
        if name not in record.changes:
            changed = change(record)
            if changed != record:
                return replace(changed, changes=(*record.changes, name))
    return None


_Change = Callable[[TopicRecord], TopicRecord]


def _changes_for(error_code: int) -> list[tuple[str, _Change]]:
    stamp: tuple[str, _Change] = ("timestamp", _stamped_now)
    key: tuple[str, _Change] = ("null key", _with_a_key)
    smaller: list[tuple[str, _Change]] = [
        ("value", _without_value),
        ("headers", _without_own_headers),
        ("key", _with_a_short_key),
        ("error headers", _with_few_headers),
    ]
    if error_code in _TOO_LARGE:
        return smaller
    if error_code == KafkaError.INVALID_TIMESTAMP:
        return [stamp]
    return [key, stamp, *smaller[1:2], *smaller[:1], *smaller[2:]]


def _stamped_now(record: TopicRecord) -> TopicRecord:
    return replace(record, timestamp_ms=NOW_MS)


def _with_a_key(record: TopicRecord) -> TopicRecord:
    """Give a record without a key its id: a compacted topic needs a key."""
    return _with_its_id_as_key(record) if record.key is None else record


def _with_a_short_key(record: TopicRecord) -> TopicRecord:
    is_longer = record.key is not None and len(record.key) > len(record.dlq_id)
    return _with_its_id_as_key(record) if is_longer else record


def _with_its_id_as_key(record: TopicRecord) -> TopicRecord:
    was = "null" if record.key is None else str(len(record.key))
    added = [("dlq.key.replaced", was.encode())]
    if record.key is not None:
        added.append(("dlq.key.sha256", _sha256(record.key)))
    return replace(
        record,
        key=record.dlq_id.encode(),
        added_headers=(*record.added_headers, *added),
    )


def _without_value(record: TopicRecord) -> TopicRecord:
    if record.value is None:
        return record
    return replace(
        record,
        value=None,
        added_headers=(
            *record.added_headers,
            ("dlq.value.length", str(len(record.value)).encode()),
            ("dlq.value.sha256", _sha256(record.value)),
        ),
    )


def _without_own_headers(record: TopicRecord) -> TopicRecord:
    """Leave out the record's own headers, and the long ones of the failure."""
    if not record.own_headers and not any(name in _LONG for name, _ in record.added_headers):
        return record
    kept = tuple(header for header in record.added_headers if header[0] not in _LONG)
    return replace(
        record, own_headers=(), added_headers=(*kept, _left_out(len(record.own_headers)))
    )


def _left_out(count: int) -> tuple[str, bytes]:
    return "dlq.headers.left_out", str(count).encode()


def _with_few_headers(record: TopicRecord) -> TopicRecord:
    return replace(
        record,
        own_headers=(),
        added_headers=tuple(header for header in record.added_headers if header[0] in _ESSENTIAL),
    )


def _redrive_of(letter: Mapping[str, Any]) -> str | None:
    """Return the id of the letter that the record replays, from the header that a replay set."""
    found = None
    for header in letter["headers"]:
        if header["key"] == REDRIVE_HEADER and header["value_b64"] is not None:
            content = base64.b64decode(header["value_b64"])
            found = content.decode("utf-8", "replace")[:64]
    return found


def _sha256(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text, validate=True)
