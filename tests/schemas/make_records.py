"""Makes `records/NAME.jsonl`: values that hypothesis-jsonschema finds for each schema here.

For maintainers, in an environment with the packages of `requirements.txt`: hypothesis-jsonschema
0.23.1 reaches into hypothesis, and newer ones than pinned there (the tests' own is) are closed to
it. It knows schemas up to draft 7, so newer keywords are put in draft 7's words first; what is kept
is valid under the schema itself, by both of the libraries that the pipeline asks.

Run as `python make_records.py [NAME…]`; the same packages make the same records, some in minutes. A
schema that it can't read (recursion, anchors, constants of mixed types) has its own `examples`
only.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import jsonschema
import jsonschema_rs
import yaml  # type: ignore[import-untyped]
from hypothesis import HealthCheck, Phase, given, settings, strategies
from hypothesis_jsonschema import from_schema

HERE = Path(__file__).parent
RECORDS = 30
TRIES = 60
MAX_BYTES = 600
FORMATS = {"uuid": strategies.uuids().map(str)}
UNKNOWN = {"$id", "unevaluatedProperties", "dependentRequired", "dependentSchemas", "examples"}


def in_draft_7(schema: Any) -> Any:
    """The schema without the keywords that came later, as far as draft 7 has words for them."""
    if isinstance(schema, list):
        return [in_draft_7(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    told = {name: in_draft_7(part) for name, part in schema.items() if name not in UNKNOWN}
    if "prefixItems" in told:
        told["additionalItems"] = told.pop("items", True)
        told["items"] = told.pop("prefixItems")
    return told


def records_for(document: dict[str, Any]) -> list[str]:
    """Some valid values as JSON texts, each once, none long."""
    judge_type = jsonschema.validators.validator_for(document)
    judge = judge_type(document, format_checker=judge_type.FORMAT_CHECKER)
    other_judge = jsonschema_rs.validator_for(document, validate_formats=True)
    dialect = "http://json-schema.org/draft-07/schema#"
    found: dict[str, None] = {}

    @settings(
        max_examples=TRIES,
        database=None,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(from_schema({**in_draft_7(document), "$schema": dialect}, custom_formats=FORMATS))
    def collect(value: Any) -> None:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        short = len(text.encode()) <= MAX_BYTES
        if short and judge.is_valid(value) and other_judge.is_valid(value):
            found.setdefault(text)

    collect()
    texts = sorted(found, key=lambda text: (len(text), text))
    step = max(1, len(texts) // RECORDS)
    return texts[::-step][:RECORDS]


def main() -> None:
    """Makes the files that are named, or all."""
    (HERE / "records").mkdir(exist_ok=True)
    every = sorted(path.name.removesuffix(".schema.yaml") for path in HERE.glob("*.schema.yaml"))
    for name in sys.argv[1:] or every:
        document = yaml.safe_load((HERE / f"{name}.schema.yaml").read_text(encoding="utf-8"))
        try:
            texts = records_for(document)
        except Exception as error:  # whatever the library raises at what it can't read
            texts = []
            print(f"{name}: {type(error).__name__}: {str(error)[:100]}")
        target = HERE / "records" / f"{name}.jsonl"
        target.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
        print(f"{name}: {len(texts)} records")


if __name__ == "__main__":
    main()
