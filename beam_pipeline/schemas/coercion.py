"""Coercion: what `x-coerce` makes of values of another type, before the verdict and exactly."""

from __future__ import annotations

import decimal
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

import jsonschema_rs

from beam_pipeline.errors import UsageError
from beam_pipeline.schemas.dialects import draft_of
from beam_pipeline.schemas.nodes import types_of
from beam_pipeline.schemas.numbers import Digits, ExactFloat, number_of
from beam_pipeline.schemas.references import References, schemas_in

KEYWORD = "x-coerce"
WHOLE_EVENT = "value"
"""The path of the event itself, which is also its column if it is no object."""

_JSON_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_SPACED_TIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}) ([0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?)"
    r"(?: ?(?:([Zz])|([+-][0-9]{2})(?::?([0-9]{2}))?))?"
)
_DATE_TIME = jsonschema_rs.Draft202012Validator({"format": "date-time"}, validate_formats=True)
_EPOCH = datetime(1970, 1, 1)
_MAX_EPOCH = 10**18
_EXACT = decimal.Context(prec=40, traps=[decimal.Inexact, decimal.InvalidOperation])


def _number_from_text(value: Any) -> Any:
    match = _JSON_NUMBER.fullmatch(value) if type(value) is str else None
    if match is None:
        return value
    try:
        return int(value) if match.lastindex is None else number_of(value)
    except ValueError:  # beyond float64, or an integer of thousands of digits
        return value


def _integer_from_text(value: Any) -> Any:
    """Return the integer of a text; the text if it is none, so that the verdict is on the text."""
    number = _number_from_text(value)
    if type(number) is ExactFloat:
        return value if number.whole is None else number
    return value if type(number) is float and not number.is_integer() else number


def _text_from_number(value: Any) -> Any:
    if type(value) is int:
        return str(value)
    return value.text if type(value) is ExactFloat else value


def _boolean_from_text(value: Any) -> Any:
    return {"true": True, "false": False}.get(value, value) if type(value) is str else value


def _time_from_epoch_ms(value: Any) -> Any:
    return _time_from_epoch(value, 6)


def _time_from_epoch_s(value: Any) -> Any:
    return _time_from_epoch(value, 9)


def _time_from_epoch(value: Any, nano_digits: int) -> Any:
    """Return the time in UTC for a number of units of 10**nano_digits nanoseconds.

    A value that is no number, or no whole number of nanoseconds of the years 1 to 9999, is
    returned as it is.
    """
    if type(value) not in (int, float, ExactFloat) or abs(value) > _MAX_EPOCH:
        return value
    if isinstance(value, float):
        exact = value.exact if isinstance(value, ExactFloat) else Decimal(repr(value))
    else:
        exact = Decimal(value)
    try:
        nanos = _EXACT.multiply(exact, Decimal(10**nano_digits)) if exact else exact
        if nanos != nanos.to_integral_value():
            return value
        seconds, fraction = divmod(int(nanos) if nanos else 0, 10**9)
        moment = _EPOCH + timedelta(seconds=seconds)
    except (decimal.DecimalException, OverflowError):
        return value
    digits = f".{fraction:09d}".rstrip("0") if fraction else ""
    return f"{moment.isoformat()}{digits}Z"


def _time_from_space(value: Any) -> Any:
    match = _SPACED_TIME.fullmatch(value) if type(value) is str else None
    if match is None or _DATE_TIME.is_valid(value):
        return value
    day, time, _, hours, minutes = match.groups()
    offset = f"{hours}:{minutes or '00'}" if hours else "Z"
    text = f"{day}T{time}{offset}"
    return text if _DATE_TIME.is_valid(text) else value


class _Rule(NamedTuple):
    """A name that `x-coerce` may have.

    `targets` are the JSON types that it makes, one of which the field must take. `sources` are
    those that it takes, none of which the field may take itself.
    """

    function: Callable[[Any], Any]
    targets: frozenset[str]
    sources: frozenset[str]
    makes_times: bool = False
    digits: Digits = Digits.OF_NONE


_TEXT = frozenset({"string"})
_NUMBER = frozenset({"integer", "number"})
_RULES: Mapping[str, _Rule] = {
    "number_from_text": _Rule(_number_from_text, _NUMBER, _TEXT),
    "text_from_number": _Rule(_text_from_number, _TEXT, _NUMBER, digits=Digits.AS_SENT),
    "time_from_epoch_ms": _Rule(_time_from_epoch_ms, _TEXT, _NUMBER, True, Digits.OF_ALL),
    "time_from_epoch_s": _Rule(_time_from_epoch_s, _TEXT, _NUMBER, True, Digits.OF_ALL),
    "time_from_space": _Rule(_time_from_space, _TEXT, frozenset(), True),
    "boolean_from_text": _Rule(_boolean_from_text, frozenset({"boolean"}), _TEXT),
}
_FROM_NUMBERS = ("text_from_number", "time_from_epoch_ms", "time_from_epoch_s")

