"""Sends dead letters back to Kafka: each byte for byte, each once however often it is run.

What keeps a letter from going twice is the journal (`replay_journal`) and, after
a run that was cut off, a look into the topic itself: each replayed record carries the id of its
letter in the header `dlq.redrive.of`. Transactions would not do: their aborted records are given
to every reader of uncommitted records, this pipeline's among them.

One thing is taken on trust: what a killed process had handed to the network is in the topic by the
time that the next one has started and looks there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from beam_pipeline.kafka.admin import watermarks
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.kafka.log_reader import LogReader
from beam_pipeline.offset_sets import TopicPartition
from beam_pipeline.producer.pacing import Schedule
from beam_pipeline.producer.stop import StopRequest
from beam_pipeline.records import REDRIVE_HEADER
from beam_pipeline.terminal import progress_bar
from beam_pipeline.tools.dlq.letters import letter_files, read_letters
from beam_pipeline.tools.dlq.replay_journal import ReplayJournal, read_journal
from beam_pipeline.tools.dlq.replay_plan import (
    Fate,
    ReplayChoice,
    ReplayPlan,
    fate_of,
    plan_replay,
    target_topics,
)
from beam_pipeline.tools.dlq.replay_sender import ReplaySender


@dataclass(frozen=True, slots=True)
class ReplayOutcome:
    """What a replay did.

    Attributes:
        plan: what there was to do.
        sent: how many letters were sent and acknowledged.
        refused: the ids of those that the broker would not take, with its reason.
        stopped: whether a signal ended it before all were sent.
    """

    plan: ReplayPlan
    sent: int
    refused: dict[str, str]
    stopped: bool


def replay(
    connection: KafkaConnection,
    dead_letter_dir: Path,
    choice: ReplayChoice,
    events_per_second: float = 0.0,
    stop: StopRequest | None = None,
) -> ReplayOutcome:
    """Sends the chosen letters that were not sent before.

    A record goes to its own partition of its own topic; in another topic, or where that partition
    is gone, its key decides as it does in Kafka's own clients.

    Args:
        connection: the cluster.
        dead_letter_dir: the root of the letters; those that are there at the call.
        choice: which letters, and where to.
        events_per_second: the rate; 0 means as fast as it goes.
        stop: a request to end; what was handed over is still delivered.

    Raises:
        UsageError: the directory is not there.
        EnvironmentFailure: a topic is missing, a letter was not acknowledged, another replay is
            running, or a file can't be read. Calling again is safe, and goes on where it ended.
    """
    stop = stop or StopRequest()
    paths = letter_files(dead_letter_dir)
    with contextlib.ExitStack() as stack:
        journals: dict[str, ReplayJournal] = {}
        partitions: dict[str, int] = {}
        for topic in sorted(target_topics(read_letters(paths), choice)):
            journals[topic] = stack.enter_context(ReplayJournal(dead_letter_dir, topic))
            bounds = watermarks(connection, topic)
            _begin(connection, topic, journals[topic], bounds)
            partitions[topic] = len(bounds)
        sent = {topic: journal.state.sent for topic, journal in journals.items()}
        plan = plan_replay(read_letters(paths), choice, sent)
        chosen = (
            letter
            for letter in read_letters(paths)
            if fate_of(letter, choice, sent) is Fate.TO_SEND
        )
        with (
            progress_bar("Sending dead letters", plan.to_send.total()) as progress,
            ReplaySender(connection, journals, partitions, stop) as sender,
        ):
            for letter in sender.paced(chosen, Schedule(events_per_second, None, None)):
                sender.send(letter, choice.topic_of(letter))
                progress(1)
            _resend_alone(sender, paths, choice)
        for journal in journals.values():
            journal.end(_now())
        return ReplayOutcome(plan, sender.acknowledged, sender.refused, stop.requested)


def _resend_alone(sender: ReplaySender, paths: list[Path], choice: ReplayChoice) -> None:
    """Sends refused letters once more, one at a time: a broker refuses a whole batch of records for
    one that is too large."""
    sender.drain()
    refused = set(sender.refused)
    sender.refused.clear()
    if not refused:
        return
    for letter in read_letters(paths):
        if letter.dlq_id in refused and sender.goes_on:
            sender.send(letter, choice.topic_of(letter))
            sender.drain()


def plan_only(dead_letter_dir: Path, choice: ReplayChoice) -> ReplayPlan:
    """What `replay` would do, as far as letters and journals tell; nothing is sent or written.

    Where the last replay was cut off, letters that it sent without noting it count as to send.

    Raises:
        UsageError: the directory is not there.
        EnvironmentFailure: a file can't be read.
    """
    paths = letter_files(dead_letter_dir)
    topics = target_topics(read_letters(paths), choice)
    sent = {topic: read_journal(dead_letter_dir, topic).sent for topic in topics}
    return plan_replay(read_letters(paths), choice, sent)


def _begin(
    connection: KafkaConnection,
    topic: str,
    journal: ReplayJournal,
    bounds: Mapping[int, tuple[int, int]],
) -> None:
    """Finds what a run that was cut off has sent, and begins a new one."""
    unfinished = journal.state.unfinished
    if unfinished is not None:
        found = set(find_redriven(connection, topic, unfinished, bounds)) - journal.state.sent
        journal.note_sent(sorted(found))
        journal.end(_now())
        journal.state.sent |= found
    journal.begin({number: high for number, (_, high) in bounds.items()}, _now())


def find_redriven(
    connection: KafkaConnection,
    topic: str,
    starts: Mapping[int, int],
    bounds: Mapping[int, tuple[int, int]],
) -> Iterator[str]:
    """Reads a topic for replayed records, and gives the ids of the letters they came from.

    Args:
        connection: the cluster.
        topic: the topic.
        starts: the offset to begin at, by partition; others are read from their first one on.
        bounds: the low and high watermark of each partition.

    Raises:
        EnvironmentFailure: the topic can't be read.
    """
    length = sum(high - low for low, high in bounds.values())
    with (
        LogReader(connection) as reader,
        progress_bar(f"Looking for replayed records in {topic}", length) as progress,
    ):
        for number, (low, high) in bounds.items():
            start = starts.get(number, low)
            # A topic that was made anew ends before the old one did.
            first = start if low <= start <= high else low
            progress(first - low)
            for messages in reader.read(TopicPartition(topic, number), first, high):
                progress(len(messages))
                for message in messages:
                    headers: Any = message.headers() or ()
                    for name, value in headers:
                        if name == REDRIVE_HEADER and value is not None:
                            yield value.decode("utf-8", "replace")


def _now() -> datetime:
    return datetime.now(timezone.utc)
