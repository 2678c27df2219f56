"""Every record is a row of one batch or one dead letter, whatever is in it."""

from __future__ import annotations

import gc
import pickle
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipeline_settings import settings_of
from sample_records import (
    NOON_MS,
    SHA256,
    commerce_contract,
    commerce_event,
    contract_of,
    kafka_record,
    rfc3339,
)

from beam_pipeline.config import Cut, PartitionEnd, ValidationRules
from beam_pipeline.covered_offsets import CoveredOffsets, without_covered
from beam_pipeline.errors import UsageError
from beam_pipeline.io.kafka import batch_of_records
from beam_pipeline.records import (
    TIMESTAMP_TYPES,
    DeadLetter,
    ErrorCode,
    KafkaRecord,
    SchemaRef,
)
from beam_pipeline.schemas.contract import check_event_time_field
from beam_pipeline.schemas.nodes import TIMESTAMP_TYPE
from beam_pipeline.transforms.dead_letters import DeadLetters, failure_of
from beam_pipeline.transforms.event_times import event_times
from beam_pipeline.transforms.validate import (
    BatchLimits,
    RecordValidator,
    Validate,
    _ValidateRecords,
    before_cut,
)

UTC = timezone.utc
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
RULES = ValidationRules(
    event_time_field="at",
    max_event_age_seconds=3600,
    max_event_skew_seconds=60,
    max_value_bytes=10_000,
)
NO_LIMITS = ValidationRules(event_time_field="at")
CONTRACT = contract_of(
    {
        "type": "object",
        "properties": {
            "id": {"type": "integer"},
            "at": {"type": "string"},
            "name": {"type": "string"},
        },
        "required": ["id"],
    }
)
VALIDATOR = RecordValidator(CONTRACT, RULES)


def good(offset: int, **fields: Any) -> KafkaRecord:
    return kafka_record({"id": offset, "at": rfc3339(NOON_MS), **fields}, offset=offset)


def validated(
    validator: RecordValidator, records: Sequence[KafkaRecord]
) -> tuple[list[dict[str, Any]], DeadLetters]:
    """Rows and letters of `records`; checks that every batch is whole."""
    batches, dead = validator.validate(batch_of_records(records))
    for batch in batches:
        batch.validate(full=True)
        assert batch.num_rows
    return [row for batch in batches for row in batch.to_pylist()], dead


def codes(validator: RecordValidator, record: KafkaRecord) -> list[ErrorCode]:
    rows, dead = validated(validator, [record])
    assert len(rows) + len(dead) == 1
    return [letter.failure.code for letter in dead]


def test_a_row_has_its_event_and_its_provenance() -> None:
    record = kafka_record(
        {"id": 7, "at": "2026-11-23T13:00:00.25+01:00", "more": [1]},
        topic="clicks",
        partition=3,
        offset=42,
        timestamp=NOON_MS + 1,
        headers=[("trace", b"\0\xff"), ("trace", None)],
        key=None,
    )
    (row,), dead = validated(VALIDATOR, [record])
    assert dead == []
    assert row == {
        "id": 7,
        "at": "2026-11-23T13:00:00.25+01:00",
        "name": None,
        "extra": '{"more":[1]}',
        "kafka_topic": "clicks",
        "kafka_partition": 3,
        "kafka_offset": 42,
        "kafka_timestamp": NOON + timedelta(milliseconds=1),
        "_event_time": NOON + timedelta(milliseconds=250),
        "_timestamp_type": "LOG_APPEND_TIME",
        "_key": None,
        "_value": record.value,
        "_headers": [{"key": "trace", "value": b"\0\xff"}, {"key": "trace", "value": None}],
    }


def test_a_letter_has_the_record_unchanged() -> None:
    record = kafka_record(
        b'{"id": "\xff"}',
        topic="clicks",
        partition=3,
        offset=42,
        timestamp=5,
        timestamp_type=0,
        headers=[("trace", b"\0\xff"), ("", None), ("trace", b"")],
        key=b"\xfe",
    )
    rows, (letter,) = validated(VALIDATOR, [record])
    assert rows == []
    assert letter._replace(failed_at_ms=0, failure=None) == DeadLetter(  # type: ignore[arg-type]
        stage="validate",
        failure=None,  # type: ignore[arg-type]
        schema=SchemaRef(None, SHA256),
        topic="clicks",
        partition=3,
        offset=42,
        timestamp=5,
        timestamp_type="CREATE_TIME",
        key=b"\xfe",
        value=b'{"id": "\xff"}',
        headers=(("trace", b"\0\xff"), ("", None), ("trace", b"")),
        failed_at_ms=0,
        attempt=1,
        redrive_of=None,
    )
    assert letter.failure.code is ErrorCode.NOT_UTF8


