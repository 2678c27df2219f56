"""What the next commit adds and drops, by offsets."""

from __future__ import annotations

from datetime import timedelta

import pytest
from output_trees import NOON

from beam_pipeline.covered_offsets import CoveredOffsets
from beam_pipeline.offset_sets import TopicPartition
from beam_pipeline.tables.plan import HeldFiles, LandedFile, StraddledListingError, plan


def landed(name: str, *offsets: int, minute: int = 0) -> LandedFile:
    covered = CoveredOffsets()
    for offset in offsets:
        covered.add_range("orders", 0, offset, offset)
    start = NOON + timedelta(minutes=minute)
    window = start, start + timedelta(minutes=1)
    return LandedFile(name, name, "e1", covered, window, len(offsets))


def held(*files: LandedFile) -> HeldFiles:
    result = HeldFiles()
    for file in files:
        result.add(file.uri, file.held)
    return result


def offsets(covered: CoveredOffsets) -> list[int]:
    return sorted(covered.of(TopicPartition("orders", 0)))


def names(files: list[LandedFile]) -> list[str]:
    return [file.uri for file in files]


def test_what_is_not_in_the_table_is_added_the_oldest_windows_first() -> None:
    a, b, c = landed("a", 1, minute=2), landed("b", 2, minute=1), landed("c", 3)
    result = plan([a, b, c], held(c), {}, 10)
    assert names(list(result.add)) == ["b", "a"]
    assert not result.drop
    assert result.waiting == 2


def test_a_commit_adds_so_many_files_at_most() -> None:
    files = [landed(f"f{minute}", minute, minute=minute) for minute in range(5)]
    result = plan(files, held(), {}, 3)
    assert names(list(result.add)) == ["f0", "f1", "f2"]
    assert result.waiting == 5


def test_a_file_that_was_compacted_of_committed_ones_is_in_the_table() -> None:
    assert plan([landed("m", 1, 2)], held(landed("a", 1), landed("b", 2)), {}, 10).is_empty


def test_a_file_whose_source_was_removed_stays_in_the_table() -> None:
    assert plan([], held(landed("a", 1)), {}, 10).is_empty


def test_a_file_with_committed_and_new_records_replaces_the_committed_one() -> None:
    result = plan([landed("m", 1, 2)], held(landed("a", 1)), {}, 10)
    assert (names(list(result.add)), result.drop) == (["m"], ["a"])


def test_what_a_replaced_file_has_besides_is_added_too() -> None:
    """The table was compacted to t, then the directory to m."""
    result = plan([landed("m", 1, 2), landed("x", 3)], held(landed("t", 1, 3)), {}, 10)
    assert (sorted(names(list(result.add))), result.drop) == (["m", "x"], ["t"])


def test_a_listing_with_files_from_before_and_after_a_compaction_is_refused() -> None:
    with pytest.raises(StraddledListingError, match="same offset"):
        plan([landed("a", 1), landed("m", 1, 2)], held(), {}, 10)


def test_a_file_with_records_that_only_the_table_has_is_cut_to_them() -> None:
    """The table was compacted to t, the file with 3 removed, and the directory compacted to m."""
    result = plan([landed("m", 1, 2)], held(landed("t", 1, 3)), {}, 10)
    assert (names(list(result.add)), result.drop) == (["m"], [])
    assert offsets(result.cut["t"]) == [3]


def test_a_stray_is_dropped_in_the_commit_that_adds_its_records_again() -> None:
    stray = landed("stray", 1, 2)
    result = plan([landed("b", 1)], held(stray), {"stray": stray.covered}, 10)
    assert (names(list(result.add)), result.drop) == (["b"], ["stray"])


def test_a_file_with_a_strays_records_and_others_is_cut_to_the_others() -> None:
    """The table was compacted to t before its epoch was over."""
    again = landed("stray", 1, 2).covered
    result = plan([landed("b", 1)], held(landed("t", 1, 2, 3)), {"t": again}, 10)
    assert (names(list(result.add)), result.drop) == (["b"], [])
    assert offsets(result.cut["t"]) == [3]


def test_a_stray_stays_until_its_records_have_landed_again() -> None:
    """Readers of the table never miss them meanwhile."""
    stray = landed("stray", 1, 2)
    result = plan([landed("b", 3)], held(stray), {"stray": stray.covered}, 10)
    assert (names(list(result.add)), result.drop) == (["b"], [])


def test_a_stray_that_is_an_object_of_the_output_is_dropped_at_once() -> None:
    """The run removes the object."""
    stray = landed("stray", 1, 2)
    result = plan([], held(stray), {"stray": stray.covered}, 10, in_place=True)
    assert (result.add, result.drop) == ([], ["stray"])
