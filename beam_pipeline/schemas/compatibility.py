"""Whether one JSON Schema allows all that another allows, keyword by keyword, and if not, why.

It errs on the safe side: a change whose effect is unknown counts as incompatible.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jsonschema_rs

from beam_pipeline.schemas.nodes import flatten, merge_schemas, resolve_pointer, types_of

_ALL_TYPES = frozenset({"null", "boolean", "number", "string", "array", "object"})
_ANNOTATIONS = frozenset(
    {
        *(
            "$anchor",
            "$comment",
            "$defs",
            "$id",
            "$schema",
            "$vocabulary",
            "default",
            "definitions",
        ),
        *("deprecated", "description", "examples", "id", "readOnly", "title", "writeOnly"),
        *("contentEncoding", "contentMediaType", "contentSchema"),
    }
)
_UNDERSTOOD = frozenset(
    {
        *("$ref", "additionalItems", "additionalProperties", "allOf", "anyOf", "const", "enum"),
        *("exclusiveMaximum", "exclusiveMinimum", "format", "items", "maxItems", "maxLength"),
        *("maxProperties", "maximum", "minItems", "minLength", "minProperties", "minimum"),
        *("multipleOf", "oneOf", "pattern", "patternProperties", "prefixItems", "properties"),
        *("required", "type", "uniqueItems"),
    }
)
_LEAST = {"minLength": "string", "minItems": "array", "minProperties": "object"}
_MOST = {"maxLength": "string", "maxItems": "array", "maxProperties": "object"}
_MAX_SHOWN = 60


@dataclass(frozen=True)
class Reason:
    """Why an event that was allowed may be refused.

    `path` is a place in the event, such as `items[].sku`. With `unless_unused`, only events with a
    field that the old schema did not name may be refused.
    """

    path: str
    text: str
    unless_unused: bool = False

    def __str__(self) -> str:
        return f"{self.path}: {self.text}" if self.path else self.text


def reasons_against(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Reason]:
    """Return why `new` may refuse an event that `old` allows; empty if it allows them all.

    >>> [str(reason) for reason in reasons_against({"minimum": 1}, {"minimum": 2})]
    ['minimum is 2 now']
    """
    reasons = _Comparison(old, new).schemas(old, new, "")
    return list(dict.fromkeys(reasons))


class _Comparison:
    def __init__(self, old_root: Mapping[str, Any], new_root: Mapping[str, Any]) -> None:
        self._old_root = old_root
        self._new_root = new_root
        self._assumed: set[tuple[str, str]] = set()

    def schemas(self, old: Any, new: Any, path: str) -> Iterator[Reason]:
        """Yield why a value at `path` that is valid under `old` may be refused by `new`."""
        if old is False or new in (True, {}):
            return
        if new is False:
            yield Reason(path, "nothing is allowed here now")
            return
        pair = (_text(old), _text(new))
        if pair in self._assumed:  # a recursive schema; true if all else is
            return
        self._assumed.add(pair)
        if self._same(old, new):
            return
        yield from self._parts_of_new(old, new, path)

    def _parts_of_new(self, old: Any, new: Mapping[str, Any], path: str) -> Iterator[Reason]:
        """Compare with each part of `new`: its reference, its `allOf`, its other keywords."""
        own = {name: part for name, part in new.items() if name not in ("$ref", "allOf")}
        if "$ref" in new:
            target = resolve_pointer(self._new_root, new["$ref"])
            if target is None:
                yield Reason(path, f"$ref {new['$ref']} can't be resolved")
            else:
                yield from self.schemas(old, target, path)
            if "draft-0" in str(self._new_root.get("$schema", "")):
                return
        for part in new.get("allOf", ()):
            yield from self.schemas(old, part, path)
        yield from self._parts_of_old(old, own, path)

    def _parts_of_old(self, old: Any, new: Mapping[str, Any], path: str) -> Iterator[Reason]:
        """Compare each branch of the union of `old`."""
        flat = flatten(old, self._old_root) if isinstance(old, Mapping) else None
        whole = dict(flat.schema) if flat is not None else {}
        kept = {
            union for union in ("anyOf", "oneOf") if self._same(whole.get(union), new.get(union))
        }
        new = {name: part for name, part in new.items() if name not in kept}
        for union in ("anyOf", "oneOf"):
            if union in whole:
                beside = {name: part for name, part in whole.items() if name != union}
                for branch in whole[union]:
                    if isinstance(branch, Mapping):
                        flat_branch = flatten(branch, self._old_root)
                        part = merge_schemas(beside, flat_branch.schema) if flat_branch else beside
                        yield from self._parts_of_old(part, new, path)
                    elif branch:
                        yield from self._parts_of_old(beside, new, path)
                return
        yield from self._unions_of_new(whole, new, path)
        yield from self._keywords(whole, new, path)

    def _unions_of_new(
        self, old: Mapping[str, Any], new: Mapping[str, Any], path: str
    ) -> Iterator[Reason]:
        for union in ("anyOf", "oneOf"):
            if union not in new:
                continue
            branches = new[union]
            fitting = [branch for branch in branches if self._fits(old, branch, path)]
            if not fitting:
                kinds = ", ".join(sorted(_types(old)))
                yield Reason(path, f"no branch of {union} allows all that was allowed ({kinds})")
            elif union == "oneOf" and not all(
                branch is fitting[0] or self._disjoint(fitting[0], branch) for branch in branches
            ):
                yield Reason(path, "it is unknown whether exactly one branch of oneOf allows it")

    def _same(self, old: Any, new: Any) -> bool:
        """Return whether two parts are equal, and so are the definitions they refer to."""
        definitions = ("$defs", "definitions")
        return _text(old) == _text(new) and (
            '"$ref"' not in _text(old)
            or [self._old_root.get(name) for name in definitions]
            == [self._new_root.get(name) for name in definitions]
        )

    def _fits(self, old: Any, new: Any, path: str) -> bool:
        assumed = set(self._assumed)
        fits = not any(True for _ in self.schemas(old, new, path))
        self._assumed = assumed
        return fits

    def _disjoint(self, first_branch: Any, second_branch: Any) -> bool:
        """Return whether no value is valid under both branches; False if that is unknown."""
        first_flat, second_flat = (
            flatten(branch, self._new_root) for branch in (first_branch, second_branch)
        )
        if first_flat is None or second_flat is None:
            return False
        first, second = first_flat.schema, second_flat.schema
        if not _types(first) & _types(second):
            return True
        shared = set(first.get("required", ())) & set(second.get("required", ()))
        for name in shared:
            values = [_values(part.get("properties", {}).get(name)) for part in (first, second)]
            if values[0] and values[1] and not values[0] & values[1]:
                return True
        return False

    def _keywords(
        self, old: Mapping[str, Any], new: Mapping[str, Any], path: str
    ) -> Iterator[Reason]:
        if "enum" in old or "const" in old:
            values = [old["const"]] if "const" in old else old["enum"]
            yield from self._values_kept(values, new, path)
            return
        kinds = _types(old)
        lost = sorted(kinds - _types(new))
        if "integer" in lost and "number" in _types(new):
            lost.remove("integer")
        for kind in lost:
            yield Reason(path, f"{kind} is no longer allowed")
        kinds = kinds - set(lost)
        if "enum" in new or "const" in new:
            values = [new["const"]] if "const" in new else new["enum"]
            yield Reason(path, f"only {_cut(', '.join(map(_text, values)))} are allowed now")
        if kinds & {"number", "integer"}:
            yield from _bounds(old, new, path)
        for keyword, kind in (*_LEAST.items(), *_MOST.items()):
            if keyword in new and kind in kinds and not _holds(keyword, old, new):
                yield Reason(path, f"{keyword} is {new[keyword]} now")
        if "string" in kinds:
            for keyword in ("pattern", "format"):
                if keyword in new and old.get(keyword) != new[keyword]:
                    yield Reason(path, f"{keyword} must be {_cut(_text(new[keyword]))} now")
        if "array" in kinds:
            yield from self._arrays(old, new, path)
        if "object" in kinds:
            yield from self._objects(old, new, path)
        for keyword in sorted(new.keys() - _UNDERSTOOD - _ANNOTATIONS):
            if not keyword.startswith("x-") and not self._same(old.get(keyword), new[keyword]):
                yield Reason(path, f"{keyword} has changed; what it refuses now is unknown")

    def _values_kept(self, values: Any, new: Mapping[str, Any], path: str) -> Iterator[Reason]:
        names = ("$schema", "$defs", "definitions")
        root = {name: self._new_root[name] for name in names if name in self._new_root}
        try:
            validator = jsonschema_rs.validator_for({**root, "allOf": [new]}, validate_formats=True)
        except (jsonschema_rs.ValidationError, ValueError):
            yield Reason(path, "it is unknown whether the values of enum are still allowed")
            return
        refused = [value for value in values if not validator.is_valid(value)]
        if refused:
            yield Reason(path, f"{_cut(', '.join(map(_text, refused)))} is no longer allowed")

    def _arrays(
        self, old: Mapping[str, Any], new: Mapping[str, Any], path: str
    ) -> Iterator[Reason]:
        if new.get("uniqueItems") and not old.get("uniqueItems"):
            yield Reason(path, "items must differ now")
        old_first, old_rest = _tuple(old)
        new_first, new_rest = _tuple(new)
        for position in range(max(len(old_first), len(new_first))):
            before = old_first[position] if position < len(old_first) else old_rest
            after = new_first[position] if position < len(new_first) else new_rest
            yield from self.schemas(before, after, f"{path}[{position}]")
        yield from self.schemas(old_rest, new_rest, f"{path}[]")

    def _objects(
        self, old: Mapping[str, Any], new: Mapping[str, Any], path: str
    ) -> Iterator[Reason]:
        for name in new.get("required", ()):
            if name not in old.get("required", ()):
                yield Reason(_below(path, name), "is required now")
        old_fields, new_fields = old.get("properties", {}), new.get("properties", {})
        for name in [*old_fields, *(name for name in new_fields if name not in old_fields)]:
            named = name in old_fields
            for before in [old_fields[name]] if named else _unnamed(old, name):
                for after in [new_fields[name]] if name in new_fields else _unnamed(new, name):
                    for reason in self.schemas(before, after, _below(path, name)):
                        if named or reason.unless_unused:
                            yield reason
                        else:
                            yield Reason(
                                reason.path, f"is named now, and {reason.text}", unless_unused=True
                            )
        old_patterns, new_patterns = (part.get("patternProperties", {}) for part in (old, new))
        others = (old.get("additionalProperties", True), new.get("additionalProperties", True))
        for pattern, before in old_patterns.items():
            after = new_patterns.get(pattern, others[1])
            yield from self.schemas(before, after, _below(path, f"/{pattern}/"))
        for pattern, after in new_patterns.items():
            if pattern not in old_patterns:
                yield from self.schemas(others[0], after, _below(path, f"/{pattern}/"))
        if len(new_patterns) > 1 and old_patterns != new_patterns:
            yield Reason(path, "patternProperties have changed; what they refuse now is unknown")
        yield from self.schemas(*others, _below(path, "*"))


def _unnamed(schema: Mapping[str, Any], name: str) -> list[Any]:
    """Return the schemas for a field that an object's schema does not name."""
    parts = [
        part
        for pattern, part in schema.get("patternProperties", {}).items()
        if _matches(pattern, name)
    ]
    return parts or [schema.get("additionalProperties", True)]


