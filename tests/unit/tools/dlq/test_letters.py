"""Dead letters are read, counted and shown as the files have them."""

from __future__ import annotations

import argparse
import base64
import io
from pathlib import Path
from typing import Any

import jsonschema
import orjson
import pytest
from output_trees import OutputTree, dead_letter
from rich.console import Console

from beam_pipeline.commands import dlq as dlq_command
from beam_pipeline.errors import EnvironmentFailure, UsageError
from beam_pipeline.resources import dead_letter_schema_path
from beam_pipeline.tools.dlq.letters import Letter, letter_files, read_letters
from beam_pipeline.tools.dlq.stats import count_letters, stats_text
from beam_pipeline.tools.dlq.text import letter_text


@pytest.fixture
def tree(tmp_path: Path) -> OutputTree:
    return OutputTree(tmp_path)


def shown(renderable: Any) -> str:
    console = Console(file=io.StringIO(), width=120, force_terminal=True, color_system=None)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def dlq(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    dlq_command.add_flags(parser)
    return dlq_command.run(parser.parse_args(arguments))


def test_the_letters_of_these_tests_keep_the_contract() -> None:
    contract = orjson.loads(dead_letter_schema_path().read_bytes())
    jsonschema.Draft202012Validator(contract).validate(
        dead_letter(key=None, value=b"\xff\0", headers=[("h", None), ("h", b"")], attempt=2)
    )


def test_bytes_come_back_unchanged(tree: OutputTree) -> None:
    every_byte = bytes(range(256))
    headers = [("a", every_byte), ("b", None), ("a", b"")]
    tree.raw_letters(
        [
            dead_letter(offset=1, key=every_byte, value=every_byte * 3, headers=headers),
            dead_letter(offset=2, key=None, value=None),
            dead_letter(offset=3, key=b"", value=b""),
        ]
    )
    letters = list(read_letters(letter_files(tree.dead_letter_dir)))
    assert [(letter.offset, letter.key, letter.value) for letter in letters] == [
        (1, every_byte, every_byte * 3),
        (2, None, None),
        (3, b"", b""),
    ]
    assert [letter.headers for letter in letters] == [headers, [], []]


def test_a_broken_line_names_its_file(tree: OutputTree) -> None:
    path = tree.raw_letters([dead_letter(), {"dlq_id": "5e"}])
    with pytest.raises(EnvironmentFailure, match=f"^dead letters {path}: KeyError: 'error'"):
        list(read_letters([path]))


def test_stats_count_letters_not_violations(tree: OutputTree) -> None:
    violations = [("type", "/items/0/price"), ("type", "/items/12/price"), ("enum", "")]
    letters = [
        dead_letter(offset=1, violations=violations),
        dead_letter(offset=2, violations=[("type", "/items/3")], attempt=2),
        dead_letter(offset=3, code="TOO_OLD", violations=[], failed_at="2026-11-23T13:59:59.999Z"),
    ]
    stats = count_letters(map(Letter.from_document, letters))
    assert stats.letters == 3
    assert stats.by_code == {"SCHEMA_VIOLATION": 2, "TOO_OLD": 1}
    assert stats.by_keyword == {"type": 2, "enum": 1}
    assert stats.by_field == {"/items/*/price": 1, "/items/*": 1, "": 1}
    assert stats.by_hour == {"2026-11-23T12": 2, "2026-11-23T13": 1}
    assert stats.by_attempt == {1: 2, 2: 1}
    text = shown(stats_text(stats))
    assert "3 dead letters" in text
    assert "(the whole event)" in text
    lines = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    assert lines["SCHEMA_VIOLATION"].count("█") > lines["TOO_OLD"].count("█") > 0


def test_stats_command(tree: OutputTree, capsys: pytest.CaptureFixture[str]) -> None:
    tree.raw_letters([dead_letter(offset=1), dead_letter(offset=2, code="TOO_OLD")])
    where = f"--dead_letter_dir={tree.dead_letter_dir}"
    assert dlq("stats", where, "--where=code=TOO_OLD", "--json") == 0
    assert orjson.loads(capsys.readouterr().out)["by_code"] == {"TOO_OLD": 1}
    assert dlq("stats", where, "--where=code=NOT_UTF8") == 0
    assert capsys.readouterr().out == "No dead letters.\n"


def test_a_letter_is_shown_in_full_and_harmless() -> None:
    document = dead_letter(
        value=b"\x1b[2J[red]\xff\nsecond",
        headers=[("trace\x1b", b"\x07"), ("empty", None)],
        violations=[("pattern", "/a\x1b[31m")],
    )
    document["error"]["message"] = "[bold]\x1b]0;title\x07"
    document["error"]["stacktrace"] = "Traceback\n  line\x1b"
    text = shown(letter_text(Letter.from_document(document)))
    assert "\x1b" not in text
    assert "\x07" not in text
    for part in (
        document["dlq_id"],
        "orders/0 offset 0",
        "[bold]\\x1b]0;title\\x07",
        "pattern at /a\\x1b[31m",
        "trace\\x1b: \\x07",
        "empty: null",
        "\\x1b[2J[red]\\xff",
        "second",
    ):
        assert part in text


def test_codes_and_fields_of_a_chart_are_harmless() -> None:
    document = dead_letter(code="[red]\x1b[0m", violations=[("x\x1b", "/[bold]\x1b")])
    text = shown(stats_text(count_letters([Letter.from_document(document)])))
    assert "\x1b" not in text
    assert "[red]\\x1b[0m" in text
    assert "/[bold]\\x1b" in text


def test_show_command(tree: OutputTree, capsys: pytest.CaptureFixture[str]) -> None:
    letters = [dead_letter(offset=number) for number in range(3)]
    tree.raw_letters(letters)
    where = f"--dead_letter_dir={tree.dead_letter_dir}"
    assert dlq("show", where, letters[1]["dlq_id"][:12], "--json") == 0
    assert orjson.loads(capsys.readouterr().out) == letters[1]
    assert dlq("show", where, "--where=topic=orders", "--limit=2", "--json") == 0
    assert [orjson.loads(line) for line in capsys.readouterr().out.splitlines()] == letters[:2]
    assert dlq("show", where, "--where=topic=orders") == 0
    captured = capsys.readouterr()
    assert base64.b64decode(letters[0]["value_b64"]).decode() in captured.out
    assert captured.err == "2 more match; --limit shows more of them\n"
    with pytest.raises(UsageError, match=r"^no dead letter matches 77ab --where=code=TOO_OLD"):
        dlq("show", where, "77ab", "--where=code=TOO_OLD")
    with pytest.raises(UsageError, match=r"give the letter's ID"):
        dlq("show", where)