@pytest.mark.parametrize(("type_id", "name"), TIMESTAMP_TYPES.items())
def test_the_timestamp_type_is_kept(type_id: int, name: str) -> None:
    (row,), _ = validated(VALIDATOR, [good(1)._replace(timestampTypeId=type_id)])
    assert row["_timestamp_type"] == name
    _, (letter,) = validated(VALIDATOR, [kafka_record(None, timestamp_type=type_id)])
    assert letter.timestamp_type == name


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (None, ErrorCode.NULL_VALUE),
        (b"", ErrorCode.MALFORMED_JSON),
        (b'{"id": 1', ErrorCode.MALFORMED_JSON),
        (b'{"id": NaN}', ErrorCode.MALFORMED_JSON),
        (b'{"id": 1e400}', ErrorCode.MALFORMED_JSON),
        (b'{"name": "\\ud800"}', ErrorCode.MALFORMED_JSON),
        (b'{"name": "\xff"}', ErrorCode.NOT_UTF8),
        (b'{"name": "' + b"x" * 10_000 + b'"}', ErrorCode.TOO_LARGE),
        (b'{"a": ' + b"[" * 300 + b"]" * 300 + b"}", ErrorCode.TOO_DEEP),
        (b"5", ErrorCode.SCHEMA_VIOLATION),
        (b"null", ErrorCode.SCHEMA_VIOLATION),
        (b'{"id": "1"}', ErrorCode.SCHEMA_VIOLATION),
        (b'{"id": 123456789012345678901234567890}', ErrorCode.ENCODE_ERROR),
        (b'{"id": 1}', ErrorCode.BAD_EVENT_TIME),
        (b'{"id": 1, "at": "yesterday"}', ErrorCode.BAD_EVENT_TIME),
        (b'{"id": 1, "at": "2026-11-23T12:00:00"}', ErrorCode.BAD_EVENT_TIME),
        (b'{"id": 1, "at": "2026-11-23T10:59:59.999Z"}', ErrorCode.TOO_OLD),
        (b'{"id": 1, "at": "2026-11-23T12:01:00.001Z"}', ErrorCode.IN_THE_FUTURE),
    ],
)
def test_every_code_with_its_neighbours_kept(value: bytes | None, code: ErrorCode) -> None:
    bad = kafka_record(value, offset=1, headers=[("h", b"v")])
    rows, (letter,) = validated(VALIDATOR, [good(0), bad, good(2)])
    assert [row["kafka_offset"] for row in rows] == [0, 2]
    assert letter.failure.code is code
    assert letter.failure.message
    assert (letter.offset, letter.value, letter.key) == (1, value, b"key")
    assert letter.headers == (("h", b"v"),)
    assert letter.timestamp == NOON_MS


def test_a_row_may_have_anything_in_its_texts() -> None:
    big = b'{"id": 1, "at": "2026-11-23T12:00:00Z", "other": {"a": 10000000000000000000000000}}'
    text = "\0" + "\u2028\x1b[31m" + "😀" * 100
    rows, dead = validated(VALIDATOR, [good(0, name=text), kafka_record(big, offset=1)])
    assert dead == []
    assert rows[0]["name"] == text
    assert rows[1]["extra"] == '{"other":{"a":10000000000000000000000000}}'


def test_the_last_of_two_keys_is_the_row() -> None:
    value = b'{"id": 1, "at": "2026-11-23T12:00:00Z", "id": 2}'
    (row,), _ = validated(VALIDATOR, [kafka_record(value)])
    assert (row["id"], row["_value"]) == (2, value)


VALUES = st.one_of(
    st.integers(0, 10).map(lambda n: {"id": n, "at": rfc3339(NOON_MS)}),
    st.integers(-5000, 100).map(lambda s: {"id": 1, "at": rfc3339(NOON_MS + 1000 * s)}),
    st.sampled_from(
        [
            None,
            b"",
            b"5",
            b"{",
            b"\xff",
            b"[" * 300,
            {"id": 10**30, "at": "2026-11-23T12:00:00Z"},
            {"id": 1},
            {"id": 1, "at": "9999-12-31T23:59:59-23:59"},
            {"id": 1, "at": "0000-01-01T00:00:00Z"},
            {"id": 1, "at": "2026-11-23T12:00:60Z"},
            {"id": 1, "at": 5},
        ]
    ),
    st.binary(max_size=20),
)
TIMESTAMPS = st.sampled_from([NOON_MS, NOON_MS + 1, 0, -1, 2**62, -(2**62), 2**63 - 1, -(2**63)])


