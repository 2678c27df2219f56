"""Which dead letters a replay sends, where, and with which headers. Pure, no I/O."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from beam_pipeline.records import ATTEMPT_HEADER, REDRIVE_HEADER
from beam_pipeline.times import parse_rfc3339
from beam_pipeline.tools.dlq.letters import Header, Letter
from beam_pipeline.tools.dlq.where import Condition

# What Kafka Connect's and this pipeline's dead letters carry beside the record's own headers.
_STRIPPED_PREFIXES = ("__connect.errors.", "dlq.")


@dataclass(frozen=True, slots=True)
class ReplayChoice:
    """Which letters go where.

    Attributes:
        condition: what `--where` says.
        to: the topic for all letters; None for the one that each record came from.
        max_attempts: a record is tried this often at most, its first time included.
    """

    condition: Condition
    to: str | None
    max_attempts: int

    def topic_of(self, letter: Letter) -> str:
        """The topic that a letter goes to."""
        return self.to or letter.topic


class Fate(enum.Enum):
    """What a replay does with a letter."""

    TO_SEND = "to send"
    NOT_MEANT = "the condition is not true of it"
    ALREADY_SENT = "an earlier replay sent it to the same topic"
    WORN_OUT = "its record was tried as often as is allowed"


@dataclass(slots=True)
class ReplayPlan:
    """What a replay would do with the letters that its condition is true of.

    `to_send` counts the letters to send by topic, `codes` the same ones by code; the others are
    counts of letters with that fate.
    """

    to_send: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    already_sent: int = 0
    worn_out: int = 0


def target_topics(letters: Iterable[Letter], choice: ReplayChoice) -> set[str]:
    """The topics that the chosen letters go to."""
    return {choice.topic_of(letter) for letter in letters if choice.condition(letter)}


def fate_of(letter: Letter, choice: ReplayChoice, sent: Mapping[str, set[str]]) -> Fate:
    """What a replay does with one letter.

    Args:
        letter: the letter.
        choice: which letters are meant.
        sent: ids of the letters sent already, by topic.
    """
    if not choice.condition(letter):
        return Fate.NOT_MEANT
    if letter.dlq_id in sent.get(choice.topic_of(letter), ()):
        return Fate.ALREADY_SENT
    if letter.attempt >= choice.max_attempts:
        return Fate.WORN_OUT
    return Fate.TO_SEND


def plan_replay(
    letters: Iterable[Letter], choice: ReplayChoice, sent: Mapping[str, set[str]]
) -> ReplayPlan:
    """Counts what there is to do; the arguments are those of `fate_of`."""
    plan = ReplayPlan()
    for letter in letters:
        fate = fate_of(letter, choice, sent)
        plan.already_sent += fate is Fate.ALREADY_SENT
        plan.worn_out += fate is Fate.WORN_OUT
        if fate is Fate.TO_SEND:
            plan.to_send[choice.topic_of(letter)] += 1
            plan.codes[letter.code] += 1
    return plan


def replay_headers(letter: Letter) -> list[Header]:
    """The record's own headers, unchanged and in order, then which attempt it is and of what."""
    own = [
        (name, value) for name, value in letter.headers if not name.startswith(_STRIPPED_PREFIXES)
    ]
    return [
        *own,
        (ATTEMPT_HEADER, str(letter.attempt + 1).encode()),
        (REDRIVE_HEADER, letter.dlq_id.encode()),
    ]


def replay_timestamp_ms(letter: Letter) -> int | None:
    """The record's timestamp, for topics that keep what a producer says; None if it had none."""
    text = letter.document["source"]["timestamp"]
    if text is None:
        return None
    return round(parse_rfc3339(text).timestamp() * 1000)
