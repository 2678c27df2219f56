"""Why a value is no JSON text: what it is instead, and what the producer can do."""

from __future__ import annotations

import codecs
import re
from collections import deque

import msgspec

from beam_pipeline.records import ErrorCode, Failure

MAX_MESSAGE_CHARACTERS = 500

_REMEDY = "send JSON in UTF-8"
_COMPRESSED = (
    "compressed data; send JSON in UTF-8, and let the producer compress its batches "
    "(compression.type), which Kafka undoes"
)
_KINDS_OF_DATA: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", f"gzip {_COMPRESSED}"),
    (b"\x28\xb5\x2f\xfd", f"zstd {_COMPRESSED}"),
    (b"\x04\x22\x4d\x18", f"LZ4 {_COMPRESSED}"),
    (b"\xff\x06\x00\x00sNaPpY", f"snappy {_COMPRESSED}"),
    (b"\x82SNAPPY\x00", f"snappy {_COMPRESSED}"),
    (b"\xfd7zXZ\x00", f"xz {_COMPRESSED}"),
    (b"BZh", f"bzip2 {_COMPRESSED}"),
    (b"\x78\x01", f"zlib {_COMPRESSED}"),
    (b"\x78\x5e", f"zlib {_COMPRESSED}"),
    (b"\x78\x9c", f"zlib {_COMPRESSED}"),
    (b"\x78\xda", f"zlib {_COMPRESSED}"),
    (b"PK\x03\x04", f"a zip archive; {_REMEDY}"),
    (b"Obj\x01", f"an Avro file; {_REMEDY}"),
    (b"PAR1", f"a Parquet file; {_REMEDY}"),
    (b"\x03\x00", f"in the wire format of the AWS Glue Schema Registry; {_REMEDY} without it"),
    (b"\x03\x05", f"in the wire format of the AWS Glue Schema Registry; {_REMEDY} without it"),
    (b"\xac\xed\x00\x05", f"a serialized Java object; {_REMEDY}"),
    (b"\x80\x04\x95", f"a Python pickle; {_REMEDY}"),
    (b"\x80\x05\x95", f"a Python pickle; {_REMEDY}"),
    (b"<", f"XML or HTML; {_REMEDY}"),
)
"""The first bytes of formats that are sent in place of JSON; none of them begins a JSON text."""

_BYTE_ORDER_MARKS: tuple[tuple[bytes, str], ...] = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_WITHOUT_MARK = ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be")
_FIRST_CHARACTERS = frozenset('{["-0123456789tfn \t\r\n')
_ESCAPE = re.compile(rb"\\(?:u([0-9a-fA-F]{4})|.)", re.DOTALL)
_HIGH, _SURROGATES = range(0xD800, 0xDC00), range(0xD800, 0xE000)


def explain_malformed(value: bytes, error: Exception) -> Failure:
    """Return the failure of a value that can't be decoded.

    Args:
      value: the record's value.
      error: what the decoder raised.
    """
    if not value:
        return _failure(ErrorCode.MALFORMED_JSON, "the value is empty", error)
    encoding = encoding_of(value)
    if encoding is not None:
        return _failure(
            ErrorCode.NOT_UTF8, f"the value is {encoding}, and JSON must be UTF-8; {_REMEDY}", error
        )
    kind = next((what for first, what in _KINDS_OF_DATA if value.startswith(first)), None)
    try:
        value.decode("utf-8")
    except UnicodeDecodeError as unicode_error:
        message = f"the value is {kind}" if kind else _not_utf8(value, unicode_error)
        return _failure(ErrorCode.NOT_UTF8, message, unicode_error)
    message = f"the value is {kind}" if kind else _not_json(value, error)
    return _failure(ErrorCode.MALFORMED_JSON, message, error)


def encoding_of(value: bytes) -> str | None:
    """Return the encoding of a JSON text in UTF-16 or UTF-32, None if it is not in one of them.

    >>> encoding_of("{}".encode("utf-16-be"))
    'UTF-16 (big-endian)'
    """
    for mark, encoding in _BYTE_ORDER_MARKS:
        if value.startswith(mark) and _begins_like_json(value, encoding):
            order = "little" if mark in (codecs.BOM_UTF32_LE, codecs.BOM_UTF16_LE) else "big"
            return f"{encoding.upper()} ({order}-endian) with a byte order mark (BOM)"
    if 0 in value[:4]:
        for encoding in _WITHOUT_MARK:
            if _begins_like_json(value, encoding):
                order = "little" if encoding.endswith("le") else "big"
                return f"{encoding[:-3].upper()} ({order}-endian)"
    return None


def _begins_like_json(value: bytes, encoding: str) -> bool:
    try:
        text = value.decode(encoding)
    except UnicodeDecodeError:
        return False
    return text[:1] in _FIRST_CHARACTERS


def _not_utf8(value: bytes, error: UnicodeDecodeError) -> str:
    try:
        text = value.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return f"{error}; {_REMEDY}"
    surrogate = next(character for character in text if "\ud800" <= character <= "\udfff")
    return (
        f"the value has the surrogate U+{ord(surrogate):04X} in UTF-8 at byte {error.start}, as "
        f"CESU-8 has; UTF-8 has four bytes for a character beyond U+FFFF; {_REMEDY}"
    )


def _not_json(value: bytes, error: Exception) -> str:
    if value.startswith(codecs.BOM_UTF8):
        return (
            "the value begins with a byte order mark (BOM) of UTF-8, which JSON may not have "
            "(RFC 8259); send it without its first three bytes"
        )
    escape = _lone_surrogate(value)
    if escape is not None:
        return (
            f"the value has the lone surrogate {escape}, half of a character; send both halves, "
            "such as \\ud83d\\ude00, or \\ufffd for a character that is lost"
        )
    at = re.search(r"\(byte (\d+)\)", str(error))
    rest = value[int(at[1]) :] if at else b""
    for name in (b"NaN", b"Infinity"):
        if rest.startswith(name):
            return f"{error}; JSON has no {name.decode()}, send null in its place"
    return str(error)


def _lone_surrogate(value: bytes) -> str | None:
    """Return the first escape of half a surrogate pair, None if the value is no JSON without it."""
    halves = deque(escape for escape in _ESCAPE.finditer(value) if _code(escape) in _SURROGATES)
    lone = []
    while halves:
        half = halves.popleft()
        is_high = _code(half) in _HIGH
        if is_high and halves and halves[0].start() == half.end() and _code(halves[0]) not in _HIGH:
            halves.popleft()
        else:
            lone.append(half)
    if not lone:
        return None
    ends = [0, *(half.end() for half in lone)]
    starts = [*(half.start() for half in lone), len(value)]
    parts = [value[end:start] for end, start in zip(ends, starts, strict=True)]
    try:
        msgspec.json.decode(b"\\ufffd".join(parts))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return lone[0][0].decode()


def _code(escape: re.Match[bytes]) -> int:
    return int(escape[1], 16) if escape[1] else 0


def _failure(code: ErrorCode, message: str, error: Exception) -> Failure:
    return Failure(code, message[:MAX_MESSAGE_CHARACTERS], type(error).__name__)
