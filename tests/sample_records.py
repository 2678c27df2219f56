"""Commerce events, Kafka records and contracts, for the tests of what takes them."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, NamedTuple

import orjson

from beam_pipeline.records import (
    DeadLetter,
    ErrorCode,
    Failure,
    KafkaRecord,
    SchemaRef,
    make_dead_letter,
)
from beam_pipeline.resources import event_schema_path
from beam_pipeline.schemas import Contract, load_contract

NOON_MS = int(datetime(2026, 11, 23, 12, tzinfo=timezone.utc).timestamp() * 1000)
SHA256 = "ab" * 32


class Header(NamedTuple):
    """A record's header, as Beam's Kafka source gives it."""

    key: str
    value: bytes | None


@functools.cache
def commerce_contract() -> Contract:
    """The contract of the events below."""
    return load_contract(event_schema_path())


def commerce_event(**changes: Any) -> dict[str, Any]:
    """A valid purchase at noon with `changes`; a field changed to `...` is left out."""
    event = copy.deepcopy(commerce_contract().document["examples"][0])
    event["event_time"] = rfc3339(NOON_MS)
    event.update(changes)
    return {name: value for name, value in event.items() if value is not ...}


def rfc3339(time_ms: int) -> str:
    """A time as events carry it."""
    moment = datetime.fromtimestamp(time_ms // 1000, timezone.utc)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{time_ms % 1000:03d}Z"


def kafka_record(
    value: Any,
    *,
    topic: str = "orders",
    partition: int = 0,
    offset: int = 0,
    timestamp: int = NOON_MS,
    timestamp_type: int = 1,
    headers: Sequence[tuple[str, bytes | None]] = (),
    key: bytes | None = b"key",
) -> KafkaRecord:
    """A record; a `value` that is neither bytes nor None is written as JSON."""
    return KafkaRecord(
        topic=topic,
        partition=partition,
        offset=offset,
        timestamp=timestamp,
        timestampTypeId=timestamp_type,
        timestampTypeName="LogAppendTime",
        headers=[Header(*header) for header in headers],
        key=key,
        value=value if value is None or isinstance(value, bytes) else orjson.dumps(value),
    )


def contract_of(document: Mapping[str, Any]) -> Contract:
    """A contract of a schema that is in no file."""
    return Contract("events.schema.json", document, SchemaRef(document.get("$id"), SHA256))


def letter(**changes: Any) -> DeadLetter:
    """A dead letter of a null value, with `changes`."""
    given_fields: dict[str, Any] = {
        "stage": "validate",
        "failure": Failure(ErrorCode.NULL_VALUE, "the record's value is null"),
        "schema": SchemaRef("urn:event:1", SHA256),
        "topic": "orders",
        "partition": 3,
        "offset": 42,
        "timestamp": NOON_MS,
        "timestamp_type": "LOG_APPEND_TIME",
        "key": b"key",
        "value": b"value",
        "headers": (),
        "failed_at_ms": NOON_MS + 1,
    }
    return make_dead_letter(**{**given_fields, **changes})
