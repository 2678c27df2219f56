"""Sends the letters of a replay at an even rate, and notes each acknowledgement in the journal."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import partial
from types import TracebackType

from confluent_kafka import KafkaError

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.kafka.delivery import Delivery
from beam_pipeline.producer.pacing import Schedule
from beam_pipeline.producer.stop import StopRequest
from beam_pipeline.tools.dlq.letters import Letter
from beam_pipeline.tools.dlq.replay_journal import ReplayJournal
from beam_pipeline.tools.dlq.replay_plan import replay_headers, replay_timestamp_ms

_JOURNAL_SECONDS = 1.0
_JOURNAL_LETTERS = 1_000
_SETTINGS: dict[str, str | int | float | bool] = {
    # As in Kafka's Java clients: a key keeps its partition.
    "partitioner": "murmur2_random",
    "queue.buffering.max.messages": 2_000,
}
# The broker refuses this record, but may accept the next.
_REFUSALS = (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG, KafkaError.INVALID_RECORD)


class ReplaySender:
    """Sends letters, and notes in the journals which of them were acknowledged.

    As a context manager it raises at its end unless every letter sent is acknowledged and noted.

    Attributes:
        acknowledged: how many letters the broker has.
        refused: the ids of the letters that the broker refused, with its reason.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        journals: Mapping[str, ReplayJournal],
        partitions: Mapping[str, int],
        stop: StopRequest,
    ) -> None:
        """Connect to the cluster.

        Args:
            connection: the cluster.
            journals: the journal of each topic, open and begun.
            partitions: how many partitions each topic has.
            stop: a request to end.
        """
        self.acknowledged = 0
        self.refused: dict[str, str] = {}
        self._journals, self._partitions = journals, partitions
        self._unnoted: dict[str, list[str]] = defaultdict(list)
        self._next_note = time.monotonic() + _JOURNAL_SECONDS
        self._delivery = Delivery(
            connection,
            stop_requested=lambda: stop.requested,
            on_poll=self._note_when_due,
            settings=_SETTINGS,
        )

    @property
    def goes_on(self) -> bool:
        """Whether more may be sent: no stop was requested, and nothing failed."""
        return self._delivery.goes_on

    def paced(self, letters: Iterator[Letter], schedule: Schedule) -> Iterator[Letter]:
        """Yield each letter when it is due, as long as more may be sent."""
        started = time.monotonic()
        for index, letter in enumerate(letters):
            while self.goes_on:
                wait = schedule.due(index) - (time.monotonic() - started)
                if wait <= 0:
                    break
                self._delivery.nap(wait)
            if not self.goes_on:
                return
            yield letter

    def send(self, letter: Letter, topic: str) -> None:
        """Queue a letter's record, byte for byte; wait while the client's queue is full."""
        headers = replay_headers(letter)
        if any("\0" in name for name, _ in headers):
            # librdkafka takes names as C strings, and would send what stands before the NUL.
            self.refused[letter.dlq_id] = "a header's name holds NUL, which can't be sent"
            return
        own_partition = topic == letter.topic and letter.partition < self._partitions[topic]
        timestamp_ms = replay_timestamp_ms(letter)
        self._journals[topic].state.sent.add(letter.dlq_id)
        self._delivery.send(
            topic,
            letter.value,
            letter.key,
            partial(self._on_delivery, letter.dlq_id, topic),
            partition=letter.partition if own_partition else -1,
            headers=list(headers),
            timestamp=timestamp_ms or 0,
        )

    def drain(self) -> None:
        """Wait until each letter sent is acknowledged or refused."""
        self._delivery.drain()

    def _on_delivery(self, dlq_id: str, topic: str, error: KafkaError | None) -> None:
        if error is None:
            self.acknowledged += 1
            self._unnoted[topic].append(dlq_id)
        elif error.code() in _REFUSALS:
            self.refused[dlq_id] = error.str()
        else:
            self._delivery.fail(error.str())

    def _note_when_due(self) -> None:
        for journal in self._journals.values():
            journal.confirm()
        pending = sum(len(ids) for ids in self._unnoted.values())
        if pending >= _JOURNAL_LETTERS or time.monotonic() >= self._next_note:
            self._note_acknowledged()

    def _note_acknowledged(self) -> None:
        for topic, ids in self._unnoted.items():
            self._journals[topic].note_sent(ids)
        self._unnoted.clear()
        self._next_note = time.monotonic() + _JOURNAL_SECONDS

    def __enter__(self) -> ReplaySender:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._delivery.finish(hurry=error is not None)
        finally:
            self._note_acknowledged()
        if error is None and self._delivery.failure is not None:
            raise EnvironmentFailure(
                f"Kafka: {self.acknowledged:,} letters were sent, then: {self._delivery.failure}; "
                "run it again to go on from there"
            )
