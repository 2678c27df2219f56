"""The verdicts of the official JSON Schema test suite, required tests and formats of all drafts."""

from __future__ import annotations

import json
import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from beam_pipeline.config import ValidationRules
from beam_pipeline.errors import UsageError
from beam_pipeline.records import ErrorCode
from beam_pipeline.schemas import load_contract
from beam_pipeline.testing import run_events

SUITE = Path(__file__).parents[2] / "data" / "json-schema-test-suite.zip"
DRAFTS = {
    "draft4": "http://json-schema.org/draft-04/schema#",
    "draft6": "http://json-schema.org/draft-06/schema#",
    "draft7": "http://json-schema.org/draft-07/schema#",
    "draft2019-09": "https://json-schema.org/draft/2019-09/schema",
    "draft2020-12": "https://json-schema.org/draft/2020-12/schema",
}

# Schemas of the suite that are refused on purpose, each in one line: why, and how many.
REFUSED = {
    "is a schema for every event or none, which describes no columns": re.compile(
        "a JSON Schema is an object"
    ),
    "refers to a schema on the web, which a pipeline must not wait for": re.compile(
        "points outside the file"
    ),
    "has a meta-schema of its own, which is on the web": re.compile("Unknown meta-schema"),
}
VERDICTS = {
    "draft4": 820,
    "draft6": 1123,
    "draft7": 1562,
    "draft2019-09": 1962,
    "draft2020-12": 1996,
}


class Group(NamedTuple):
    """A schema and its tests; `is_format` where they are about formats."""

    name: str
    schema: Any
    tests: list[dict[str, Any]]
    is_format: bool


def groups(draft: str) -> Iterator[Group]:
    with zipfile.ZipFile(SUITE) as suite:
        for name in suite.namelist():
            if name.startswith(f"tests/{draft}/"):
                for group in json.loads(suite.read(name)):
                    where = f"{name}: {group['description']}"
                    yield Group(where, group["schema"], group["tests"], "/format/" in name)


@pytest.mark.parametrize("draft", DRAFTS)
def test_every_verdict_is_that_of_the_suite(tmp_path: Path, draft: str) -> None:
    path = tmp_path / "event.schema.json"
    wrong = []
    counts: Counter[str] = Counter()
    for group in groups(draft):
        schema = group.schema
        if isinstance(schema, dict):
            schema = {"$schema": DRAFTS[draft], **schema}
        path.write_text(json.dumps(schema))
        try:
            contract = load_contract(path, asserts_formats=group.is_format)
        except UsageError as error:
            (why,) = (why for why, pattern in REFUSED.items() if pattern.search(str(error)))
            counts[why] += 1
            continue
        values = [json.dumps(test["data"]).encode() for test in group.tests]
        results = run_events(values, contract, rules=ValidationRules(None))
        assert len(results.rows) + len(results.dead) == len(values), group.name
        # A value that the schema allows and its columns can't hold is no wrong verdict.
        refused = {
            letter.offset
            for letter in results.dead
            if letter.failure.code is not ErrorCode.ENCODE_ERROR
        }
        counts["verdicts"] += len(values)
        wrong += [
            f"{group.name}: {test['description']}"
            for offset, test in enumerate(group.tests)
            if (offset in refused) == test["valid"]
        ]
    assert wrong == []
    assert counts["verdicts"] == VERDICTS[draft]
    assert all(counts[why] <= 25 for why in REFUSED), counts
