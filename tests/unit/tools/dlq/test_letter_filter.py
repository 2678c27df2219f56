"""The language of --where."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest
from output_trees import dead_letter

from beam_pipeline.errors import UsageError
from beam_pipeline.tools.dlq.letters import Letter
from beam_pipeline.tools.dlq.where import parse_conditions

NOW = datetime(2026, 11, 23, 14, tzinfo=timezone.utc)
FAILED = "2026-11-23T12:00:05.000Z"


def letter(**changes: Any) -> Letter:
    return Letter.from_document(dead_letter("orders", 3, 17, failed_at=FAILED, **changes))


@pytest.mark.parametrize(
    ("conditions", "holds"),
    [
        ([], True),
        (["code=SCHEMA_VIOLATION"], True),
        (["code=TOO_OLD,SCHEMA_VIOLATION"], True),
        (["code=SCHEMA"], False),
        (["keyword=required"], True),
        (["keyword=enum"], False),
        (["field=/items/0/price"], True),
        (["field=/items/*/price"], True),
        (["field=/items/*"], True),
        (["field=/items"], False),
        (["field=/tags[0]"], True),
        (["field=/tags[0-9]"], False),
        (["stage=validate", "topic=orders", "partition=3"], True),
        (["partition=30"], False),
        (["topic=orders", "topic=clicks"], False),
        (["since=2026-11-23T12:00:05Z"], True),
        (["since=2026-11-23T13:00:05.000+01:00"], True),
        (["since=2026-11-23T12:00:05.001Z"], False),
        (["until=2026-11-23T12:00:05Z"], False),
        (["until=2026-11-23T12:00:05.001Z"], True),
        (["since=2026-11-23", "until=2026-11-24"], True),
        (["since=2h"], True),
        (["since=119m"], False),
        (["until=7190s"], True),
        (["since=1d", "code=TOO_OLD"], False),
    ],
    ids=str,
)
def test_conditions(conditions: list[str], holds: bool) -> None:
    violations = [("required", "/items/0/price"), ("pattern", "/tags[0]")]
    assert parse_conditions(conditions, NOW)(letter(violations=violations)) is holds


def test_the_id_is_a_condition() -> None:
    one = letter()
    assert parse_conditions([f"id={one.dlq_id}"], NOW)(one)
    assert not parse_conditions([f"id={one.dlq_id[:-1]}"], NOW)(one)


@pytest.mark.parametrize(
    "condition",
    ["", "code", "code=", "=x", "colour=red", "since=yesterday", "since=2026-13-01", "until=5w"],
)
def test_what_cannot_be_read_is_named(condition: str) -> None:
    with pytest.raises(UsageError, match=f"^--where={condition}: give"):
        parse_conditions(["code=TOO_OLD", condition], NOW)
