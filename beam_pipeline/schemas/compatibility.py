"""Whether one JSON Schema allows all that another allows, and if not, why.

A yes is a proof; what can't be proven counts as incompatible. The old schema is known as a list of
facts: schemas that all hold for a value. Each keyword of the new schema must follow from them.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jsonschema_rs

from beam_pipeline.schemas.coercion import coercion_changes, coercion_of
from beam_pipeline.schemas.dialects import draft_of, normal
from beam_pipeline.schemas.judge import compile_validator, matches
from beam_pipeline.schemas.references import References
from beam_pipeline.schemas.source import with_pointers_only

_MAX_SHOWN = 60
_MAX_STEPS = 100_000
_MAX_SPLITS = 4
"""How many unions of the old schema are taken branch by branch at once."""

_MAX_NESTED = 60
"""How deep comparisons may be inside each other, within Python's stack."""

_FRACTION, _WHOLE, _LITERAL = "fraction", "whole number such as 1.0", "integer such as 1"
_KINDS_OF_TYPE = {
    "literal integer": {_LITERAL},
    "integer": {_LITERAL, _WHOLE},
    "number": {_LITERAL, _WHOLE, _FRACTION},
}
_NUMBERS = frozenset({_LITERAL, _WHOLE, _FRACTION})
_ALL_KINDS = _NUMBERS | {"null", "boolean", "string", "array", "object"}

_LEAST = {"minLength": "string", "minItems": "array", "minProperties": "object"}
_MOST = {"maxLength": "string", "maxItems": "array", "maxProperties": "object"}

Facts = tuple[Mapping[str, Any], ...]


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


def reasons_against(
    old: Mapping[str, Any], new: Mapping[str, Any], asserts_formats: bool = True
) -> list[Reason]:
    """Return why `new` may refuse an event that `old` allows; empty if it allows them all.

    >>> [str(reason) for reason in reasons_against({"minimum": 1}, {"minimum": 2})]
    ['minimum is 2 now']
    """
    sides = _Side(old, asserts_formats), _Side(new, asserts_formats)
    comparison = _Comparison(*sides)
    try:
        facts = sides[0].facts(sides[0].root)
        if facts is None:
            return []
        reasons = list(comparison.implied(facts, sides[1].root, ""))
    except (RecursionError, _TooMuchWork):
        reasons = [Reason("", "the schemas are too large to be compared")]
    reasons += _coercion_reasons(sides[0], sides[1], asserts_formats)
    return list(dict.fromkeys(reasons))


def _coercion_reasons(old: _Side, new: _Side, asserts_formats: bool) -> Iterator[Reason]:
    """Yield why the change of a coercion may refuse an event that was allowed.

    A new coercion changes no event that the new schema allows without it, since its field takes no
    values of the type that is coerced. In a union another branch may.
    """
    coercions = [coercion_of(side.root, "the schema") for side in (old, new)]
    for change in coercion_changes(*coercions):
        if not change.is_new:
            yield Reason(change.path, f"x-coerce {change.name} is gone")
        elif change.is_in_union:
            yield Reason(change.path, f"x-coerce {change.name} is new in a union")
        elif change.name == "time_from_space" and not asserts_formats:
            yield Reason(change.path, f"x-coerce {change.name} is new, and changes texts")


class _TooMuchWork(Exception):
    """The comparison needs more steps than it is worth."""


