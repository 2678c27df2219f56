"""Types of records: before they are columns (`KafkaRecord`), and after a failure (`DeadLetter`)."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

METRICS_NAMESPACE = "beam_pipeline"
"""Namespace of the pipeline's counters in Beam's metrics."""

COERCED = "coerced"
"""Prefix of the counters of coerced values, such as `coerced.order.price`."""

REQUESTS = "storage"
"""Prefix of the counters of requests to an object store, such as `storage.PUT`."""

MAX_BATCH_RECORDS = 4_000
"""How many records make one batch. Decoded events of more do not stay in the processor's cache."""

Header = tuple[str, "bytes | None"]

PROVENANCE_COLUMNS = ("topic", "partition", "offset", "timestamp")
"""The Kafka columns, without their prefix `kafka_`, that every file has: exactly-once rests on
them."""

KAFKA_COLUMNS = (*PROVENANCE_COLUMNS, "key", "headers", "value")
"""All Kafka columns that a file may have, in their order, as `--kafka_columns` names them."""

DEFAULT_KAFKA_COLUMNS = (*PROVENANCE_COLUMNS, "key", "headers")

MIN_TIME_MS = -62_104_060_800_000
MAX_TIME_MS = 253_370_764_799_999
"""0002-01-01 and the last millisecond of 9998, in milliseconds since 1970. Event times must be
between them, so that start and end of a window, shifted too, have years of four digits."""


class KafkaRecord(NamedTuple):
    """One Kafka record with its provenance.

    It has the fields of the row that `ReadFromKafka(with_metadata=True)` yields (Beam 2.73,
    KafkaIO's `ByteArrayKafkaRecord`). `io.kafka.CollectRecords` makes batches of them.

    `timestamp` is in milliseconds since 1970; `timestampTypeId` is 0 for CreateTime, 1 for
    LogAppendTime, -1 for none. `key` and `value` are None where Kafka has null.
    """

    topic: str
    partition: int
    offset: int
    timestamp: int
    timestampTypeId: int
    timestampTypeName: str
    headers: Sequence[Any] | None
    key: bytes | None
    value: bytes | None


class ErrorCode(str, enum.Enum):
    """Why a record is a dead letter. The list is closed; it is the contract of `dlq.error.code`."""

    MALFORMED_JSON = "MALFORMED_JSON"
    NOT_UTF8 = "NOT_UTF8"
    TOO_LARGE = "TOO_LARGE"
    TOO_DEEP = "TOO_DEEP"
    SCHEMA_VIOLATION = "SCHEMA_VIOLATION"
    NULL_VALUE = "NULL_VALUE"
    BAD_EVENT_TIME = "BAD_EVENT_TIME"
    TOO_OLD = "TOO_OLD"
    IN_THE_FUTURE = "IN_THE_FUTURE"
    TRANSFORM_ERROR = "TRANSFORM_ERROR"
    ENCODE_ERROR = "ENCODE_ERROR"


class Violation(NamedTuple):
    """One rule of the schema that an event breaks; both paths are JSON pointers (RFC 6901)."""

    keyword: str
    instance_path: str
    schema_path: str
    message: str


class Failure(NamedTuple):
    """Why a record failed, without the record."""

    code: ErrorCode
    message: str
    error_class: str = "ValidationError"
    stacktrace: str | None = None
    violations: tuple[Violation, ...] = ()


class SchemaRef(NamedTuple):
    """The schema that judged a record: its `$id`, if it has one, and its sha256 in hex."""

    id: str | None
    sha256: str


class DeadLetter(NamedTuple):
    """A record that can't become a row, with its bytes unchanged and the reason.

    `timestamp` is the record's, `failed_at_ms` the time of the failure, both in milliseconds since
    1970. `attempt` counts from 1. `redrive_of` is the `dlq_id` of the letter that this record
    replays, or None.
    """

    stage: str
    failure: Failure
    schema: SchemaRef
    topic: str
    partition: int
    offset: int
    timestamp: int
    timestamp_type: str
    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...]
    failed_at_ms: int
    attempt: int
    redrive_of: str | None

    @property
    def dlq_id(self) -> str:
        """A hash of topic, partition, offset and stage: the same for every repeat of a letter."""
        return dlq_id_of(self.topic, self.partition, self.offset, self.stage)


ID_HEADER = "dlq.id"
ATTEMPT_HEADER = "dlq.attempt"
REDRIVE_HEADER = "dlq.redrive.of"

TIMESTAMP_TYPES = {-1: "NO_TIMESTAMP_TYPE", 0: "CREATE_TIME", 1: "LOG_APPEND_TIME"}


def nearest_time_ms(timestamp_ms: int) -> int:
    """Return `timestamp_ms`, or the end of the range of times that is nearest to it.

    A producer may give a record any 64-bit number as its timestamp; Beam's range is smaller.

    >>> nearest_time_ms(2**62) == MAX_TIME_MS
    True
    """
    return min(max(timestamp_ms, MIN_TIME_MS), MAX_TIME_MS)


class Replay(NamedTuple):
    """Which attempt a record is, and the `dlq_id` of the letter that it replays, or None."""

    attempt: int
    redrive_of: str | None


FIRST_ATTEMPT = Replay(1, None)


def replay_of(headers: Iterable[Header]) -> Replay:
    """Return what the headers say that a replay has set.

    >>> replay_of([("dlq.attempt", b"2"), ("dlq.redrive.of", b"5e")])
    Replay(attempt=2, redrive_of='5e')
    """
    attempt, redrive_of = FIRST_ATTEMPT
    for name, content in headers:
        if content is None:
            continue
        if name == ATTEMPT_HEADER and content.isdigit() and len(content) <= 9:
            attempt = max(1, int(content))
        elif name == REDRIVE_HEADER:
            redrive_of = content.decode("utf-8", "replace")[:64]
    return Replay(attempt, redrive_of)


def dlq_id_of(topic: str, partition: int, offset: int, stage: str) -> str:
    """Return the id of a dead letter: a hash, the same for every repeat of a letter."""
    return hashlib.sha256(f"{topic}\0{partition}\0{offset}\0{stage}".encode()).hexdigest()


def make_dead_letter(
    *,
    stage: str,
    failure: Failure,
    schema: SchemaRef,
    topic: str,
    partition: int,
    offset: int,
    timestamp: int,
    timestamp_type: str,
    key: bytes | None,
    value: bytes | None,
    headers: tuple[Header, ...],
    failed_at_ms: int,
) -> DeadLetter:
    """Return a `DeadLetter`; its attempt and redrive are those in the headers (`replay_of`)."""
    attempt, redrive_of = replay_of(headers)
    return DeadLetter(
        stage=stage,
        failure=failure,
        schema=schema,
        topic=topic,
        partition=partition,
        offset=offset,
        timestamp=timestamp,
        timestamp_type=timestamp_type,
        key=key,
        value=value,
        headers=headers,
        failed_at_ms=failed_at_ms,
        attempt=attempt,
        redrive_of=redrive_of,
    )
