"""Confluent's wire format around a JSON value."""

from __future__ import annotations

from typing import NamedTuple

MAGIC = b"\0"
PREFIX_BYTES = 5
"""A zero byte, the schema's id as four bytes, big-endian, then the JSON (documentation of Confluent
Schema Registry, "Wire format"). No JSON text begins with a zero byte."""


class Unwrapped(NamedTuple):
    """A value without the prefix of the wire format, and the schema id that it named."""

    value: bytes
    schema_id: int | None


def unwrap(value: bytes) -> Unwrapped:
    """Takes the prefix of Confluent's wire format off `value`, if it has one."""
    if len(value) < PREFIX_BYTES or value[:1] != MAGIC:
        return Unwrapped(value, None)
    return Unwrapped(value[PREFIX_BYTES:], int.from_bytes(value[1:PREFIX_BYTES], "big"))