_ALL_TYPES = frozenset({"boolean", "string", "array", "object", *_NUMBER})

_MAX_PLACES = 10_000
_MAX_NESTED_TYPES = 50


@dataclass(eq=False)
class Place:
    """A place in an event at which, or below which, values are coerced.

    Attributes:
      path: such as `order.lines[].price`; `{}` stands for any name of a map.
      names: what `x-coerce` names there.
      is_whole: whether of all numbers only integers are taken there.
      is_in_union: whether a branch of `anyOf` or `oneOf` is on the way there.
      fields: the places of an object's fields; None for one with nothing to coerce.
      others: the place of the fields that are not in `fields`.
      items: the place of an array's items.
    """

    path: str
    names: tuple[str, ...] = ()
    is_whole: bool = False
    is_in_union: bool = False
    fields: dict[str, Place | None] = field(default_factory=dict)
    others: Place | None = None
    items: Place | None = None

    def children(self) -> Iterator[Place]:
        """Yield the places directly below."""
        for child in (*self.fields.values(), self.others, self.items):
            if child is not None:
                yield child

    def child(self, name: str) -> Place | None:
        """Return the place of the field `name`."""
        return self.fields.get(name, self.others)


class Coercion:
    """Coerces the values of events at the places that a schema names.

    Attributes:
      root: the place of the event.
      digits: which digits of numbers must be known.
    """

    def __init__(self, root: Place) -> None:
        self.root = root
        self.places = [place for place in _all_places(root) if place.names]
        names = {name for place in self.places for name in place.names}
        self.digits = max([Digits.OF_NONE, *(_RULES[name].digits for name in names)])
        self._functions = {
            place: tuple(_function(name, place.is_whole) for name in place.names)
            for place in _all_places(root)
        }

    def apply(self, event: Any) -> tuple[Any, list[str]]:
        """Return the coerced event, and the path of each value that was changed.

        Objects and arrays of `event` are changed in place.
        """
        changed: list[str] = []
        return self._apply(self.root, event, changed), changed

    def _apply(self, place: Place, value: Any, changed: list[str]) -> Any:
        for function in self._functions[place]:
            coerced = function(value)
            if coerced is not value:
                changed.append(place.path)
                return coerced
        if type(value) is dict:
            if place.others is None:
                for name, child in place.fields.items():
                    if child is not None and name in value:
                        value[name] = self._apply(child, value[name], changed)
            else:
                for name, part in value.items():
                    child = place.child(name)
                    if child is not None:
                        value[name] = self._apply(child, part, changed)
        elif type(value) is list and place.items is not None:
            value[:] = [self._apply(place.items, item, changed) for item in value]
        return value


def _function(name: str, is_whole: bool) -> Callable[[Any], Any]:
    function = _RULES[name].function
    return _integer_from_text if is_whole and function is _number_from_text else function


def coercion_of(document: Mapping[str, Any], where: str) -> Coercion | None:
    """Return the coercion that `x-coerce` in a schema asks for, None if there is none.

    Args:
      document: the schema, with JSON pointers as references (`source.with_pointers_only`).
      where: the flag and the file, for messages.

    Raises:
      UsageError: an `x-coerce` is not understood, does not fit the type of its field, or is where
        it has no effect.

    >>> schema = {"type": "integer", "x-coerce": ["number_from_text"]}
    >>> coercion_of({"properties": {"n": schema}}, "--schema=a.json").apply({"n": "12"})
    ({'n': 12}, ['n'])
    """
    if not any(KEYWORD in part for part in schemas_in(document)):
        return None
    root = _Builder(document, where).build()
    return Coercion(root) if root is not None else None


