"""A violation has the same words whether or not its explanation passes over what is valid."""

from __future__ import annotations

import copy
import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

import jsonschema_specifications
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema.validators import validator_for
from sample_records import commerce_contract, commerce_event

from beam_pipeline.records import Violation
from beam_pipeline.schemas import load_contract
from beam_pipeline.schemas.judge import _explaining_class, explain, explaining_validator

TESTS = Path(__file__).parents[2]
SUITE = TESTS / "data" / "json-schema-test-suite.zip"
SCHEMAS = sorted((TESTS / "schemas").glob("*.schema.yaml"))
DRAFTS = {
    "draft4": "http://json-schema.org/draft-04/schema#",
    "draft6": "http://json-schema.org/draft-06/schema#",
    "draft7": "http://json-schema.org/draft-07/schema#",
    "draft2019-09": "https://json-schema.org/draft/2019-09/schema",
    "draft2020-12": "https://json-schema.org/draft/2020-12/schema",
}
MUTATIONS = 40

UUID = "6f9619ff-8b86-4011-b42d-00c04fc964ff"
STRANGE: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    1.0,
    0.1,
    1e300,
    2**53 + 1,
    2**63,
    2**64,
    10**40,
    "",
    "a",
    "DE",
    "D1",
    "u-0123456789ab",
    "u-0123456789ab\n",
    "x" * 3_000,
    "\u0660\u0661",
    "\U0001f600",
    "2026-11-23T12:00:00Z",
    "2026-11-23t12:00:00z",
    "2026-11-23 12:00:00Z",
    "2026-11-23T12:00:00Z\n",
    "2016-12-31T23:59:60Z",
    "2026-06-31T12:00:00Z",
    "2026-11-23T24:00:00Z",
    "2026-11-23T12:00:00+24:00",
    "2026-11-23T12:00:00.1234567891234Z",
    "0000-01-01T00:00:00Z",
    "2026-11-23",
    UUID,
    UUID.upper(),
    UUID.replace("-", ""),
    f"{{{UUID}}}",
    f"urn:uuid:{UUID}",
    [],
    [1, "a"],
    {},
    {"a": 1},
    {"event_type": "purchase"},
]


class Explanations:
    """A schema's explanations by the whole schema, and by what is not valid alone."""

    def __init__(self, document: Mapping[str, Any], asserts_formats: bool) -> None:
        validator_class = _explaining_class(validator_for(document))
        self._whole = validator_class(
            document,
            format_checker=validator_class.FORMAT_CHECKER if asserts_formats else None,
            registry=jsonschema_specifications.REGISTRY,
        )
        self._quick = explaining_validator(document, asserts_formats)

    def violations(self, event: Any) -> int:
        """Compare both; how many violations there are."""
        whole = words(self._whole, event)
        assert words(self._quick, event) == whole, event
        return len(whole)


def words(validator: Any, event: Any) -> tuple[Violation | str, ...]:
    try:
        return explain(validator, event)
    except Exception as error:  # as on a reference to nothing: it must be the same
        return (type(error).__name__,)


@pytest.mark.parametrize("draft", DRAFTS)
@pytest.mark.parametrize("asserts_formats", [True, False])
def test_on_the_official_suite(draft: str, asserts_formats: bool) -> None:
    cases = violations = 0
    with zipfile.ZipFile(SUITE) as suite:
        for name in suite.namelist():
            if not name.startswith(f"tests/{draft}/"):
                continue
            for group in json.loads(suite.read(name)):
                if not isinstance(group["schema"], dict):
                    continue
                document = {"$schema": DRAFTS[draft], **group["schema"]}
                both = Explanations(document, asserts_formats)
                # Once more as a property, which is what is asked of the other library.
                nested = {
                    "$schema": DRAFTS[draft],
                    "properties": {"a": group["schema"], "b": {"if": group["schema"]}},
                }
                below = Explanations(nested, asserts_formats)
                for test in group["tests"]:
                    cases += 1
                    violations += both.violations(test["data"])
                    violations += below.violations({"a": test["data"], "b": test["data"]})
    assert cases > 800
    assert violations > 500


@pytest.mark.parametrize("path", SCHEMAS, ids=lambda path: path.name.partition(".")[0])
def test_on_mutated_records(path: Path) -> None:
    contract = load_contract(path)
    both = Explanations(contract.document, contract.asserts_formats)
    rng = Random(path.name)
    records = TESTS / "schemas" / "records" / f"{path.name.removesuffix('.schema.yaml')}.jsonl"
    for line in records.read_bytes().splitlines()[:20]:
        for _ in range(MUTATIONS):
            both.violations(mutated(orjson.loads(line), rng))


def mutated(event: Any, rng: Random) -> Any:
    """The event with some of its values replaced, removed or added."""
    holder = [event]
    for _ in range(rng.randint(1, 3)):
        places = list(places_in(holder))
        container, key = rng.choice(places)
        if isinstance(container, dict) and rng.random() < 0.3:
            del container[key]
        else:
            container[key] = copy.deepcopy(rng.choice(STRANGE))
    return holder[0]


def places_in(container: Any) -> Iterator[tuple[Any, Any]]:
    keys = container if isinstance(container, dict) else range(len(container))
    for key in list(keys):
        yield container, key
        if isinstance(container[key], dict | list):
            yield from places_in(container[key])


COMMERCE = Explanations(commerce_contract().document, True)


@given(st.randoms(use_true_random=False), st.sampled_from(["purchase", "page_view", "refund"]))
@settings(max_examples=1_000, deadline=None)
def test_on_mutated_events(rng: Random, event_type: str) -> None:
    COMMERCE.violations(mutated(commerce_event(event_type=event_type), rng))


def test_a_leap_second_is_explained_as_before() -> None:
    """jsonschema refuses it, and jsonschema-rs does not."""
    event = commerce_event(event_time="2016-12-31T23:59:60Z", country="D1")
    assert COMMERCE.violations(event) == 2
