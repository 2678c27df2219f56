"""What is no JSON text is called what it is, with the remedy."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_pipeline.records import ErrorCode, Failure
from beam_pipeline.schemas import Judge
from beam_pipeline.schemas.malformed import encoding_of

JUDGE = Judge({}, 1_000_000)
TEXT = '{"name": "Zoë", "n": [1, 2]}'


def failure_of(value: bytes) -> Failure:
    failure = JUDGE.judge(value)[1]
    assert failure is not None
    assert len(failure.message) <= 500
    return failure


@pytest.mark.parametrize("text", [TEXT, "{}", "[1]", '"a"', "12", "true", " {}"])
@pytest.mark.parametrize(
    ("encoding", "mark", "name"),
    [
        ("utf-16-le", b"", "UTF-16 (little-endian)"),
        ("utf-16-be", b"", "UTF-16 (big-endian)"),
        ("utf-32-le", b"", "UTF-32 (little-endian)"),
        ("utf-32-be", b"", "UTF-32 (big-endian)"),
        ("utf-16-le", b"\xff\xfe", "UTF-16 (little-endian) with a byte order mark (BOM)"),
        ("utf-16-be", b"\xfe\xff", "UTF-16 (big-endian) with a byte order mark (BOM)"),
        ("utf-32-le", b"\xff\xfe\0\0", "UTF-32 (little-endian) with a byte order mark (BOM)"),
        ("utf-32-be", b"\0\0\xfe\xff", "UTF-32 (big-endian) with a byte order mark (BOM)"),
    ],
)
def test_another_encoding_is_named(text: str, encoding: str, mark: bytes, name: str) -> None:
    failure = failure_of(mark + text.encode(encoding))
    assert failure.code is ErrorCode.NOT_UTF8
    assert failure.message == f"the value is {name}, and JSON must be UTF-8; send JSON in UTF-8"


def test_a_byte_order_mark_of_utf_8_is_named() -> None:
    failure = failure_of(b"\xef\xbb\xbf" + TEXT.encode())
    assert failure.code is ErrorCode.MALFORMED_JSON
    assert "byte order mark (BOM) of UTF-8" in failure.message
    assert "without its first three bytes" in failure.message


@pytest.mark.parametrize(
    ("value", "surrogate"),
    [
        (b'"\\ud800"', "\\ud800"),
        (b'{"a": "x\\uDFFFy"}', "\\uDFFF"),
        (b'["\\ud83d\\ude00", "\\ud83d"]', "\\ud83d"),
        (b'"\\ud83d\\ud83d\\ude00"', "\\ud83d"),
        (b'"\\\\\\ude00\\ud800"', "\\ude00"),
        (b'{"\\udc00": 1}', "\\udc00"),
        (b'"\\ud800x\\udc00"', "\\ud800"),
    ],
)
def test_a_lone_surrogate_is_named(value: bytes, surrogate: str) -> None:
    failure = failure_of(value)
    assert failure.code is ErrorCode.MALFORMED_JSON
    assert f"the lone surrogate {surrogate}, half of a character" in failure.message


@pytest.mark.parametrize("value", [b'{"a": "\\\\ud800"', b'"\\ud800', b'["\\ud800" 1]'])
def test_another_fault_is_not_taken_for_a_surrogate(value: bytes) -> None:
    assert "lone surrogate" not in failure_of(value).message


def test_a_surrogate_in_utf_8_is_named() -> None:
    failure = failure_of(b'"\xed\xa0\xbd\xed\xb8\x80"')
    assert failure.code is ErrorCode.NOT_UTF8
    assert "the surrogate U+D83D in UTF-8 at byte 1" in failure.message


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (gzip.compress(TEXT.encode(), mtime=0), "gzip"),
        (zlib.compress(TEXT.encode()), "zlib"),
        (bz2.compress(TEXT.encode()), "bzip2"),
        (lzma.compress(TEXT.encode()), "xz"),
        (b"\x28\xb5\x2f\xfd" + b"\0" * 9, "zstd"),
        (b"\x04\x22\x4d\x18" + b"\xff" * 9, "LZ4"),
        (b"\x82SNAPPY\0\0\0\0\x01", "snappy"),
        (b"Obj\x01\x04\x16avro", "an Avro file"),
        (b"\x03\x00" + b"0" * 16 + b"{}", "AWS Glue"),
        (b"\xac\xed\x00\x05sr", "Java object"),
        (b"<event/>", "XML"),
    ],
)
def test_another_format_is_named_with_the_remedy(value: bytes, name: str) -> None:
    failure = failure_of(value)
    assert failure.code in (ErrorCode.NOT_UTF8, ErrorCode.MALFORMED_JSON)
    assert failure.message.startswith("the value is ")
    assert name in failure.message
    assert "send JSON in UTF-8" in failure.message


@pytest.mark.parametrize("body", [b"\x02\x0eabc", b"\x00\x08\x96\x01", b"\xff\xff\x10"])
def test_avro_and_protobuf_behind_the_magic_byte_are_named(body: bytes) -> None:
    failure = failure_of(b"\0\0\0\0\x07" + body)
    assert failure.message.startswith(
        "behind Confluent's wire format (schema id 7) is no JSON; Avro and Protobuf are not read"
    )


@pytest.mark.parametrize("name", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_lacks_are_named(name: str) -> None:
    message = failure_of(f'{{"a": "NaN", "b": [{name}]}}'.encode()).message
    assert f"JSON has no {name.removeprefix('-')}, send null" in message
    assert "JSON has no" not in failure_of(b'{"NaN": 1]').message


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_json_in_utf_8_is_never_taken_for_another_encoding(value: object) -> None:
    for ascii_only in (True, False):
        text = json.dumps(value, ensure_ascii=ascii_only)
        if not any("\ud800" <= character <= "\udfff" for character in text):
            assert encoding_of(text.encode()) is None


@given(st.binary(max_size=60))
def test_any_bytes_have_one_failure_or_none(value: bytes) -> None:
    for prefix in (b"", b"\0", b"\0\0\0\0\x01", b"\xff\xfe", b'"\\ud800'):
        event, failure = JUDGE.judge(prefix + value)
        assert failure is None or (event is None and failure.message)
