"""Judging the value of a record: decode it, validate it, and explain why it is refused."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

import jsonschema
import jsonschema_rs
import jsonschema_specifications
import msgspec
import numpy as np
from jsonschema.validators import extend, validator_for

from beam_pipeline.records import ErrorCode, Failure, Violation
from beam_pipeline.schemas.coercion import Coercion
from beam_pipeline.schemas.dialects import draft_of
from beam_pipeline.schemas.malformed import (
    MAX_MESSAGE_CHARACTERS,
    encoding_of,
    explain_malformed,
)
from beam_pipeline.schemas.numbers import Digits, ExactFloat, number_of
from beam_pipeline.schemas.valid_parts import ValidParts

WIRE_MAGIC = b"\0"
WIRE_PREFIX_BYTES = 5
"""The wire format is a zero byte, the schema's id as four bytes, big-endian, then the JSON
(Confluent Schema Registry, "Wire format"). A JSON text never begins with a zero byte."""

MAX_DEPTH = 200
"""How deep arrays and objects may be nested. The bound is fixed, so that the verdict depends on the
record alone and not on the interpreter's stack."""

MAX_VIOLATIONS = 20


class Judge:
    """Decodes values and validates them against one schema.

    jsonschema-rs decides. jsonschema, which is slower and has better messages, explains. Both check
    formats unless `asserts_formats` is False. Both refuse references outside the document and fetch
    nothing. Unless `digits` are those of none, a number that float64 can't hold is an `ExactFloat`.
    The verdict on it is that on the nearest float, or on the integer if it is one of 64 bits.
    `coercion` is applied before the verdict.

    Attributes:
      has_exact: whether there is an `ExactFloat` in the event that was decoded last.
      coerced: how many values of valid events were coerced, by path.

    >>> judge = Judge({"type": "object", "required": ["id"]}, max_value_bytes=100)
    >>> judge.judge(b'{"id": 1}')
    ({'id': 1}, None)
    >>> judge.judge(b"{}")[1].message
    "'id' is a required property"
    """

    def __init__(
        self,
        document: Mapping[str, Any],
        max_value_bytes: int,
        asserts_formats: bool = True,
        digits: Digits = Digits.OF_NONE,
        coercion: Coercion | None = None,
    ) -> None:
        self._max_value_bytes = max_value_bytes
        self.has_exact = False
        self._coercion = coercion
        self.coerced: Counter[str] = Counter()
        self._takes_wholes = draft_of(document) > 4  # for draft 4, 1.0 is no integer
        self._decode = self._decode_plain = msgspec.json.Decoder().decode
        if digits:
            hook = self._number_as_sent if digits is Digits.AS_SENT else self._number
            self._decode = msgspec.json.Decoder(float_hook=hook).decode
        self._validator = compile_validator(document, asserts_formats)
        self._explaining = explaining_validator(document, asserts_formats)
        self._is_valid = self._validator.is_valid

    def judge(self, value: bytes | None, is_plain: bool = False) -> tuple[Any, Failure | None]:
        """Return the decoded event and None, or None and the failure.

        Args:
          value: the record's value, None for a tombstone; a prefix of Confluent's wire format is
            skipped.
          is_plain: as for `decode`.
        """
        event, failure = self.decode(value, is_plain)
        return (None, failure) if failure is not None else self.judge_decoded(event, self.has_exact)

    def judge_decoded(self, event: Any, has_exact: bool) -> tuple[Any, Failure | None]:
        """Return the coerced event and None, or None and the failure.

        Args:
          event: a decoded event, which is changed.
          has_exact: whether there is an `ExactFloat` in it.
        """
        changed: list[str] = []
        if self._coercion is not None:
            event, changed = self._coercion.apply(event)
        plain = event
        if has_exact or changed:
            plain = _without_exact(event, self._takes_wholes)
        if not self._is_valid(plain):
            return None, self._explain_violation(plain)
        if changed:
            self.coerced.update(changed)
        return event, None

    def decode(self, value: bytes | None, is_plain: bool = False) -> tuple[Any, Failure | None]:
        """Return the event, decoded but not validated, and None; or None and the failure.

        Args:
          value: as for `judge`.
          is_plain: whether no number in the value needs more digits than float64 holds.
        """
        self.has_exact = False
        if value is None:
            return None, Failure(ErrorCode.NULL_VALUE, "the record's value is null (a tombstone)")
        if len(value) > self._max_value_bytes:
            return None, Failure(
                ErrorCode.TOO_LARGE,
                f"the value has {len(value)} bytes, more than --max_value_bytes="
                f"{self._max_value_bytes}",
            )
        if value[:1] == WIRE_MAGIC:
            return self._decode_behind_prefix(value)
        if value.count(b"[") + value.count(b"{") > MAX_DEPTH and depth_of(value) > MAX_DEPTH:
            return None, Failure(
                ErrorCode.TOO_DEEP, f"the value is nested more than {MAX_DEPTH} levels deep"
            )
        try:
            return (self._decode_plain if is_plain else self._decode)(value), None
        except ValueError as error:  # msgspec.DecodeError and UnicodeDecodeError
            return None, explain_malformed(value, error)

    def _number(self, text: str) -> float:
        """Return a number with a fraction or an exponent; msgspec calls this for each."""
        number = number_of(text)
        if type(number) is ExactFloat:
            self.has_exact = True
        return number

    def _number_as_sent(self, text: str) -> float:
        number_of(text)  # refuses what is beyond float64
        self.has_exact = True
        return ExactFloat(text)

    def _decode_behind_prefix(self, value: bytes) -> tuple[Any, Failure | None]:
        no_json = ValueError("a zero byte without JSON behind it")
        behind, schema_id = unwrap(value)
        if schema_id is None:
            return None, explain_malformed(value, no_json)
        is_json = behind[:1] != WIRE_MAGIC  # or it would be skipped as a prefix again
        event, failure = (
            self.decode(behind) if is_json else (None, explain_malformed(behind, no_json))
        )
        if failure is None:
            return event, None
        where = f"behind Confluent's wire format (schema id {schema_id})"
        message = f"{where}: {failure.message}"
        if failure.code in (ErrorCode.MALFORMED_JSON, ErrorCode.NOT_UTF8):
            if encoding_of(value) is not None:  # big-endian, and no wire format
                return None, explain_malformed(value, no_json)
            message = (
                f"{where} is no JSON; Avro and Protobuf are not read, send JSON with the "
                f"serializer for JSON Schema ({failure.message})"
            )
        return None, failure._replace(message=message[:MAX_MESSAGE_CHARACTERS])

    def _explain_violation(self, event: Any) -> Failure:
        try:
            violations = explain(self._explaining, event)
        except BaseException as error:
            # A number too large for it, a reference to nothing: it has no say. `referencing` looks
            # things up in Rust (rpds), which panics where Python has no stack left.
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            violations = ()
        if not violations:  # the two differ, such as on a newline behind a date-time
            violations = _violations(
                (str(error.schema_path[-1]), error.instance_path, error.schema_path, error.message)
                for error in self._validator.iter_errors(event)
            )
        return Failure(ErrorCode.SCHEMA_VIOLATION, violations[0].message, violations=violations)