def _matches(pattern: str, name: str) -> bool:
    try:
        return re.search(pattern, name) is not None
    except re.error:
        return True


def _tuple(schema: Mapping[str, Any]) -> tuple[list[Any], Any]:
    """Return the schemas of the first items and of all others, in any draft."""
    items = schema.get("items", True)
    if isinstance(items, list):
        return items, schema.get("additionalItems", True)
    return schema.get("prefixItems", []), items


def _bounds(old: Mapping[str, Any], new: Mapping[str, Any], path: str) -> Iterator[Reason]:
    for keyword, exclusive, sign in (
        ("minimum", "exclusiveMinimum", 1),
        ("maximum", "exclusiveMaximum", -1),
    ):
        after = _bound(new, keyword, exclusive, sign)
        if after > _bound(old, keyword, exclusive, sign):
            bound = exclusive if exclusive in new else keyword
            yield Reason(path, f"{bound} is {new[bound]} now")
    step = new.get("multipleOf")
    if step is not None and old.get("multipleOf") != step:
        known = old.get("multipleOf")
        whole = isinstance(known, int) and isinstance(step, int) and known % step == 0
        if not whole and not (step == 1 and _types(old) & {"number", "integer"} == {"integer"}):
            yield Reason(path, f"multipleOf is {step} now")


def _bound(
    schema: Mapping[str, Any], keyword: str, exclusive: str, sign: int
) -> tuple[float, bool]:
    """Return the bound as a value that is larger the more it refuses."""
    bounds: list[tuple[float, bool]] = [(-math.inf, False)]
    for name, excludes in ((keyword, False), (exclusive, True)):
        value = schema.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            bounds.append((sign * value, excludes))
    return max(bounds)


def _holds(keyword: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    if keyword in _LEAST:
        return bool(old.get(keyword, 0) >= new[keyword])
    return bool(old.get(keyword, math.inf) <= new[keyword])


def _types(schema: Any) -> frozenset[str]:
    """Return the JSON types that a schema allows; `integer` is one of its own."""
    if not isinstance(schema, Mapping):
        return _ALL_TYPES
    declared = schema.get("type")
    if declared is None:
        return _ALL_TYPES
    types = set(types_of({"type": declared}))
    return frozenset(types | ({"null"} if "null" in (declared, *declared) else set()))


def _values(schema: Any) -> set[str]:
    if not isinstance(schema, Mapping):
        return set()
    values = [schema["const"]] if "const" in schema else schema.get("enum", ())
    return {_text(value) for value in values}


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 1]}…"
