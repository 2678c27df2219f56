"""Inference of a JSON Schema from sample events; all samples are valid under it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import jsonschema_rs

from beam_pipeline.files.names import DEFAULT_PARTITION_KEYS
from beam_pipeline.schemas.contract import is_reserved

DIALECT = "https://json-schema.org/draft/2020-12/schema"

MAP_NAMES = 100
"""An object with more names than this, most of them in few samples, becomes a map."""

EVENT_TIME_NAMES = ("event_time", "timestamp", "time", "occurred_at", "created_at", "ts")
"""If several fields are times in every sample, the first of these names is the event time."""

_MAX_DISTINCT = 100
_FORMATS = {
    name: jsonschema_rs.Draft202012Validator({"format": name}, validate_formats=True)
    for name in ("date-time", "date", "uuid")
}
_TYPES = {
    type(None): "null",
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
}
_ORDER = ("object", "array", "string", "number", "integer", "boolean", "null")


@dataclass
class Seen:
    """The values at one place of the samples."""

    types: Counter[str] = field(default_factory=Counter)
    formats: set[str] = field(default_factory=lambda: set(_FORMATS))
    texts: Counter[str] = field(default_factory=Counter)
    smallest: int = 0
    largest: int = 0
    fields: dict[str, Seen] = field(default_factory=dict)
    items: Seen | None = None

    def add(self, value: Any) -> None:
        """Add one decoded value."""
        kind = _TYPES[type(value)]
        self.types[kind] += 1
        if kind == "object":
            for name, part in value.items():
                self.fields.setdefault(name, Seen()).add(part)
        elif kind == "array":
            if self.items is None:
                self.items = Seen()
            for item in value:
                self.items.add(item)
        elif kind == "string":
            self.formats -= {name for name in self.formats if not _FORMATS[name].is_valid(value)}
            if len(self.texts) <= _MAX_DISTINCT:
                self.texts[value] += 1
        elif kind == "integer":
            self.smallest = min(self.smallest, value)
            self.largest = max(self.largest, value)

    def merge(self, other: Seen) -> None:
        """Add the values at another place."""
        self.types.update(other.types)
        if other.types["string"]:
            self.formats &= other.formats
        self.texts.update(other.texts)
        self.smallest = min(self.smallest, other.smallest)
        self.largest = max(self.largest, other.largest)
        for name, part in other.fields.items():
            self.fields.setdefault(name, Seen()).merge(part)
        if other.items is not None:
            if self.items is None:
                self.items = Seen()
            self.items.merge(other.items)

    def schema(self, max_enum_values: int = 0) -> dict[str, Any]:
        """Return the schema for this place, `{}` if it had no values."""
        kinds = set(self.types)
        if "number" in kinds:
            kinds.discard("integer")
        types = [name for name in _ORDER if name in kinds]
        if not types:
            return {}
        schema: dict[str, Any] = {"type": types[0] if len(types) == 1 else types}
        if "string" in kinds:
            schema |= self._text_keywords(types, max_enum_values)
        if "integer" in kinds and not (self.smallest >= -(2**63) and self.largest < 2**63):
            digits = max(38, len(str(max(-self.smallest, self.largest))))
            schema["minimum"] = 0 if self.smallest >= 0 else -(10**digits) + 1
            schema["maximum"] = 10**digits - 1
        if "array" in kinds and self.items is not None:
            items = self.items.schema(max_enum_values)
            if items:
                schema["items"] = items
        if "object" in kinds:
            schema |= self._object_keywords(max_enum_values)
        return schema

    def _text_keywords(self, types: list[str], max_enum_values: int) -> dict[str, Any]:
        for name in _FORMATS:
            if name in self.formats:
                return {"format": name}
        repeated = min(self.texts.values()) > 1
        if repeated and len(self.texts) <= max_enum_values and set(types) <= {"string", "null"}:
            return {"enum": [*sorted(self.texts), *([None] if "null" in types else [])]}
        return {}

    def _object_keywords(self, max_enum_values: int) -> dict[str, Any]:
        objects = self.types["object"]
        presence = sum(part.types.total() for part in self.fields.values())
        if len(self.fields) > MAP_NAMES and 2 * presence < objects * len(self.fields):
            values = Seen()
            for part in self.fields.values():
                values.merge(part)
            return {"additionalProperties": values.schema(max_enum_values)}
        if not self.fields:
            return {}
        named = self._named_fields()
        keywords: dict[str, Any] = {
            "properties": {
                name: part.schema(max_enum_values)
                for name, part in self.fields.items()
                if name in named
            }
        }
        required = [name for name, part in self.fields.items() if part.types.total() == objects]
        return keywords | ({"required": required} if required else {})

    def _named_fields(self) -> set[str]:
        """Return the most frequent one of the fields whose names differ in case alone."""
        named: dict[str, str] = {}
        for name, part in self.fields.items():
            twin = named.setdefault(name.lower(), name)
            if part.types.total() > self.fields[twin].types.total():
                named[name.lower()] = name
        return set(named.values())


def infer_schema(
    events: Iterable[Any], max_enum_values: int = 0
) -> tuple[dict[str, Any], list[str]]:
    """Return a JSON Schema under which all events are valid, and the fields that may be event time.

    A format is set if every text has it, `required` if every object has the field, an enum if a
    text has at most `max_enum_values` values, each of them more than once. Unnamed fields are
    allowed. `x-event-time` is set if it is clear. A field that may not have a column
    (`contract.is_reserved`), or has the name of a partition key, is not named. Of fields whose
    names differ in case alone the most frequent one is named.

    >>> infer_schema([{"id": 1}, {"id": 2}])[0]["properties"]
    {'id': {'type': 'integer'}}
    """
    seen = Seen()
    for event in events:
        seen.add(event)
    schema = {"$schema": DIALECT, **seen.schema(max_enum_values)}
    if schema.get("type") == "object" and "properties" in schema:
        properties = schema["properties"]
        schema["properties"] = {
            name: part
            for name, part in properties.items()
            if not is_reserved(name) and name.casefold() not in DEFAULT_PARTITION_KEYS
        }
    times = [
        name
        for name in schema.get("required", ())
        if name in schema["properties"]
        and schema["properties"][name].get("format") == "date-time"
        and schema["properties"][name]["type"] == "string"
    ]
    if schema.get("type") == "object" and times:
        named = [name for name in EVENT_TIME_NAMES if name in times]
        if len(times) == 1 or named:
            schema["x-event-time"] = named[0] if named else times[0]
    return schema, times
