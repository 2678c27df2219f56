"""Inference of a JSON Schema from sample events: what most of them are, and what was left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jsonschema_rs

from beam_pipeline.files.names import DEFAULT_PARTITION_KEYS
from beam_pipeline.schemas.contract import RIDE_ALONG_SOURCES, is_reserved
from beam_pipeline.schemas.nodes import MAX_LEVELS

DIALECT = "https://json-schema.org/draft/2020-12/schema"

MAP_NAMES = 100
"""An object with more names than this, most of them in few samples, becomes a map."""

EVENT_TIME_NAMES = ("event_time", "timestamp", "time", "occurred_at", "created_at", "ts")
"""If several fields are times in the samples, the first of these names is the event time."""

EVENT = "the event"

_MAX_DISTINCT = 100
_FORMATS = {
    name: jsonschema_rs.Draft202012Validator({"format": name}, validate_formats=True)
    for name in ("date-time", "date", "uuid")
}
_DATE_LENGTH, _UUID_LENGTH, _LEAST_DATE_TIME_LENGTH = 10, 36, 20
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


class KindShare(NamedTuple):
    """How many values of a field are of one kind: a type of JSON, or a format of texts.

    `first_line` is the line of the first one. With `is_left_out`, the schema does not allow them.
    """

    kind: str
    values: int
    first_line: int
    is_left_out: bool


class FieldShares(NamedTuple):
    """The kinds of values at one place, the most frequent first."""

    path: str
    kinds: tuple[KindShare, ...]


class Inference(NamedTuple):
    """A proposed schema and what it was made of.

    Attributes:
      schema: the schema.
      times: the fields that may be the event time.
      without_time: how many events do not have the field that the schema names as event time.
      mixed: the fields with values of several kinds, null and whole numbers among others apart.
      unnamed: the fields that are not proposed, since the pipeline or the files have such columns.
    """

    schema: dict[str, Any]
    times: list[str]
    without_time: int
    mixed: list[FieldShares]
    unnamed: list[str]


@dataclass
class Seen:
    """The values at one place of the samples."""

    kinds: Counter[str] = field(default_factory=Counter)
    first_lines: dict[str, int] = field(default_factory=dict)
    texts: Counter[str] = field(default_factory=Counter)
    smallest: int = 0
    largest: int = 0
    fields: dict[str, Seen] = field(default_factory=dict)
    items: Seen | None = None

    def add(self, value: Any, line: int) -> None:
        """Add one decoded value of the event at a line."""
        kind = _TYPES[type(value)]
        if kind == "string":
            kind = _kind_of_text(value)
            if len(self.texts) <= _MAX_DISTINCT:
                self.texts[value] += 1
        self.kinds[kind] += 1
        self.first_lines.setdefault(kind, line)
        if kind == "object":
            for name, part in value.items():
                self.fields.setdefault(name, Seen()).add(part, line)
        elif kind == "array":
            if self.items is None:
                self.items = Seen()
            for item in value:
                self.items.add(item, line)
        elif kind == "integer":
            self.smallest = min(self.smallest, value)
            self.largest = max(self.largest, value)

    def merge(self, other: Seen) -> None:
        """Add the values at another place."""
        self.kinds.update(other.kinds)
        for kind, line in other.first_lines.items():
            self.first_lines[kind] = min(line, self.first_lines.get(kind, line))
        self.texts.update(other.texts)
        self.smallest = min(self.smallest, other.smallest)
        self.largest = max(self.largest, other.largest)
        for name, part in other.fields.items():
            self.fields.setdefault(name, Seen()).merge(part)
        if other.items is not None:
            if self.items is None:
                self.items = Seen()
            self.items.merge(other.items)

    def kept(self, min_share: float) -> set[str]:
        """Return the kinds that a schema for this place allows.

        These are the most frequent ones that together have at least `min_share` of the values, and
        what costs no column another type: null, integers beside numbers, and any texts beside
        texts of another kind.
        """
        values = Counter({kind: count for kind, count in self.kinds.items() if kind != "null"})
        numbers = values.pop("number", 0)
        if numbers:
            values["number"] = numbers + values.pop("integer", 0)
        kept = {"null"} & self.kinds.keys()
        covered = 0
        for kind, count in values.most_common():
            if covered >= min_share * values.total():
                break
            covered += count
            kept.add(kind)
        if "number" in kept:
            kept |= {"integer"} & self.kinds.keys()
        if len(kept & _TEXTS) > 1 or "string" in kept:
            kept |= _TEXTS & self.kinds.keys()
        return kept

    def is_map(self) -> bool:
        """Return whether the objects here are maps: many names, most of them in few objects."""
        presence = sum(part.kinds.total() for part in self.fields.values())
        objects = self.kinds["object"]
        return len(self.fields) > MAP_NAMES and 2 * presence < objects * len(self.fields)

    def map_values(self) -> Seen:
        """Return the values of all fields together."""
        values = Seen()
        for part in self.fields.values():
            values.merge(part)
        return values

    def schema(self, max_enum_values: int, min_share: float, level: int = 0) -> dict[str, Any]:
        """Return the schema for this place, `{}` if it had no values or is very deep.

        Args:
          max_enum_values: how many texts make an enum at most.
          min_share: as for `kept`.
          level: how many objects and arrays are around the place. Deeper than `MAX_LEVELS` all is
            JSON text anyway, and a file with such a schema could not be loaded.
        """
        kinds = self.kept(min_share)
        names = {"string" if kind in _TEXTS else kind for kind in kinds}
        if "number" in names:
            names.discard("integer")
        types = [name for name in _ORDER if name in names]
        if not types or level > MAX_LEVELS:
            return {}
        schema: dict[str, Any] = {"type": types[0] if len(types) == 1 else types}
        if "string" in names:
            schema |= self._text_keywords(kinds & _TEXTS, types, max_enum_values)
        if "integer" in names and not (self.smallest >= -(2**63) and self.largest < 2**63):
            digits = max(38, len(str(max(-self.smallest, self.largest))))
            schema["minimum"] = 0 if self.smallest >= 0 else -(10**digits) + 1
            schema["maximum"] = 10**digits - 1
        if "array" in names and self.items is not None:
            items = self.items.schema(max_enum_values, min_share, level + 1)
            if items:
                schema["items"] = items
        if "object" in names:
            schema |= self._object_keywords(max_enum_values, min_share, level + 1)
        return schema

    def _text_keywords(
        self, kinds: set[str], types: list[str], max_enum_values: int
    ) -> dict[str, Any]:
        if "string" not in kinds and len(kinds) == 1:
            return {"format": next(iter(kinds))}
        repeated = min(self.texts.values()) > 1
        if repeated and len(self.texts) <= max_enum_values and set(types) <= {"string", "null"}:
            return {"enum": [*sorted(self.texts), *([None] if "null" in types else [])]}
        return {}

    def _object_keywords(
        self, max_enum_values: int, min_share: float, level: int
    ) -> dict[str, Any]:
        if self.is_map():
            values = self.map_values().schema(max_enum_values, min_share, level)
            return {"additionalProperties": values}
        if not self.fields:
            return {}
        unnamed = _alike_but_for_case(self.fields)
        properties = {
            name: part.schema(max_enum_values, min_share, level)
            for name, part in self.fields.items()
            if name not in unnamed
        }
        objects = self.kinds["object"]
        required = [name for name, part in self.fields.items() if part.kinds.total() == objects]
        return {"properties": properties} | ({"required": required} if required else {})

    def shares(self, min_share: float, path: str = "") -> Iterator[FieldShares]:
        """Yield the kinds of this place and of those below it, where there are several."""
        kept = self.kept(min_share)
        kinds = [
            KindShare(kind, count, self.first_lines[kind], kind not in kept)
            for kind, count in self.kinds.most_common()
        ]
        if len({"number" if kind == "integer" else kind for kind in self.kinds} - {"null"}) > 1:
            yield FieldShares(path or EVENT, tuple(kinds))
        if self.is_map():
            yield from self.map_values().shares(min_share, f"{path}{{}}")
        else:
            for name, part in self.fields.items():
                yield from part.shares(min_share, f"{path}.{name}" if path else name)
        if self.items is not None:
            yield from self.items.shares(min_share, f"{path}[]")


_TEXTS = frozenset({"string", *_FORMATS})


def _kind_of_text(text: str) -> str:
    """Return the format that a text has, or `string`."""
    name = {_DATE_LENGTH: "date", _UUID_LENGTH: "uuid"}.get(len(text))
    if name is not None and _FORMATS[name].is_valid(text):
        return name
    is_time = len(text) >= _LEAST_DATE_TIME_LENGTH and _FORMATS["date-time"].is_valid(text)
    return "date-time" if is_time else "string"


def _alike_but_for_case(fields: dict[str, Seen]) -> set[str]:
    """Return the names that a more frequent one differs from in case only.

    DuckDB, Spark and Hive ignore the case of the names of columns.
    """
    by_frequency = sorted(fields, key=lambda name: -fields[name].kinds.total())
    taken: set[str] = set()
    unnamed: set[str] = set()
    for name in by_frequency:
        (unnamed if name.casefold() in taken else taken).add(
            name if name.casefold() in taken else name.casefold()
        )
    return unnamed


def infer_schema(
    samples: Iterable[tuple[int, Any]],
    max_enum_values: int = 0,
    min_share: float = 1,
) -> Inference:
    """Return a JSON Schema for sample events, and what it does not allow of them.

    A field has the types that most of its values have (`Seen.kept`); with a `min_share` of 1 all
    events are valid. A format is set if the texts that are kept have it, `required` if every object
    has the field, an enum if a text has at most `max_enum_values` values, each of them more than
    once. Unnamed fields are allowed. `x-event-time` is set if it is clear. A field that may not
    have a column is not named: `contract.is_reserved`, a partition key, or the name of another
    field in another case.

    Args:
      samples: the line and the decoded event of each sample.
      max_enum_values: how many texts make an enum at most.
      min_share: from 0 to 1.

    >>> infer_schema([(1, {"id": 1}), (2, {"id": 2})]).schema["properties"]
    {'id': {'type': 'integer'}}
    """
    seen = Seen()
    for line, event in samples:
        seen.add(event, line)
    schema = {"$schema": DIALECT, **seen.schema(max_enum_values, min_share)}
    unnamed: list[str] = []
    if schema.get("type") == "object" and "properties" in schema:
        properties = schema["properties"]
        unnamed = [name for name in seen.fields if name not in properties or _is_taken(name)]
        schema["properties"] = {
            name: part for name, part in properties.items() if not _is_taken(name)
        }
    times = _times(seen, schema, min_share)
    without_time = 0
    if times:
        named = [name for name in EVENT_TIME_NAMES if name in times]
        if len(times) == 1 or named:
            time = schema["x-event-time"] = named[0] if named else times[0]
            without_time = seen.kinds["object"] - seen.fields[time].kinds.total()
    return Inference(schema, times, without_time, list(seen.shares(min_share)), unnamed)


def _is_taken(name: str) -> bool:
    folded = name.casefold()
    return is_reserved(name) or folded in RIDE_ALONG_SOURCES or folded in DEFAULT_PARTITION_KEYS


def _times(seen: Seen, schema: dict[str, Any], min_share: float) -> list[str]:
    """Return the fields of an event that are times, and missing in few events."""
    if schema.get("type") != "object":
        return []
    least = min_share * seen.kinds["object"]
    return [
        name
        for name, part in schema.get("properties", {}).items()
        if part.get("type") == "string"
        and part.get("format") == "date-time"
        and seen.fields[name].kinds.total() >= least
    ]
