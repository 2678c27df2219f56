"""Patterns as tables: what a table accepts is what the library that decides matches."""

from __future__ import annotations

import re

import jsonschema_rs
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from beam_pipeline.compiled.patterns import PatternNotCompiledError, compile_pattern

CHARACTERS = "aAbz09.-_ /:\n"
ITEMS = st.sampled_from(
    [
        "a",
        "A",
        "[a-b]",
        "[A-Za-z]",
        "[0-9]",
        "[-a]",
        "[a-]",
        "[.]",
        r"\.",
        r"\-",
        "_",
        "-",
        " ",
        ":",
    ]
)
COUNTS = st.sampled_from(["", "", "?", "*", "+", "{2}", "{0,2}", "{1,3}", "{0}", "{1,}", "{12}"])
PATTERNS = st.lists(st.tuples(ITEMS, COUNTS).map("".join), max_size=5).flatmap(
    lambda parts: st.sampled_from([f"^{''.join(parts)}$", f"^{''.join(parts)}(?!\\n)$"])
)


def accepts(table: bytes, text: str) -> bool:
    state = 1
    for byte in text.encode():
        state = table[state * 256 + byte]
    return table[state * 256 + 255] == 1


@settings(max_examples=300)
@given(PATTERNS, st.data())
def test_a_table_accepts_what_the_pattern_matches(pattern: str, data: st.DataObject) -> None:
    try:
        table = compile_pattern(pattern)
    except PatternNotCompiledError:  # too many states, such as ^[a-b]*a[a-b]{12}$
        reject()
    plain = re.compile(pattern.replace("(?!\\n)", "").replace("$", r"\Z"), re.ASCII)
    text = data.draw(st.from_regex(plain) | st.text(CHARACTERS, max_size=8))
    is_accepted = accepts(table, text)
    assert is_accepted == bool(plain.match(text))
    # jsonschema-rs 0.61 also takes "-" for ^-+a?-+$, so that only this direction holds.
    if is_accepted:
        assert jsonschema_rs.Draft202012Validator({"pattern": pattern}).is_valid(text)


@pytest.mark.parametrize(
    "pattern",
    [
        *(
            "a",
            "^a",
            "a$",
            "^a|b$",
            "^(a)$",
            "^.$",
            "^[^a]$",
            r"^\d$",
            r"^\w$",
            r"^\n$",
            "^a{2,1}$",
        ),
        *("^[a--b]$", "^[a-Z]$", "^[a&&b-z-9]$", "^é$", "^[é]$", "^a{101}$", "^a{1234}$", "^a**$"),
        *("^[a-z]{0,50}a[a-z]{0,50}a[a-z]{0,50}$", "^a$b$", "^^a$", "^[]$", "^(?i)a$", "^a{,2}$"),
    ],
)
def test_what_is_not_plain_is_not_compiled(pattern: str) -> None:
    with pytest.raises(PatternNotCompiledError):
        compile_pattern(pattern)
