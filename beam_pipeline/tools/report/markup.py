"""HTML as a tree of elements, so that no text can become markup.

The standard library's ElementTree escapes all text, which passes `printable` first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from xml.etree import ElementTree

from beam_pipeline.terminal import printable

Element = ElementTree.Element

_COMMAND = re.compile(r"(--[a-z_]+|beam-pipeline (?:dlq )?[a-z]+)")

# No scripts and no network, even if the escaping failed.
CONTENT_SECURITY_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def tag(name: str, /, *children: Element | str | None, **attributes: object) -> Element:
    """Return an element with children, which may be texts; None is left out.

    In names of attributes, a trailing underscore is dropped and others become dashes: `class_`,
    `aria_label`. An attribute with the value None is left out.
    """
    element = Element(name)
    for key, value in attributes.items():
        if value is not None:
            element.set(key.rstrip("_").replace("_", "-"), str(value))
    extend(element, children)
    return element


def extend(element: Element, children: Iterable[Element | str | None]) -> Element:
    """Append children to an element."""
    for child in children:
        if child is None:
            continue
        if not isinstance(child, str):
            element.append(child)
        elif len(element):
            element[-1].tail = (element[-1].tail or "") + child
        else:
            element.text = (element.text or "") + child
    return element


def foreign(text: str, max_length: int = 120) -> Element:
    """Return text from events or file names: cut, and isolated from the text's direction."""
    return tag("bdi", printable(text, max_length), class_="foreign")


def prose(text: str) -> list[Element | str]:
    """Return a sentence with its flags and commands as code."""
    return [
        tag("code", piece) if place % 2 else piece
        for place, piece in enumerate(_COMMAND.split(text))
    ]


def document(title: str, style: str, body: Element) -> bytes:
    """Return the whole file. Only `style`, which must be trusted, is not escaped."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=CONTENT_SECURITY_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="robots", content="noindex"),
        tag("title", title),
        tag("link", rel="icon", href="data:,"),
    )
    root = tag("html", head, body, lang="en")
    for element in root.iter():
        element.text = element.text and _harmless(element.text)
        element.tail = element.tail and _harmless(element.tail)
        for key, value in element.items():
            element.set(key, _harmless(value))
    head.append(tag("style", style))
    markup: bytes = ElementTree.tostring(root, encoding="utf-8", method="html")
    return b"<!doctype html>\n" + markup


def _harmless(text: str) -> str:
    return text if text.isascii() and text.isprintable() else printable(text)
