"""The documents for users: short at the door, and nothing that leads nowhere."""

from __future__ import annotations

import re
from pathlib import Path

from beam_pipeline.resources import project_root

_LINK = re.compile(r"\]\((?P<target>[^)#:\s]+)(?:#(?P<anchor>[^)\s]+))?\)")
_ANCHOR = re.compile(r"\]\(#(?P<anchor>[^)\s]+)\)")
_HEADING = re.compile(r"^#+ (?P<title>.+)$", re.MULTILINE)


def root() -> Path:
    top = project_root()
    assert top is not None
    return top


def pages() -> list[Path]:
    top = root()
    return [
        *top.glob("*.md"),
        *sorted((top / "docs").rglob("*.md")),
        top / "examples" / "README.md",
    ]


def text_of(page: Path) -> str:
    """The page without its code blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def anchors_of(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    titles = (match["title"] for match in _HEADING.finditer(text_of(page)))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def links_of(page: Path) -> list[tuple[Path, str | None]]:
    """(page or file, anchor) of each relative link."""
    text = text_of(page)
    links = [
        ((page.parent / match["target"]).resolve(), match["anchor"])
        for match in _LINK.finditer(text)
    ]
    return links + [(page, match["anchor"]) for match in _ANCHOR.finditer(text)]


def test_the_readme_is_a_door() -> None:
    assert len((root() / "README.md").read_text(encoding="utf-8").splitlines()) <= 180


def test_every_link_leads_somewhere() -> None:
    broken = [
        f"{page.relative_to(root())}: {target.name}#{anchor or ''}"
        for page in pages()
        for target, anchor in links_of(page)
        if not target.exists() or (anchor and anchor not in anchors_of(target))
    ]
    assert broken == []


def test_every_page_is_reached_from_the_readme() -> None:
    reached: set[Path] = set()
    ahead = [root() / "README.md"]
    while ahead:
        page = ahead.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        ahead += [target for target, _ in links_of(page)]
    assert set(pages()) - reached == set()
