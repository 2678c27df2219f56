"""The event contract, and that the producer keeps to it and breaks it as it says."""

from __future__ import annotations

import csv
import functools
import json
from datetime import datetime, timezone
from random import Random
from typing import Any

import jsonschema
import jsonschema_rs
import pytest

from beam_pipeline.producer.breakage import BREAKAGES, Breakage
from beam_pipeline.producer.events import Event, EventFactory
from beam_pipeline.records import ErrorCode
from beam_pipeline.resources import event_schema_path, reference_dir
from beam_pipeline.schemas import Judge, load_contract

NOW_MS = 1_795_000_000_000
SEEDS = range(8)
CONTRACT = load_contract(event_schema_path())
JUDGE = Judge(CONTRACT.document, max_value_bytes=1_000_000)
DOCUMENT: dict[str, Any] = json.loads(event_schema_path().read_bytes())
EXPLAINING = jsonschema.Draft202012Validator(
    DOCUMENT, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
)
DECIDING = jsonschema_rs.Draft202012Validator(DOCUMENT, validate_formats=True)
BY_NAME = pytest.mark.parametrize("breakage", BREAKAGES, ids=lambda breakage: breakage.name)
TIME_CODES = (ErrorCode.TOO_OLD, ErrorCode.IN_THE_FUTURE)


def table(name: str) -> list[dict[str, str]]:
    with (reference_dir() / name).open(newline="", encoding="utf-8") as rows:
        return list(csv.DictReader(rows))


@functools.cache
def factory_of(seed: int) -> EventFactory:
    return EventFactory(seed)


def valid_event(breakage: Breakage, seed: int) -> Event:
    return factory_of(seed).make(NOW_MS, event_type=breakage.event_type)


def subschemas(part: Any) -> list[dict[str, Any]]:
    """Every property's schema, at any depth."""
    if isinstance(part, list):
        return [found for item in part for found in subschemas(item)]
    if not isinstance(part, dict):
        return []
    below = [found for child in part.values() for found in subschemas(child)]
    properties = part.get("properties")
    return [*below, *properties.values()] if isinstance(properties, dict) else below


def test_the_schema_is_valid_and_its_example_too() -> None:
    jsonschema.Draft202012Validator.check_schema(DOCUMENT)
    for example in DOCUMENT["examples"]:
        DECIDING.validate(example)
        EXPLAINING.validate(example)


def test_every_field_is_described() -> None:
    fields = subschemas({**DOCUMENT, "if": None})
    assert len(fields) > 20
    assert [field for field in fields if not field.get("description")] == []


@pytest.mark.parametrize("seed", SEEDS)
def test_synthetic_events_are_valid(seed: int) -> None:
    factory = factory_of(seed)
    types = set()
    for index in range(200):
        event = factory.make(NOW_MS + index)
        DECIDING.validate(event)
        EXPLAINING.validate(event)
        types.add(event["event_type"])
    assert types == set(DOCUMENT["properties"]["event_type"]["enum"])


def test_synthetic_events_use_what_the_transforms_are_for() -> None:
    factory = EventFactory(3)
    events = [factory.make(NOW_MS) for _ in range(2000)]
    purchases = [event["purchase"] for event in events if "purchase" in event]

    assert any(event["country"].islower() for event in events)
    assert any(purchase["currency"].islower() for purchase in purchases)
    assert any(event.get("experiment", "").startswith(" ") for event in events)
    assert any("consent" not in event for event in events)
    assert any(event.get("referrer", "") is None for event in events)
    assert any(set(event) - set(DOCUMENT["properties"]) for event in events)
    assert len({event["event_time"][-6:] for event in events}) > 3


def test_an_event_is_as_old_as_asked() -> None:
    factory = EventFactory(1, max_jitter_ms=50)
    for late_ms in (0, 20_000):
        events = [factory.make(NOW_MS, late_ms=late_ms) for _ in range(500)]
        ages = [
            NOW_MS - late_ms - round(datetime.fromisoformat(event["event_time"]).timestamp() * 1000)
            for event in events
        ]
        assert min(ages) == 0
        assert max(ages) == 50


