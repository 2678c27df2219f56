"""Random values under many schemas: is every row that the kernel proves what the exact path makes?

Started as a program it tries many: `python tests/proven_rows.py --cases=500000 --seed=1`. It needs
the kernel, which it builds unless it is in the cache.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml  # type: ignore[import-untyped]
from random_changes import Maker

from beam_pipeline import resources
from beam_pipeline.compiled.kernel import Kernel, KernelLibrary
from beam_pipeline.compiled.plan import compile_plan
from beam_pipeline.errors import UsageError
from beam_pipeline.runtime.programs.kernel import find_kernel
from beam_pipeline.runtime.programs.progress import SetupProgress
from beam_pipeline.schemas import ColumnBuilder, Contract, load_contract

SCHEMAS = Path(__file__).parent / "schemas"
MAX_VALUE_BYTES = 20_000
VALUES_A_BATCH = 150

NUMBERS = (
    *("0", "-0", "-0.0", "0.0", "1", "1.0", "-1", "1e0", "1E+2", "1e-2", "100", "100.0", "101"),
    *("0.01", "0.009999999999999999", "0.010000000000000002", "10000000", "10000000.000000001"),
    *("1e400", "-1e400", "NaN", "Infinity", "01", "1.", "+1", ".5", "1e", "0x10", "-", "--1"),
    *("9007199254740991", "9007199254740992", "9007199254740993", "-9007199254740993"),
    *("9223372036854775807", "9223372036854775808", "-9223372036854775808", "1e22", "1e23"),
    *("99999999999999999", "100000000000000000", "999999999999999999", "18446744073709551616"),
    *("123456789.123456789", "0.1", "0.30000000000000004", "5e-324", "59.970000000000006"),
    *("0.000000000000000001", "0.0000000000000000000001", "19.99", "19.990", "19.995", "2.675"),
    *("1234567.891", "0.285", "4.35", "1_000", "1.5.2", "00", "-01", "-19.99", "90071992547409.93"),
    *("9999999999999999.99", "99999999999999.99", "1000000", "1000000.0", "1e1000000000000"),
)
TIMES = (
    *("2026-09-21T15:13:19.994+01:00", "2026-09-21T15:13:19Z", "2026-09-21t15:13:19z"),
    *("2026-09-21 15:13:19Z", "2026-09-21T15:13:60Z", "2026-06-30T23:59:60.5Z", "", "now"),
    *("2026-09-21T00:59:60+01:00", "2026-09-21T15:13:19.123456Z", "2026-09-21T15:13:19.1234567Z"),
    *("2026-09-21T15:13:19.Z", "2026-09-21T15:13:19", "2026-09-21T15:13Z", "2024-02-29T00:00:00Z"),
    *("2026-02-29T00:00:00Z", "1900-02-29T00:00:00Z", "2000-02-29T00:00:00Z"),
    *("2026-13-01T00:00:00Z", "2026-00-10T00:00:00Z", "2026-09-31T00:00:00Z"),
    *("2026-09-21T24:00:00Z", "2026-09-21T23:59:59+24:00", "2026-09-21T23:59:59+23:59"),
    *("2026-09-21T23:59:59-23:59", "2026-09-21T23:59:59-00:00", "2026-09-21T23:59:59+0100"),
    *("0000-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59"),
    *("9999-12-31T23:59:59Z", "9999-12-31T23:59:59-23:59", "10000-01-01T00:00:00Z"),
    *("2026-09-21T15:13:19Z\n", " 2026-09-21T15:13:19Z", "1969-12-31T23:59:59.999999Z"),
    *("1970-01-01", "2026-02-29", "2024-02-29", "0000-01-01", "0001-01-01", "9999-12-31"),
    *("2026-9-1", "2026-09-01 ", "2026-W38-1", "\uff12026-09-01", "2026-09-21T15:60:19Z"),
)
TEXTS = (
    *("", "a", "b", "ab", "abc", "u-0123456789ab", "u-0123456789aB", "DE", "de", "D", "DEU", "€€"),
    *("ord-0000000000", "TEA-00042", "TEA-0004٢", "1.2.3", "1.2.3\n", "12345.1.1", "page_view"),
    *("purchase", "refund", "desktop", "tv", "x" * 63, "x" * 64, "x" * 65, "é" * 64, "😀" * 65),
    *("x" * 2048, "x" * 2049, "é" * 2048, "\x7f", "\u2028", "\0", "tab\there", 'quote"s'),
    *("back\\slash", "/slash/", "e\u0301", "ẞß", "\ufeff", "\ufffe", "null", "true", "{}", "EUR"),
    *("e1009550-3706-435f-a3c9-ccb338fa4fc3", "E1009550-3706-435F-A3C9-CCB338FA4FC3", "x" * 15),
    *("e10095503706435fa3c9ccb338fa4fc3", "g1009550-3706-435f-a3c9-ccb338fa4fc3", "x" * 17),
    "e10095503-706-435f-a3c9-ccb338fa4fc3",
)
RAW = (
    *("null", "true", "false", "{}", "[]", "[null]", '{"a":null}', '[1,2,{"a":[]}]', '""', '"x"'),
    *("tru", "nul", "[1,]", '{"a":1,}', '{"a":1,"a":2}', r'"\ud800"', r'"\udc00\ud800"'),
    *(r'"\ud83d\ude00"', r'"\u0041"', r'"\x"', r'"\u12g4"', r'"a\/b"', '"\t"', '"\0"', "'x'"),
    *("[[[[[[]]]]]]", '{"z":{"y":1e400}}', r'"\u0000"', r'"\uD83D"', '"\\', r'"\u00e9\n\b"'),
)
SPACES = (" ", "\n", "\t", "\r", "  ", "\r\n ", "\x0b", "\u00a0", "\ufeff")
BYTES = bytes((0, 9, 10, 13, 31, 32, 34, 44, 45, 46, 48, 57, 58, 91, 92, 93, 101, 123, 125, 127))
HIGH_BYTES = bytes((0x80, 0xBF, 0xC0, 0xC3, 0xED, 0xA0, 0xE2, 0xF0, 0xF4, 0xFF))


class Raw(str):
    """JSON text, or what looks like it."""


@dataclass
class Tried:
    """What became of the values that were tried."""

    schemas: int = 0
    compiled: int = 0
    values: int = 0
    valid: int = 0
    proven: int = 0
    wrong: list[str] = field(default_factory=list)


class Mutator:
    """Makes values that are mostly valid events, and a little wrong or odd."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def value(self, event: Any, names: Sequence[str]) -> bytes:
        """Return a JSON text near to `event`, or what is no JSON."""
        event = json.loads(json.dumps(event))
        for _ in range(self._chance.choice([0, 0, 0, 1, 1, 2, 3])):
            event = self._changed(event, names)
        return self._damaged(self._text(event).encode("utf-8", "surrogatepass"))

    def _changed(self, event: Any, names: Sequence[str]) -> Any:
        holder = [event]
        parent, key = self._chance.choice([*_places(holder)])
        how = self._chance.random()
        if isinstance(parent[key], dict) and how < 0.4:
            name = self._chance.choice([*names, "größe", "x", "", "a b", 'a"b', "a\\b"])
            parent[key][name] = self._odd()
        elif isinstance(parent[key], list) and how < 0.4:
            parent[key] = parent[key] * self._chance.choice([0, 2, 20])
        elif how < 0.55 and parent is not holder:
            del parent[key]
        else:
            parent[key] = self._odd()
        return holder[0] if holder else None

    def _odd(self) -> Any:
        kind = self._chance.random()
        if kind < 0.25:
            return Raw(self._chance.choice(NUMBERS))
        if kind < 0.5:
            return Raw(self._chance.choice(RAW))
        return self._chance.choice(TIMES if kind < 0.65 else TEXTS)

    def _text(self, value: Any) -> str:
        spaces = self._chance.choice([("",), ("",), ("",), ("", " "), ("", *SPACES)])
        return "".join(self._words(value, spaces))

    def _words(self, value: Any, spaces: Sequence[str]) -> Iterator[str]:
        space = self._chance.choice
        if isinstance(value, Raw):
            yield str(value)
        elif isinstance(value, dict):
            items = [*value.items()]
            if items and self._chance.random() < 0.2:
                self._chance.shuffle(items)
            if items and self._chance.random() < 0.01:
                items.append(self._chance.choice(items))
            yield "{"
            for place, (name, part) in enumerate(items):
                yield f"{',' if place else ''}{space(spaces)}{self._quoted(name, 0.01)}"
                yield f"{space(spaces)}:{space(spaces)}"
                yield from self._words(part, spaces)
                yield space(spaces)
            yield "}"
        elif isinstance(value, list):
            yield "["
            for place, part in enumerate(value):
                yield f"{',' if place else ''}{space(spaces)}"
                yield from self._words(part, spaces)
                yield space(spaces)
            yield "]"
        elif isinstance(value, str):
            yield self._quoted(value, 0.1)
        else:
            yield json.dumps(value)

    def _quoted(self, text: str, escaped: float) -> str:
        if self._chance.random() > escaped:
            return json.dumps(text, ensure_ascii=self._chance.random() < 0.1)
        units = text.encode("utf-16-be", "surrogatepass")
        pairs = [units[at : at + 2].hex() for at in range(0, len(units), 2)]
        return f'"{"".join(chr(92) + "u" + pair for pair in pairs)}"'

    def _damaged(self, text: bytes) -> bytes:
        how = self._chance.random()
        if how < 0.03:
            return (
                self._chance.choice(SPACES).encode() + text + self._chance.choice(SPACES).encode()
            )
        if how < 0.05:
            return text[: self._chance.randrange(len(text) + 1)]
        if how < 0.07:
            return b"\0\0\0\0\7" + text
        if how < 0.12 and text:
            damaged = bytearray(text)
            for _ in range(self._chance.choice([1, 1, 2, 5])):
                place = self._chance.randrange(len(damaged))
                damaged[place] = self._chance.choice(BYTES + HIGH_BYTES)
            return bytes(damaged)
        return text


