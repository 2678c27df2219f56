"""The curves' plan, their results file, the numbers in their plots, and events of a given size."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from beam_pipeline import resources
from beam_pipeline.errors import UsageError
from beam_pipeline.schemas import Judge, load_contract
from bench.curves import (
    Setting,
    check_appendable,
    merged,
    parse_flags,
    plan,
    point_json,
    read_results,
)
from bench.landing import Filling, Run
from bench.lineup import Workload
from bench.panels import Line, Panel, axis_of, caption_of, panels_of, short
from bench.sized_events import READING_SCHEMA, SMALLEST_READING_BYTES, sized_events

NOW_MS = 1_795_465_714_512
MACHINE = {
    "cpu": "A processor",
    "cpus": 2,
    "memory_gb": 25.3,
    "platform": "Linux",
    "python": "3.11.7",
    "apache_beam": "2.73.0",
}
BENCH = {
    "machine": MACHINE,
    "window_seconds": 10,
    "seed": 1,
    "titles": {"prism": "ours on Prism", "loop": "hand-written loop"},
}

Document = dict[str, Any]


def run(events_per_second: float, *, streams: bool = True) -> Run:
    return Run(
        events_per_second=events_per_second,
        streaming_events_per_second=2 * events_per_second if streams else None,
        seconds_to_first_read=1.0 if streams else None,
        peak_rss_mb=500.0,
        cpu_seconds_per_million=60.0,
        output_bytes=1,
    )


def point(
    setting: Setting,
    *,
    event_bytes: int = 500,
    rates: dict[str, list[float]] | None = None,
    schema: Path | None = None,
    streams: bool = True,
) -> Document:
    workload = Workload("host:1", "bench", {0: setting.events}, 10, schema)
    runs = {
        name: [run(rate, streams=streams) for rate in its_rates]
        for name, its_rates in (rates or {"prism": [10.0], "loop": [40.0]}).items()
    }
    filling = Filling(workload, event_bytes * setting.events, broken=0)
    return point_json(setting, filling, runs, "abc1234")


def series(*points: Document) -> Document:
    return {"bench": BENCH, "points": list(points)}


def panel(panels: list[Panel], title: str) -> Panel:
    (found,) = [one for one in panels if one.title == title]
    return found


# --- flags and plan


def test_lists_are_read_and_each_series_varies_its_own() -> None:
    words = ["--events_per_point=1000", "--partitions=1,2", "--events=10_000, 500", "--sizes=200,"]
    args = parse_flags([*words, "--invalid_ratios=0,0.5"])
    assert plan(args) == {
        "partitions": [Setting(1000, partitions=1), Setting(1000, partitions=2)],
        "events": [Setting(10_000), Setting(500)],
        "size": [Setting(1000, invalid_ratio=0.0, event_size=200)],
        "invalid": [Setting(1000, invalid_ratio=0.0), Setting(1000, invalid_ratio=0.5)],
    }


def test_large_events_are_fewer() -> None:
    args = parse_flags(["--only=size", "--sizes=default,10000", "--megabytes_per_point=50"])
    assert plan(args) == {
        "size": [
            Setting(1_000_000, invalid_ratio=0.0),
            Setting(5_000, invalid_ratio=0.0, event_size=10_000),
        ]
    }


def test_the_defaults_are_the_four_series() -> None:
    settings = plan(parse_flags([]))
    assert [one.partitions for one in settings["partitions"]] == [1, 2, 4, 8]
    assert [one.events for one in settings["events"]] == [10**5, 3 * 10**5, 10**6, 3 * 10**6, 10**7]
    assert [one.event_size for one in settings["size"]] == [200, 300, None, 2000, 10_000]
    assert [one.invalid_ratio for one in settings["invalid"]] == [0, 0.01, 0.1, 0.25, 0.5]


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        ("--only=partition", "no series 'partition'"),
        ("--only=", "give at least one"),
        ("--events=10,0", "'0' is no whole number from 1 on"),
        ("--events=1e6", "'1e6' is no whole number from 1 on"),
        ("--sizes=20", f"an event has {SMALLEST_READING_BYTES} bytes at least"),
        ("--invalid_ratios=50", "'50' is no share from 0 to 1"),
        ("--invalid_ratios=nan", "'nan' is no share from 0 to 1"),
        ("--repeats=-1", "'-1' is no whole number from 1 on"),
    ],
)
def test_a_wrong_flag_is_told(flag: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_flags([flag])
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


# --- results


def test_a_new_point_takes_the_place_of_the_one_with_its_settings() -> None:
    old = [point(Setting(1000)), point(Setting(9000))]
    new = [point(Setting(3000)), point(Setting(1000), rates={"prism": [99.0]})]
    points = merged(old, new, "events")
    assert [one["events"] for one in points] == [1000, 3000, 9000]
    assert points[0]["contenders"]["prism"]["events_per_second"]["median"] == 99.0


def test_spreads_are_those_of_the_runs() -> None:
    figures = point(Setting(10), rates={"prism": [3.0, 1.0, 2.0]}, streams=False)["contenders"]
    assert figures["prism"]["runs"] == 3
    assert figures["prism"]["events_per_second"] == {"median": 2.0, "least": 1.0, "most": 3.0}
    assert figures["prism"]["streaming_events_per_second"] is None


@pytest.mark.parametrize(
    ("bench", "new", "told"),
    [
        ({**BENCH, "window_seconds": 60}, Setting(5), "has window_seconds 10, not 60"),
        (BENCH, Setting(5, partitions=8), "has partitions 4, not 8"),
        (BENCH, Setting(5, invalid_ratio=0.5), "has invalid_ratio 0.01, not 0.5"),
    ],
)
def test_a_point_of_another_curve_is_not_appended(bench: Document, new: Setting, told: str) -> None:
    former = series(point(Setting(1000)))
    with pytest.raises(UsageError, match=told):
        check_appendable("events", former, bench, point(new))


def test_a_point_of_the_same_curve_is_appended() -> None:
    check_appendable("events", series(point(Setting(1000))), BENCH, point(Setting(5)))
    sized = Setting(10, event_size=200)
    check_appendable(
        "size", series(point(Setting(1000))), BENCH, point(sized, schema=READING_SCHEMA)
    )


def test_results_are_empty_without_a_file_and_refused_when_they_are_something_else(
    tmp_path: Path,
) -> None:
    path = tmp_path / "curves.json"
    assert read_results(path) == {"series": {}}
    for content in ("[1]", "{", '{"prism": 1}'):
        path.write_text(content)
        with pytest.raises(UsageError, match=r"--results=.*curves\.json"):
            read_results(path)
    document = {"series": {"events": series(point(Setting(1000)))}}
    path.write_text(json.dumps(document))
    assert read_results(path) == document


# --- what the plots show


@pytest.mark.parametrize("name", ["partitions", "events", "size", "invalid"])
def test_one_point_makes_a_plot(name: str) -> None:
    one = series(point(Setting(1000)))
    assert all(len(line.xs) == 1 for part in panels_of(name, one) for line in part.lines)
    axis = axis_of(name, one)
    assert axis.first == axis.last == axis.ticks[0][0]
    assert "2 CPUs (A processor), 25 GB of memory, Linux" in caption_of(name, one)


def test_a_line_has_the_medians_and_spreads_of_a_contender() -> None:
    points = [
        point(Setting(1000), rates={"prism": [10.0, 30.0, 20.0], "loop": [40.0]}),
        point(Setting(3000), rates={"prism": [30.0], "loop": [60.0]}),
    ]
    panels = panels_of("events", series(*points))
    lines = panel(panels, "Speed").lines
    assert lines[0] == Line("prism", [1000, 3000], [40.0, 60.0], [20.0, 60.0], [60.0, 60.0])
    assert [(line.contender, line.is_main) for line in lines] == [
        ("prism", True),
        ("loop", True),
        ("prism", False),
        ("loop", False),
    ]
    ratios = panel(panels, "Speed of ours over the peer's").lines
    assert ratios[0] == Line("loop", [1000, 3000], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5])


def test_without_a_peer_or_the_first_read_the_rest_is_shown() -> None:
    alone = series(point(Setting(1000), rates={"prism": [10.0]}, streams=False))
    panels = panels_of("events", alone)
    assert "Speed of ours over the peer's" not in [one.title for one in panels]
    assert [line.is_main for line in panels[0].lines] == [False]


def test_events_of_another_schema_are_a_line_of_their_own() -> None:
    points = [
        point(Setting(9, event_size=200), event_bytes=200, schema=READING_SCHEMA),
        point(Setting(9, event_size=300), event_bytes=300),
        point(Setting(9, event_size=2000), event_bytes=2000),
    ]
    sized = series(*points)
    panels = panels_of("size", sized)
    ours = [line for line in panel(panels, "Volume").lines if line.contender == "prism"]
    assert [(line.xs, line.is_main, line.is_other_schema) for line in ours] == [
        ([300, 2000], True, False),
        ([200], True, True),
        ([300, 2000], False, False),
        ([200], False, True),
    ]
    assert ours[0].medians == pytest.approx([20 * 300 / 1e6, 20 * 2000 / 1e6])
    by_volume = panel(panels, "CPU time by volume").lines[0]
    assert by_volume.medians == pytest.approx([200.0, 30.0])  # 60 s for 300 MB, for 2 GB
    assert "hollow: events of reading.schema.json" in caption_of("size", sized)


def test_ticks_are_points_that_stand_apart() -> None:
    shares = [point(Setting(9, invalid_ratio=share)) for share in (0.0, 0.01, 0.1, 0.5)]
    assert axis_of("invalid", series(*shares)).ticks == [(0.0, "0"), (10.0, "10"), (50.0, "50")]
    counts = [point(Setting(count)) for count in (1000, 1100, 300_000)]
    assert [label for _, label in axis_of("events", series(*counts)).ticks] == ["1,000", "300k"]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (0.25, "0.25"),
        (8, "8"),
        (497.8, "498"),
        (2000, "2,000"),
        (10_000, "10k"),
        (300_000, "300k"),
        (1_000_000, "1M"),
        (2_500_000, "2.5M"),
    ],
)
def test_numbers_are_short(number: float, text: str) -> None:
    assert short(number) == text


# --- events of a size


@pytest.mark.parametrize("size", [SMALLEST_READING_BYTES, 200, 299, 300, 301, 500, 10_000])
def test_events_have_their_size_and_are_valid(size: int) -> None:
    source, schema = sized_events(size, seed=3, clock_ms=lambda: NOW_MS)
    assert schema == (READING_SCHEMA if size < 300 else None)
    judge = Judge(load_contract(schema or resources.event_schema_path()).document, 10**6)
    records = list(islice(source, 500))
    for record in records:
        assert record.value is not None
        assert len(record.value) == size
        assert judge.judge(record.value)[1] is None
    again, _ = sized_events(size, seed=3, clock_ms=lambda: NOW_MS)
    assert list(islice(again, 500)) == records
