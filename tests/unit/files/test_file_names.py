"""A file's name says what it holds, and can be read back."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_pipeline.files.names import OutputFile

ORDERS = OutputFile(
    topic="orders",
    window_start=datetime(2026, 11, 23, 20, 28, 30, tzinfo=timezone.utc),
    window_end=datetime(2026, 11, 23, 20, 28, 40, tzinfo=timezone.utc),
    shard=0,
    epoch="20261124T133350Zx3f9a",
    pane=0,
    suffix=".parquet",
)

TOPIC_CHARACTERS = st.sampled_from(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"
)
TOPICS = st.text(TOPIC_CHARACTERS, min_size=1, max_size=140).filter(
    lambda topic: topic not in (".", "..")
)
INSTANTS = st.datetimes(
    max_value=datetime(9998, 1, 1), timezones=st.sampled_from([timezone.utc])
).map(lambda instant: instant.replace(microsecond=0))


@st.composite
def output_files(draw: st.DrawFn, topics: st.SearchStrategy[str] = TOPICS) -> OutputFile:
    start = draw(INSTANTS)
    return OutputFile(
        topic=draw(topics),
        window_start=start,
        window_end=start + timedelta(seconds=draw(st.integers(1, 86_400 * 40))),
        shard=draw(st.integers(0, 10_000)),
        epoch=draw(st.from_regex(r"[A-Za-z0-9]{1,30}", fullmatch=True)),
        pane=draw(st.integers(0, 10_000_000)),
        suffix=draw(st.sampled_from([".parquet", ".jsonl"])),
    )


def test_path_is_as_designed() -> None:
    assert str(ORDERS.relative_path()) == (
        "dt=2026-11-23/hour=20/"
        "orders-20261123T202830Z-20261123T202840Z-s0-e20261124T133350Zx3f9a-p0.parquet"
    )


@given(output_files())
def test_parse_reads_back_what_relative_path_wrote(file: OutputFile) -> None:
    assert OutputFile.parse(file.relative_path()) == file
    assert OutputFile.parse(f"/somewhere/else/{file.name}") == file


@given(output_files(), output_files())
def test_two_files_never_share_a_path(one: OutputFile, other: OutputFile) -> None:
    assert (one == other) == (one.relative_path() == other.relative_path())


@given(output_files())
def test_a_topic_may_look_like_a_file_name(inner: OutputFile) -> None:
    if len(inner.name) > 140 or inner.name.startswith("@"):
        return
    outer = replace(ORDERS, topic=inner.name)
    assert OutputFile.parse(outer.relative_path()) == outer


@given(output_files(st.builds("{}{}".format, st.sampled_from("._"), TOPICS)))
def test_no_file_is_hidden_from_readers(file: OutputFile) -> None:
    if file.topic == "..":
        return
    assert not file.name.startswith(("_", "."))
    assert OutputFile.parse(file.relative_path()) == file


@given(output_files())
def test_paths_need_no_quotes_in_a_shell(file: OutputFile) -> None:
    assert not set(str(file.relative_path())) & set(" []{}()*?'\"\\$&|;<>~!#`%\n")


def test_a_time_zone_is_turned_into_utc() -> None:
    plus_two = timezone(timedelta(hours=2))
    local = replace(
        ORDERS,
        window_start=ORDERS.window_start.astimezone(plus_two),
        window_end=ORDERS.window_end.astimezone(plus_two),
    )
    assert local.relative_path() == ORDERS.relative_path()


@pytest.mark.parametrize(
    "name",
    [
        "",
        "orders.parquet",
        "_SUCCESS",
        "orders-20261123T202830Z-20261123T202840Z-s0-e1-p0",
        "-20261123T202830Z-20261123T202840Z-s0-e1-p0.parquet",
        "orders-20261323T202830Z-20261323T202840Z-s0-e1-p0.parquet",
        "orders-20261123T202840Z-20261123T202830Z-s0-e1-p0.parquet",
        "orders-20261123T202830Z-20261123T202840Z-s0-e1-2-p0.parquet",
        "orders-20261123T202830Z-20261123T202840Z-s00-e1-p0.parquet",
        "@orders-20261123T202830Z-20261123T202840Z-s0-e1-p0.parquet",
        "orders-20261123T202830Z-20261123T202840Z-s0-e1-p0.parquet\n",
        "or ders-20261123T202830Z-20261123T202840Z-s0-e1-p0.parquet",
    ],
)
def test_parse_refuses_what_no_pipeline_wrote(name: str) -> None:
    assert OutputFile.parse(name) is None


@pytest.mark.parametrize(
    "field",
    [
        {"topic": ""},
        {"topic": ".."},
        {"topic": "a/b"},
        {"topic": "a" * 249},
        {"window_start": datetime(2026, 1, 1)},
        {"window_start": datetime(2026, 1, 1, microsecond=1, tzinfo=timezone.utc)},
        {"window_end": ORDERS.window_start},
        {"shard": -1},
        {"pane": -1},
        {"epoch": "2026-11-24"},
        {"suffix": "parquet"},
    ],
    ids=str,
)
def test_a_field_that_makes_no_name_is_refused(field: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"topic|window|shard|epoch|suffix"):
        replace(ORDERS, **field)  # type: ignore[arg-type]
