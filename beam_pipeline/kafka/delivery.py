"""Delivery of records to Kafka: idempotent, each acknowledged by all replicas, one report each."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from beam_pipeline.kafka.connection import KafkaConnection, librdkafka_logger

Report = Callable[["KafkaError | None"], None]
"""Called once for a record: with None when the broker has it, else with the reason."""

# A stop signal is noticed within this time.
_MAX_NAP_SECONDS = 0.1
# At high rates a nap per record would be all overhead: records that fall due in one go in a burst.
_MIN_NAP_SECONDS = 0.001
# How long queued records may still take after a stop or a failure.
GRACE_SECONDS = 5.0


class Delivery:
    """A Kafka producer whose records are all accounted for.

    Attributes:
        failure: why no more records can be sent; None while they can.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        *,
        stop_requested: Callable[[], bool],
        on_poll: Callable[[], None],
        settings: Mapping[str, str | int | float | bool] | None = None,
    ) -> None:
        """Start the client, which connects in the background.

        Args:
            connection: the cluster.
            stop_requested: whether to send no more.
            on_poll: called after each poll, several times a second while there is something to
                wait for.
            settings: librdkafka's settings in addition to those of every delivery.
        """
        self.failure: str | None = None
        self._stop_requested, self._on_poll = stop_requested, on_poll
        self._producer = Producer(
            {
                **connection.for_librdkafka(),
                "enable.idempotence": True,
                "acks": "all",
                "linger.ms": 5,
                # librdkafka's maximum: the topic's own limit decides, not the client's 1 MB.
                "message.max.bytes": 1_000_000_000,
                **(settings or {}),
            },
            logger=librdkafka_logger(),
        )

    @property
    def goes_on(self) -> bool:
        """Whether more may be sent: no stop was requested, and nothing failed."""
        return not self._stop_requested() and self.failure is None

    def send(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        report: Report,
        **fields: Any,
    ) -> bool:
        """Queue a record; wait while the client's queue is full.

        Args:
            topic, value, key: the record.
            report: called when the broker has acknowledged or refused the record.
            fields: further arguments of `confluent_kafka.Producer.produce`.

        Returns:
            Whether the record was queued. It is not after a stop or a failure, or when the client
            refuses it at once, which `report` is then told.
        """
        queued = False

        def on_delivery(error: KafkaError | None, message: Message) -> None:
            report(error)

        while self.goes_on:
            try:
                self._producer.produce(topic, value, key, on_delivery=on_delivery, **fields)
            except BufferError:
                self.poll(_MAX_NAP_SECONDS)
            except KafkaException as error:
                report(error.args[0])
                break
            else:
                queued = True
                break
        self.poll(0)
        return queued

    def fail(self, reason: str) -> None:
        """Send no more. The first reason is kept."""
        if self.failure is None:
            self.failure = reason

    def poll(self, seconds: float) -> None:
        """Take in acknowledgements for up to `seconds`."""
        self._producer.poll(seconds)
        self._on_poll()

    def nap(self, seconds: float) -> None:
        """Wait for `seconds`, or a part of them."""
        self.poll(0)
        time.sleep(min(max(seconds, _MIN_NAP_SECONDS), _MAX_NAP_SECONDS))

    def drain(self) -> None:
        """Wait until every queued record is reported, a stop is requested or something fails."""
        while len(self._producer) and self.goes_on:
            self.poll(_MAX_NAP_SECONDS)

    def finish(self, *, hurry: bool = False, grace_seconds: float = GRACE_SECONDS) -> None:
        """Wait until every queued record is reported.

        After a stop or a failure, or with `hurry`, records that are still queued `grace_seconds`
        later are dropped, and `failure` says so.
        """
        deadline: float | None = None
        while len(self._producer):
            if deadline is None and (hurry or not self.goes_on):
                deadline = time.monotonic() + grace_seconds
            if deadline is not None and time.monotonic() > deadline:
                self.fail(f"no acknowledgement within {grace_seconds:g} s of the stop")
                break
            self.poll(_MAX_NAP_SECONDS)
        if self.failure is not None:
            self._producer.purge()
