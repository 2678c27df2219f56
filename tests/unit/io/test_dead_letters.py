"""A dead letter keeps its contract and its record's bytes, as a line and as a record."""

from __future__ import annotations

import base64
import functools
import json
import pickle
import re
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import jsonschema
import orjson
import pytest
from apache_beam import coders
from apache_beam.portability.api import schema_pb2
from hypothesis import given
from hypothesis import strategies as st
from sample_records import NOON_MS, SHA256, commerce_contract, contract_of, kafka_record, letter

from beam_pipeline.config import ValidationRules
from beam_pipeline.covered_offsets import CoveredOffsets
from beam_pipeline.files.names import OutputFile
from beam_pipeline.io.dead_letters import (
    MAX_TEXT_CHARACTERS,
    JsonLinesFormat,
    LetterRow,
    PublishDeadLetterFiles,
    headers_of,
    lines_of,
)
from beam_pipeline.io.kafka import batch_of_records
from beam_pipeline.io.windowed_files import FileLayout, Shard
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.records import (
    TIMESTAMP_TYPES,
    DeadLetter,
    ErrorCode,
    Failure,
    Header,
    SchemaRef,
    Violation,
)
from beam_pipeline.resources import dead_letter_schema_path
from beam_pipeline.testing import run_events
from beam_pipeline.transforms.dead_letters import DeadLetters, DeadLettersCoder, failure_of
from beam_pipeline.transforms.validate import RecordValidator

EPOCH = "20261124T133350Zx3f9a"
FORMAT = JsonLinesFormat(EPOCH)
NOON = datetime(2026, 11, 23, 12, tzinfo=timezone.utc)


@functools.cache
def contract() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(
        json.loads(dead_letter_schema_path().read_bytes()),
        format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER,
    )


def line_of(letter: DeadLetter) -> dict[str, Any]:
    """The letter as a reader of JSON lines has it; it keeps the contract."""
    (text,) = lines_of(DeadLetters.of([letter]), EPOCH)
    line: dict[str, Any] = json.loads(text)
    contract().validate(line)
    return line


def headers_on_topic(letter: DeadLetter) -> dict[str, bytes]:
    (headers,) = headers_of(DeadLetters.of([letter]), EPOCH)
    return dict(headers)


def decoded(content: str | None) -> bytes | None:
    return None if content is None else base64.b64decode(content, validate=True)


def written(path: Path, letters: Sequence[DeadLetter]) -> list[dict[str, Any]]:
    """The letters through a part and a file."""
    contents = [DeadLetters.of(letters[:1]), DeadLetters.of(letters[1:])]
    part = FORMAT.write_part(str(path / "part"), Shard("orders", 0), contents)
    assert part.rows == len(letters)
    target = OutputFile("orders", NOON, NOON + timedelta(seconds=10), 0, EPOCH, 0, ".jsonl")
    assert FORMAT.assemble(str(path / "file"), target, [part, part], CoveredOffsets()) == 2 * len(
        letters
    )
    text = (path / "file").read_bytes()
    assert text == (path / "part").read_bytes() * 2
    lines = [orjson.loads(line) for line in (path / "part").read_bytes().splitlines()]
    for line in lines:
        contract().validate(line)
    return lines


def test_every_code_that_validation_gives_keeps_the_contract(tmp_path: Path) -> None:
    event_contract = commerce_contract()
    event = orjson.dumps(event_contract.document["examples"][0])
    late, early = b"2026-11-23T11:00:00Z", b"2026-11-23T13:00:00Z"
    time_in_event = re.compile(rb'"event_time":"[^"]+"')
    values = [
        None,
        b"",
        b"\xff",
        b"[" * 300,
        b'"' + b"x" * 10_000 + b'"',
        b"{}",
        time_in_event.sub(b'"event_time":"%b"' % late, event),
        time_in_event.sub(b'"event_time":"%b"' % early, event),
        time_in_event.sub(b'"event_time":"9999-12-31T23:59:59Z"', event),
    ]
    rules = ValidationRules("event_time", 60, 60, max_value_bytes=10_000)
    no_limits = ValidationRules("event_time", max_value_bytes=10_000)
    records = [kafka_record(value, offset=offset) for offset, value in enumerate(values)]
    _, refused = RecordValidator(event_contract, rules).validate(batch_of_records(records[:-1]))
    _, bad_time = RecordValidator(event_contract, no_limits).validate(
        batch_of_records(records[-1:])
    )
    dead = [*refused, *bad_time]
    for code in (ErrorCode.TRANSFORM_ERROR, ErrorCode.ENCODE_ERROR):
        dead.append(letter(failure=failure_of(code, ValueError("no\nway")), stage="enrich"))
    lines = written(tmp_path, dead)
    assert {line["error"]["code"] for line in lines} == {code.value for code in ErrorCode}
    assert [decoded(line["value_b64"]) for line in lines] == [item.value for item in dead]


