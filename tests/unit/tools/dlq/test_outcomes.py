"""What became of letters that were sent back."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import orjson
import pytest
from output_trees import OutputTree, dead_letter

from beam_pipeline.cli import main
from beam_pipeline.records import REDRIVE_HEADER
from beam_pipeline.tools.dlq.letters import Letter, letter_files, read_letters
from beam_pipeline.tools.dlq.outcomes import Outcome, Outcomes, read_outcomes
from beam_pipeline.tools.dlq.replay_journals import journal_of

NOW = datetime(2026, 11, 24, 13, 33, 50, tzinfo=timezone.utc)


@pytest.fixture
def letters(tmp_path: Path) -> list[dict[str, object]]:
    """Three letters, and the letter of the first one's record, which was sent back and died."""
    tree = OutputTree(tmp_path)
    first = [dead_letter(offset=offset) for offset in range(3)]
    again = dead_letter(
        offset=9, headers=[(REDRIVE_HEADER, str(first[0]["dlq_id"]).encode())], attempt=2
    )
    tree.raw_letters([*first, again])
    return [*first, again]


def replay(directory: Path, topic: str, *letters: dict[str, object]) -> None:
    with journal_of(directory, topic) as journal:
        journal.begin({0: 0}, NOW)
        journal.note_sent([str(letter["dlq_id"]) for letter in letters])
        journal.end(NOW)


def test_without_a_replay_every_letter_is_open(
    tmp_path: Path, letters: list[dict[str, object]]
) -> None:
    assert read_outcomes(tmp_path / "dead", read_letters(letter_files(tmp_path))) == Outcomes()
    assert Outcomes().of(Letter.from_document(letters[0])) is Outcome.OPEN


def test_a_letter_is_dead_again_when_a_newer_one_has_its_record(
    tmp_path: Path, letters: list[dict[str, object]], capsys: pytest.CaptureFixture[str]
) -> None:
    dead = tmp_path / "dead"
    replay(dead, "orders", letters[0])
    replay(dead, "orders.eu", letters[1])
    outcomes = read_outcomes(dead, read_letters(letter_files(dead)))
    assert [outcomes.of(Letter.from_document(letter)) for letter in letters] == [
        Outcome.DEAD_AGAIN,
        Outcome.REPLAYED,
        Outcome.OPEN,
        Outcome.OPEN,
    ]
    assert main(["dlq", "stats", f"--dead_letter_dir={dead}", "--json"]) == 0
    stats = orjson.loads(capsys.readouterr().out)
    assert stats["by_outcome"] == {"open": 2, "replayed": 1, "dead_again": 1}
    assert main(["dlq", "stats", f"--dead_letter_dir={dead}"]) == 0
    assert "replayed, and not dead again" in capsys.readouterr().out
