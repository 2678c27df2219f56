"""The demo sends something, however short it is."""

from __future__ import annotations

import pytest

from beam_pipeline.cli import command_parsers
from beam_pipeline.commands.demo import demo_settings
from beam_pipeline.errors import UsageError


@pytest.mark.parametrize(
    ("flags", "events"),
    [([], 300), (["--demo_seconds=0.05"], 1), (["--demo_seconds=2", "--events_per_second=0.4"], 1)],
)
def test_a_demo_sends_at_least_one_event(flags: list[str], events: int) -> None:
    assert demo_settings(command_parsers()["demo"].parse_args(flags)).events == events


@pytest.mark.parametrize(
    "flag",
    ["--demo_seconds=0", "--events_per_second=inf", "--invalid_ratio=1.1", "--late_ratio=-1"],
)
def test_a_value_out_of_range_is_named(flag: str) -> None:
    with pytest.raises(UsageError, match=flag.split("=")[0]):
        demo_settings(command_parsers()["demo"].parse_args([flag]))