BYTES = st.none() | st.binary(max_size=40)
TEXTS = st.text(st.characters(exclude_categories=[]), max_size=20)  # lone surrogates too
HEADERS = st.lists(st.tuples(TEXTS, BYTES), max_size=3).map(tuple)
FAILURES = st.builds(
    Failure,
    code=st.sampled_from(ErrorCode),
    message=TEXTS,
    error_class=TEXTS.filter(bool),
    stacktrace=st.none() | TEXTS,
    violations=st.lists(
        st.builds(
            Violation,
            keyword=TEXTS.filter(bool),
            instance_path=st.sampled_from(["", "/a", "/a~1b/0"]),
            schema_path=st.sampled_from(["", "/properties/a~1b/type"]),
            message=TEXTS,
        ),
        max_size=2,
    ).map(tuple),
)


@given(key=BYTES, value=BYTES, headers=HEADERS, failure=FAILURES)
def test_bytes_come_back_from_a_line(
    tmp_path_factory: pytest.TempPathFactory,
    key: bytes | None,
    value: bytes | None,
    headers: tuple[Header, ...],
    failure: Failure,
) -> None:
    """Whatever the texts are, lone surrogates included, the line is one that can be read."""
    made = letter(key=key, value=value, headers=headers, failure=failure)
    (line,) = written(tmp_path_factory.mktemp("letters"), [made])
    assert decoded(line["key_b64"]) == key
    assert decoded(line["value_b64"]) == value
    assert [decoded(header["value_b64"]) for header in line["headers"]] == [v for _, v in headers]
    assert [header["key"] for header in line["headers"]] == [
        without_surrogates(name) for name, _ in headers
    ]
    assert line["error"]["message"] == without_surrogates(failure.message)


def without_surrogates(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def test_a_line_says_all_of_a_letter() -> None:
    violation = Violation("pattern", "/country", "/properties/country/pattern", "no match")
    made = letter(
        failure=Failure(ErrorCode.SCHEMA_VIOLATION, "no match", violations=(violation,)),
        headers=(("dlq.attempt", b"3"), ("dlq.redrive.of", b"5e")),
        value=b"caf\xc3\xa9",
    )
    assert line_of(made) == {
        "dlq_id": made.dlq_id,
        "failed_at": "2026-11-23T12:00:00.001Z",
        "stage": "validate",
        "error": {
            "code": "SCHEMA_VIOLATION",
            "class": "ValidationError",
            "message": "no match",
            "stacktrace": None,
            "violations": [
                {
                    "keyword": "pattern",
                    "instance_path": "/country",
                    "schema_path": "/properties/country/pattern",
                    "message": "no match",
                }
            ],
        },
        "source": {
            "topic": "orders",
            "partition": 3,
            "offset": 42,
            "timestamp": "2026-11-23T12:00:00.000Z",
            "timestamp_type": "LOG_APPEND_TIME",
        },
        "key_b64": "a2V5",
        "value_b64": "Y2Fmw6k=",
        "value_text": "café",
        "headers": [
            {"key": "dlq.attempt", "value_b64": "Mw=="},
            {"key": "dlq.redrive.of", "value_b64": "NWU="},
        ],
        "schema": {"id": "urn:event:1", "sha256": SHA256},
        "epoch": EPOCH,
        "attempt": 3,
    }


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, None),
        (b"", ""),
        (b"\xff", None),
        (b"\0", "\0"),
        ("😀".encode() * 5_000, "😀" * MAX_TEXT_CHARACTERS),
    ],
)
def test_the_beginning_of_a_value_is_shown(value: bytes | None, text: str | None) -> None:
    assert line_of(letter(value=value))["value_text"] == text


@pytest.mark.parametrize("timestamp_type", TIMESTAMP_TYPES.values())
def test_every_timestamp_type_keeps_the_contract(timestamp_type: str) -> None:
    assert line_of(letter(timestamp_type=timestamp_type))["source"]["timestamp_type"]


