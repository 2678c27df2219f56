"""Decides which dead letters a replay sends, where, and with which headers. Pure, no I/O."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from beam_pipeline.records import ATTEMPT_HEADER, REDRIVE_HEADER
from beam_pipeline.times import parse_rfc3339
from beam_pipeline.tools.dlq.letters import Header, Letter
from beam_pipeline.tools.dlq.where import Condition

# Headers that Kafka Connect and this pipeline add to the record's own in a dead-letter topic.
_STRIPPED_PREFIXES = ("__connect.errors.", "dlq.")


@dataclass(frozen=True, slots=True)
class ReplayChoice:
    """The letters to send and their target.

    Attributes:
        condition: the one that `--where` gives.
        to: the topic for all letters; None means the topic that each record came from.
        max_attempts: how often a record is tried at most, including the first time.
    """

    condition: Condition
    to: str | None
    max_attempts: int

    def topic_of(self, letter: Letter) -> str:
        """Return the topic that a letter goes to."""
        return self.to or letter.topic


class Fate(enum.Enum):
    """What a replay does with a letter, and why."""

    TO_SEND = "to send"
    NOT_CHOSEN = "the condition does not match"
    ALREADY_SENT = "an earlier replay sent it to the same topic"
    MAX_ATTEMPTS_REACHED = "its record was tried --max_attempts times"


@dataclass(slots=True)
class ReplayPlan:
    """Counts of the letters that a replay's condition matches.

    Attributes:
        to_send: the letters to send, by topic.
        codes: the letters to send, by error code.
        already_sent: letters that an earlier replay sent to the same topic.
        max_attempts_reached: letters whose record was tried too often.
    """

    to_send: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    already_sent: int = 0
    max_attempts_reached: int = 0


def target_topics(letters: Iterable[Letter], choice: ReplayChoice) -> set[str]:
    """Return the topics that the chosen letters go to."""
    return {choice.topic_of(letter) for letter in letters if choice.condition(letter)}


def fate_of(letter: Letter, choice: ReplayChoice, sent: Mapping[str, set[str]]) -> Fate:
    """Return what a replay does with one letter.

    Args:
        letter: the letter.
        choice: the letters to send.
        sent: the ids of the letters that earlier replays sent, by topic.
    """
    if not choice.condition(letter):
        return Fate.NOT_CHOSEN
    if letter.dlq_id in sent.get(choice.topic_of(letter), ()):
        return Fate.ALREADY_SENT
    if letter.attempt >= choice.max_attempts:
        return Fate.MAX_ATTEMPTS_REACHED
    return Fate.TO_SEND


def plan_replay(
    letters: Iterable[Letter], choice: ReplayChoice, sent: Mapping[str, set[str]]
) -> ReplayPlan:
    """Count the letters by fate; the arguments are those of `fate_of`."""
    plan = ReplayPlan()
    for letter in letters:
        fate = fate_of(letter, choice, sent)
        plan.already_sent += fate is Fate.ALREADY_SENT
        plan.max_attempts_reached += fate is Fate.MAX_ATTEMPTS_REACHED
        if fate is Fate.TO_SEND:
            plan.to_send[choice.topic_of(letter)] += 1
            plan.codes[letter.code] += 1
    return plan


def replay_headers(letter: Letter) -> list[Header]:
    """Return the record's own headers, in order, then the attempt's number and the letter's id."""
    own = [
        (name, value) for name, value in letter.headers if not name.startswith(_STRIPPED_PREFIXES)
    ]
    return [
        *own,
        (ATTEMPT_HEADER, str(letter.attempt + 1).encode()),
        (REDRIVE_HEADER, letter.dlq_id.encode()),
    ]


def replay_timestamp_ms(letter: Letter) -> int | None:
    """Return the record's timestamp, which topics with CreateTime keep; None if it had none."""
    text = letter.document["source"]["timestamp"]
    if text is None:
        return None
    return round(parse_rfc3339(text).timestamp() * 1000)
