"""A contract as the kernel's tables: what is compiled, what is not, and why.

A part of the contract is compiled only if every keyword that holds for it is proven by the kernel,
or speaks of a single value and is asked of jsonschema-rs (`Asked`). A part that is not compiled is
a node of the kind `UNKNOWN`: a row with a value there is given up. So a plan never makes more rows
valid than the contract does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, NamedTuple

import pyarrow as pa

from beam_pipeline.compiled.asked import ValueRules
from beam_pipeline.compiled.layout import JSON_TYPES, UUID_FORMAT, Kind
from beam_pipeline.compiled.patterns import PatternNotCompiledError, compile_pattern
from beam_pipeline.schemas.contract import Contract
from beam_pipeline.schemas.dialects import draft_of
from beam_pipeline.schemas.nodes import Encoding, Leaf, ListOf, Node, Struct
from beam_pipeline.schemas.references import References

MAX_FIELDS = 64
"""How many named fields an object may have: one bit of 64 each."""

_MAX_CONDITION_CATEGORIES = 62
_MAX_NESTED_REFERENCES = 60
_NO_LIMIT = 2**31 - 1
_MAX_EXACT_INTEGER = 2**53
_INT64_DIGITS = 18
_DRAFTS = (7, 2019, 2020)

_ANNOTATIONS = frozenset(
    {
        *("$comment", "$defs", "$schema", "default", "definitions", "deprecated", "description"),
        *("examples", "readOnly", "title", "writeOnly"),
    }
)
_ALL_TYPES = frozenset({"array", "boolean", "integer", "null", "number", "object", "string"})
_NULL = {"type": "null"}
_BOUNDS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
_CHOICES = frozenset({"enum", "const"})

Schemas = Sequence[Mapping[str, Any]]
"""Schemas that all hold for one value, without `$ref` and `allOf`."""


class NotCompiled(NamedTuple):
    """A part of the contract that is not compiled; `path` is such as `purchase.items[]`."""

    path: str
    reason: str


class _NotCompiledError(Exception):
    """A part of the contract can't be compiled."""


@dataclass
class Part:
    """A node of the tables. `row` has the fields of `layout.NODE` that are not 0.

    `is_asked` says that the kernel does not prove all rules of a value.
    """

    node: Node
    kind: Kind
    index: int
    row: dict[str, Any] = field(default_factory=dict)
    parts: list[Part] = field(default_factory=list)
    column: int = -1
    extra_column: int = -1
    is_asked: bool = False


@dataclass
class Condition:
    """A row of `layout.CONDITION`."""

    child: int = -1
    categories: int = 0
    needed: int = 0
    then: int = 0
    otherwise: int = 0


class Asked(NamedTuple):
    """A part whose values are asked of jsonschema-rs; `lists` are those it is in, from outside."""

    path: str
    part: Part
    rules: ValueRules
    lists: tuple[Part, ...]


