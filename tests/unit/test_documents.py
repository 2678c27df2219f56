"""The documents for users: short at the door, and nothing that leads nowhere."""

from __future__ import annotations

import contextlib
import re
import shlex
from pathlib import Path

import pytest

from beam_pipeline.cli import command_parsers, command_words
from beam_pipeline.resources import project_root
from beam_pipeline.settings.parser import refuse_unknown_flags
from beam_pipeline.settings.sources import Sources, command_of, variable_of

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


def commands() -> list[str]:
    """Each command of this project in the shell blocks of the pages, on one line."""
    found = []
    for page in pages():
        for block in re.findall(
            r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S
        ):
            for line in block.replace("\\\n", " ").splitlines():
                if line.startswith("./run_") and not line.startswith("./run_tests.sh"):
                    found.append(" ".join(line.split()))
    return sorted(set(found))


@pytest.mark.parametrize("line", commands())
def test_the_command_line_takes_what_the_pages_show(line: str) -> None:
    script, *words = shlex.split(re.split(r" [|>]|  #| # ", line)[0])
    engine = "flink" if script == "./run_flink.sh" else "prism"
    if "--" in words:
        words = words[: words.index("--")]
    command, *rest = command_words(words, Sources({variable_of("engine"): engine}))
    if command == "--help":
        return
    parser = command_parsers()[command]
    refuse_unknown_flags(command_of(parser, rest)[1], rest)
    if "--config" in line:  # the file gives what is required
        for action in parser._actions:
            action.required = False
    with contextlib.suppress(SystemExit):  # --help
        parser.parse_args(rest)