class _Side:
    """One of the two documents: its parts in the form that `dialects.normal` describes."""

    def __init__(self, document: Mapping[str, Any], asserts_formats: bool) -> None:
        self.root = with_pointers_only(document)
        self.draft = draft_of(document)
        self.references = References(self.root)
        self.is_dynamic = self.root is not document
        self._asserts_formats = asserts_formats
        self._normal: dict[int, dict[str, Any]] = {}
        self._facts: dict[int, Facts | None] = {}
        self._kinds: dict[int, frozenset[str]] = {}
        self._validators: dict[int, jsonschema_rs.Validator | None] = {}
        self._kept_alive: list[Any] = []

    def normal(self, schema: Any) -> Mapping[str, Any]:
        """Return the form of a part of the document; the same object each time."""
        form = self._normal.get(id(schema))
        if form is None:
            form = normal(schema, self.draft, self._asserts_formats, self.is_dynamic)
            self._normal[id(schema)] = form
            self._kept_alive.append(schema)
        return form

    def target(self, reference: Any) -> Any | None:
        """Return what a reference leads to, None if that is not in the document."""
        target = self.references.resolve(reference)
        return target if isinstance(target, Mapping | bool) else None

    def facts(self, schema: Any) -> Facts | None:
        """Return the schemas that hold for a value of a schema; None if it has no value."""
        if isinstance(schema, bool):
            return () if schema else None
        if id(schema) not in self._facts:
            self._facts[id(schema)] = self._find_facts(schema)
            self._kept_alive.append(schema)
        return self._facts[id(schema)]

    def _find_facts(self, schema: Mapping[str, Any]) -> Facts | None:
        facts: dict[int, Mapping[str, Any]] = {}
        waiting: list[Any] = [schema]
        while waiting:
            part = waiting.pop()
            if part is False:
                return None
            if not isinstance(part, Mapping) or id(self.normal(part)) in facts:
                continue
            form = self.normal(part)
            facts[id(form)] = form
            waiting.extend(form.get("allOf", ()))
            if "$ref" in form:
                waiting.append(self.target(form["$ref"]))
        return tuple(facts.values())

    def kinds(self, facts: Facts) -> frozenset[str]:
        """Return the kinds of values that facts allow, or more."""
        kinds = _ALL_KINDS
        for fact in facts:
            kinds &= self._kinds_of(fact)
        return kinds

    def _kinds_of(self, fact: Mapping[str, Any]) -> frozenset[str]:
        known = self._kinds.get(id(fact))
        if known is None:
            self._kinds[id(fact)] = _ALL_KINDS  # for what refers to itself
            known = self._kinds[id(fact)] = self._find_kinds(fact)
            self._kept_alive.append(fact)
        return known

    def _find_kinds(self, fact: Mapping[str, Any]) -> frozenset[str]:
        kinds = _ALL_KINDS
        if "type" in fact:
            kinds = frozenset().union(*(_KINDS_OF_TYPE.get(name, {name}) for name in fact["type"]))
        for keyword in ("const", "enum"):
            if keyword in fact:
                values = [fact["const"]] if keyword == "const" else fact["enum"]
                kinds &= frozenset().union(*map(_kinds_of_value, values))
        for union in ("anyOf", "oneOf"):
            if union in fact:
                branches = [self.facts(branch) for branch in fact[union]]
                kinds &= frozenset().union(
                    *(self.kinds(branch) for branch in branches if branch is not None)
                )
        return kinds

    def allows(self, schema: Any, value: Any) -> bool | None:
        """Return whether a part of the document allows a value; None if that is unknown."""
        if id(schema) not in self._validators:
            self._validators[id(schema)] = self._compile(schema)
            self._kept_alive.append(schema)
        validator = self._validators[id(schema)]
        if validator is None:
            return None
        # For draft 4, 1.0 is no integer, though it is the same value as 1.
        variants = [_with_wholes_as(kind, value) for kind in (int, float)]
        if self.draft != 4:
            variants = [value]
        verdicts = {validator.is_valid(variant) for variant in variants}
        return verdicts.pop() if len(verdicts) == 1 else None

    def _compile(self, schema: Any) -> jsonschema_rs.Validator | None:
        if self.is_dynamic:
            return None
        draft = {"$schema": self.root["$schema"]} if "$schema" in self.root else {}
        identified = ("$id", "id")
        root = {name: part for name, part in self.root.items() if name not in identified}
        candidate = "x-candidate"
        while candidate in root:
            candidate = f"{candidate}-"
        whole = {"$ref": f"urn:candidate#/{candidate}"}
        try:
            registry = jsonschema_rs.Registry([("urn:candidate", {**root, candidate: schema})])
            return compile_validator({**draft, **whole}, self._asserts_formats, registry)
        except (jsonschema_rs.ReferencingError, ValueError):
            return None