def _without_exact(value: Any, takes_wholes: bool) -> Any:
    if isinstance(value, dict):
        return {name: _without_exact(part, takes_wholes) for name, part in value.items()}
    if isinstance(value, list):
        return [_without_exact(item, takes_wholes) for item in value]
    if type(value) is not ExactFloat:
        return value
    whole = value.whole if takes_wholes and abs(value) <= 2**64 else None
    is_64_bits = whole is not None and -(2**63) <= whole < 2**64
    return whole if is_64_bits else float(value)


def compile_validator(
    document: Mapping[str, Any],
    asserts_formats: bool = True,
    registry: jsonschema_rs.Registry | None = None,
) -> jsonschema_rs.Validator:
    """Return the validator that decides: it fetches no references.

    Args:
      document: the schema.
      asserts_formats: whether it checks formats, in any draft.
      registry: further documents that the schema may refer to.

    Raises:
      jsonschema_rs.ValidationError: a pattern, reference or `$schema` is not understood.
    """
    return jsonschema_rs.validator_for(
        dict(document),
        validate_formats=asserts_formats,
        retriever=_refuse_retrieval,
        registry=registry,
    )


def explaining_validator(document: Mapping[str, Any], asserts_formats: bool = True) -> Any:
    """Return the jsonschema validator that explains violations, of the draft of `document`.

    It does not go through what the library that decides finds valid, where that can't change the
    words (`ValidParts`).
    """
    validator_class = _explaining_class(validator_for(document))
    valid_parts = ValidParts(document, asserts_formats)
    validator_class = extend(
        validator_class,
        {
            name: check
            for name, check in valid_parts.checks.items()
            if name in validator_class.VALIDATORS
        },
    )
    return validator_class(
        document,
        format_checker=validator_class.FORMAT_CHECKER if asserts_formats else None,
        registry=jsonschema_specifications.REGISTRY,
    )


FALSE_SCHEMA = "false"
"""The keyword of a violation of the schema `false`, for which jsonschema names none."""