@given(
    st.lists(st.tuples(VALUES, TIMESTAMPS), max_size=12),
    st.sampled_from([RULES, NO_LIMITS, ValidationRules(None), ValidationRules("id")]),
)
def test_no_record_is_lost_or_doubled(mix: list[tuple[Any, int]], rules: ValidationRules) -> None:
    records = [
        kafka_record(as_value(value), offset=offset, timestamp=timestamp, key=b"%d" % offset)
        for offset, (value, timestamp) in enumerate(mix)
    ]
    batches, dead = RecordValidator(CONTRACT, rules).validate(batch_of_records(records))
    columns = pa.Table.from_batches(batches, CONTRACT.batch_schema)
    columns.validate(full=True)
    times = columns.column("_event_time")
    assert times.null_count == 0
    assert all(2 <= time.year <= 9998 for time in times.to_pylist())
    found = dict(
        zip(
            columns.column("kafka_offset").to_pylist(),
            columns.column("_value").to_pylist(),
            strict=True,
        )
    )
    assert len(found) == columns.num_rows
    for letter in dead:
        assert letter.offset not in found
        found[letter.offset] = letter.value
        assert letter.timestamp == mix[letter.offset][1]
        assert letter.key == b"%d" % letter.offset
    assert found == {record.offset: record.value for record in records}


def as_value(value: Any) -> Any:
    """JSON that orjson can't write, written by hand."""
    if isinstance(value, dict) and value.get("id") == 10**30:
        return b'{"id": 1000000000000000000000000000000, "at": "2026-11-23T12:00:00Z"}'
    return value


def test_the_same_record_is_judged_the_same_alone_and_in_company() -> None:
    records = [
        good(0),
        kafka_record(b"{", offset=1),
        kafka_record({"id": 1}, offset=2),
        kafka_record(b'{"id": 99999999999999999999}', offset=3),
        good(4, at="2026-11-23t12:00:00z"),
        good(5, at="soon"),
    ]
    _, together = validated(VALIDATOR, records)
    alone = [letter for record in records for letter in validated(VALIDATOR, [record])[1]]

    def verdicts(letters: Sequence[DeadLetter]) -> set[tuple[int, ErrorCode]]:
        return {(letter.offset, letter.failure.code) for letter in letters}

    assert verdicts(together) == verdicts(alone)


@pytest.mark.parametrize(
    ("delta_ms", "code"),
    [
        (-3_600_000, None),
        (-3_600_001, ErrorCode.TOO_OLD),
        (0, None),
        (60_000, None),
        (60_001, ErrorCode.IN_THE_FUTURE),
    ],
)
def test_limits_are_inclusive(delta_ms: int, code: ErrorCode | None) -> None:
    record = good(0, at=rfc3339(NOON_MS + delta_ms))
    assert codes(VALIDATOR, record) == ([code] if code else [])
    assert codes(RecordValidator(CONTRACT, NO_LIMITS), record) == []


@pytest.mark.parametrize("delta_us", [-3_600_000_001, 60_000_001])
def test_limits_are_exact_to_the_microsecond(delta_us: int) -> None:
    moment = NOON + timedelta(microseconds=delta_us)
    assert len(codes(VALIDATOR, good(0, at=moment.isoformat()))) == 1


def test_the_message_names_the_field_and_the_limit() -> None:
    _, dead = validated(
        VALIDATOR,
        [
            good(0, at="2026-11-23T10:00:00Z"),
            good(1, at="2026-11-23T14:00:00Z"),
            good(2, at="noon"),
        ],
    )
    old, future, bad = sorted(dead, key=lambda letter: letter.offset)
    assert "at is more than --max_event_age_seconds=3600 before" in old.failure.message
    assert "at is more than --max_event_skew_seconds=60 after" in future.failure.message
    assert "at holds no time" in bad.failure.message