def test_events_are_made_for_known_countries_and_currencies() -> None:
    countries = {row["country"] for row in table("country_region.csv")}
    currencies = {row["currency"] for row in table("currency_rates.csv")}
    factory = EventFactory(5)
    events = [factory.make(NOW_MS) for _ in range(3000)]

    assert {event["country"].upper() for event in events} <= countries
    assert {
        event["purchase"]["currency"].upper() for event in events if "purchase" in event
    } <= currencies


def test_reference_tables_are_whole() -> None:
    countries = [row["country"] for row in table("country_region.csv")]
    assert len(countries) == len(set(countries)) == 249
    assert {"NA", "DE", "TW", "AQ"} <= set(countries)
    assert all(row["region"] for row in table("country_region.csv"))

    rates = {row["currency"]: float(row["eur_per_unit"]) for row in table("currency_rates.csv")}
    assert rates["EUR"] == 1
    assert all(rate > 0 for rate in rates.values())


@BY_NAME
@pytest.mark.parametrize("seed", SEEDS)
def test_a_breakage_has_the_code_and_the_keyword_it_names(breakage: Breakage, seed: int) -> None:
    event = valid_event(breakage, seed)
    value = breakage.apply(event, Random(seed))

    _, failure = JUDGE.judge(value)
    if breakage.code in TIME_CODES:
        assert failure is None  # whether it is too old is not for the schema to say
        return
    assert failure is not None
    assert failure.code == breakage.code
    keywords = {violation.keyword for violation in failure.violations}
    assert keywords == ({breakage.keyword} if breakage.keyword else set())
    if breakage.keyword and value:
        broken = json.loads(value)
        assert [error.schema_path[-1] for error in DECIDING.iter_errors(broken)] == [
            breakage.keyword
        ]


@BY_NAME
def test_a_breakage_leaves_the_event_as_it_is(breakage: Breakage) -> None:
    event = valid_event(breakage, seed=1)
    before = json.dumps(event)
    breakage.apply(event, Random(1))
    assert json.dumps(event) == before


@pytest.mark.parametrize(("name", "days"), [("too_old", -30), ("in_the_future", 1)])
def test_a_shifted_time_is_off_by_days(name: str, days: int) -> None:
    breakage = next(breakage for breakage in BREAKAGES if breakage.name == name)
    event = valid_event(breakage, seed=2)
    value = breakage.apply(event, Random(2))
    assert value is not None

    before = datetime.fromisoformat(event["event_time"]).astimezone(timezone.utc)
    after = datetime.fromisoformat(json.loads(value)["event_time"])
    assert (after - before).total_seconds() == days * 86_400


def test_breakages_are_many_and_named_once() -> None:
    assert len({breakage.name for breakage in BREAKAGES}) == len(BREAKAGES) >= 12
    assert {breakage.code for breakage in BREAKAGES} >= {
        ErrorCode.MALFORMED_JSON,
        ErrorCode.NOT_UTF8,
        ErrorCode.NULL_VALUE,
        ErrorCode.SCHEMA_VIOLATION,
        ErrorCode.TOO_DEEP,
        *TIME_CODES,
    }


@pytest.mark.parametrize(
    ("field", "value", "keyword"),
    [
        ("country", "DE\n", "maxLength"),
        ("user_id", "u-4f1d2c3b5a69\n", "maxLength"),
        ("referrer", 5, "type"),
        ("event_time", "2026-11-23T21:28:34", "format"),
        ("page_url", "", "minLength"),
    ],
)
def test_both_validators_refuse(field: str, value: Any, keyword: str) -> None:
    event = {**DOCUMENT["examples"][0], field: value}
    assert not DECIDING.is_valid(event)
    assert keyword in [error.validator for error in EXPLAINING.iter_errors(event)]


def test_a_version_with_a_final_newline_is_refused_by_both() -> None:
    event = EventFactory(1).make(NOW_MS)
    event["device"]["app_version"] = "1.2.3"
    assert DECIDING.is_valid(event)
    assert EXPLAINING.is_valid(event)
    event["device"]["app_version"] = "1.2.3\n"
    assert not DECIDING.is_valid(event)
    assert not EXPLAINING.is_valid(event)
