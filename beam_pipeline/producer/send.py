"""Sends records to a Kafka topic: in order, each acknowledged, at an even rate."""

from __future__ import annotations

import time
from collections.abc import Iterator

from confluent_kafka import KafkaError

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.kafka.delivery import Delivery
from beam_pipeline.producer.pacing import Rhythm, Schedule
from beam_pipeline.producer.source import SourceRecord
from beam_pipeline.producer.status import ProduceStatus, Report
from beam_pipeline.producer.stop import StopRequest

_REPORT_SECONDS = 0.5
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
        source: the records; each is read when it is due.
        connection: the cluster.
        topic: the target. A record's key decides its partition; without a key it is any.
        events_per_second: the rate; 0 means without a limit.
        max_events: stop after this many records.
        max_seconds: stop after this time.
        rhythm: sends each record at the time that the record itself gives, not before the rate.
        stop: a request to end; records that are queued by then are still delivered.
        report: called about twice a second, and once at the end with `done` set.

    Returns:
        The counts, with every record acknowledged.

    Raises:
        EnvironmentFailure: a record was not delivered, with the reason.
    """
    stop = stop or StopRequest()
    schedule = Schedule(events_per_second, max_events, max_seconds)
    sending = _Sending(connection, topic, stop, report)
    delivery, status = sending.delivery, sending.status
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
            sending.send(record)
        sending.finish()
    finally:
        status.done = True
        report(status)
    return status


class _Sending:
    """The records of one source on their way to one topic, and their counts."""

    def __init__(
        self, connection: KafkaConnection, topic: str, stop: StopRequest, report: Report
    ) -> None:
        self.status = ProduceStatus()
        self._topic = topic
        self._where = f"topic {topic} on {connection.bootstrap_servers}"
        self._report = report
        self._next_report = time.monotonic() + _REPORT_SECONDS
        self.delivery = Delivery(
            connection, stop_requested=lambda: stop.requested, on_poll=self._report_when_due
        )

    def send(self, record: SourceRecord) -> None:
        """Queue a record; wait while the client's queue is full."""
        if self.delivery.send(self._topic, record.value, record.key, self._on_delivery):
            self.status.count_produced(record.kind)

    def finish(self) -> None:
        """Wait until every record is acknowledged.

        Raises:
            EnvironmentFailure: a record was not acknowledged, or not in time after a stop.
        """
        self.delivery.finish()
        if self.delivery.failure is not None:
            raise EnvironmentFailure(
                f"delivery to {self._where} failed: {self.delivery.failure} "
                f"({self.status.acked} of {self.status.produced} records were acknowledged)"
            )

    def _report_when_due(self) -> None:
        if (now := time.monotonic()) >= self._next_report:
            self._next_report = now + _REPORT_SECONDS
            self._report(self.status)

    def _on_delivery(self, error: KafkaError | None) -> None:
        if error is None:
            self.status.acked += 1
        else:
            self.status.failed += 1
            self.delivery.fail(error.str() + _REMEDIES.get(error.code(), ""))
