"""Random schemas of all drafts, changes of them, and events: is a yes of `schema check` right?

Started as a program it tries many pairs: `python tests/random_changes.py --pairs=20000 --seed=1`.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import jsonschema_rs

from beam_pipeline.schemas.compatibility import reasons_against
from beam_pipeline.schemas.judge import compile_validator

DRAFTS = {
    4: "http://json-schema.org/draft-04/schema#",
    6: "http://json-schema.org/draft-06/schema#",
    7: "http://json-schema.org/draft-07/schema#",
    2019: "https://json-schema.org/draft/2019-09/schema",
    2020: "https://json-schema.org/draft/2020-12/schema",
}
NAMES = ["a", "b", "ab", "c"]
ATOMS: list[Any] = [
    *(None, True, False, 0, 1, 1.0, 2, 3, 5, -1, 1.5, 0.5, 6, 2**60),
    *("", "a", "b", "ab", "abc", "1", "2020-01-01", "1.2.3.4", "YQ==", "{}", "!"),
]
PATTERNS = ["^a", "b$", "^a+$", "c", ".", "^\\p{L}$"]
FORMATS = ["date", "ipv4", "uuid", "hostname", "json-pointer", "none"]
TYPES = ["null", "boolean", "number", "integer", "string", "array", "object"]

OF_ALL = [
    *("type", "type", "type", "enum", "minimum", "maximum", "exclusiveMinimum", "multipleOf"),
    *("minLength", "maxLength", "pattern", "format", "properties", "properties", "required"),
    *("additionalProperties", "patternProperties", "minProperties", "maxProperties", "items"),
    *("minItems", "maxItems", "uniqueItems", "allOf", "anyOf", "oneOf", "not", "$ref"),
    *("dependencies", "description", "x-note", "default"),
]
SINCE_6 = ["const", "contains", "propertyNames", "content"]
SINCE_7 = ["if"]
SINCE_2019 = [
    *("dependentRequired", "dependentSchemas", "unevaluatedProperties", "unevaluatedItems"),
    *("minContains", "dynamic"),
]


class Maker:
    """Makes schemas of one draft."""

    def __init__(self, chance: random.Random, draft: int) -> None:
        self.chance = chance
        self.draft = draft
        self.keywords = [*OF_ALL]
        for since, more in ((6, SINCE_6), (7, SINCE_7), (2019, SINCE_2019)):
            if draft >= since or chance.random() < 0.1:  # ignored by older drafts
                self.keywords += more
        # Few keywords at a time meet each other more often than all of them would.
        few = chance.sample(self.keywords, chance.choice([3, 5, 8, len(self.keywords)]))
        self.keywords = ["type", *few]

    def document(self) -> dict[str, Any]:
        definitions = {name: self.schema(2) for name in ("d0", "d1")}
        return {
            **self.object(3),
            **self.object(3),
            "definitions": definitions,
            "$schema": DRAFTS[self.draft],
        }

    def object(self, depth: int) -> dict[str, Any]:
        schema: dict[str, Any] = {}
        for _ in range(self.chance.choice([0, 1, 2, 2, 3, 3, 4, 6])):
            schema |= self.keyword(self.chance.choice(self.keywords), depth - 1)
        return schema

    def schema(self, depth: int) -> Any:
        if self.draft > 4 and self.chance.random() < 0.08:
            return self.chance.random() < 0.6
        if depth <= 0:
            return self.chance.choice(
                [{}, {"type": self.chance.choice(TYPES)}, {"enum": self.atoms()}]
            )
        return self.object(depth)

    def atoms(self) -> list[Any]:
        unique = {json.dumps(atom): atom for atom in self.chance.sample(ATOMS, 3)}
        return [*unique.values()][: self.chance.randint(1, 3)]

    def names(self) -> list[str]:
        return self.chance.sample(NAMES, self.chance.randint(1, 2))

    def keyword(self, name: str, depth: int) -> dict[str, Any]:
        """Return a keyword with a value, or several that belong together."""
        pick, part = self.chance.choice, self.schema
        if name == "type":
            return {"type": pick(TYPES) if pick([1, 1, 0]) else self.chance.sample(TYPES, 2)}
        if name == "enum":
            return {"enum": self.atoms()}
        if name == "const":
            return {"const": pick(ATOMS)}
        if name in ("minimum", "maximum"):
            return {name: pick([0, 1, 1.5, 2, 5])}
        if name == "exclusiveMinimum":
            bound = {"minimum": pick([0, 1, 5]), "exclusiveMinimum": pick([True, False])}
            return bound if self.draft == 4 else {name: pick([0, 1, 1.5])}
        if name == "multipleOf":
            return {name: pick([1, 2, 3, 0.5, 6])}
        if name.startswith(("min", "max")) and name != "minContains":
            return {name: pick([0, 1, 2, 3])}
        if name == "pattern":
            return {name: pick(PATTERNS)}
        if name == "format":
            return {name: pick(FORMATS)}
        if name == "required":
            return {name: self.names()}
        if name == "uniqueItems":
            return {name: pick([True, False])}
        if name == "properties":
            return {name: {key: part(depth) for key in self.names()}}
        if name == "patternProperties":
            return {name: {pick(PATTERNS): part(depth)}}
        if name in ("allOf", "anyOf", "oneOf"):
            return {name: [part(depth) for _ in range(pick([1, 2, 2, 3]))]}
        if name == "items":
            return self.items(depth)
        if name == "$ref":
            places = ["d0", "d1"]
            return {name: f"#/definitions/{pick(places)}"}
        if name == "dynamic":
            keyword = "$dynamicRef" if self.draft == 2020 else "$recursiveRef"
            target = "#/definitions/d1" if self.draft == 2020 else "#"
            return {"properties": {"a": {keyword: target}}}
        if name == "if":
            branches = {key: part(depth) for key in ("then", "else") if pick([1, 1, 0])}
            return {"if": part(depth), **branches}
        if name == "dependencies":
            return {name: {pick(NAMES): self.names() if pick([1, 0]) else part(depth)}}
        if name == "dependentRequired":
            return {name: {pick(NAMES): self.names()}}
        if name == "dependentSchemas":
            return {name: {pick(NAMES): part(depth)}}
        if name == "minContains":
            counts = {key: pick([0, 1, 2]) for key in ("minContains", "maxContains")}
            return {"contains": part(depth), pick([*counts]): pick([0, 1, 2])}
        if name == "content":
            content = {"contentEncoding": "base64", "contentMediaType": "application/json"}
            key = pick([*content])
            return content if pick([1, 0, 0]) else {key: content[key]}
        if name in ("description", "x-note", "default"):
            return {name: pick(["a", "b"])}
        return {name: part(depth)}

    def items(self, depth: int) -> dict[str, Any]:
        first = [self.schema(depth) for _ in range(self.chance.randint(1, 2))]
        kind = self.chance.random()
        if kind < 0.5:
            return {"items": self.schema(depth)}
        if self.draft == 2020:
            return {"prefixItems": first, **({"items": self.schema(depth)} if kind < 0.8 else {})}
        return {"items": first, **({"additionalItems": self.schema(depth)} if kind < 0.8 else {})}

    def changed(self, document: dict[str, Any]) -> dict[str, Any]:
        """Return a document near to another, of its draft or another one."""
        document = copy.deepcopy(document)
        for _ in range(self.chance.choice([0, 1, 1, 2, 3])):
            self.change(self.chance.choice([*schemas_in(document)]))
        if self.chance.random() < 0.15:
            document["$schema"] = DRAFTS[self.chance.choice([*DRAFTS])]
        return document

    def change(self, schema: dict[str, Any]) -> None:
        kind = self.chance.random()
        keywords = [name for name in schema if name not in ("$schema", "definitions")]
        if kind < 0.25 and keywords:
            del schema[self.chance.choice(keywords)]
        elif kind < 0.5:
            schema |= self.keyword(self.chance.choice(self.keywords), 1)
        elif kind < 0.75 and keywords:
            name = self.chance.choice(keywords)
            value = schema[name]
            if isinstance(value, bool):
                schema[name] = not value
            elif isinstance(value, int | float):
                schema[name] = value + self.chance.choice([-1, 1]) if value else 1
            elif isinstance(value, list) and value and self.chance.random() < 0.5:
                value.pop(self.chance.randrange(len(value)))
                if not value:
                    del schema[name]
            elif isinstance(value, list) and value:
                value.append(copy.deepcopy(self.chance.choice(value)))
                if name in ("required", "enum", "type"):
                    value.pop()
        elif kind < 0.85 and keywords:
            name = self.chance.choice(keywords)
            schema["allOf"] = [*schema.get("allOf", ()), {name: schema.pop(name)}] if (
                name != "allOf"
            ) else schema["allOf"]  # fmt: skip
        else:
            union = self.chance.choice(["anyOf", "oneOf", "allOf"])
            schema.setdefault(union, []).append(self.schema(1))

    def events(self, *documents: Any) -> list[Any]:
        """Return values that schemas may tell apart."""
        atoms = [*ATOMS, *constants_of(documents)]
        return [self.value(atoms, 2) for _ in range(40)] + ATOMS

    def value(self, atoms: list[Any], depth: int) -> Any:
        kind = self.chance.random()
        if depth == 0 or kind < 0.3:
            return self.chance.choice(atoms)
        if kind < 0.5:
            return [self.value(atoms, depth - 1) for _ in range(self.chance.randint(0, 3))]
        return {
            name: self.value(atoms, depth - 1)
            for name in self.chance.sample(NAMES, self.chance.randint(0, 3))
        }


def schemas_in(part: Any) -> Iterator[dict[str, Any]]:
    """Yield the objects of a document that are schemas."""
    if isinstance(part, list):
        for child in part:
            yield from schemas_in(child)
    elif isinstance(part, dict):
        yield part
        for name, child in part.items():
            if name in ("properties", "patternProperties", "definitions", "dependentSchemas"):
                for named in child.values():
                    yield from schemas_in(named)
            elif name not in ("enum", "const", "default", "dependencies", "dependentRequired"):
                yield from schemas_in(child)


def constants_of(part: Any) -> Iterator[Any]:
    """Yield the values that schemas name."""
    if isinstance(part, list | tuple):
        for child in part:
            yield from constants_of(child)
    elif isinstance(part, dict):
        yield from part.get("enum", ())
        for name, child in part.items():
            if name in ("const", "minimum", "maximum"):
                yield child
            yield from constants_of(child)


@dataclass
class Tried:
    """What became of the pairs that were tried."""

    counts: Counter[str] = field(default_factory=Counter)
    unsound: list[dict[str, Any]] = field(default_factory=list)


def try_pairs(seed: int, pairs: int) -> Tried:
    """Try pairs of schemas; a pair is unsound if an event refutes its yes."""
    tried = Tried()
    for number in range(pairs):
        chance = random.Random(f"{seed}/{number}")
        maker = Maker(chance, chance.choice([*DRAFTS]))
        old = maker.document()
        new = maker.document() if chance.random() < 0.1 else maker.changed(old)
        try:
            judges = [compile_validator(document) for document in (old, new)]
        except (jsonschema_rs.ReferencingError, ValueError):
            tried.counts["no schema"] += 1
            continue
        reasons = reasons_against(old, new)
        is_yes = not any(not reason.unless_unused for reason in reasons)
        newly_named = {step for reason in reasons for step in re.split(r"[.\[]", reason.path)}
        refuted = [
            event
            for event in maker.events(old, new)
            if judges[0].is_valid(event) and not judges[1].is_valid(event)
        ]
        tried.counts["yes" if is_yes else "no, refuted" if refuted else "no"] += 1
        if is_yes and reasons:  # holds for events without the fields that are named now
            refuted = [event for event in refuted if names_in(event).isdisjoint(newly_named)]
        if is_yes and refuted:
            tried.unsound.append(
                {"seed": f"{seed}/{number}", "old": old, "new": new, "event": refuted[0]}
            )
    return tried


def names_in(value: Any) -> set[str]:
    """Return the names of all fields in a value."""
    if isinstance(value, list):
        return set().union(*map(names_in, value))
    if isinstance(value, dict):
        return set(value).union(*map(names_in, value.values()))
    return set()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    tried = try_pairs(args.seed, args.pairs)
    for case in tried.unsound[:20]:
        print(json.dumps(case, ensure_ascii=False))
    print(f"{args.pairs} pairs: {dict(tried.counts)}; {len(tried.unsound)} unsound")
    return 1 if tried.unsound else 0


if __name__ == "__main__":
    raise SystemExit(main())
