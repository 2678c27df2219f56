"""What a run has left out on purpose is told where its files are looked at."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from output_trees import OutputTree, sources

from beam_pipeline.cli import main
from beam_pipeline.files.left_out import LeftOutNote, LeftOutRange, load_left_out
from beam_pipeline.offset_sets import TopicPartition

RANGES = (
    LeftOutRange(TopicPartition("orders", 0), 0, 9, "--start=latest"),
    LeftOutRange(TopicPartition("refunds", 2), 0, 5, "--start=latest"),
)


@pytest.fixture
def flags(tmp_path: Path) -> list[str]:
    """The places of a tree whose run has left something out."""
    tree = OutputTree(tmp_path)
    tree.parquet(sources("orders", 0, range(9, 12)))
    load_left_out(tree.output_dir).replaced_by(LeftOutNote(RANGES), tree.output_dir)
    return [f"--output_dir={tree.output_dir}", f"--dead_letter_dir={tree.dead_letter_dir}"]


def test_the_doctor(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "--json", *flags])
    findings = {finding["name"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert findings["ledger"]["state"] == "ok"
    assert findings["ledger"]["text"].endswith(
        "; left out: 14 by --start=latest (orders/0: 0-8, refunds/2: 0-4)"
    )


def test_the_report_of_its_topics(flags: list[str], tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    main(["report", *flags, f"--report_file={page}"])
    text = page.read_text(encoding="utf-8")
    assert "9 by --start=latest (orders/0: 0-8)" in text
    assert "refunds" not in text
