"""The producer of a replay: at an even rate, each acknowledgement noted in the journal."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.kafka.connection import KafkaConnection, librdkafka_logger
from beam_pipeline.producer.pacing import Schedule
from beam_pipeline.producer.stop import StopRequest
from beam_pipeline.tools.dlq.letters import Letter
from beam_pipeline.tools.dlq.replay_journal import ReplayJournal
from beam_pipeline.tools.dlq.replay_plan import replay_headers, replay_timestamp_ms

_NAP_SECONDS = 0.1
_JOURNAL_SECONDS = 1.0
_JOURNAL_LETTERS = 1_000
# After a signal or a failure, how long the records already handed over may still take.
_GRACE_SECONDS = 5.0
# The broker will not take this record, but may take the next.
_REFUSALS = (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG, KafkaError.INVALID_RECORD)


class ReplaySender:
    """Sends letters and notes in the journals which of them were acknowledged.

    A context manager: at its end every letter that was sent is acknowledged and noted, or it fails.

    Attributes:
        acknowledged: how many letters the broker has.
        refused: the ids of the letters that it would not take, with its reason.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        journals: Mapping[str, ReplayJournal],
        partitions: Mapping[str, int],
        stop: StopRequest,
    ) -> None:
        """Connects.

        Args:
            connection: the cluster.
            journals: by topic, open and begun.
            partitions: how many each topic has.
            stop: a request to end.
        """
        self.acknowledged = 0
        self.refused: dict[str, str] = {}
        self._producer = Producer(_settings(connection), logger=librdkafka_logger())
        self._journals, self._partitions, self._stop = journals, partitions, stop
        self._unnoted: dict[str, list[str]] = defaultdict(list)
        self._next_note = time.monotonic() + _JOURNAL_SECONDS
        self._failure: str | None = None

    @property
    def goes_on(self) -> bool:
        """Whether more may be sent: no stop was requested, and Kafka works."""
        return not self._stop.requested and self._failure is None

    def paced(self, letters: Iterator[Letter], schedule: Schedule) -> Iterator[Letter]:
        """Gives each letter when it is due, as long as sending may go on."""
        started = time.monotonic()
        for index, letter in enumerate(letters):
            while self.goes_on:
                wait = schedule.due(index) - (time.monotonic() - started)
                if wait <= 0:
                    break
                self._serve(min(wait, _NAP_SECONDS))
            if not self.goes_on:
                return
            yield letter

    def send(self, letter: Letter, topic: str) -> None:
        """Hands a letter over, byte for byte; waits while the client's queue is full."""
        headers = replay_headers(letter)
        if any("\0" in name for name, _ in headers):
            # librdkafka takes names as C strings, and would send what stands before the NUL.
            self.refused[letter.dlq_id] = "a header's name holds NUL, which can't be sent"
            return
        own_partition = topic == letter.topic and letter.partition < self._partitions[topic]
        timestamp_ms = replay_timestamp_ms(letter)
        self._journals[topic].state.sent.add(letter.dlq_id)
        while self.goes_on:
            try:
                self._producer.produce(
                    topic,
                    letter.value,
                    letter.key,
                    partition=letter.partition if own_partition else -1,
                    headers=list(headers),
                    timestamp=timestamp_ms or 0,
                    on_delivery=self._on_delivery(letter.dlq_id, topic),
                )
            except BufferError:
                self._serve(_NAP_SECONDS)
            except KafkaException as error:
                self._note_error(letter.dlq_id, error.args[0])
                break
            else:
                break
        self._serve(0)

    def drain(self) -> None:
        """Waits until each letter that was sent is acknowledged or given up."""
        while len(self._producer) and self.goes_on:
            self._serve(_NAP_SECONDS)

    def _on_delivery(self, dlq_id: str, topic: str) -> Callable[[KafkaError | None, Message], None]:
        def told(error: KafkaError | None, message: Message) -> None:
            if error is None:
                self.acknowledged += 1
                self._unnoted[topic].append(dlq_id)
            else:
                self._note_error(dlq_id, error)

        return told

    def _note_error(self, dlq_id: str, error: KafkaError) -> None:
        if error.code() in _REFUSALS:
            self.refused[dlq_id] = error.str()
        else:
            self._failure = self._failure or error.str()

    def _serve(self, seconds: float) -> None:
        """Takes in acknowledgements for up to `seconds`; notes them when it is time."""
        self._producer.poll(seconds)
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
        give_up: float | None = None
        while len(self._producer):
            if give_up is None and not (self.goes_on and error is None):
                give_up = time.monotonic() + _GRACE_SECONDS
            if give_up is not None and time.monotonic() > give_up:
                self._failure = self._failure or f"no answer for {_GRACE_SECONDS:g} s"
                break
            self._serve(_NAP_SECONDS)
        self._note_acknowledged()
        if error is None and self._failure is not None:
            raise EnvironmentFailure(
                f"Kafka: {self.acknowledged:,} letters were sent, then: {self._failure}; "
                "run it again to go on from there"
            )


def _settings(connection: KafkaConnection) -> dict[str, str | int | float | bool]:
    return {
        **connection.for_librdkafka(),
        "enable.idempotence": True,
        "acks": "all",
        "linger.ms": 5,
        # As in Kafka's Java clients: a key keeps its partition.
        "partitioner": "murmur2_random",
        "queue.buffering.max.messages": 2_000,
        # The topic's own limit decides, not the client's default of 1 MB.
        "message.max.bytes": 1_000_000_000,
    }