def _places(part: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each container in a value with each of its keys."""
    for key in range(len(part)) if isinstance(part, list) else [*part]:
        yield part, key
        if isinstance(part[key], dict | list):
            yield from _places(part[key])


class SchemaMaker:
    """Makes schemas of the kind that is compiled, with some keywords that are not."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def document(self) -> dict[str, Any]:
        return {
            "$schema": self._chance.choice(
                [
                    "https://json-schema.org/draft/2020-12/schema",
                    "https://json-schema.org/draft/2019-09/schema",
                    "http://json-schema.org/draft-07/schema#",
                ]
            ),
            "$defs": {"d0": self._part(1), "d1": self._leaf()},
            **self._object(3),
        }

    def event(self, schema: Any, root: Any) -> Any:
        """Return a value that is often valid under a schema."""
        chance = self._chance
        if "$ref" in schema:
            return self.event(root["$defs"][schema["$ref"].rpartition("/")[2]], root)
        if "enum" in schema:
            return chance.choice(schema["enum"])
        for union in ("anyOf", "oneOf"):
            if union in schema:
                return self.event(chance.choice(schema[union]), root)
        for branch in schema.get("allOf", ()):
            schema = {**branch, **schema}
        kinds = schema.get("type", ["string", "integer", "null"])
        kind = kinds if isinstance(kinds, str) else chance.choice(kinds)
        if kind == "object":
            names = schema.get("properties", {})
            kept = [
                name
                for name in names
                if name in schema.get("required", ()) or chance.random() < 0.7
            ]
            value = {name: self.event(names[name], root) for name in kept}
            return value | {
                name: Raw(chance.choice(["1", '"x"', "null"]))
                for name in [*"yz"]
                if chance.random() < 0.1
            }
        if kind == "array":
            size = max(schema.get("minItems", 0), chance.choice([0, 1, 2]))
            return [self.event(schema.get("items", {}), root) for _ in range(size)]
        if kind == "string":
            if schema.get("format") in ("date", "date-time"):
                return chance.choice(TIMES)
            if schema.get("format") == "uuid":
                return "e1009550-3706-435f-a3c9-ccb338fa4fc3"
            return chance.choice(TEXTS)
        if kind in ("integer", "number"):
            return Raw(chance.choice([*NUMBERS, "1", "2", "3", "1.5", "5"]))
        return {"boolean": chance.choice([True, False]), "null": None}[kind]

    def _object(self, depth: int) -> dict[str, Any]:
        chance = self._chance
        names = chance.sample(["a", "b", "c d", "é", "x.y", "1", "", "kind"], chance.randint(1, 5))
        schema: dict[str, Any] = {
            "type": chance.choice(["object", "object", ["object", "null"]])
            if depth < 3
            else "object",
            "properties": {name: self._part(depth - 1) for name in names},
        }
        if "kind" in names:
            schema["properties"]["kind"] = {"type": "string", "enum": ["a", "b", "ab"]}
        if chance.random() < 0.5:
            schema["required"] = chance.sample(names, chance.randint(1, len(names)))
        if chance.random() < 0.5:
            schema["additionalProperties"] = chance.choice([True, False, {"type": "string"}])
        if "kind" in names and chance.random() < 0.6:
            asked = chance.choice([{"const": "a"}, {"enum": ["a", "b"]}, {"const": "none"}])
            schema["if"] = {"properties": {"kind": asked}}
            if chance.random() < 0.6:
                schema["if"]["required"] = chance.sample(names, 1)
            for branch in ("then", "else"):
                if chance.random() < 0.7:
                    schema[branch] = {"required": chance.sample(names, 1)}
        if chance.random() < 0.1:
            schema["allOf"] = [self._object(1)]
        return schema

    def _part(self, depth: int) -> dict[str, Any]:
        chance = self._chance
        if depth > 0 and chance.random() < 0.35:
            if chance.random() < 0.5:
                return self._object(depth)
            schema: dict[str, Any] = {
                "type": chance.choice(["array", ["array", "null"]]),
                "items": self._part(depth - 1),
            }
            for keyword in ("minItems", "maxItems", "uniqueItems"):
                if chance.random() < 0.2:
                    schema[keyword] = True if keyword == "uniqueItems" else chance.choice([0, 1, 2])
            return schema
        if chance.random() < 0.1:
            return {"$ref": f"#/$defs/{chance.choice(['d0', 'd1'])}"} if depth > 1 else self._leaf()
        return self._leaf()

    def _leaf(self) -> dict[str, Any]:
        chance = self._chance
        schema: dict[str, Any] = chance.choice(
            [
                {"type": "string"},
                {"type": "string", "format": "date-time"},
                {"type": "string", "format": "date"},
                {"type": "string", "format": "uuid"},
                {"type": "string", "format": "email"},
                {"type": "string", "enum": ["a", "b", "ab"]},
                {"enum": ["a", None, 1]},
                {"type": "integer"},
                {"type": "number"},
                {"type": "number", "x-decimal": {"precision": 6, "scale": 2}},
                {"type": "number", "x-decimal": {"precision": 20, "scale": 3}},
                {"type": "number", "x-decimal": {"precision": 38, "scale": 20}},
                {"type": "string", "x-decimal": {"precision": 6, "scale": 2}},
                {"type": "boolean"},
                {"type": ["string", "integer"]},
                {},
                {"anyOf": [{"type": "string", "maxLength": 2}, {"type": "integer", "minimum": 5}]},
                {"not": {"enum": ["a", 1, None, True]}},
                {"const": chance.choice([1, 1.5, "a", True, None])},
                {"enum": [1, 2.5, 100]},
                {"type": "string", "contentEncoding": "base64"},
                {"type": "string", "format": chance.choice(["uri", "ipv4", "time", "regex"])},
            ]
        )
        schema = dict(schema)
        kind = schema.get("type")
        if isinstance(kind, str) and chance.random() < 0.3:
            schema["type"] = [kind, "null"]
        if chance.random() < 0.1:
            branches = chance.sample([{"type": "null"}, schema], 2)
            schema = {chance.choice(["anyOf", "oneOf"]): branches}
        if kind == "string":
            for keyword in ("minLength", "maxLength"):
                if chance.random() < 0.15:
                    schema[keyword] = chance.choice([0, 1, 2, 3, 64, 65])
            if chance.random() < 0.2:
                schema["pattern"] = chance.choice(
                    [
                        "^[a-z]*$",
                        "^[A-Z]{2,3}$",
                        "^[0-9]+\\.[0-9]{1,2}\\.?3(?!\\n)$",
                        "b$",
                        "^a?b?c?$",
                        "a|é",
                        "^(?!x)",
                    ]
                )
        if kind in ("integer", "number"):
            for keyword in ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"):
                if chance.random() < 0.15:
                    schema[keyword] = chance.choice([0, 1, 0.01, 1.5, 100, 10000000, -5])
            if chance.random() < 0.15:
                schema["multipleOf"] = chance.choice([1, 2, 0.5, 0.1, 0.01])
        return schema


def check(
    contract: Contract, values: Sequence[bytes | None], library: KernelLibrary, tried: Tried
) -> None:
    """Hold the rows that the kernel proves against the exact path; count them in `tried`."""
    plan = compile_plan(contract)
    tried.schemas += 1
    tried.values += len(values)
    if plan.root is None:
        return
    tried.compiled += 1
    judge = contract.judge(MAX_VALUE_BYTES)
    builder = ColumnBuilder(contract)
    kernel = Kernel(library, plan, MAX_VALUE_BYTES)
    verdicts = [judge.judge(value) for value in values]
    tried.valid += sum(failure is None for _, failure in verdicts)
    # Once more on its own: what one batch left in the memory must not reach the next.
    half = len(values) // 2
    for part, offset in ((values, 0), (values[half:], half), (values[:half], 0)):
        # A slice: values that begin behind the buffer's begin.
        array = pa.array([b"before", *part], pa.binary())[1:]
        proven = kernel.prove(array)
        rows = (proven.rows + offset).tolist()
        tried.proven += len(rows) if part is values else 0
        if not rows:
            continue
        dead = [row for row in rows if verdicts[row][1] is not None]
        for row in dead:
            tried.wrong.append(f"{values[row]!r} is proven, but {verdicts[row][1]}")
        if dead:
            continue
        made = pa.RecordBatch.from_arrays(proven.columns, schema=contract.event_schema)
        made.validate(full=True)
        wanted = builder.build([verdicts[row][0] for row in rows])
        for name, column, exact in zip(
            contract.event_schema.names, made.columns, wanted, strict=True
        ):
            if not column.equals(exact) or floats_in(column) != floats_in(exact):
                tried.wrong.append(
                    _first_difference(name, column, exact, [values[row] for row in rows])
                )


def floats_in(array: pa.Array) -> list[bytes]:
    """Return the bits of all doubles in an array: for `equals`, -0.0 is 0.0."""
    if pa.types.is_floating(array.type):
        return [array.drop_null().to_numpy().tobytes()]
    if pa.types.is_list(array.type):
        return floats_in(array.flatten())
    if pa.types.is_struct(array.type):
        return [bits for part in array.flatten() for bits in floats_in(part)]
    return []


def _first_difference(name: str, column: pa.Array, exact: pa.Array, values: Sequence[Any]) -> str:
    for place, value in enumerate(values):
        if not column[place].equals(exact[place]):
            return f"{name}: {column[place]}, not {exact[place]}, for {value!r}"
    return f"{name}: {column.type}, not {exact.type}, or other dictionaries or signs of zero"


def mutated_events(chance: random.Random) -> tuple[Contract, list[bytes | None]]:
    """Return the contract of the default events, and mutations of events."""
    contract = load_contract(resources.event_schema_path())
    purchase = contract.document["examples"][0]
    visit = {name: part for name, part in purchase.items() if name not in ("purchase", "consent")}
    events = [purchase, {**visit, "event_type": "page_view"}]
    return contract, _mutations(chance, events, contract)


def mutated_records(chance: random.Random) -> tuple[Contract, list[bytes | None]]:
    """Return the contract of one of the test schemas, and mutations of its records."""
    path = chance.choice(sorted(SCHEMAS.glob("*.schema.yaml")))
    records = SCHEMAS / "records" / f"{path.name.removesuffix('.schema.yaml')}.jsonl"
    contract = load_contract(path)
    events = [json.loads(line) for line in records.read_text("utf-8").split("\n") if line]
    document = yaml.safe_load(path.read_text("utf-8"))
    return contract, _mutations(chance, [*events, *document.get("examples", ())], contract)


def random_objects(chance: random.Random) -> tuple[Contract, list[bytes | None]]:
    """Return the contract of a random schema, and mutations of random objects.

    Raises:
      UsageError: it is a schema that no run takes.
    """
    if chance.random() < 0.3:
        maker = Maker(chance, chance.choice([7, 2019, 2020]))
        document = maker.document()
        document["type"] = "object"
        events = maker.events(document)
    else:
        own = SchemaMaker(chance)
        document = own.document()
        events = [own.event(document, document) for _ in range(20)]
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        json.dump(document, file)
        file.flush()
        contract = load_contract(file.name, asserts_formats=chance.random() < 0.8)
    return contract, _mutations(chance, events, contract)


def _mutations(
    chance: random.Random, events: Sequence[Any], contract: Contract
) -> list[bytes | None]:
    mutator = Mutator(chance)
    names = contract.event_schema.names
    values: list[bytes | None] = [
        mutator.value(chance.choice(events), names) for _ in range(VALUES_A_BATCH)
    ]
    values[chance.randrange(VALUES_A_BATCH)] = None
    return values


KINDS: dict[str, Callable[[random.Random], tuple[Contract, list[bytes | None]]]] = {
    "events": mutated_events,
    "records": mutated_records,
    "random": random_objects,
}


def try_cases(kind: str, seed: int, cases: int, library: KernelLibrary) -> Tried:
    """Try so many values of one of `KINDS`."""
    chance = random.Random(seed)
    tried = Tried()
    while tried.values < cases:
        try:
            contract, values = KINDS[kind](chance)
        except UsageError:
            continue
        check(contract, values, library, tried)
    return tried


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000, help="of each kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kind", choices=KINDS)
    args = parser.parse_args()
    with SetupProgress() as progress:
        library = find_kernel(progress)
    wrong = Counter[str]()
    for kind in [args.kind] if args.kind else KINDS:
        tried = try_cases(kind, args.seed, args.cases, library)
        for line in tried.wrong[:20]:
            print(line)
        wrong[kind] = len(tried.wrong)
        print(
            f"{kind}: {tried.values} values, {tried.schemas} schemas ({tried.compiled} compiled), "
            f"{tried.valid} valid under those, {tried.proven} proven, {len(tried.wrong)} wrong"
        )
    return int(wrong.total() > 0)


if __name__ == "__main__":
    raise SystemExit(main())