@pytest.mark.parametrize(
    ("at", "is_row"),
    [
        ("0000-01-01T00:00:00Z", False),
        ("0001-12-31T23:59:59Z", False),
        ("0002-01-01T00:00:00Z", True),
        ("9998-12-31T23:59:59.999999Z", True),
        ("9999-01-01T00:00:00Z", False),
        ("9999-12-31T23:59:59Z", False),
        ("9999-12-31T23:59:59-23:59", False),
    ],
)
def test_a_time_that_no_file_name_can_hold_is_no_event_time(at: str, is_row: bool) -> None:
    validator = RecordValidator(CONTRACT, NO_LIMITS)
    assert codes(validator, good(0, at=at)) == ([] if is_row else [ErrorCode.BAD_EVENT_TIME])


@pytest.mark.parametrize("timestamp", [-1, 2**62, -(2**62), 2**63 - 1, -(2**63)])
def test_a_kafka_timestamp_far_out_is_no_event_time(timestamp: int) -> None:
    validator = RecordValidator(CONTRACT, ValidationRules(None))
    record = good(0)._replace(timestamp=timestamp)
    assert codes(validator, record) == ([] if timestamp == -1 else [ErrorCode.BAD_EVENT_TIME])


@pytest.mark.parametrize(
    ("timestamp", "code"),
    [(2**62, ErrorCode.TOO_OLD), (-(2**62), ErrorCode.IN_THE_FUTURE)],
)
def test_the_age_by_a_kafka_timestamp_far_out_has_the_right_sign(
    timestamp: int, code: ErrorCode
) -> None:
    assert codes(VALIDATOR, good(0)._replace(timestamp=timestamp)) == [code]


def test_without_a_field_the_kafka_timestamp_is_the_event_time() -> None:
    rules = ValidationRules(None, max_event_age_seconds=1, max_event_skew_seconds=1)
    (row,), _ = validated(
        RecordValidator(CONTRACT, rules), [kafka_record({"id": 1, "at": "never"})]
    )
    assert row["_event_time"] == NOON


@pytest.mark.parametrize(
    ("schema", "value", "expected"),
    [
        ({"type": "string", "format": "date-time"}, "2026-11-23T12:00:00Z", NOON),
        ({"type": "string", "format": "date"}, "2026-11-23", NOON.replace(hour=0)),
        ({"type": "string"}, "2026-11-23t12:00:00z", NOON),
        ({"type": "integer"}, NOON_MS, NOON),
        ({"type": "number"}, NOON_MS + 0.5, NOON),
        ({"type": ["integer", "null"]}, 2**62, None),
        ({"type": "integer"}, -(2**63), None),
        ({"type": "number"}, 1e300, None),
        ({"type": ["string", "null"]}, None, None),
    ],
)
def test_a_nested_field_of_any_kind(schema: Any, value: Any, expected: datetime | None) -> None:
    contract = contract_of(
        {
            "type": "object",
            "properties": {"meta": {"type": "object", "properties": {"at": schema}}},
        }
    )
    validator = RecordValidator(contract, ValidationRules("meta.at"))
    records = [kafka_record({"meta": {"at": value}}, offset=0), kafka_record({}, offset=1)]
    rows, dead = validated(validator, records)
    assert [row["_event_time"] for row in rows] == ([expected] if expected else [])
    assert {(letter.offset, letter.failure.code) for letter in dead} == {
        (offset, ErrorCode.BAD_EVENT_TIME) for offset in ([1] if expected else [0, 1])
    }


def test_a_field_whose_name_holds_a_dot() -> None:
    contract = contract_of({"type": "object", "properties": {"meta.at": {"type": "integer"}}})
    validator = RecordValidator(contract, ValidationRules("meta.at"))
    (row,), _ = validated(validator, [kafka_record({"meta.at": NOON_MS})])
    assert row["_event_time"] == NOON