@pytest.mark.parametrize(
    ("timestamp", "text"),
    [
        (-1, "1969-12-31T23:59:59.999Z"),
        (0, "1970-01-01T00:00:00.000Z"),
        (NOON_MS + 123, "2026-11-23T12:00:00.123Z"),
        (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
        (253_402_300_800_000, None),
        (-62_135_596_800_000, "0001-01-01T00:00:00.000Z"),
        (-62_135_596_800_001, None),
        (2**62, None),
        (-(2**62), None),
        (2**63 - 1, None),
        (-(2**63), None),
    ],
)
def test_a_timestamp_far_out_is_null(timestamp: int, text: str | None) -> None:
    made = letter(timestamp=timestamp)
    assert line_of(made)["source"]["timestamp"] == text
    assert headers_on_topic(made)["dlq.original.timestamp"] == b"%d" % timestamp


@given(st.integers(-62_135_596_800_000, 253_402_300_799_999))
def test_timestamps_are_exact_to_the_millisecond(timestamp: int) -> None:
    text = line_of(letter(timestamp=timestamp))["source"]["timestamp"]
    moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    epoch = datetime(1970, 1, 1, tzinfo=timezone.utc)
    assert (moment - epoch) // timedelta(milliseconds=1) == timestamp


def test_offsets_of_a_part_are_those_of_its_letters(tmp_path: Path) -> None:
    letters = [
        letter(partition=partition, offset=offset)
        for partition, offset in [(0, 5), (1, 9), (0, 4), (0, 7), (1, 10)]
    ]
    contents = [DeadLetters.of(letters)]
    part = FORMAT.write_part(str(tmp_path / "part"), Shard("orders", 2), contents)
    assert part.offsets == {0: [(4, 5), (7, 7)], 1: [(9, 10)]}
    assert (part.topic, part.shard, part.rows) == ("orders", 2, 5)


@given(st.integers(0, 2**31 - 1), st.integers(1, 16), BYTES, BYTES)
def test_the_shard_is_a_function_of_the_record(
    partition: int, num_shards: int, key: bytes | None, value: bytes | None
) -> None:
    made = letter(topic="clicks", partition=partition, key=key, value=value)
    (piece,) = JsonLinesFormat(EPOCH, num_shards).shards_of(made)
    assert piece.shard == Shard("clicks", partition % num_shards)
    assert list(piece.content) == [made]


def test_letters_of_several_partitions_are_cut_by_shard() -> None:
    letters = [letter(partition=partition, offset=offset) for offset, partition in enumerate(ORDER)]
    pieces = list(JsonLinesFormat(EPOCH, 2).shards_of(DeadLetters.of(letters)))
    assert [piece.shard for piece in pieces] == [Shard("orders", 0), Shard("orders", 1)]
    for piece in pieces:
        expected = [made for made in letters if made.partition % 2 == piece.shard.number]
        assert list(piece.content) == expected


ORDER = (3, 0, 2, 3, 1)


def test_java_gets_the_types_of_the_topics_rows() -> None:
    """Postponed annotations would make all of them "any type", which KafkaIO refuses."""
    coder = coders.RowCoder.from_type_hint(LetterRow, coders.registry)
    types = {field.name: field.type for field in coder.schema.fields}
    assert types["key"].atomic_type == types["value"].atomic_type == schema_pb2.BYTES
    assert types["key"].nullable
    assert types["value"].nullable
    header, value = types["headers"].array_type.element_type.row_type.schema.fields
    assert (header.type.atomic_type, value.type.atomic_type) == (
        schema_pb2.STRING,
        schema_pb2.BYTES,
    )
    assert types["topic"].atomic_type == schema_pb2.STRING
    assert types["timestamp"].atomic_type == schema_pb2.INT64


def test_a_letter_is_as_large_as_all_that_it_holds() -> None:
    violation = Violation("pattern", "/country", "/properties/country", "no match")
    failure = Failure(ErrorCode.SCHEMA_VIOLATION, "no", "Error", "x" * 4_000, (violation,))
    headers = (("trace", b"h" * 1_000), ("empty", None))
    (piece,) = FORMAT.shards_of(letter(key=b"k", value=b"vv", headers=headers, failure=failure))
    texts = "".join(violation) + "no" + "Error" + "x" * 4_000
    least = len(b"kvv") + len("trace" + "empty") + 1_000 + len(texts)
    assert least < piece.size_bytes < least + 1_000


# Kafka Connect's, and this project's; what says nothing is left out.
HEADER_NAMES = {
    "__connect.errors.topic",
    "__connect.errors.partition",
    "__connect.errors.offset",
    "__connect.errors.connector.name",
    "__connect.errors.task.id",
    "__connect.errors.stage",
    "__connect.errors.class.name",
    "__connect.errors.exception.class.name",
    "__connect.errors.exception.message",
    "__connect.errors.exception.stacktrace",
    "dlq.id",
    "dlq.error.code",
    "dlq.error.keyword",
    "dlq.error.instance_path",
    "dlq.schema.id",
    "dlq.schema.sha256",
    "dlq.original.timestamp",
    "dlq.failed_at",
    "dlq.epoch",
    "dlq.attempt",
    "dlq.redrive.of",
}


def test_headers_say_all_of_a_letter() -> None:
    violations = (
        Violation("pattern", "/country", "/properties/country/pattern", "no match"),
        Violation("type", "/device", "/properties/device/type", "no object"),
    )
    made = letter(
        failure=Failure(
            ErrorCode.SCHEMA_VIOLATION, "ungültig", "ValidationError", "Traceback", violations
        ),
        headers=(("dlq.attempt", b"2"), ("dlq.redrive.of", b"5e")),
    )
    (headers,) = headers_of(DeadLetters.of([made]), EPOCH)
    assert len(headers) == len(HEADER_NAMES)
    found = dict(headers)
    assert set(found) == HEADER_NAMES
    assert found["__connect.errors.topic"] == b"orders"
    assert found["__connect.errors.partition"] == b"3"
    assert found["__connect.errors.offset"] == b"42"
    assert found["__connect.errors.exception.message"] == "ungültig".encode()
    assert found["dlq.id"] == made.dlq_id.encode()
    assert found["dlq.error.code"] == b"SCHEMA_VIOLATION"
    assert found["dlq.error.keyword"] == b"pattern"
    assert found["dlq.error.instance_path"] == b"/country"
    assert found["dlq.schema.sha256"] == SHA256.encode()
    assert found["dlq.original.timestamp"] == b"%d" % NOON_MS
    assert found["dlq.failed_at"] == b"2026-11-23T12:00:00.001Z"
    assert found["dlq.attempt"] == b"2"
    assert found["dlq.redrive.of"] == b"5e"


def test_headers_that_say_nothing_are_left_out() -> None:
    found = headers_on_topic(letter(schema=SchemaRef(None, SHA256)))
    assert HEADER_NAMES - set(found) == {
        "__connect.errors.exception.stacktrace",
        "dlq.error.keyword",
        "dlq.error.instance_path",
        "dlq.schema.id",
        "dlq.redrive.of",
    }


@given(FAILURES, HEADERS)
def test_headers_are_always_utf8(failure: Failure, headers: tuple[Header, ...]) -> None:
    for name, value in headers_on_topic(letter(failure=failure, headers=headers)).items():
        assert name in HEADER_NAMES
        value.decode("utf-8")


def test_the_id_is_that_of_topic_partition_offset_and_stage() -> None:
    base = letter()
    assert re.fullmatch("[0-9a-f]{64}", base.dlq_id)
    same = letter(value=None, failed_at_ms=5, headers=(("h", None),), timestamp=1)
    assert same.dlq_id == base.dlq_id
    others = [
        letter(topic="orders2"),
        letter(partition=4),
        letter(offset=43),
        letter(stage="enrich"),
        letter(partition=34, offset=2),
    ]
    assert len({base.dlq_id, *(other.dlq_id for other in others)}) == 6


def test_the_step_that_sends_files_reaches_kafka_as_the_pipeline_does() -> None:
    """By the Java properties that the graph has; passwords are in no text of it."""
    given = {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "alice",
        "sasl.password": 'pa"ss\\word=#;$(id) horse',
        "ssl.truststore.location": "/ca.pem",
    }
    connection = KafkaConnection("127.0.0.1:9092", given)
    step = PublishDeadLetterFiles(
        connection.for_java(), ".dlq", FileLayout("/dead", EPOCH, private=True)
    )
    settings = pickle.loads(pickle.dumps(step._settings))
    assert settings.connection.for_librdkafka() == connection.for_librdkafka()
    assert "horse" not in repr(settings)


def test_a_violation_of_the_schema_false_has_a_keyword() -> None:
    """jsonschema names none for it."""
    contract = contract_of({"type": "object", "properties": {"never": False}})
    (letter,) = run_events([b'{"never": 1}'], contract, rules=ValidationRules(None)).dead
    assert [violation.keyword for violation in letter.failure.violations] == ["false"]
    assert line_of(letter)["error"]["violations"][0]["keyword"] == "false"


@given(key=BYTES, value=BYTES, headers=HEADERS, failure=FAILURES)
def test_letters_come_back_from_their_batch(
    key: bytes | None, value: bytes | None, headers: tuple[Header, ...], failure: Failure
) -> None:
    """Half of a surrogate pair is replaced."""
    made = letter(key=key, value=value, headers=headers, failure=failure)
    other = letter(offset=43, schema=SchemaRef(None, SHA256))
    coder = DeadLettersCoder()
    letters = coder.decode(coder.encode(DeadLetters.of([made, other])))
    first, second = letters
    assert (first, second) == (letters[0], letters[-1]) == tuple(letters[:2])
    assert second == other
    expected = tuple((without_surrogates(name), content) for name, content in headers)
    assert first == made._replace(headers=expected, failure=first.failure)
    replaced = repr(first.failure).replace("?", "")
    assert replaced == re.sub(r"\\ud[89a-f][0-9a-f]{2}", "", repr(failure)).replace("?", "")
    assert letters.codes() == Counter([made.failure.code, other.failure.code])