class _Builder:
    """Finds the places of a schema; several parts of it may hold at one place."""

    def __init__(self, document: Mapping[str, Any], where: str) -> None:
        self._document = document
        self._where = where
        self._references = References(document)
        self._ignores_siblings = draft_of(document) <= 7
        self._places: dict[tuple[frozenset[int], bool], Place] = {}
        self._waiting: deque[tuple[Place, Sequence[Any]]] = deque()

    def build(self) -> Place | None:
        """Return the place of the event, None if nothing in it is coerced."""
        root = self._place([self._document], "", False)
        while self._waiting:
            place, schemas = self._waiting.popleft()
            self._fill(place, schemas)
        return _pruned(root) if root is not None else None

    def _place(self, schemas: Iterable[Any], path: str, is_in_union: bool) -> Place | None:
        parts = [schema for schema in schemas if isinstance(schema, Mapping)]
        if not parts:
            return None
        key = (frozenset(map(id, parts)), is_in_union)
        if key not in self._places:
            if len(self._places) == _MAX_PLACES:
                raise UsageError(f"{self._where}: the schema is too large for {KEYWORD}")
            self._places[key] = Place(path or WHOLE_EVENT, is_in_union=is_in_union)
            self._waiting.append((self._places[key], parts))
        return self._places[key]

    def _fill(self, place: Place, schemas: Sequence[Mapping[str, Any]]) -> None:
        parts, has_union = self._parts(schemas, place.path)
        is_in_union = place.is_in_union or has_union
        types = frozenset().union(*map(self._types, schemas))
        names = [
            name for part in parts if KEYWORD in part for name in self._names(part, place, types)
        ]
        place.names = tuple(dict.fromkeys(names))
        place.is_whole = "number" not in types
        self._check_names(place, types, parts)
        below = "" if place.path == WHOLE_EVENT else f"{place.path}."
        field_names = dict.fromkeys(name for part in parts for name in part.get("properties") or ())
        for name in field_names:
            fields = [
                (part.get("properties") or {}).get(name, _of_all("additionalProperties", part))
                for part in parts
            ]
            place.fields[name] = self._place(fields, f"{below}{name}", is_in_union)
        others = [_of_all("additionalProperties", part) for part in parts]
        place.others = self._place(others, f"{place.path}{{}}", is_in_union)
        items = [_of_all("items", part) for part in parts]
        place.items = self._place(items, f"{place.path}[]", is_in_union)

    def _parts(
        self, schemas: Sequence[Mapping[str, Any]], path: str
    ) -> tuple[list[Mapping[str, Any]], bool]:
        """Return the parts of schemas that hold for one value, and whether some are of unions."""
        parts: dict[int, Mapping[str, Any]] = {}
        waiting: list[Any] = list(schemas)
        has_union = False
        while waiting:
            part = waiting.pop()
            if not isinstance(part, Mapping) or id(part) in parts:
                continue
            if "$ref" in part:
                waiting.append(self._references.resolve(part["$ref"]))
                if self._ignores_siblings:
                    if KEYWORD in part:
                        raise self._misplaced(path, "beside $ref, which is ignored in this draft")
                    continue
            parts[id(part)] = part
            for reference in ("$dynamicRef", "$recursiveRef"):
                if reference in part:
                    waiting.append(self._references.resolve(part[reference]))
            waiting += part.get("allOf", ())
            for union in ("anyOf", "oneOf"):
                has_union = has_union or union in part
                waiting += part.get(union, ())
            for keyword, below in part.items():
                has_place = keyword not in _NO_PLACES and (
                    keyword not in ("items", "additionalProperties")
                    or _of_all(keyword, part) is not None
                )
                if not has_place and _has_keyword(below):
                    raise self._misplaced(path, f"in {keyword}")
        return list(parts.values()), has_union

    def _misplaced(self, path: str, where: str) -> UsageError:
        return UsageError(
            f"{self._where}: {path}: {KEYWORD} has no effect {where}; it is for the schemas of "
            "properties, items and additionalProperties"
        )

    def _names(
        self, part: Mapping[str, Any], place: Place, types_there: frozenset[str]
    ) -> list[str]:
        """Return what `x-coerce` of a part names, checked against the types of the part."""
        names = part[KEYWORD]
        where = f"{self._where}: {place.path}: {KEYWORD}"
        known = ", ".join(_RULES)
        if not isinstance(names, list):
            raise UsageError(f"{where} must be a list of {known}, not {names!r}")
        for name in names:
            if not isinstance(name, str) or name not in _RULES:
                raise UsageError(f"{where} has {name!r}; it may have {known}")
        types = self._types(part) & types_there
        for name in names:
            rule = _RULES[name]
            if not types & rule.targets or types == _ALL_TYPES:
                wanted = " or ".join(sorted(rule.targets))
                there = ", ".join(sorted(types)) if types != _ALL_TYPES else "not named"
                raise UsageError(
                    f"{where} has {name}, which makes values of type {wanted}, but the field's "
                    f"type is {there or 'null'}; {KEYWORD} may have {known}"
                )
        return names

    def _check_names(
        self, place: Place, types: frozenset[str], parts: Sequence[Mapping[str, Any]]
    ) -> None:
        """Check the names of a place against all that may be there."""
        where = f"{self._where}: {place.path}: {KEYWORD} has"
        for name in place.names:
            rule = _RULES[name]
            taken = types & rule.sources
            if taken:
                raise UsageError(
                    f"{where} {name}, but the field takes values of type "
                    f"{' and '.join(sorted(taken))} as they are; leave one of them out"
                )
            if rule.makes_times and not any(part.get("format") == "date-time" for part in parts):
                raise UsageError(f"{where} {name}, which needs the format date-time on the field")
        from_numbers = [name for name in place.names if name in _FROM_NUMBERS]
        if len(from_numbers) > 1:
            raise UsageError(f"{where} {' and '.join(from_numbers)}; name one of them")

    def _types(self, schema: Any, nested: int = 0) -> frozenset[str]:
        """Return the JSON types of values of a schema except null, or more of them."""
        if not isinstance(schema, Mapping):
            return _ALL_TYPES if schema is not False else frozenset()
        if nested == _MAX_NESTED_TYPES:
            return _ALL_TYPES
        types = _ALL_TYPES
        if not ("$ref" in schema and self._ignores_siblings):
            types = _own_types(schema)
            for branch in schema.get("allOf", ()):
                types &= self._types(branch, nested + 1)
            for union in ("anyOf", "oneOf"):
                if union in schema:
                    branches = [self._types(branch, nested + 1) for branch in schema[union]]
                    types &= frozenset().union(*branches)
        if "$ref" in schema:
            types &= self._types(self._references.resolve(schema["$ref"]), nested + 1)
        return types


