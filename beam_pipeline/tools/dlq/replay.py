"""Sends dead letters back to Kafka: byte for byte, and each once, however often it is run.

The journal (`replay_journal`) keeps a letter from being sent twice. After a run that was killed,
the topic itself is searched too: each replayed record carries the id of its letter in the header
`dlq.redrive.of`. Transactions are no alternative: consumers of uncommitted records, such as this
pipeline, also get aborted records.

Assumption: records that a killed process had sent to the network have arrived in the topic by the
time the next run searches it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from beam_pipeline.kafka.admin import watermarks
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.kafka.log_reader import LogReader
from beam_pipeline.offset_sets import TopicPartition
from beam_pipeline.producer.pacing import Schedule
from beam_pipeline.producer.stop import StopRequest
from beam_pipeline.records import REDRIVE_HEADER
from beam_pipeline.storage.paths import StoredPath
from beam_pipeline.terminal import progress_bar
from beam_pipeline.tools.dlq.letters import letter_files, read_letters
from beam_pipeline.tools.dlq.replay_journal import ReplayJournal
from beam_pipeline.tools.dlq.replay_journals import journal_of, read_journal
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
    """The result of a replay.

    Attributes:
        plan: the letters that were to be sent.
        sent: how many letters were acknowledged.
        refused: the ids of the letters that the broker refused, with its reason.
        stopped: whether a signal ended the replay early.
    """

    plan: ReplayPlan
    sent: int
    refused: dict[str, str]
    stopped: bool


def replay(
    connection: KafkaConnection,
    dead_letter_dir: StoredPath,
    choice: ReplayChoice,
    events_per_second: float = 0.0,
    stop: StopRequest | None = None,
) -> ReplayOutcome:
    """Send the chosen letters that were not sent before.

    A record goes to its own partition of its own topic. In another topic, or if that partition does
    not exist, its key decides the partition as in Kafka's Java clients.

    Args:
        connection: the cluster.
        dead_letter_dir: the root of the letters. Letters written after the call are left out.
        choice: the letters and their target.
        events_per_second: the rate; 0 means without a limit.
        stop: a request to end; records that are queued by then are still delivered.

    Raises:
        UsageError: the directory does not exist.
        EnvironmentFailure: a topic is missing, a letter was not acknowledged, another replay is
            running, or a file can't be read. A second call goes on where the first one ended.
    """
    stop = stop or StopRequest()
    paths = letter_files(dead_letter_dir)
    with contextlib.ExitStack() as stack:
        journals: dict[str, ReplayJournal] = {}
        partitions: dict[str, int] = {}
        for topic in sorted(target_topics(read_letters(paths), choice)):
            journals[topic] = stack.enter_context(journal_of(dead_letter_dir, topic))
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


def _resend_alone(sender: ReplaySender, paths: Sequence[StoredPath], choice: ReplayChoice) -> None:
    """Send refused letters again, one at a time.

    A broker refuses a whole batch of records because of one that is too large.
    """
    sender.drain()
    refused = set(sender.refused)
    sender.refused.clear()
    if not refused:
        return
    for letter in read_letters(paths):
        if letter.dlq_id in refused and sender.goes_on:
            sender.send(letter, choice.topic_of(letter))
            sender.drain()


def plan_only(dead_letter_dir: StoredPath, choice: ReplayChoice) -> ReplayPlan:
    """Return what `replay` would do, by the letters and journals; send and write nothing.

    If the last replay was killed, letters that it sent but did not note count as to send.

    Raises:
        UsageError: the directory does not exist.
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
    """Find and note what a killed run has sent, then begin a new run."""
    unfinished = journal.state.unfinished
    if unfinished is not None:
        in_topic = set(find_redriven(connection, topic, unfinished, bounds))
        unnoted = in_topic - journal.state.sent
        journal.note_sent(sorted(unnoted))
        journal.end(_now())
        journal.state.sent |= unnoted
    journal.begin({number: high for number, (_, high) in bounds.items()}, _now())


def find_redriven(
    connection: KafkaConnection,
    topic: str,
    starts: Mapping[int, int],
    bounds: Mapping[int, tuple[int, int]],
) -> Iterator[str]:
    """Search a topic for replayed records, and yield the ids of their letters.

    Args:
        connection: the cluster.
        topic: the topic.
        starts: the first offset to read, by partition; other partitions are read from the start.
        bounds: the low and high watermark of each partition.

    Raises:
        EnvironmentFailure: the topic can't be read.
    """
    length = sum(high - low for low, high in bounds.values())
    with (
        LogReader(connection) as reader,
        progress_bar(f"Searching for replayed records in {topic}", length) as progress,
    ):
        for number, (low, high) in bounds.items():
            start = starts.get(number, low)
            # A recreated topic may end before the noted offset.
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
