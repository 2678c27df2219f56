"""The verdict on one record's value: decode, validate, and say why not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jsonschema_rs
import msgspec
import referencing
from jsonschema.validators import validator_for

from beam_pipeline.records import ErrorCode, Failure, Violation

MAX_DEPTH = 200
"""Deepest nesting of arrays and objects that is decoded; a fixed bound, so that the verdict is a
function of the record alone and not of the interpreter's stack."""

MAX_VIOLATIONS = 20
MAX_MESSAGE_CHARACTERS = 500


class Judge:
    """Decodes and validates values against one schema.

    jsonschema-rs decides; jsonschema, slower and with the better words, explains. Both check
    formats. References outside the document are refused by both, never fetched.
    """

    def __init__(self, document: Mapping[str, Any], max_value_bytes: int) -> None:
        self._document = document
        self._max_value_bytes = max_value_bytes
        self._decode = msgspec.json.Decoder().decode
        self._is_valid = jsonschema_rs.validator_for(
            dict(document), validate_formats=True, retriever=_refuse_retrieval
        ).is_valid

    def judge(self, value: bytes | None) -> tuple[Any, Failure | None]:
        """The decoded event and None, or None and the failure.

        `value` is the record's raw value, None for a tombstone.
        """
        if value is None:
            return None, Failure(ErrorCode.NULL_VALUE, "the record's value is null (a tombstone)")
        if len(value) > self._max_value_bytes:
            return None, Failure(
                ErrorCode.TOO_LARGE,
                f"the value has {len(value)} bytes, more than --max_value_bytes="
                f"{self._max_value_bytes}",
            )
        if value.count(b"[") + value.count(b"{") > MAX_DEPTH and depth_of(value) > MAX_DEPTH:
            return None, Failure(
                ErrorCode.TOO_DEEP, f"the value is nested more than {MAX_DEPTH} levels deep"
            )
        try:
            event = self._decode(value)
        except ValueError as error:  # msgspec.DecodeError and UnicodeDecodeError
            return None, _explain_malformed(value, error)
        if self._is_valid(event):
            return event, None
        return None, self._explain_violation(event)

    def _explain_violation(self, event: Any) -> Failure:
        violations = explain(self._document, event)
        message = violations[0].message if violations else "the event breaks the schema"
        return Failure(ErrorCode.SCHEMA_VIOLATION, message, violations=violations)


def explain(document: Mapping[str, Any], event: Any) -> tuple[Violation, ...]:
    """The rules of `document` that `event` breaks, at most `MAX_VIOLATIONS`, in document order."""
    validator_class = validator_for(document)
    validator = validator_class(
        document,
        format_checker=validator_class.FORMAT_CHECKER,
        registry=referencing.Registry(),
    )
    violations = []
    for error in validator.iter_errors(event):
        violations.append(
            Violation(
                keyword=str(error.validator),
                instance_path=_pointer(error.absolute_path),
                schema_path=_pointer(error.absolute_schema_path),
                message=error.message[:MAX_MESSAGE_CHARACTERS],
            )
        )
        if len(violations) == MAX_VIOLATIONS:
            break
    return tuple(violations)


def depth_of(value: bytes) -> int:
    """The deepest nesting of brackets outside strings in a JSON text, well-formed or not."""
    depth = deepest = 0
    in_string = escaped = False
    for byte in value:
        if in_string:
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = True
            elif byte == 0x22:
                in_string = False
        elif byte == 0x22:
            in_string = True
        elif byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return deepest


def _explain_malformed(value: bytes, error: Exception) -> Failure:
    try:
        value.decode("utf-8")
    except UnicodeDecodeError as unicode_error:
        return Failure(ErrorCode.NOT_UTF8, str(unicode_error), "UnicodeDecodeError")
    message = str(error)[:MAX_MESSAGE_CHARACTERS] if value else "the value is empty"
    return Failure(ErrorCode.MALFORMED_JSON, message, type(error).__name__)


def _pointer(path: Any) -> str:
    """A JSON pointer (RFC 6901) for a sequence of keys and indexes."""
    return "".join(f"/{str(step).replace('~', '~0').replace('/', '~1')}" for step in path)


def _refuse_retrieval(uri: str) -> Any:
    raise ValueError(f"{uri} is outside the schema and references are never fetched")