def _of_all(keyword: str, part: Mapping[str, Any]) -> Any:
    """Return the schema of `items` or `additionalProperties`, if it is for all items or names.

    Else it is for those that `prefixItems` or `patternProperties` leave.
    """
    beside = {"items": "prefixItems", "additionalProperties": "patternProperties"}[keyword]
    schema = part.get(keyword)
    return schema if isinstance(schema, Mapping | bool) and beside not in part else None


def _own_types(schema: Mapping[str, Any]) -> frozenset[str]:
    if not schema.keys() & {"type", "const", "enum"}:
        return _ALL_TYPES
    types = types_of(schema)
    if "any" in types:
        return _ALL_TYPES
    return frozenset({*types, *(("integer",) if "number" in types else ())})


_NO_PLACES = frozenset(
    {
        *("additionalItems", "contains", "dependencies", "dependentSchemas", "else", "if", "not"),
        *("patternProperties", "prefixItems", "propertyNames", "then"),
        *("unevaluatedItems", "unevaluatedProperties"),
    }
)
"""Keywords below which `x-coerce` would have no effect."""


def _has_keyword(part: Any) -> bool:
    parts = part if isinstance(part, list) else [part]
    below = [value for item in parts if isinstance(item, Mapping) for value in item.values()]
    return any(
        KEYWORD in schema
        for item in (*parts, *below)
        if isinstance(item, Mapping)
        for schema in schemas_in(item)
    )


def _all_places(root: Place) -> list[Place]:
    """Return a place and all below it, each once."""
    places: dict[Place, None] = {root: None}
    waiting = [root]
    while waiting:
        for child in waiting.pop().children():
            if child not in places:
                places[child] = None
                waiting.append(child)
    return list(places)


def _pruned(root: Place) -> Place | None:
    """Return `root` without the places at and below which nothing is coerced."""
    places = _all_places(root)
    parents: dict[Place, list[Place]] = {}
    for place in places:
        for child in place.children():
            parents.setdefault(child, []).append(place)
    waiting = [place for place in places if place.names]
    kept = set(waiting)
    while waiting:
        for parent in parents.get(waiting.pop(), ()):
            if parent not in kept:
                kept.add(parent)
                waiting.append(parent)
    for place in kept:
        place.others = place.others if place.others in kept else None
        place.items = place.items if place.items in kept else None
        place.fields = {
            name: child if child in kept else None
            for name, child in place.fields.items()
            if child in kept or place.others is not None
        }
    return root if root in kept else None


class CoercionChange(NamedTuple):
    """A coercion that only one of two schemas has, at one path."""

    path: str
    name: str
    is_new: bool
    is_in_union: bool


def coercion_changes(old: Coercion | None, new: Coercion | None) -> list[CoercionChange]:
    """Return the coercions that differ between two schemas."""
    nothing = Place("")
    pairs = [(old.root if old else nothing, new.root if new else nothing)]
    known = set(pairs)
    changes: dict[CoercionChange, None] = {}
    while pairs:
        first, second = pairs.pop()
        path, is_in_union = first.path or second.path, first.is_in_union or second.is_in_union
        for name in dict.fromkeys([*first.names, *second.names]):
            if (name in first.names) != (name in second.names):
                is_new = name in second.names
                changes[CoercionChange(path, name, is_new, is_in_union)] = None
        children = [(first.others, second.others), (first.items, second.items)]
        names = {*first.fields, *second.fields}
        children += [(first.child(name), second.child(name)) for name in sorted(names)]
        for one, other in children:
            pair = (one or nothing, other or nothing)
            if pair not in known:
                known.add(pair)
                pairs.append(pair)
    return list(changes)
