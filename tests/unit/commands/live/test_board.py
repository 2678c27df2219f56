"""The live view fits its terminal, keeps everything in its place, and shows nothing made up."""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from beam_pipeline.commands.live.board import (
    Board,
    Figure,
    FileLine,
    PartitionLine,
    age_text,
    board_text,
    clock_text,
    count_text,
    rate_text,
)

NOW = datetime(2026, 11, 24, 21, 4, 40, tzinfo=timezone.utc)
CODES = ("IN_THE_FUTURE", "MALFORMED_JSON", "NOT_UTF8", "SCHEMA_VIOLATION", "TOO_OLD")


def board(partitions: int = 4, files: int = 10) -> Board:
    return Board(
        title="orders",
        state="running",
        elapsed_seconds=163,
        restarts=0,
        figures=[Figure("read", 5_443, 38.2), Figure("valid", 4_994, 34.5), Figure("files", 65)],
        partitions=[
            PartitionLine(str(number), 1_405, 1_536, 131, 9.8, NOW - timedelta(seconds=12))
            for number in range(partitions)
        ],
        dead=[(code, 10 + place) for place, code in enumerate(CODES)],
        files=[
            FileLine(
                "orders",
                NOW - timedelta(seconds=10 * place + 10),
                NOW - timedelta(seconds=10 * place),
                "rows",
                402,
                16_364,
            )
            for place in range(files)
        ],
        now=NOW,
    )


def lines(given: Board, width: int = 80, height: int = 23) -> list[str]:
    return board_text(given, width, height).plain.split("\n")


def test_what_a_common_terminal_shows() -> None:
    assert lines(board()) == [
        "orders                                              running  0:02:43  restarts 0",
        "      read     valid     files",
        "     5,443     4,994        65",
        "    38.2/s    34.5/s          ",
        "",
        "partition       position           end        lag        in   landed to    delay",
        "0                  1,405         1,536        131     9.8/s    21:04:28     12 s",
        "1                  1,405         1,536        131     9.8/s    21:04:28     12 s",
        "2                  1,405         1,536        131     9.8/s    21:04:28     12 s",
        "3                  1,405         1,536        131     9.8/s    21:04:28     12 s",
        "all                                           524    39.2/s                     ",
        "",
        "dead by reason                newest files, window in UTC                       ",
        "IN_THE_FUTURE            10   21:04:30 - 21:04:40           402 rows       16 kB",
        "MALFORMED_JSON           11   21:04:20 - 21:04:30           402 rows       16 kB",
        "NOT_UTF8                 12   21:04:10 - 21:04:20           402 rows       16 kB",
        "SCHEMA_VIOLATION         13   21:04:00 - 21:04:10           402 rows       16 kB",
        "TOO_OLD                  14   21:03:50 - 21:04:00           402 rows       16 kB",
        "                              21:03:40 - 21:03:50           402 rows       16 kB",
        "                              21:03:30 - 21:03:40           402 rows       16 kB",
        "                              21:03:20 - 21:03:30           402 rows       16 kB",
        "                              21:03:10 - 21:03:20           402 rows       16 kB",
        "                              21:03:00 - 21:03:10           402 rows       16 kB",
    ]


counts = st.integers(0, 10**14)
optional_times = st.none() | st.datetimes().map(lambda moment: moment.replace(tzinfo=timezone.utc))
partition_lines = st.builds(
    PartitionLine,
    name=st.text(max_size=300),
    position=st.integers(0, 10**10),
    end=st.none() | st.integers(0, 10**10),
    lag=st.none() | counts,
    rate=st.none() | st.floats(0, 1e9),
    landed_to=optional_times,
)
boards = st.builds(
    Board,
    title=st.text(max_size=300),
    state=st.sampled_from(["running", "starting", "waiting for the broker"]),
    elapsed_seconds=st.floats(0, 1e9),
    restarts=st.integers(0, 10**6),
    figures=st.lists(st.builds(Figure, st.sampled_from(["read", "remaining"]), counts), max_size=9),
    partitions=st.lists(partition_lines, max_size=60),
    dead=st.lists(st.tuples(st.text(max_size=30), counts), max_size=12),
    files=st.lists(
        st.builds(
            FileLine,
            topic=st.text(max_size=100),
            window_start=st.just(NOW),
            window_end=st.just(NOW),
            kind=st.sampled_from(["rows", "dead letters"]),
            rows=st.none() | counts,
            size_bytes=st.none() | counts,
        ),
        max_size=12,
    ),
    now=st.just(NOW),
)


