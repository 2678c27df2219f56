"""Text from events can't do anything to a terminal."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_pipeline.terminal import printable, printable_json


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, ünïcödé, 日本", "plain, ünïcödé, 日本"),
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        ("line\r\nline\t\0", "line\\r\\nline\\t\\x00"),
        ("\x9b31m", "\\x9b31m"),
        ("abc\u202edef\u2028", "abc\\u202edef\\u2028"),
        ("\ud800", "\\ud800"),
    ],
)
def test_what_is_shown(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text(st.characters()), st.one_of(st.none(), st.integers(1, 20)))
def test_nothing_unsafe_is_left_and_the_length_holds(text: str, max_length: int | None) -> None:
    shown = printable(text, max_length)
    assert not any(unicodedata.category(character).startswith("C") for character in shown)
    assert max_length is None or len(shown) <= max_length
    shown.encode("utf-8")


def test_a_cut_is_marked() -> None:
    assert printable("abcdef", 6) == "abcdef"
    assert printable("abcdefg", 6) == "abcde…"


@given(st.recursive(st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_json_says_the_same_without_harm(value: object) -> None:
    for text in (json.dumps(value, ensure_ascii=False, indent=2), json.dumps(value)):
        shown = printable_json(text)
        assert json.loads(shown) == value
        assert printable(shown.replace("\n", "")) == shown.replace("\n", "")