def explain(validator: Any, event: Any) -> tuple[Violation, ...]:
    """Return the rules that `event` breaks, at most `MAX_VIOLATIONS`, in the schema's order."""
    return _violations(
        (error.validator, error.absolute_path, error.absolute_schema_path, error.message)
        for error in validator.iter_errors(event)
    )


def _violations(
    errors: Iterable[tuple[str | None, Iterable[Any], Iterable[Any], str]],
) -> tuple[Violation, ...]:
    return tuple(
        Violation(
            keyword=keyword or FALSE_SCHEMA,
            instance_path=_pointer(instance_path),
            schema_path=_pointer(schema_path),
            message=message[:MAX_MESSAGE_CHARACTERS],
        )
        for keyword, instance_path, schema_path, message in islice(errors, MAX_VIOLATIONS)
    )


@functools.cache
def _explaining_class(validator_class: Any) -> Any:
    """Return `validator_class` with the patterns of the library that decides.

    Python's `re` has another dialect: no `\\p{L}`, and `$` matches before a last newline. Its
    backtracking would also let one hostile value, or name of a field, block the job.
    """
    checks = {
        "pattern": _check_pattern,
        "patternProperties": _check_pattern_properties,
        "additionalProperties": _check_additional_properties,
    }
    known = validator_class.VALIDATORS
    return extend(validator_class, {name: check for name, check in checks.items() if name in known})


def _check_pattern(
    validator: Any, pattern: str, instance: Any, _schema: Any
) -> Iterator[jsonschema.ValidationError]:
    if validator.is_type(instance, "string") and not matches(pattern, instance):
        yield jsonschema.ValidationError(f"{instance!r} does not match {pattern!r}")


def _check_pattern_properties(
    validator: Any, patterns: Mapping[str, Any], instance: Any, _schema: Any
) -> Iterator[jsonschema.ValidationError]:
    if validator.is_type(instance, "object"):
        for pattern, part in patterns.items():
            for name, value in instance.items():
                if matches(pattern, name):
                    yield from validator.descend(value, part, path=name, schema_path=pattern)


def _check_additional_properties(
    validator: Any, others: Any, instance: Any, schema: Mapping[str, Any]
) -> Iterator[jsonschema.ValidationError]:
    if others is True or not validator.is_type(instance, "object"):
        return
    named, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    names = [
        name
        for name in instance
        if name not in named and not any(matches(pattern, name) for pattern in patterns)
    ]
    if validator.is_type(others, "object"):
        for name in names:
            yield from validator.descend(instance[name], others, path=name)
    elif not others and names:
        verb = "was" if len(names) == 1 else "were"
        shown = ", ".join(map(repr, sorted(names)))
        yield jsonschema.ValidationError(
            f"Additional properties are not allowed ({shown} {verb} unexpected)"
        )


def matches(pattern: str, text: str) -> bool:
    """Return whether a text matches a pattern somewhere, as the library that decides says."""
    return bool(_pattern_validator(pattern).is_valid(text))


@functools.cache
def _pattern_validator(pattern: str) -> jsonschema_rs.Validator:
    return jsonschema_rs.Draft202012Validator({"pattern": pattern})


_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
"""A bracket's step in depth, 1 or -1, as a signed byte."""


def depth_of(value: bytes) -> int:
    """Return the deepest nesting of brackets outside strings in a text, JSON or not.

    >>> depth_of(b'{"a": [1, "[["]}')
    2
    """
    brackets = _STRING.sub(b"", value).translate(_STEPS, _NO_BRACKETS)
    return int(np.frombuffer(brackets, np.int8).cumsum(dtype=np.int64).max(initial=0))


def _pointer(path: Any) -> str:
    """Return the JSON pointer (RFC 6901) for a sequence of keys and indexes."""
    return "".join(f"/{str(step).replace('~', '~0').replace('/', '~1')}" for step in path)


def _refuse_retrieval(uri: str) -> Any:
    raise ValueError(f"{uri} is outside the schema, and references are never fetched")


class Unwrapped(NamedTuple):
    """A value without the prefix of the wire format, and the schema id in it."""

    value: bytes
    schema_id: int | None


def unwrap(value: bytes) -> Unwrapped:
    """Return `value` without the prefix of Confluent's wire format, and its schema id.

    >>> unwrap(b"\\0\\0\\0\\0\\x07{}")
    Unwrapped(value=b'{}', schema_id=7)
    """
    if len(value) < WIRE_PREFIX_BYTES or value[:1] != WIRE_MAGIC:
        return Unwrapped(value, None)
    return Unwrapped(value[WIRE_PREFIX_BYTES:], int.from_bytes(value[1:WIRE_PREFIX_BYTES], "big"))
