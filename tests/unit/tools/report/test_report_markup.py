"""No text becomes markup, and none hides what it is."""

from __future__ import annotations

import unicodedata
from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from beam_pipeline.terminal import printable
from beam_pipeline.tools.report.markup import document, foreign, prose, tag


class Reader(HTMLParser):
    def __init__(self, markup: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(markup.decode("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_the_frame() -> None:
    found = Reader(document("A title", "b{}", tag("body", "text")))
    metas = [attributes for name, attributes in found.tags if name == "meta"]
    assert {"charset": "utf-8"} in metas
    assert {
        "http-equiv": "Content-Security-Policy",
        "content": "default-src 'none'; style-src 'unsafe-inline'; img-src data:",
    } in metas
    assert "b{}" in found.texts


anything = st.text(st.characters(exclude_categories=[]), max_size=60)


@given(anything, anything, anything)
def test_any_text_stays_text(text: str, title: str, attribute: str) -> None:
    body = tag("body", foreign(text, 10_000), text, data_x=attribute)
    markup = document(title, "", body)
    found = Reader(markup)
    assert [name for name, _ in found.tags] == [
        *("html", "head", "meta", "meta", "meta", "meta", "meta", "title", "link", "style"),
        *("body", "bdi"),
    ]
    # HTML readers take a carriage return for a line's end; there is none left.
    assert "".join(found.texts).endswith(printable(text) * 2)
    assert dict(found.tags)["body"] == {"data-x": printable(attribute)}
    shown = markup.decode("utf-8").removeprefix("<!doctype html>\n")
    assert not any(unicodedata.category(character)[0] == "C" for character in shown)


def test_children_and_attributes() -> None:
    element = tag("p", "a", tag("b", "c"), None, "d", class_="x", aria_label="y", hidden=None)
    assert element.attrib == {"class": "x", "aria-label": "y"}
    assert (element.text, element[0].text, element[0].tail) == ("a", "c", "d")


def test_commands_in_a_sentence_are_marked() -> None:
    pieces = prose("give --input_topics, then beam-pipeline dlq show has them")
    marked = [piece.text for piece in pieces if not isinstance(piece, str)]
    assert marked == ["--input_topics", "beam-pipeline dlq show"]
