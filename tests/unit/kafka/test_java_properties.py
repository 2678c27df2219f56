"""Java properties files: written and read back, and the corners of the format."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_pipeline.kafka.properties import format_properties, parse_properties

any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@given(st.dictionaries(any_text, any_text, max_size=6))
def test_what_is_written_is_read_back(properties: dict[str, str]) -> None:
    text = format_properties(properties)
    assert text.isascii()
    assert parse_properties(text) == properties


def test_written_form() -> None:
    assert format_properties({"a b": "C:\\x=1", "k": "\u00e9\U0001f600"}) == (
        "a\\ b=C\\:\\\\x\\=1\nk=\\u00e9\\ud83d\\ude00\n"
    )


def test_properties_format() -> None:
    text = (
        "# a comment\r\n"
        "  ! another = comment\n"
        "\n"
        "plain=value\n"
        "colon : spaced\n"
        "blank only\n"
        "empty\n"
        "joined = one, \\\n"
        "    two \\\\\n"
        "key\\ with\\=signs = \\u00e9\\t|\n"
        "trailing=kept  \n"
        "url=host:1=2"
    )
    assert parse_properties(text) == {
        "plain": "value",
        "colon": "spaced",
        "blank": "only",
        "empty": "",
        "joined": "one, two \\",
        "key with=signs": "\u00e9\t|",
        "trailing": "kept  ",
        "url": "host:1=2",
    }


@pytest.mark.parametrize("escape", ["\\u", "\\u12", "\\u12g4"])
def test_a_broken_escape_is_refused_without_its_text(escape: str) -> None:
    with pytest.raises(ValueError, match="four hexadecimal digits") as caught:
        parse_properties(f"password=secret{escape}\n")
    assert "secret" not in str(caught.value)
