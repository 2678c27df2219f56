"""What is left out on purpose, and what then counts as passed."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroaring import BitMap64

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.files.ledger import Ledger
from beam_pipeline.files.left_out import NOTE, LeftOutNote, LeftOutRange, load_left_out
from beam_pipeline.offset_sets import TopicPartition

KEYS = [TopicPartition("orders", 0), TopicPartition("orders", 1), TopicPartition("clicks", 0)]
OFFSETS = st.sets(st.integers(0, 40))
SPANS = st.lists(
    st.builds(
        LeftOutRange,
        st.sampled_from(KEYS),
        st.integers(0, 40),
        st.integers(0, 40) | st.none(),
        st.sampled_from(["--start=latest", "--end=2026-11-24T15:00Z"]),
        st.none() | st.integers(0, 10),
    ).map(lambda span: span if span.end is None else span._replace(end=span.first + span.end)),
    max_size=5,
)


def before_start(note: LeftOutNote, key: TopicPartition) -> set[int]:
    return set(note.offsets().of(key))


@given(SPANS, st.dictionaries(st.sampled_from(KEYS), OFFSETS))
def test_what_was_landed_is_left_out_no_more(
    spans: list[LeftOutRange], landed: dict[TopicPartition, set[int]]
) -> None:
    note = LeftOutNote(tuple(spans), frozenset(["orders"]))
    less = note.without({key: BitMap64(offsets) for key, offsets in landed.items()})
    for key in KEYS:
        assert before_start(less, key) == before_start(note, key) - landed.get(key, set())
    assert [span for span in less.ranges if span.end is None] == [
        span for span in spans if span.end is None
    ]
    assert less.topics == note.topics
    assert LeftOutNote.from_json(less.to_json()).offsets().to_json() == less.offsets().to_json()


@given(SPANS, SPANS)
def test_a_run_takes_back_the_ends_of_its_topics_and_no_others(
    spans: list[LeftOutRange], more: list[LeftOutRange]
) -> None:
    note = LeftOutNote(tuple(spans))
    ends = [span for span in more if span.end is None and span.key.topic == "orders"]
    after = note.with_end(["orders"], ends)
    without_end = [span for span in after.ranges if span.end is None]
    assert [span for span in without_end if span.key.topic == "orders"] == ends
    kept = [span for span in spans if span.end is not None or span.key.topic == "clicks"]
    assert list(after.ranges[: len(kept)]) == kept


@given(OFFSETS, OFFSETS, st.integers(0, 45), st.integers(0, 45))
def test_a_ledger_passes_what_is_covered_or_left_out(
    covered: set[int], left_out: set[int], start: int, end: int
) -> None:
    key, ledger = KEYS[0], Ledger(Path("output"), Path("dead"))
    ledger.covered.add(*key, BitMap64(covered))
    ledger.left_out.add(*key, BitMap64(left_out))
    uncovered = set(range(start, end)) - covered - left_out
    assert set(ledger.uncovered(key, start, end)) == uncovered
    assert ledger.missing(key, start, end) == len(uncovered)
    passed = start
    while passed in covered | left_out:
        passed += 1
    assert ledger.passed_to(key, start) == passed


def test_a_note_is_replaced_by_the_run_that_read_it_alone(tmp_path: Path) -> None:
    first = load_left_out(tmp_path)
    assert first.note == LeftOutNote()
    note = LeftOutNote((LeftOutRange(KEYS[0], 0, 5, "--start=latest", 7),), frozenset(["orders"]))
    second = first.replaced_by(note, tmp_path)
    assert load_left_out(tmp_path) == second
    second.replaced_by(LeftOutNote(), tmp_path)
    with pytest.raises(EnvironmentFailure, match="was replaced by another run"):
        second.replaced_by(
            note.with_end(["orders"], [LeftOutRange(KEYS[0], 9, None, "x")]), tmp_path
        )


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"version": 2}', b'{"version": 1}'])
def test_a_note_that_cannot_be_read_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / NOTE
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(EnvironmentFailure, match=r"left_out\.json can't be read"):
        load_left_out(tmp_path)
