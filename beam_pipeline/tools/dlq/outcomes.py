"""What became of dead letters that were sent back, by the replay journals and by later letters.

A replayed record carries the id of its letter in a header (`records.REDRIVE_HEADER`). If it dies
again, so does its new letter.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Set
from dataclasses import dataclass, field

from beam_pipeline.records import REDRIVE_HEADER
from beam_pipeline.storage.paths import StoredPath
from beam_pipeline.tools.dlq.letters import Letter
from beam_pipeline.tools.dlq.replay_journals import replayed_ids


class Outcome(enum.Enum):
    """What became of a dead letter; the value is for people."""

    OPEN = "not replayed"
    REPLAYED = "replayed, and not dead again"
    DEAD_AGAIN = "replayed, and dead again: a newer letter has it"


@dataclass(frozen=True, slots=True)
class Outcomes:
    """The ids of letters that were sent back, and of those whose record died again."""

    replayed: Set[str] = field(default_factory=frozenset)
    dead_again: Set[str] = field(default_factory=frozenset)

    def of(self, letter: Letter) -> Outcome:
        """Return what became of a letter."""
        if letter.dlq_id in self.dead_again:
            return Outcome.DEAD_AGAIN
        return Outcome.REPLAYED if letter.dlq_id in self.replayed else Outcome.OPEN


def read_outcomes(dead_letter_dir: StoredPath, letters: Iterable[Letter]) -> Outcomes:
    """Return the outcomes of the letters below a directory.

    Args:
        dead_letter_dir: the root of the letters, with the journals of their replays.
        letters: all letters; read only if there was a replay.

    Raises:
        EnvironmentFailure: a journal or a letter can't be read.
    """
    replayed = replayed_ids(dead_letter_dir)
    if not replayed:
        return Outcomes()
    dead_again = {dlq_id for letter in letters for dlq_id in redriven_of(letter)}
    return Outcomes(replayed, dead_again)


def redriven_of(letter: Letter) -> list[str]:
    """Return the ids of the letters whose replay the letter's record is; usually one or none."""
    return [
        value.decode("utf-8", "replace")
        for name, value in letter.headers
        if name == REDRIVE_HEADER and value is not None
    ]
