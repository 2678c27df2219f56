"""A record whose header has a name that is no UTF-8, which no client sends: laid out by hand.

Produce request version 3 with a record batch of version 2, of the Kafka protocol.
"""

from __future__ import annotations

import socket
import struct

import google_crc32c

_PRODUCE, _VERSION, _NO_ERROR = 0, 3, 0


def produce_raw(
    bootstrap: str, topic: str, value: bytes, header: tuple[bytes, bytes], timestamp_ms: int
) -> None:
    """Appends a record to partition 0 of a topic whose leader is `bootstrap`, and waits for it."""
    name, content = header
    batch = _batch(value, name, content, timestamp_ms)
    body = struct.pack(">hhih4s", _PRODUCE, _VERSION, 1, 4, b"test")
    body += struct.pack(">hhii", -1, -1, 10_000, 1) + _text(topic)
    body += struct.pack(">iii", 1, 0, len(batch)) + batch
    host, _, port = bootstrap.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(struct.pack(">i", len(body)) + body)
        answer = connection.makefile("rb")
        (length,) = struct.unpack(">i", answer.read(4))
        content = answer.read(length)
    # Correlation id, one topic with its name, one partition with its number, then the error.
    (error,) = struct.unpack_from(">h", content, 8 + len(_text(topic)) + 8)
    assert error == _NO_ERROR


def _batch(value: bytes, name: bytes, content: bytes, timestamp_ms: int) -> bytes:
    record = b"\0" + _varint(0) + _varint(0) + _varint(-1) + _varint(len(value)) + value
    record += _varint(1) + _varint(len(name)) + name + _varint(len(content)) + content
    records = _varint(len(record)) + record
    checked = struct.pack(">hiqqqhii", 0, 0, timestamp_ms, timestamp_ms, -1, -1, -1, 1) + records
    behind_length = struct.pack(">ibI", -1, 2, google_crc32c.value(checked)) + checked
    return struct.pack(">qi", 0, len(behind_length)) + behind_length


def _text(text: str) -> bytes:
    return struct.pack(">h", len(text)) + text.encode()


def _varint(number: int) -> bytes:
    """A number as zigzag and base 128, as in protocol buffers."""
    rest = (number << 1) ^ (number >> 63)
    encoded = bytearray()
    while rest > 0x7F:
        encoded.append(rest & 0x7F | 0x80)
        rest >>= 7
    encoded.append(rest)
    return bytes(encoded)
