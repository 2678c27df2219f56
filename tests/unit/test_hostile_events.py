"""What a hostile event says goes to files as it is, and to the terminal never: each command that
prints something of events, of files' names or of what failed is given one."""

from __future__ import annotations

import io
import json
import unicodedata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from output_trees import OutputTree, dead_letter, kafka_columns, sources
from rich.console import Console

from beam_pipeline import cli
from beam_pipeline.commands.live.view import RunView
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.runtime.run_status import RunStatus

# Clears the screen, sets the window's title, rings, goes back, hides text: by C0, C1, DEL and
# bidirectional controls.
HOSTILE = "\x1b[2J\x1b]0;owned\x07\x9b31m\x7f\b\r\u202egpj.\u2066\u2028\ufeffend"
HARMLESS = "\\x1b[2J"


def assert_harmless(text: str) -> None:
    unsafe = {c for c in text if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp")}
    assert not unsafe, f"{unsafe} in {text!r}"


@pytest.fixture
def tree(tmp_path: Path) -> OutputTree:
    """A row, a column, a letter and its headers, a schema's id and a damaged file's name."""
    tree = OutputTree(tmp_path)
    rows = sources("orders", 0, [0])
    columns = {"note": [HOSTILE], HOSTILE: pa.array([{HOSTILE: HOSTILE}])}
    path = tree.parquet(rows, table=pa.table({**columns, **kafka_columns(rows)}))
    (path.parent / f"orders-{HOSTILE}.parquet").write_bytes(b"PAR1")
    letter = dead_letter(
        offset=1,
        code=HOSTILE,
        violations=[(HOSTILE, f"/{HOSTILE}")],
        key=HOSTILE.encode(),
        value=json.dumps({"a": HOSTILE}, ensure_ascii=False).encode(),
        headers=[(HOSTILE, HOSTILE.encode()), ("raw", b"\x1b\xff")],
    )
    letter["stage"] = letter["epoch"] = HOSTILE
    letter["schema"]["id"] = HOSTILE
    letter["error"] |= {"class": HOSTILE, "message": HOSTILE, "stacktrace": f"a\n{HOSTILE}"}
    tree.raw_letters([letter])
    return tree


def told(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """All that a command prints, on either stream."""
    capsys.readouterr()
    cli.main(words)
    captured = capsys.readouterr()
    return captured.out + captured.err


@pytest.mark.parametrize(
    "words",
    [
        ["dlq", "stats"],
        ["dlq", "stats", "--json"],
        ["dlq", "show", "--where=topic=orders"],
        ["dlq", "show", "--where=topic=orders", "--json"],
        ["dlq", "show", f"--where=code={HOSTILE}x"],
        ["dlq", "replay", "--dry_run"],
    ],
)
def test_dead_letters(
    tree: OutputTree, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    text = told([*words, f"--dead_letter_dir={tree.dead_letter_dir}"], capsys)
    assert_harmless(text)
    assert HARMLESS in text or "\\u001b[2J" in text


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_inspect_and_compact(
    tree: OutputTree, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (good,) = (path for path in tree.output_dir.rglob("*.parquet") if HOSTILE not in path.name)
    for command in (
        ["inspect", str(tree.output_dir)],
        ["inspect", str(tree.dead_letter_dir)],
        ["inspect", str(good)],
        ["compact", f"--output_dir={tree.output_dir}", "--dry_run"],
    ):
        text = told([*command, *flags], capsys)
        assert_harmless(text)
        assert "2J" in text or command[0] == "compact"


def test_a_file_whose_name_is_hostile_and_cannot_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = told(["inspect", str(tmp_path / HOSTILE)], capsys)
    assert_harmless(text)
    assert HARMLESS in text


def test_schema_infer_show_and_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = tmp_path / "samples.jsonl"
    event = {HOSTILE: "2026-11-24T14:16:20Z", f"{HOSTILE}2": "2026-11-24T14:16:20Z"}
    lines = [json.dumps(event, ensure_ascii=False), f'{{"{HOSTILE}'.replace("\r", "")]
    samples.write_text("\n".join(lines), encoding="utf-8")
    capsys.readouterr()
    assert cli.main(["schema", "infer", str(samples)]) == 0
    proposed, about = capsys.readouterr()
    assert_harmless(proposed + about)
    assert set(json.loads(proposed)["properties"]) == set(event)
    assert HARMLESS in about

    old, new = tmp_path / "old.json", tmp_path / "new.json"
    schema: dict[str, Any] = {"$id": f"https://x/{HOSTILE}", **json.loads(proposed)}
    old.write_text(json.dumps(schema))
    new.write_text(json.dumps({**schema, "required": [f"{HOSTILE}3"], "type": "object"}))
    for words in (["show", str(old)], ["check", str(old), str(new)]):
        for flags in ([], ["--json"]):
            text = told(["schema", *words, *flags], capsys)
            assert_harmless(text)
            assert "2J" in text


def test_the_view_of_a_run(tree: OutputTree) -> None:
    """A notice has the last line of a log in it, and that may be about an event."""
    for terminal in (True, False):
        console = Console(file=io.StringIO(), force_terminal=terminal, color_system=None, width=200)
        status = RunStatus(notices=[f"starting again after: {HOSTILE}"])
        nobody = KafkaConnection("127.0.0.1:9")
        RunView("orders", console, nobody).show(status)
        assert isinstance(console.file, io.StringIO)
        assert_harmless(console.file.getvalue())
        assert HARMLESS in console.file.getvalue()