@given(boards, st.integers(10, 200), st.integers(5, 60))
def test_it_fits_any_terminal_and_holds_nothing_unsafe(
    given_board: Board, width: int, height: int
) -> None:
    shown = lines(given_board, width, height)
    assert len(shown) <= height
    assert max(map(cell_len, shown)) <= width
    assert not any(unicodedata.category(character)[0] == "C" for character in "".join(shown))


def test_nothing_moves_while_numbers_grow() -> None:
    def places(given_board: Board) -> list[int]:
        shown = lines(given_board)
        heads = ("partition", "dead by reason", "newest files", "all")
        return [next(i for i, line in enumerate(shown) if head in line) for head in heads]

    full = board()
    empty = replace(full, dead=[], files=[])
    large = replace(
        full,
        partitions=[replace(one, position=10**9, end=10**9, lag=10**8) for one in full.partitions],
    )
    assert places(empty) == places(full) == places(large)
    assert len(lines(empty)) == len(lines(full))


def test_what_is_not_known_is_left_blank() -> None:
    unknown = replace(board(), partitions=[PartitionLine("0", 7), PartitionLine("1", 8, 9, 1)])
    first, total = lines(unknown)[6], lines(unknown)[8]
    assert first.split() == ["0", "7"]
    assert total.split() == ["all"]


def test_many_partitions_leave_room_for_the_rest() -> None:
    shown = lines(board(partitions=100))
    assert len(shown) == 23
    assert any(line.startswith("all 100 ") for line in shown)
    assert "13,100" in next(line for line in shown if line.startswith("all 100"))
    assert "newest files" in shown[-4]


def test_the_commonest_reasons_are_shown_in_a_fixed_order() -> None:
    dead = [("A", 5), ("B", 900), ("C", 1), ("D", 70), ("E", 2)]
    shown = lines(replace(board(partitions=100), dead=dead))
    reasons = [tuple(line[:30].split()) for line in shown[-3:]]
    assert reasons == [("B", "900"), ("D", "70"), ("others", "8")]


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (count_text(9_999_999), "9,999,999"),
        (count_text(12_345_678), "12.3M"),
        (count_text(9_999_999_999), "10,000.0M"),
        (count_text(123_456_789_012), "123.5G"),
        (rate_text(0), "0.0/s"),
        (rate_text(99.94), "99.9/s"),
        (rate_text(52_000), "52,000/s"),
        (age_text(-3), "0 s"),
        (age_text(119), "119 s"),
        (age_text(7_200), "2 h"),
        (age_text(10**9), "9999 d"),
        (clock_text(93_784), "26:03:04"),
    ],
)
def test_numbers_are_short(shown: str, text: str) -> None:
    assert shown == text


def test_other_days_are_named() -> None:
    yesterday, long_ago = NOW - timedelta(days=1), NOW - timedelta(days=400)
    full = board(partitions=2)
    first, second = full.partitions
    shown = lines(
        replace(
            full,
            partitions=[replace(first, landed_to=yesterday), replace(second, landed_to=long_ago)],
            files=[
                replace(full.files[0], window_start=yesterday, rows=1),
                replace(full.files[0], rows=None, kind="dead letters"),
            ],
        )
    )
    assert shown[6].endswith(" 11-23 21:04     24 h")
    assert shown[7].endswith("  2025-10-20    400 d")
    newest = [line[30:].split() for line in shown[-10:]]
    assert newest[0] == ["from", "11-23", "21:04", "1", "row", "16", "kB"]
    assert newest[1] == ["21:04:30", "-", "21:04:40", "dead", "letters", "16", "kB"]
