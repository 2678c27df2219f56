"""What an explanation may pass over: parts of an event that are valid in any case.

jsonschema explains a violation by going through the whole schema in Python. Most of it is valid,
and jsonschema-rs says so at a fiftieth of the cost.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jsonschema
import jsonschema_rs

_KEYWORDS = frozenset(
    {
        "type",
        "enum",
        "const",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "minItems",
        "maxItems",
        "minLength",
        "maxLength",
        "pattern",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "format",
    }
)
"""Where jsonschema-rs finds a value valid by these, jsonschema does too. References and `allOf`
are left out, since what they say depends on more than the part; `multipleOf`, because the two
calculate differently."""

_ANNOTATIONS = frozenset(
    {
        "title",
        "description",
        "$comment",
        "default",
        "example",
        "examples",
        "deprecated",
        "readOnly",
        "writeOnly",
    }
)

_PLAIN_TIME = re.compile(
    r"(?!0000)\d{4}-\d\d-\d\dT\d\d:\d\d:[0-5]\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.ASCII
)
"""The times that are valid for both where they are for one. Leap seconds are not."""

_Verdict = Callable[[Any], bool | None]


class ValidParts:
    """Knows which parts of an event are valid, for the checks of a jsonschema validator.

    Args:
      document: the schema.
      asserts_formats: whether formats are checked.

    Attributes:
      checks: the keyword functions that ask before they go through a part.
    """

    def __init__(self, document: Mapping[str, Any], asserts_formats: bool) -> None:
        self._dialect = {"$schema": document["$schema"]} if "$schema" in document else {}
        self._asserts_formats = asserts_formats
        # By the id of a part, and with the part, so that no other gets its id.
        self._known: dict[int, tuple[Any, _Verdict]] = {}
        self.checks = {"properties": self._check_properties, "if": self._check_if}

    def verdict(self, value: Any, part: Any) -> bool | None:
        """Return whether a value is valid by a part of the schema; None where the two may differ.

        >>> parts = ValidParts({}, asserts_formats=True)
        >>> parts.verdict("a", {"type": "string"}), parts.verdict(1, {"type": "string"})
        (True, False)
        >>> parts.verdict(1, {"multipleOf": 1})
        """
        known = self._known.get(id(part))
        if known is None:
            known = self._known[id(part)] = part, self._compiled(part)
        return known[1](value)

    def _check_properties(
        self, validator: Any, properties: Mapping[str, Any], instance: Any, _schema: Any
    ) -> Iterator[jsonschema.ValidationError]:
        if validator.is_type(instance, "object"):
            for name, part in properties.items():
                if name in instance and not self.verdict(instance[name], part):
                    yield from validator.descend(instance[name], part, path=name, schema_path=name)

    def _check_if(
        self, validator: Any, condition: Any, instance: Any, schema: Mapping[str, Any]
    ) -> Iterator[jsonschema.ValidationError]:
        holds = self.verdict(instance, condition)
        if holds is None:
            holds = validator.evolve(schema=condition).is_valid(instance)
        branch = "then" if holds else "else"
        if branch in schema and not self.verdict(instance, schema[branch]):
            yield from validator.descend(instance, schema[branch], schema_path=branch)

    def _compiled(self, part: Any) -> _Verdict:
        is_time = isinstance(part, Mapping) and part.get("format") == "date-time"
        rest = {name: rule for name, rule in part.items() if name != "format"} if is_time else part
        if not _is_plain(rest):
            return _unknown
        try:
            is_valid = jsonschema_rs.validator_for(
                {**self._dialect, **part}, validate_formats=self._asserts_formats
            ).is_valid
        except (ValueError, jsonschema_rs.ValidationError):
            return _unknown
        # What is no UUID for jsonschema-rs may be one for jsonschema.
        invalid = None if is_time or _has_format(part) else False

        def ask(value: Any) -> bool | None:
            if is_time and not (isinstance(value, str) and _PLAIN_TIME.fullmatch(value)):
                return None
            try:
                return True if is_valid(value) else invalid
            except Exception:  # a number too large for it
                return None

        return ask


def _unknown(_value: Any) -> None:
    return None


def _has_format(part: Any) -> bool:
    if isinstance(part, Mapping):
        return "format" in part or any(map(_has_format, part.values()))
    return isinstance(part, list) and any(map(_has_format, part))


def _is_plain(part: Any) -> bool:
    """Return whether a part has none but `_KEYWORDS`, on all its levels."""
    if not isinstance(part, Mapping):
        return False
    for name, rule in part.items():
        if name in _ANNOTATIONS or name.startswith("x-"):
            continue
        if name not in _KEYWORDS:
            return False
        if name == "format" and rule != "uuid":
            return False
        if name in ("enum", "const"):  # numbers are compared in two ways
            values = rule if name == "enum" else [rule]
            if not all(value is None or isinstance(value, str | bool) for value in values):
                return False
        if name == "properties" and not all(map(_is_plain, rule.values())):
            return False
        is_schema = name == "items" or (
            name == "additionalProperties" and not isinstance(rule, bool)
        )
        if is_schema and not _is_plain(rule):
            return False
    return True