class _Comparison:
    """Whether facts of the old side imply schemas of the new side."""

    def __init__(self, old: _Side, new: _Side, reverse: _Comparison | None = None) -> None:
        self._old = old
        self._new = new
        self._is_one_document = _text(old.root) == _text(new.root)
        self._assumed: dict[tuple[frozenset[int], int], None] = {}
        self._same: dict[tuple[int, int], bool] = {}
        self._equal: list[tuple[int, int]] = []
        self._kept_alive: list[Any] = []
        self._made: dict[Any, dict[str, Any]] = {}
        self._steps_left = _MAX_STEPS
        self._nested = 0
        self._reverse = reverse

    @property
    def reverse(self) -> _Comparison:
        """The comparison in the other direction, for what the new schema must refuse."""
        if self._reverse is None:
            self._reverse = _Comparison(self._new, self._old, self)
        return self._reverse

    def implied(self, facts: Facts | None, new: Any, path: str) -> Iterator[Reason]:
        """Yield why a value at `path` for which `facts` hold may be refused by `new`."""
        if facts is None or new is True or not self._old.kinds(facts):
            return
        if new is False:
            yield Reason(path, "nothing is allowed here now")
            return
        form = self._new.normal(new)
        key = (frozenset(map(id, facts)), id(form))
        if not form or key in self._assumed:  # a recursive schema; true if all else is
            return
        self._assumed[key] = None
        self._steps_left -= 1
        if self._steps_left < 0:
            raise _TooMuchWork
        if any(self._is_same(fact, form) for fact in facts):
            return
        if self._nested == _MAX_NESTED:
            yield Reason(path, "what is this deep inside is not compared")
            return
        self._nested += 1
        yield from self._parts(facts, new, form, path)
        self._nested -= 1

    def _parts(
        self, facts: Facts, new: Any, form: Mapping[str, Any], path: str
    ) -> Iterator[Reason]:
        """Compare with each part of `new`: its reference, its `allOf`, its other keywords."""
        if "$ref" in form:
            target = self._new.target(form["$ref"])
            if target is None:
                yield Reason(path, f"$ref {form['$ref']} can't be resolved")
            else:
                yield from self.implied(facts, target, path)
        for part in form.get("allOf", ()):
            yield from self.implied(facts, part, path)
        yield from self._branches_of_old(facts, new, form, path, ())

    def _branches_of_old(
        self,
        facts: Facts,
        new: Any,
        form: Mapping[str, Any],
        path: str,
        split: tuple[int, ...],
    ) -> Iterator[Reason]:
        """Compare with the keywords of `new`, if need be for each branch of a union of the old."""
        reasons = self._tried(self._keywords(facts, new, form, path))
        if not reasons:
            return
        unions = [
            fact[union]
            for fact in facts
            for union in ("anyOf", "oneOf")
            if union in fact and id(fact[union]) not in split
        ]
        if not unions or len(split) == _MAX_SPLITS:
            yield from reasons
            return
        self._steps_left -= len(unions[0])
        if self._steps_left < 0:
            raise _TooMuchWork
        for branch in unions[0]:
            branch_facts = self._old.facts(branch)
            if branch_facts is not None:
                together = _together(facts, branch_facts)
                if self._old.kinds(together):
                    yield from self._branches_of_old(
                        together, new, form, path, (*split, id(unions[0]))
                    )

    def _tried(self, reasons: Iterator[Reason]) -> list[Reason]:
        """Return the reasons; what was assumed on the way to them is forgotten."""
        before = len(self._assumed)
        found = list(reasons)
        if found:
            for key in list(itertools.islice(self._assumed, before, None)):
                del self._assumed[key]
        return found

    def _fits(self, facts: Facts | None, new: Any, path: str = "") -> bool:
        return not self._tried(self.implied(facts, new, path))

    def _is_same(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
        """Return whether two forms decide alike for the same reasons, with what they refer to.

        Two that refer to themselves are the same if nothing else in them differs.
        """
        key = (id(old), id(new))
        if key in self._same:
            return self._same[key]
        self._same[key] = True
        before = len(self._equal)
        self._equal.append(key)
        self._kept_alive += [old, new]
        same = old.keys() == new.keys() and all(
            self._is_same_keyword(keyword, old[keyword], new[keyword]) for keyword in old
        )
        if not same:
            for assumed in self._equal[before:]:
                self._same.pop(assumed, None)
            del self._equal[before:]
            self._same[key] = False
        return same

    def _is_same_keyword(self, keyword: str, old: Any, new: Any) -> bool:
        if keyword == "$ref":
            targets = self._old.target(old), self._new.target(new)
            if targets == (None, None):
                return bool(old == new)
            return None not in targets and bool(self._is_same_part(*targets))
        if keyword == "dynamic reference":
            return bool(old == new) and self._is_one_document
        if keyword in ("properties", "patternProperties"):
            same_names: bool = old.keys() == new.keys()
            return same_names and all(self._is_same_part(old[name], new[name]) for name in old)
        if keyword == "dependentSchemas":
            same_names = old.keys() == new.keys()
            return same_names and all(self._are_same_parts(old[name], new[name]) for name in old)
        if keyword in ("allOf", "anyOf", "oneOf", "prefixItems"):
            return self._are_same_parts(old, new)
        if keyword in ("required", "type"):
            return not set(old) ^ set(new)
        if keyword in _KEYWORDS_OF_ONE_SCHEMA or keyword.startswith("unevaluated"):
            return self._is_same_part(old, new)
        return bool(_canonical(old) == _canonical(new))

    def _are_same_parts(self, old: Sequence[Any], new: Sequence[Any]) -> bool:
        return len(old) == len(new) and all(map(self._is_same_part, old, new))

    def _is_same_part(self, old: Any, new: Any) -> bool:
        if isinstance(old, bool) or isinstance(new, bool):
            return old is new
        return self._is_same(self._old.normal(old), self._new.normal(new))

    def _any_same(self, facts: Facts, keyword: str, new: Any) -> bool:
        return any(
            keyword in fact and self._is_same_keyword(keyword, fact[keyword], new) for fact in facts
        )

    def _keywords(
        self, facts: Facts, new: Any, form: Mapping[str, Any], path: str
    ) -> Iterator[Reason]:
        kinds = self._old.kinds(facts)
        if not kinds:
            return
        values = _values_of(facts)
        if (
            values is None
            and kinds <= {"null", "boolean"}
            and not form.keys().isdisjoint(("const", "enum"))
        ):
            values = [None, True, False]
        if values is not None:
            yield from self._values_kept(values, kinds, new, path)
            return
        allowed = self._new.kinds(({"type": form["type"]},)) if "type" in form else _ALL_KINDS
        yield from _kinds_lost(kinds - allowed, path)
        kinds &= allowed
        if "enum" in form or "const" in form:
            values = [form["const"]] if "const" in form else form["enum"]
            yield Reason(path, f"only {_cut(', '.join(map(_text, values)))} are allowed now")
        yield from self._unions(facts, form, path)
        if kinds & _NUMBERS:
            yield from _bounds(facts, form, path, _FRACTION not in kinds)
        yield from _sizes(facts, form, path, kinds)
        if "string" in kinds:
            for keyword in ("pattern", "format"):
                if keyword in form and all(fact.get(keyword) != form[keyword] for fact in facts):
                    yield Reason(path, f"{keyword} must be {_cut(_text(form[keyword]))} now")
            if "content" in form and not any(
                _is_content_of(fact.get("content"), form["content"]) for fact in facts
            ):
                yield Reason(path, "contentEncoding and contentMediaType have changed")
        if "array" in kinds:
            yield from self._arrays(facts, form, path)
        if "object" in kinds:
            yield from self._objects(facts, form, path)
        yield from self._conditions(facts, form, path)
        if "dynamic reference" in form and not self._any_same(
            facts, "dynamic reference", form["dynamic reference"]
        ):
            yield Reason(path, "a dynamic reference has changed; what it refuses now is unknown")

    def _values_kept(
        self, values: list[Any], kinds: frozenset[str], new: Any, path: str
    ) -> Iterator[Reason]:
        possible = [value for value in values if _kinds_of_value(value) & kinds]
        verdicts = [self._new.allows(new, value) for value in possible]
        if None in verdicts:
            yield Reason(path, "it is unknown whether the values of enum are still allowed")
        refused = [value for value, is_allowed in zip(possible, verdicts, strict=True)
                   if is_allowed is False]  # fmt: skip
        if refused:
            yield Reason(path, f"{_cut(', '.join(map(_text, refused)))} is no longer allowed")

    def _unions(self, facts: Facts, form: Mapping[str, Any], path: str) -> Iterator[Reason]:
        for union in ("anyOf", "oneOf"):
            if union not in form or self._any_same(facts, union, form[union]):
                continue
            branches = form[union]
            fitting = [
                position
                for position, branch in enumerate(branches)
                if self._fits(facts, branch, path)
            ]
            if not fitting:
                kinds = ", ".join(_shown_kinds(self._old.kinds(facts)))
                yield Reason(path, f"no branch of {union} allows all that was allowed ({kinds})")
            elif union == "oneOf" and not all(
                position == fitting[0]
                or self._is_disjoint(facts, branch)
                or _are_disjoint(
                    self._new,
                    self._new.facts(branches[fitting[0]]),
                    self._new,
                    self._new.facts(branch),
                )
                for position, branch in enumerate(branches)
            ):
                yield Reason(path, "it is unknown whether exactly one branch of oneOf allows it")

    def _is_disjoint(self, facts: Facts, new: Any) -> bool:
        return _are_disjoint(self._old, facts, self._new, self._new.facts(new))

    def _arrays(self, facts: Facts, form: Mapping[str, Any], path: str) -> Iterator[Reason]:
        if form.get("uniqueItems") and not any(fact.get("uniqueItems") for fact in facts):
            yield Reason(path, "items must differ now")
        if "contains" in form:
            yield from self._contains(facts, form, path)
        if "items" in form or "prefixItems" in form:
            first, rest = form.get("prefixItems", []), form.get("items", True)
            longest = max(len(fact.get("prefixItems", ())) for fact in (*facts, form))
            most = min((fact.get("maxItems", math.inf) for fact in facts), default=math.inf)
            for position in range(longest):
                if position < most:
                    old = self._all(_item(fact, position) for fact in facts)
                    after = first[position] if position < len(first) else rest
                    yield from self.implied(old, after, f"{path}[{position}]")
            if longest < most:
                old = self._all(fact.get("items", True) for fact in facts)
                yield from self.implied(old, rest, f"{path}[]")
        for keyword in form:
            if (
                keyword.startswith("unevaluatedItems")
                and form[keyword] is not True
                and "items" not in form
                and not _has_no_items(facts, form)
            ):
                yield Reason(path, "unevaluatedItems: it is unknown what it refuses now")

    def _contains(self, facts: Facts, form: Mapping[str, Any], path: str) -> Iterator[Reason]:
        part, most = form["contains"], form.get("maxContains")
        least = form.get("minContains", 1)
        known = [fact for fact in facts if "contains" in fact]
        if least > 0 and not any(
            fact.get("minContains", 1) >= least
            and self._fits(self._old.facts(fact["contains"]), part, f"{path}[]")
            for fact in known
        ):
            yield Reason(path, "contains has changed; what it refuses now is unknown")
        elif most is not None and not any(
            fact.get("maxContains", math.inf) <= most
            and self.reverse._fits(self._new.facts(part), fact["contains"])
            for fact in known
        ):
            yield Reason(path, f"maxContains is {most} now")

    def _objects(self, facts: Facts, form: Mapping[str, Any], path: str) -> Iterator[Reason]:
        required = {name for fact in facts for name in fact.get("required", ())}
        for name in form.get("required", ()):
            if name not in required:
                yield Reason(_below(path, name), "is required now")
        for name, needed in form.get("dependentRequired", {}).items():
            known = required.union(
                *(fact.get("dependentRequired", {}).get(name, ()) for fact in facts)
            )
            missing = [other for other in needed if other not in known and other != name]
            if missing and self._all(self._old_parts(facts, name)) is not None:
                yield Reason(_below(path, missing[0]), f"is required now if there is {name}")
        for name, parts in form.get("dependentSchemas", {}).items():
            if self._all(self._old_parts(facts, name)) is not None:
                more = self._all(
                    part
                    for fact in facts
                    for part in fact.get("dependentSchemas", {}).get(name, ())
                )
                if more is not None:
                    kept = self._keep({"type": "object"}), self._keep({"required": [name]})
                    present = self._all(kept)
                    for part in parts:
                        yield from self.implied(_together(facts, more, present or ()), part, path)
        if "propertyNames" in form:
            yield from self._names(facts, form["propertyNames"], path)
        if not form.keys().isdisjoint(("properties", "patternProperties", "additionalProperties")):
            yield from self._fields(facts, form, path, required)
        for keyword in form:
            if keyword.startswith("unevaluatedProperties"):
                yield from self._unevaluated(facts, form, keyword, path)

    def _fields(
        self, facts: Facts, form: Mapping[str, Any], path: str, required: set[str]
    ) -> Iterator[Reason]:
        named_before = dict.fromkeys(name for fact in facts for name in fact.get("properties", {}))
        new_fields = form.get("properties", {})
        new_patterns = form.get("patternProperties", {})
        for name in dict.fromkeys([*named_before, *new_fields]):
            old = self._all(self._old_parts(facts, name))
            is_known = name in named_before or name in required or any(
                matches(pattern, name)
                for fact in facts
                for pattern in fact.get("patternProperties", {})
            )  # fmt: skip
            for after in _parts_for(form, name):
                reasons = self.implied(old, after, _below(path, name))
                if is_known or name not in new_fields:
                    yield from reasons
                    continue
                # Elsewhere the same reason may be one without a condition, so it is found again.
                for reason in self._tried(reasons):
                    text = f"is named now, and {reason.text}"
                    yield (
                        reason
                        if reason.unless_unused
                        else Reason(reason.path, text, unless_unused=True)
                    )
        for pattern, after in new_patterns.items():
            old = self._all(
                fact["patternProperties"][pattern]
                if pattern in fact.get("patternProperties", {})
                else self._any_field(fact, ())
                for fact in facts
            )
            yield from self.implied(old, after, _below(path, f"/{pattern}/"))
        others = form.get("additionalProperties", True)
        if others is not True:
            old = self._all(self._any_field(fact, new_patterns) for fact in facts)
            yield from self.implied(old, others, _below(path, "*"))

    def _old_parts(self, facts: Facts, name: str) -> Iterator[Any]:
        for fact in facts:
            yield from _parts_for(fact, name)

    def _any_field(self, fact: Mapping[str, Any], but: Iterable[str]) -> Any:
        """Return a schema for a field that is not named and matches none of the patterns `but`."""
        others = fact.get("additionalProperties", True)
        patterns = fact.get("patternProperties", {})
        parts = [patterns[pattern] for pattern in patterns if pattern not in but]
        return self._keep({"anyOf": [*parts, others]}) if parts else others

    def _names(self, facts: Facts, new: Any, path: str) -> Iterator[Reason]:
        parts = [fact["propertyNames"] for fact in facts if "propertyNames" in fact]
        for fact in facts:
            if fact.get("additionalProperties") is False and "patternProperties" not in fact:
                names = [
                    name for name, part in fact.get("properties", {}).items() if part is not False
                ]
                parts.append(self._keep({"enum": names}) if names else False)
        parts.append(self._keep({"type": "string"}))
        yield from self.implied(self._all(parts), new, f"{path} (names)".strip())

    def _unevaluated(
        self, facts: Facts, form: Mapping[str, Any], keyword: str, path: str
    ) -> Iterator[Reason]:
        """Compare `unevaluatedProperties`; more fields may be evaluated now, not fewer."""
        now = _evaluated(self._new, form, surely=True)
        if now.all or form[keyword] is True:
            return
        for fact in facts:
            closed = next((name for name in fact if name.startswith("unevaluatedProp")), None)
            if fact.get("additionalProperties") is False:
                before = _Evaluated(
                    {n for n, part in fact.get("properties", {}).items() if part is not False},
                    set(fact.get("patternProperties", {})),
                )
                rest: Facts | None = None
            elif closed is not None:
                before = _evaluated(self._old, {**fact, closed: True}, surely=False, but=closed)
                rest = self._old.facts(fact[closed])
            else:
                continue
            if before.is_within(now) and self._fits(rest, form[keyword], _below(path, "*")):
                return
        yield Reason(path, "unevaluatedProperties: it is unknown what it refuses now")

    def _conditions(self, facts: Facts, form: Mapping[str, Any], path: str) -> Iterator[Reason]:
        if "if" in form:
            same = [
                fact
                for fact in facts
                if "if" in fact and self._is_same_part(fact["if"], form["if"])
            ]
            for keyword in ("then", "else"):
                if keyword not in form:
                    continue
                if keyword == "then" and self._is_disjoint(facts, form["if"]):
                    continue
                parts = [fact[keyword] for fact in same if keyword in fact]
                if keyword == "then":
                    parts += [fact["if"] for fact in same]
                more = self._all(parts)
                if more is None or self._fits(_together(facts, more), form[keyword], path):
                    continue
                yield Reason(path, "if has changed; what it refuses now is unknown")
                break
        if "not" in form:
            part = form["not"]
            if not (
                self._any_same(facts, "not", part)
                or self._is_disjoint(facts, part)
                or any(
                    self.reverse._fits(self._new.facts(part), fact["not"])
                    for fact in facts
                    if "not" in fact
                )
            ):
                yield Reason(path, "not has changed; what it refuses now is unknown")

    def _all(self, parts: Iterable[Any]) -> Facts | None:
        """Return the facts for a value of all parts of the old side; None if there is none."""
        together: Facts = ()
        for part in parts:
            facts = self._old.facts(part)
            if facts is None:
                return None
            together = _together(together, facts)
        return together

    def _keep(self, part: dict[str, Any]) -> Mapping[str, Any]:
        """Return a part that is made here; the same object for the same text."""
        return self._made.setdefault(_identity(part), part)


_KEYWORDS_OF_ONE_SCHEMA = frozenset(
    {
        *("additionalProperties", "contains", "else", "if", "items", "not", "propertyNames"),
        "then",
    }
)


@dataclass
class _Evaluated:
    """The fields that a schema evaluates: names, patterns, or all."""

    names: set[str]
    patterns: set[str]
    all: bool = False

    def is_within(self, other: _Evaluated) -> bool:
        return other.all or (
            not self.all
            and self.patterns <= other.patterns
            and all(
                name in other.names or any(matches(pattern, name) for pattern in other.patterns)
                for name in self.names
            )
        )


def _evaluated(
    side: _Side, form: Mapping[str, Any], surely: bool, but: str | None = None
) -> _Evaluated:
    """Return the fields that a valid object surely has evaluated, or may have evaluated.

    `but` is a keyword of `form` itself that does not count.
    """
    evaluated = _Evaluated(set(), set())
    done: set[int] = set()
    waiting: list[tuple[Mapping[str, Any], str | None]] = [(form, but)]
    while waiting:
        part, left_out = waiting.pop()
        if id(part) in done:
            continue
        done.add(id(part))
        evaluated.names.update(part.get("properties", ()))
        evaluated.patterns.update(part.get("patternProperties", ()))
        if "additionalProperties" in part:
            evaluated.all = True
        children = [*part.get("allOf", ())]
        if "$ref" in part:
            children.append(side.target(part["$ref"]))
        if not surely:
            if "dynamic reference" in part or any(
                name.startswith("unevaluatedProp") and name != left_out for name in part
            ):
                evaluated.all = True
            children += [*part.get("anyOf", ()), *part.get("oneOf", ())]
            children += [part[name] for name in ("if", "then", "else") if name in part]
            children += itertools.chain(*part.get("dependentSchemas", {}).values())
        waiting += [(side.normal(child), None) for child in children if isinstance(child, Mapping)]
    return evaluated


def _are_disjoint(
    one_side: _Side,
    one: Facts | None,
    other_side: _Side,
    other: Facts | None,
    depth: int = 0,
) -> bool:
    """Return whether no value has both facts; False if that is unknown."""
    if one is None or other is None:
        return True
    kinds = one_side.kinds(one) & other_side.kinds(other)
    if not kinds:
        return True
    if depth > 3:
        return False
    values, other_values = _values_of(one), _values_of(other)
    if values is not None and other_values is not None:
        texts = set(map(_canonical, values))
        return texts.isdisjoint(map(_canonical, other_values))
    if kinds <= _NUMBERS:
        for first, second in ((one, other), (other, one)):
            upper = _bound(first, "maximum", "exclusiveMaximum", -1)
            lower = _bound(second, "minimum", "exclusiveMinimum", 1)
            if lower[0] > -upper[0] or (lower[0] == -upper[0] and (lower[1] or upper[1])):
                return True
    if kinds == {"object"}:
        for name in {name for fact in (*one, *other) for name in fact.get("required", ())}:
            parts = [
                [
                    side.facts(part)
                    for fact in facts
                    for part in _parts_for(fact, name)
                ]
                for side, facts in ((one_side, one), (other_side, other))
            ]  # fmt: skip
            if any(part is None for part in (*parts[0], *parts[1])):
                return True
            if _are_disjoint(
                one_side,
                _together(*(part or () for part in parts[0])),
                other_side,
                _together(*(part or () for part in parts[1])),
                depth + 1,
            ):
                return True
    for first_side, first, second_side, second in (
        (one_side, one, other_side, other),
        (other_side, other, one_side, one),
    ):
        for fact in first:
            for union in ("anyOf", "oneOf"):
                if union in fact and all(
                    _are_disjoint(
                        first_side, first_side.facts(branch), second_side, second, depth + 1
                    )
                    for branch in fact[union]
                ):
                    return True
    return False


def _together(*parts: Facts) -> Facts:
    return tuple({id(fact): fact for facts in parts for fact in facts}.values())


def _parts_for(form: Mapping[str, Any], name: str) -> list[Any]:
    """Return the schemas that an object's schema has for a field."""
    parts = [form["properties"][name]] if name in form.get("properties", {}) else []
    parts += [
        part
        for pattern, part in form.get("patternProperties", {}).items()
        if matches(pattern, name)
    ]
    return parts or [form.get("additionalProperties", True)]


def _item(fact: Mapping[str, Any], position: int) -> Any:
    first = fact.get("prefixItems", ())
    return first[position] if position < len(first) else fact.get("items", True)


def _has_no_items(facts: Facts, form: Mapping[str, Any]) -> bool:
    """Return whether all items that there can be are evaluated by the `prefixItems` of `form`."""
    known = len(form.get("prefixItems", ()))
    return any(
        fact.get("maxItems", math.inf) <= known
        or (fact.get("items") is False and len(fact.get("prefixItems", ())) <= known)
        for fact in facts
    )


def _values_of(facts: Facts) -> list[Any] | None:
    """Return the values that facts name, the shortest list of them; None if they name none."""
    lists = [
        [fact["const"]] if "const" in fact else list(fact["enum"])
        for fact in facts
        if "const" in fact or "enum" in fact
    ]
    return min(lists, key=len) if lists else None


def _kinds_of_value(value: Any) -> frozenset[str]:
    if value is None:
        return frozenset({"null"})
    if isinstance(value, bool):
        return frozenset({"boolean"})
    if isinstance(value, int | float):
        is_whole = isinstance(value, int) or value.is_integer()
        return frozenset({_LITERAL, _WHOLE} if is_whole else {_FRACTION})
    if isinstance(value, str):
        return frozenset({"string"})
    return frozenset({"array" if isinstance(value, list) else "object"})


def _with_wholes_as(kind: type[int] | type[float], value: Any) -> Any:
    """Return a value with each whole number in it as an integer or as a float."""
    if isinstance(value, list):
        return [_with_wholes_as(kind, item) for item in value]
    if isinstance(value, dict):
        return {name: _with_wholes_as(kind, part) for name, part in value.items()}
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    try:
        other = kind(value)
    except OverflowError:
        return value
    return other if other == value else value


def _shown_kinds(kinds: frozenset[str]) -> list[str]:
    names = {kind for kind in kinds if kind not in _NUMBERS}
    if _FRACTION in kinds:
        names.add("number")
    elif kinds & _NUMBERS:
        names.add("integer")
    return sorted(names)


def _kinds_lost(lost: frozenset[str], path: str) -> Iterator[Reason]:
    if lost == {_WHOLE}:
        yield Reason(path, "an integer such as 1.0 is no longer allowed")
        return
    for kind in _shown_kinds(lost):
        yield Reason(path, f"{kind} is no longer allowed")


def _sizes(
    facts: Facts, form: Mapping[str, Any], path: str, kinds: frozenset[str]
) -> Iterator[Reason]:
    for keyword, kind in (*_LEAST.items(), *_MOST.items()):
        if keyword not in form or kind not in kinds:
            continue
        known = [fact[keyword] for fact in facts if keyword in fact]
        if keyword in _LEAST:
            is_kept = max(known, default=0) >= form[keyword]
        else:
            is_kept = min(known, default=math.inf) <= form[keyword]
        if not is_kept:
            yield Reason(path, f"{keyword} is {form[keyword]} now")


def _is_content_of(old: Any, new: Any) -> bool:
    """Return whether a text of the encoding and media type `old` is one of `new`."""
    return old is not None and (old == new or (new[1] is None and old[0] == new[0]))


def _bounds(facts: Facts, form: Mapping[str, Any], path: str, is_whole: bool) -> Iterator[Reason]:
    for keyword, exclusive, sign in (
        ("minimum", "exclusiveMinimum", 1),
        ("maximum", "exclusiveMaximum", -1),
    ):
        if _bound((form,), keyword, exclusive, sign) > _bound(facts, keyword, exclusive, sign):
            bound = exclusive if exclusive in form else keyword
            yield Reason(path, f"{bound} is {form[bound]} now")
    step = form.get("multipleOf")
    if step is None or (step == 1 and is_whole):
        return
    for known in (fact["multipleOf"] for fact in facts if "multipleOf" in fact):
        if known == step or (
            isinstance(known, int) and isinstance(step, int) and known % step == 0
        ):
            return
    yield Reason(path, f"multipleOf is {step} now")


def _bound(facts: Facts, keyword: str, exclusive: str, sign: int) -> tuple[float, bool]:
    """Return the bound of all facts as a value that is larger the more it refuses."""
    bounds: list[tuple[float, bool]] = [(-math.inf, False)]
    for fact in facts:
        for name, excludes in ((keyword, False), (exclusive, True)):
            if name in fact:
                bounds.append((sign * fact[name], excludes))
    return max(bounds)


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _canonical(value: Any) -> Any:
    """Return something equal for values that JSON Schema takes for equal, such as 1 and 1.0."""
    if isinstance(value, bool) or value is None:
        return (type(value).__name__, value)
    if isinstance(value, list | tuple):
        return ("array", tuple(map(_canonical, value)))
    if isinstance(value, Mapping):
        parts = ((name, _canonical(part)) for name, part in value.items())
        return ("object", frozenset(parts))
    return ("scalar", value)


def _identity(part: Mapping[str, Any]) -> Any:
    """Return what tells a made part apart: its keywords and the identities of its parts."""
    (keyword, value) = next(iter(part.items()))
    if keyword == "anyOf":
        return (keyword, tuple(map(id, value)))
    return (keyword, tuple(value) if isinstance(value, list) else value)


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 1]}…"