@pytest.mark.parametrize(
    ("schema", "field"),
    [
        ({"type": "boolean"}, "at"),
        ({"type": "array", "items": {"type": "integer"}}, "at"),
        ({"properties": {"ms": {"type": "integer"}}}, "at"),
        ({"type": "string"}, "at.ms"),
        ({"type": "string"}, "time"),
    ],
)
def test_a_field_that_holds_no_times_is_refused_at_once(schema: Any, field: str) -> None:
    """By the command line and by the transform alike."""
    contract = contract_of({"type": "object", "properties": {"at": schema}})
    refusal = rf"^--event_time_field={field}: .+; name a "
    with pytest.raises(UsageError, match=refusal):
        Validate(contract, ValidationRules(field))
    settings = settings_of(f"--event_time_field={field}")
    with pytest.raises(UsageError, match=refusal):
        settings.event_time_path(contract)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "boolean"},
        {"type": "integer"},
        {"type": "number"},
        {"type": "integer", "maximum": 10**30},
        {"type": "string"},
        {"type": "string", "format": "date-time"},
        {"type": "string", "format": "date"},
        {"type": "string", "x-decimal": {"precision": 9, "scale": 2}},
        {"enum": ["2026-11-23T12:00:00Z"]},
        {"type": "array", "items": {"type": "string"}},
        {"type": "object", "additionalProperties": {"type": "string"}},
        {"type": "object", "properties": {"ms": {"type": "integer"}}},
        {},
    ],
    ids=str,
)
def test_a_field_is_accepted_if_times_can_be_made_of_its_type(schema: Any) -> None:
    contract = contract_of({"type": "object", "properties": {"at": schema}})
    rows = pa.RecordBatch.from_pylist([], schema=contract.batch_schema)
    try:
        check_event_time_field(contract, "at")
    except UsageError:
        with pytest.raises(pa.ArrowException):
            event_times(rows, "at")
    else:
        assert event_times(rows, "at").type == TIMESTAMP_TYPE


def test_the_transform_leaves_the_garbage_collector_as_it_is() -> None:
    before = gc.isenabled(), gc.get_threshold(), gc.get_freeze_count()
    step = _ValidateRecords(CONTRACT, NO_LIMITS, BatchLimits(max_rows=1), CoveredOffsets())
    step.setup()
    step.start_bundle()
    assert len(list(step.process(batch_of_records([good(0)])))) == 1
    assert (gc.isenabled(), gc.get_threshold(), gc.get_freeze_count()) == before


def test_the_commerce_event_is_a_row() -> None:
    contract = commerce_contract()
    validator = RecordValidator(contract, ValidationRules(contract.event_time_field))
    (row,), dead = validated(validator, [kafka_record(commerce_event())])
    assert dead == []
    assert row["_event_time"] == NOON
    assert row["purchase"]["items"][0]["sku"] == "TEA-00042"


def test_an_event_that_is_no_object_where_fields_are_named() -> None:
    """Without `"type": "object"` a number is valid, and has no fields to make columns of."""
    contract = contract_of({"properties": {"id": {"type": "integer"}}})
    validator = RecordValidator(contract, ValidationRules(None))
    rows, (letter,) = validated(
        validator,
        [kafka_record({"id": 1}, offset=0), kafka_record(b"5", offset=1), kafka_record({})],
    )
    assert len(rows) == 2
    assert (letter.offset, letter.failure.code) == (1, ErrorCode.ENCODE_ERROR)
    assert "not an object" in letter.failure.message


@pytest.mark.parametrize(
    ("headers", "attempt", "redrive_of"),
    [
        ([], 1, None),
        ([("dlq.attempt", b"3"), ("dlq.redrive.of", b"5e" * 32)], 3, "5e" * 32),
        ([("dlq.attempt", b"0")], 1, None),
        ([("dlq.attempt", b"-2")], 1, None),
        ([("dlq.attempt", b"two")], 1, None),
        ([("dlq.attempt", "²".encode())], 1, None),
        ([("dlq.attempt", b"9" * 400)], 1, None),
        ([("dlq.attempt", None), ("dlq.redrive.of", None)], 1, None),
        ([("dlq.redrive.of", b"\xff" * 100)], 1, "\N{REPLACEMENT CHARACTER}" * 64),
    ],
)
@pytest.mark.parametrize("value", [b"{", b'{"id": 1}'], ids=["record", "row"])
def test_attempt_and_redrive_come_from_the_headers(
    headers: list[tuple[str, bytes | None]],
    attempt: int,
    redrive_of: str | None,
    value: bytes,
) -> None:
    """A letter that is made of a record says the same as one that is made of a row."""
    _, (letter,) = validated(VALIDATOR, [kafka_record(value, headers=headers)])
    assert (letter.attempt, letter.redrive_of) == (attempt, redrive_of)
    assert letter.headers == tuple(headers)


# UTF-8 in Kafka, where half a surrogate pair can't be.
HEADER_KEYS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["", "\0", "\n", '"', "\u2028", "dlq.attempt", "key", "_value", "x" * 70_000]),
)


