"""Records into a Kafka topic: in order, each acknowledged, at an even rate."""

from __future__ import annotations

import time
from collections.abc import Iterator

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.kafka.connection import KafkaConnection, librdkafka_logger
from beam_pipeline.producer.pacing import Rhythm, Schedule
from beam_pipeline.producer.source import SourceRecord
from beam_pipeline.producer.status import ProduceStatus, Report
from beam_pipeline.producer.stop import StopRequest

# A signal and a report wait no longer than this.
_MAX_NAP_SECONDS = 0.1
# At high rates a nap per record would be all overhead: records that fall due in one go in a burst.
_MIN_NAP_SECONDS = 0.001
_REPORT_SECONDS = 0.5
# After a signal or a failed delivery, how long the records already handed over may still take.
_GRACE_SECONDS = 5.0
_REMEDIES = {
    KafkaError.MSG_SIZE_TOO_LARGE: "; raise the topic's max.message.bytes, or leave the record out"
}


def produce(
    source: Iterator[SourceRecord],
    connection: KafkaConnection,
    topic: str,
    events_per_second: float = 0.0,
    *,
    max_events: int | None = None,
    max_seconds: float | None = None,
    rhythm: Rhythm | None = None,
    stop: StopRequest | None = None,
    report: Report = lambda status: None,
) -> ProduceStatus:
    """Send records until the source ends, a limit is reached or a stop is requested.

    Args:
        source: the records; each is taken when it is due.
        connection: the cluster.
        topic: where the records go; the key decides on the partition, without one it is any.
        events_per_second: the rate; 0 means as fast as it goes.
        max_events: stop after so many records.
        max_seconds: stop after this time.
        rhythm: sends each record when its own time says, beside the rate.
        stop: a request to end; what was handed over is still delivered.
        report: called about twice a second, and once at the end with `done` set.

    Returns:
        The counts, with every record acknowledged.

    Raises:
        EnvironmentFailure: a record was not delivered; the message says why.
    """
    stop = stop or StopRequest()
    schedule = Schedule(events_per_second, max_events, max_seconds)
    delivery = _Delivery(connection, topic, stop, report)
    status = delivery.status
    started = time.monotonic()
    try:
        while delivery.goes_on:
            now = time.monotonic() - started
            if schedule.ends_before(status.produced, now):
                break
            if (wait := schedule.due(status.produced) - now) > 0:
                delivery.nap(wait)
                continue
            record = stop.next_of(source)
            if record is None:
                break
            if rhythm is not None:
                due = rhythm.due(record.value)
                if max_seconds is not None and due >= max_seconds:
                    break
                while delivery.goes_on and (wait := due - time.monotonic() + started) > 0:
                    delivery.nap(wait)
            delivery.send(record)
        delivery.finish()
    finally:
        status.done = True
        report(status)
    return status


class _Delivery:
    """A Kafka producer, and what became of the records that it was given."""

    def __init__(
        self, connection: KafkaConnection, topic: str, stop: StopRequest, report: Report
    ) -> None:
        self.status = ProduceStatus()
        self._producer = Producer(_settings(connection), logger=librdkafka_logger())
        self._where = f"topic {topic} on {connection.bootstrap_servers}"
        self._topic = topic
        self._stop = stop
        self._report = report
        self._next_report = time.monotonic() + _REPORT_SECONDS
        self._failure: str | None = None

    @property
    def goes_on(self) -> bool:
        """Whether more may be sent: no stop was requested and no delivery failed."""
        return not self._stop.requested and self._failure is None

    def send(self, record: SourceRecord) -> None:
        """Hand a record over; waits while the client's queue is full."""
        while self.goes_on:
            try:
                self._producer.produce(
                    self._topic, record.value, record.key, on_delivery=self._on_delivery
                )
            except BufferError:
                self._serve(_MAX_NAP_SECONDS)
            except KafkaException as error:
                self._note_failure(error.args[0])
            else:
                self.status.count_produced(record.kind)
                break
        self._serve(0)

    def nap(self, seconds: float) -> None:
        """Wait for `seconds`, or a part of them."""
        self._serve(0)
        time.sleep(min(max(seconds, _MIN_NAP_SECONDS), _MAX_NAP_SECONDS))

    def finish(self) -> None:
        """Wait until every record is acknowledged.

        Raises:
            EnvironmentFailure: one was not, or not in time after a stop.
        """
        give_up: float | None = None
        while len(self._producer):
            if give_up is None and not self.goes_on:
                give_up = time.monotonic() + _GRACE_SECONDS
            if give_up is not None and time.monotonic() > give_up:
                break
            self._serve(_MAX_NAP_SECONDS)
        status = self.status
        if self._failure is None and status.acked < status.produced:
            self._failure = f"no answer within {_GRACE_SECONDS:g} s of the stop"
        if self._failure is not None:
            self._producer.purge()
            raise EnvironmentFailure(
                f"delivery to {self._where} failed: {self._failure} "
                f"({status.acked} of {status.produced} records were acknowledged)"
            )

    def _serve(self, seconds: float) -> None:
        """Take in acknowledgements for up to `seconds`, and report when it is time."""
        self._producer.poll(seconds)
        if (now := time.monotonic()) >= self._next_report:
            self._next_report = now + _REPORT_SECONDS
            self._report(self.status)

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            self.status.acked += 1
        else:
            self._note_failure(error)

    def _note_failure(self, error: KafkaError) -> None:
        self.status.failed += 1
        if self._failure is None:
            self._failure = error.str() + _REMEDIES.get(error.code(), "")


def _settings(connection: KafkaConnection) -> dict[str, str | int | float | bool]:
    return {
        **connection.for_librdkafka(),
        "enable.idempotence": True,
        "acks": "all",
        "linger.ms": 5,
        # The topic's own limit decides, not the client's default of 1 MB.
        "message.max.bytes": 256 * 1024 * 1024,
    }