@dataclass
class Plan:
    """The tables of a contract, and what is not in them.

    Attributes:
      root: the part of the event; None if nothing is compiled.
      parts: all parts; `Part.index` is the place in it.
      fields: name and part of the named fields; those of one object follow each other.
      texts: the categories of texts, those of one part follow each other.
      patterns: tables of states (`patterns.compile_pattern`).
      column_parts: which part each column belongs to.
      asked: the parts with values that jsonschema-rs is asked about.
      left_out: the parts that are not compiled.
    """

    root: Part | None = None
    parts: list[Part] = field(default_factory=list)
    fields: list[tuple[str, Part]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    conditions: list[Condition] = field(default_factory=list)
    patterns: list[bytes] = field(default_factory=list)
    column_parts: list[Part] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    left_out: list[NotCompiled] = field(default_factory=list)


def time_part_of(plan: Plan, path: str) -> Part | None:
    """Return the part of the field at a dotted path, if it holds times and is in no list.

    As for `transforms.nested.leaf_at`, a field at the top may have dots in its name.
    """
    part, steps = plan.root, path.split(".")
    if part is not None and path in _names_of(plan, part):
        steps = [path]
    for step in steps:
        if part is None or part.kind is not Kind.OBJECT:
            return None
        part = _names_of(plan, part).get(step)
    return part if part is not None and part.kind is Kind.TIME else None


def _names_of(plan: Plan, part: Part) -> dict[str, Part]:
    first = part.row["first_child"]
    return dict(plan.fields[first : first + part.row["children"]])


def compile_plan(contract: Contract) -> Plan:
    """Return the plan of a contract; `root` is None if no row could be proven by it."""
    compiler = _Compiler(contract)
    try:
        compiler.check_contract()
        compiler.compile_root()
    except _NotCompiledError as error:
        return Plan(left_out=[NotCompiled("", str(error))])
    return compiler.plan


class _Compiler:
    def __init__(self, contract: Contract) -> None:
        self.plan = Plan()
        self._contract = contract
        self._draft = draft_of(contract.document)
        self._references: References = contract.flattener.references
        self._lists: list[Part] = []

    def check_contract(self) -> None:
        """Raise the reason why nothing of the contract can be compiled, if there is one."""
        if self._contract.versions:
            raise _NotCompiledError("there are several versions")
        if self._contract.coercion is not None:
            raise _NotCompiledError("x-coerce changes values before the verdict")
        if self._draft not in _DRAFTS:
            raise _NotCompiledError(f"draft {self._draft}")
        if not isinstance(self._contract.node, Struct):
            raise _NotCompiledError("the event is no object with properties")

    def compile_root(self) -> None:
        """Compile the event.

        Raises:
          _NotCompiledError: the object itself can't be compiled.
        """
        document = dict(self._contract.plain_document)
        document.pop("$id", None)
        root = self._compile(self._schemas(document), self._contract.node, "")
        root.row["is_nullable"] = 0
        self.plan.root = root

    def _schemas(self, schema: Any, nested: int = 0) -> list[Mapping[str, Any]]:
        """Return the schemas that must all hold for a value of `schema`."""
        if schema is True:
            return []
        if schema is False:
            raise _NotCompiledError("the schema false")
        if nested > _MAX_NESTED_REFERENCES:
            raise _NotCompiledError("references nested too deep")
        schemas: list[Mapping[str, Any]] = []
        if "$ref" in schema:
            reference = schema["$ref"]
            target = self._references.resolve(reference)
            if target is None or self._references.bit(reference):
                raise _NotCompiledError(f"$ref {reference!r}: recursive or not in the document")
            schemas += self._schemas(target, nested + 1)
            if self._draft <= 7:  # what is beside a reference has no effect
                return schemas
        for branch in schema.get("allOf", ()):
            schemas += self._schemas(branch, nested + 1)
        own = {name: part for name, part in schema.items() if name not in ("$ref", "allOf")}
        for union in ("anyOf", "oneOf"):
            or_null = self._or_null(own.get(union), nested)
            if or_null is not None:
                schemas += or_null
                del own[union]
        return [*schemas, own]

    def _or_null(self, branches: Any, nested: int) -> Schemas | None:
        """Return the schemas for a union of one schema and null; None if it is something else.

        A keyword other than `type`, `enum` and `const` says nothing about null, and a part with a
        choice is never null here (`_compile`), so that a type more is enough.
        """
        if not isinstance(branches, list) or len(branches) != 2 or _NULL not in branches:
            return None
        first, second = branches
        schemas = self._schemas(second if first == _NULL else first, nested + 1)
        if "null" in _types(schemas):  # in oneOf, null would be valid under both
            return None
        return [
            {**schema, "type": [*_type_names(schema), "null"]} if "type" in schema else schema
            for schema in schemas
        ]

    def _keywords(self, schemas: Schemas) -> set[str]:
        """Return the keywords that decide."""
        ignored = _ANNOTATIONS if self._contract.asserts_formats else {*_ANNOTATIONS, "format"}
        names = {name for schema in schemas for name in schema}
        return {name for name in names - ignored if not name.startswith("x-")}

    def _check_keywords(self, schemas: Schemas, known: frozenset[str]) -> None:
        unknown = self._keywords(schemas) - known - {"type"}
        if unknown:
            raise _NotCompiledError(f"keyword {', '.join(sorted(unknown))}")

    def _part_or_unknown(self, schema_of: Any, node: Node, path: str) -> Part:
        """Return the part for the schemas that `schema_of` returns, or one that is not compiled."""
        plan = self.plan
        tables: tuple[list[Any], ...] = (
            *(plan.parts, plan.fields, plan.texts, plan.conditions, plan.patterns),
            *(plan.column_parts, plan.asked, plan.left_out),
        )
        sizes = [len(table) for table in tables]
        lists = [*self._lists]
        try:
            return self._compile(schema_of(), node, path)
        except _NotCompiledError as error:
            for table, size in zip(tables, sizes, strict=True):
                del table[size:]
            self._lists = lists
            plan.left_out.append(NotCompiled(path, str(error)))
            return self._new(node, Kind.UNKNOWN)

    def _new(self, node: Node, kind: Kind, is_asked: bool = False) -> Part:
        part = Part(node, kind, len(self.plan.parts), is_asked=is_asked)
        self.plan.parts.append(part)
        if kind is not Kind.UNKNOWN:
            part.column = part.row["column"] = self._new_column(part)
        return part

    def _new_column(self, part: Part) -> int:
        self.plan.column_parts.append(part)
        return len(self.plan.column_parts) - 1

    def _compile(self, schemas: Schemas, node: Node, path: str) -> Part:
        if isinstance(node, Struct):
            part = self._object(schemas, node, path)
        elif isinstance(node, ListOf):
            part = self._list(schemas, node, path)
        elif isinstance(node, Leaf):
            return self._leaf(schemas, node, path)
        else:
            raise _NotCompiledError("an object with any names")
        part.row["is_nullable"] = int(self._may_be_null(schemas))
        return part

    def _may_be_null(self, schemas: Schemas) -> bool:
        has_choice = any(schema.keys() & _CHOICES for schema in schemas)
        return "null" in _types(schemas) and not has_choice

    def _require(self, name: str, schemas: Schemas) -> None:
        if name not in _types(schemas):
            raise _NotCompiledError(f"its type is not {name}")

    # Leaves

    def _leaf(self, schemas: Schemas, node: Leaf, path: str) -> Part:
        part = self._leaf_of_kind(schemas, node)
        part.row["is_nullable"] = int(self._may_be_null(schemas))
        if part.is_asked:
            self._ask(part, schemas, path)
        return part

    def _ask(self, part: Part, schemas: Schemas, path: str) -> None:
        """Have the values of a part asked of jsonschema-rs. Null is one value, and is asked now.

        A choice has few values, too, so that they are asked now and never again.
        """
        try:
            rules = ValueRules(
                schemas, self._contract.document.get("$schema"), self._contract.asserts_formats
            )
        except ValueError as error:
            raise _NotCompiledError(str(error)) from None
        part.row["is_nullable"] = int("null" in _types(schemas) and rules.is_valid(None))
        first, count = part.row.get("first_category", 0), part.row.get("categories", 0)
        if not count:
            self.plan.asked.append(Asked(path, part, rules, tuple(self._lists)))
            return
        if not all(map(rules.is_valid, self.plan.texts[first : first + count])):
            raise _NotCompiledError("a choice with texts that are not valid")

    def _leaf_of_kind(self, schemas: Schemas, node: Leaf) -> Part:
        if node.encoding is Encoding.JSON_TEXT:
            return self._json(schemas, node)
        if node.encoding is Encoding.DICTIONARY:
            return self._category(schemas, node)
        if node.encoding is Encoding.TIMESTAMP:
            return self._formatted(schemas, node, Kind.TIME, "date-time")
        if node.encoding is Encoding.DATE:
            return self._formatted(schemas, node, Kind.DATE, "date")
        if node.encoding is Encoding.DECIMAL_NUMBER:
            return self._decimal(schemas, node)
        if node.encoding is not Encoding.PLAIN:
            raise _NotCompiledError(f"{node.arrow_type} of {node.encoding.value}")
        if node.arrow_type == pa.string():
            return self._text(schemas, node)
        if node.arrow_type == pa.bool_():
            self._require("boolean", schemas)
            return self._new(node, Kind.BOOLEAN, self._has_others(schemas, frozenset()))
        if node.arrow_type == pa.int64():
            return self._integer(schemas, node)
        if node.arrow_type == pa.float64():
            return self._number(schemas, node, Kind.NUMBER)
        raise _NotCompiledError(str(node.arrow_type))

    def _has_others(self, schemas: Schemas, known: frozenset[str]) -> bool:
        """Return whether the schemas have other keywords than `known` and `type`."""
        return bool(self._keywords(schemas) - known - {"type"})

    def _json(self, schemas: Schemas, node: Leaf) -> Part:
        part = self._new(node, Kind.JSON, self._has_others(schemas, frozenset()))
        types = _types(schemas)
        part.row["json_types"] = sum({JSON_TYPES[name] for name in types if name in JSON_TYPES})
        return part

    def _category(self, schemas: Schemas, node: Leaf) -> Part:
        self._require("string", schemas)
        choices = _choices(schemas)
        if not all(text in values for values in choices for text in node.categories):
            raise _NotCompiledError("the texts differ between schemas")
        part = self._new(node, Kind.CATEGORY, self._has_others(schemas, _CHOICES))
        self._add_texts(part, node.categories)
        return part

    def _add_texts(self, part: Part, texts: Sequence[str]) -> None:
        part.row["first_category"], part.row["categories"] = len(self.plan.texts), len(texts)
        self.plan.texts += texts

    def _formatted(self, schemas: Schemas, node: Leaf, kind: Kind, name: str) -> Part:
        self._require("string", schemas)
        self._check_keywords(schemas, frozenset({"format"}))
        if {schema["format"] for schema in schemas if "format" in schema} != {name}:
            raise _NotCompiledError("several formats")
        return self._new(node, kind)

    def _text(self, schemas: Schemas, node: Leaf) -> Part:
        self._require("string", schemas)
        known = frozenset({"minLength", "maxLength", "pattern", "format", *_CHOICES})
        part = self._new(node, Kind.TEXT, self._has_others(schemas, known))
        self._add_lengths(part, schemas, "minLength", "maxLength")
        self._add_pattern(part, schemas)
        if self._contract.asserts_formats:
            formats = {schema["format"] for schema in schemas if "format" in schema}
            part.row["format"] = UUID_FORMAT if "uuid" in formats else 0
            part.is_asked = part.is_asked or bool(formats - {"uuid"})
        choices = _choices(schemas)
        if choices:
            first, *others = choices
            texts = [
                value
                for value in first
                if isinstance(value, str) and all(value in other for other in others)
            ]
            if not texts:
                raise _NotCompiledError("no text is allowed")
            self._add_texts(part, texts)
        return part

    def _add_lengths(self, part: Part, schemas: Schemas, low: str, high: str) -> None:
        lows = [math.ceil(schema[low]) for schema in schemas if low in schema]
        highs = [math.floor(schema[high]) for schema in schemas if high in schema]
        part.row["min_length"] = min(max([0, *lows]), _NO_LIMIT)
        part.row["max_length"] = min([_NO_LIMIT, *highs])

    def _add_pattern(self, part: Part, schemas: Schemas) -> None:
        """Say where the states of the pattern begin, in rows; -1 if the kernel knows none."""
        part.row["pattern"] = -1
        patterns = {schema["pattern"] for schema in schemas if "pattern" in schema}
        for pattern in patterns:
            try:
                table = compile_pattern(pattern)
            except PatternNotCompiledError:
                part.is_asked = True
                continue
            part.is_asked = part.is_asked or part.row["pattern"] >= 0
            part.row["pattern"] = sum(map(len, self.plan.patterns)) // 256
            self.plan.patterns.append(table)

    def _integer(self, schemas: Schemas, node: Leaf) -> Part:
        self._require("integer", schemas)
        part = self._new(node, Kind.INTEGER, self._has_others(schemas, _BOUNDS))
        lows, highs = [-(2**63)], [2**63 - 1]
        for schema in schemas:
            for name in schema.keys() & _BOUNDS:
                bound = Fraction(schema[name])
                if name == "minimum":
                    lows.append(math.ceil(bound))
                elif name == "exclusiveMinimum":
                    lows.append(math.floor(bound) + 1)
                elif name == "maximum":
                    highs.append(math.floor(bound))
                else:
                    highs.append(math.ceil(bound) - 1)
        low, high = max(lows), min(highs)
        if low > high:
            raise _NotCompiledError("no integer is allowed")
        part.row["min_integer"], part.row["max_integer"] = low, high
        return part

    def _number(self, schemas: Schemas, node: Leaf, kind: Kind) -> Part:
        self._require("number", schemas)
        part = self._new(node, kind, self._has_others(schemas, _BOUNDS))
        for schema in schemas:
            for name in sorted(schema.keys() & _BOUNDS):
                side = "minimum" if name.lower().endswith("minimum") else "maximum"
                bound = schema[name]
                is_exact = not isinstance(bound, int) or abs(bound) <= _MAX_EXACT_INTEGER
                if f"has_{side}" in part.row or not is_exact:
                    part.is_asked = True
                    continue
                part.row[f"has_{side}"], part.row[side] = 1, float(bound)
                part.row[f"is_{side}_exclusive"] = int(name.startswith("exclusive"))
        return part

    def _decimal(self, schemas: Schemas, node: Leaf) -> Part:
        part = self._number(schemas, node, Kind.DECIMAL)
        kind = node.arrow_type
        part.row["scale"] = kind.scale
        part.row["decimal_limit"] = 10 ** min(kind.precision, _INT64_DIGITS)
        return part

    # Lists and objects

    def _list(self, schemas: Schemas, node: ListOf, path: str) -> Part:
        self._require("array", schemas)
        self._check_keywords(schemas, frozenset({"items", "minItems", "maxItems"}))
        items: list[Mapping[str, Any]] = []
        for schema in schemas:
            if not isinstance(schema.get("items", True), Mapping | bool):
                raise _NotCompiledError("items by position")
            items += self._schemas(schema.get("items", True))
        part = self._new(node, Kind.LIST)
        self._add_lengths(part, schemas, "minItems", "maxItems")
        self._lists.append(part)
        part.parts = [self._compile(items, node.items, f"{path}[]")]
        self._lists.pop()
        part.row["first_child"] = part.parts[0].index
        return part

    def _object(self, schemas: Schemas, node: Struct, path: str) -> Part:
        self._require("object", schemas)
        known = {"properties", "required", "additionalProperties", "if", "then", "else"}
        self._check_keywords(schemas, frozenset(known))
        names = [name for name, _ in node.fields]
        if len(names) > MAX_FIELDS:
            raise _NotCompiledError(f"more than {MAX_FIELDS} fields")
        if {name for schema in schemas for name in schema.get("properties", ())} - {*names}:
            raise _NotCompiledError("a property without a column")
        part = self._new(node, Kind.OBJECT)
        if node.extra is not None:
            part.extra_column = self._new_column(part)
        part.row["extra_column"] = part.extra_column
        part.row["allows_unnamed"] = int(
            node.extra is not None
            and all(schema.get("additionalProperties", True) in (True, {}) for schema in schemas)
        )
        for name, child in node.fields:
            where = f"{path}.{name}" if path else name

            def field_schemas(name: str = name) -> Schemas:
                return self._field_schemas(schemas, name)

            part.parts.append(self._part_or_unknown(field_schemas, child, where))
        part.row["first_child"], part.row["children"] = len(self.plan.fields), len(names)
        self.plan.fields += zip(names, part.parts, strict=True)
        required = {name for schema in schemas for name in schema.get("required", ())}
        part.row["required"] = self._bits(names, required)
        conditions = [self._condition(schema, part, names) for schema in schemas if "if" in schema]
        part.row["first_condition"] = len(self.plan.conditions)
        part.row["conditions"] = len(conditions)
        self.plan.conditions += conditions
        return part

    def _field_schemas(self, schemas: Schemas, name: str) -> Schemas:
        """Return the schemas that hold for the field `name` of an object."""
        of_field: list[Mapping[str, Any]] = []
        for schema in schemas:
            others = schema.get("additionalProperties", True)
            of_field += self._schemas(schema.get("properties", {}).get(name, others))
        return of_field

    def _bits(self, names: Sequence[str], wanted: Any) -> int:
        unnamed = sorted({*wanted} - {*names})
        if unnamed:
            raise _NotCompiledError(f"{unnamed[0]!r} is required, but not named in properties")
        return sum(1 << names.index(name) for name in {*wanted})

    def _condition(self, schema: Mapping[str, Any], part: Part, names: Sequence[str]) -> Condition:
        """Return the condition for `if`, of at most one property with certain texts.

        `then` and `else` may require fields, and nothing else.
        """
        test = schema["if"]
        if not isinstance(test, Mapping):
            raise _NotCompiledError("if is no object")
        self._check_keywords([test], frozenset({"properties", "required"}))
        if "type" in test and test["type"] != "object":
            raise _NotCompiledError("if with a type")
        condition = Condition(
            needed=self._bits(names, test.get("required", ())),
            then=self._required_by(schema.get("then", {}), names),
            otherwise=self._required_by(schema.get("else", {}), names),
        )
        properties = test.get("properties", {})
        if len(properties) > 1:
            raise _NotCompiledError("if with several properties")
        for name, asked in properties.items():
            if name not in names:
                raise _NotCompiledError("if with a property that is not named in properties")
            condition.child = names.index(name)
            condition.categories = self._categories(asked, part.parts[condition.child])
        return condition

    def _required_by(self, schema: Any, names: Sequence[str]) -> int:
        if schema is True:
            return 0
        if not isinstance(schema, Mapping):
            raise _NotCompiledError("then or else is false")
        self._check_keywords([schema], frozenset({"required"}))
        if "type" in schema and schema["type"] != "object":
            raise _NotCompiledError("then or else with a type")
        return self._bits(names, schema.get("required", ()))

    def _categories(self, asked: Any, child: Part) -> int:
        """Return the bits of a field's categories that are valid under `asked`."""
        if not isinstance(asked, Mapping):
            raise _NotCompiledError("if with a property that is true or false")
        self._check_keywords([asked], _CHOICES)
        if "type" in asked and asked["type"] != "string":
            raise _NotCompiledError("if with a type")
        first, count = child.row.get("first_category", 0), child.row.get("categories", 0)
        if not 0 < count <= _MAX_CONDITION_CATEGORIES or child.row["is_nullable"]:
            raise _NotCompiledError("if with a property that is no choice of texts")
        texts = self.plan.texts[first : first + count]
        choices = _choices([asked])
        is_valid = [all(text in values for values in choices) for text in texts]
        return sum(1 << code for code, holds in enumerate(is_valid) if holds)


def _types(schemas: Schemas) -> frozenset[str]:
    """Return the JSON types that all schemas allow; `number` has `integer` with it."""
    types = _ALL_TYPES
    for schema in schemas:
        names = _type_names(schema)
        types &= names | ({"integer"} if "number" in names else set())
    return types


def _type_names(schema: Mapping[str, Any]) -> frozenset[str]:
    declared = schema.get("type", _ALL_TYPES)
    return frozenset({declared}) if isinstance(declared, str) else frozenset(declared)


def _choices(schemas: Schemas) -> list[Sequence[Any]]:
    """Return the values of each `enum` and `const`."""
    enums = [schema["enum"] for schema in schemas if "enum" in schema]
    return [*enums, *([schema["const"]] for schema in schemas if "const" in schema)]


def describe(plan: Plan) -> list[str]:
    """Return what a plan has and what it has not, in lines for a user."""
    if plan.root is None:
        return [f"compiled: nothing ({plan.left_out[0].reason})"]
    compiled = sum(part.kind is not Kind.UNKNOWN for part in plan.parts)
    left_out = [f"not compiled: {path} ({reason})" for path, reason in plan.left_out]
    lines = [f"compiled: {compiled} of {len(plan.parts)} parts", *left_out]
    if plan.asked:
        lines.append(f"asked of jsonschema-rs: {', '.join(asked.path for asked in plan.asked)}")
    return lines


def warn_of(plan: Plan) -> str | None:
    """Return one line on what is not compiled; None if everything is."""
    if not plan.left_out:
        return None
    if plan.root is None:
        return f"--compiled_contract has no effect on this schema: {plan.left_out[0].reason}"
    shown = [f"{path} ({reason})" for path, reason in plan.left_out[:_MAX_SHOWN]]
    more = len(plan.left_out) - len(shown)
    parts = f"{', '.join(shown)}{f' and {more} more' if more else ''}"
    return f"records with these fields do without --compiled_contract: {parts}"


_MAX_SHOWN = 5