@given(
    st.lists(st.tuples(HEADER_KEYS, st.none() | st.binary(max_size=20)), max_size=4),
    st.sampled_from([{"id": 1, "at": rfc3339(NOON_MS)}, {"id": 1}, b"{"]),
)
def test_hostile_headers_reach_the_letter_or_the_row(
    headers: list[tuple[str, bytes | None]], value: Any
) -> None:
    records = [kafka_record(value, offset=1, headers=headers), good(2)]
    rows, dead = validated(VALIDATOR, records)
    assert sorted([r["kafka_offset"] for r in rows] + [x.offset for x in dead]) == [1, 2]
    for row in rows:
        found = [(item["key"], item["value"]) for item in row["_headers"] or ()]
        assert found == (headers if row["kafka_offset"] == 1 else [])
    for letter in dead:
        assert list(letter.headers) == headers


def test_a_letter_made_of_a_row_is_the_one_made_of_the_record() -> None:
    record = good(5)._replace(
        partition=2, key=None, headers=kafka_record(b"", headers=[("a", None), ("b", b"")]).headers
    )
    (batch,), _ = VALIDATOR.validate(batch_of_records([record]))
    failure = failure_of(ErrorCode.TRANSFORM_ERROR, ValueError("no"))
    (letter,) = DeadLetters.of_rows(batch, "enrich", [failure], CONTRACT.ref)
    assert letter == DeadLetter(
        stage="enrich",
        failure=failure,
        schema=CONTRACT.ref,
        topic="orders",
        partition=2,
        offset=5,
        timestamp=NOON_MS,
        timestamp_type="LOG_APPEND_TIME",
        key=None,
        value=record.value,
        headers=(("a", None), ("b", b"")),
        failed_at_ms=letter.failed_at_ms,
        attempt=1,
        redrive_of=None,
    )


def test_covered_offsets_are_skipped() -> None:
    covered = CoveredOffsets()
    covered.add_range("orders", 0, 1, 2)
    covered.add_range("orders", 1, 0, 0)
    records = [
        *[good(offset) for offset in range(4)],
        good(0)._replace(partition=1),
        good(1)._replace(partition=1),
        good(1)._replace(topic="clicks"),
    ]
    fresh = without_covered(batch_of_records(records), pickle.loads(pickle.dumps(covered)))
    columns = fresh.select(["kafka_topic", "kafka_partition", "kafka_offset"]).to_pydict()
    assert list(zip(*columns.values(), strict=True)) == [
        ("orders", 0, 0),
        ("orders", 0, 3),
        ("orders", 1, 1),
        ("clicks", 0, 1),
    ]


def test_records_from_the_end_of_a_run_on_are_skipped() -> None:
    records = batch_of_records(
        [
            *[good(offset)._replace(timestamp=1_000 + offset) for offset in range(4)],
            good(9)._replace(partition=1, timestamp=999),
            good(0)._replace(topic="clicks", timestamp=1_001),
        ]
    )

    def kept(cut: Cut) -> list[tuple[str, int, int]]:
        rows = before_cut(records, pickle.loads(pickle.dumps(cut)))
        columns = rows.select(["kafka_topic", "kafka_partition", "kafka_offset"]).to_pydict()
        return list(zip(*columns.values(), strict=True))

    first, second = ("orders", 0, 0), ("orders", 0, 1)
    others = [("orders", 1, 9), ("clicks", 0, 0)]
    assert before_cut(records, Cut()) is records
    ends = (PartitionEnd("orders", 0, 2), PartitionEnd("orders", 1, 0))
    assert kept(Cut(ends)) == [first, second, others[1]]
    assert kept(Cut(end_ms=1_001)) == [first, others[0]]
    assert kept(Cut(ends, end_ms=1_002)) == [first, second, others[1]]


def test_the_failure_of_an_exception_is_bounded() -> None:
    def fail(depth: int) -> None:
        if depth:
            fail(depth - 1)
        raise OverflowError("x" * 10_000)

    with pytest.raises(OverflowError) as raised:
        fail(100)
    failure = failure_of(ErrorCode.ENCODE_ERROR, raised.value)
    assert failure.error_class == "builtins.OverflowError"
    assert failure.message == "x" * 500
    assert failure.stacktrace is not None
    assert len(failure.stacktrace) == 4_000
    assert failure.stacktrace.endswith("x\n")
