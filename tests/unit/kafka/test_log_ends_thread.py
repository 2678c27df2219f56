"""End offsets are read by one thread and replaced by another."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.kafka.log_ends import LogEnds
from beam_pipeline.offset_sets import TopicPartition

ORDERS = TopicPartition("orders", 0)
Seen = deque[tuple[float, Mapping[TopicPartition, int]]]


class BrokerGoesAway(LogEnds):
    """Finds the broker away right after its answers were read once."""

    answers: Iterator[Seen]

    def __init__(self) -> None:
        super().__init__(KafkaConnection.from_flags("127.0.0.1:9", None))
        known: Seen = deque([(0.0, {ORDERS: 5}), (2.0, {ORDERS: 9})])
        self.answers = iter([known, deque(), deque()])

    def __getattribute__(self, name: str) -> Any:
        if name == "_seen":
            return next(self.answers)
        return super().__getattribute__(name)


def test_a_broker_that_goes_away_between_two_steps_of_a_reader() -> None:
    assert BrokerGoesAway().ends() == {ORDERS: 9}
    assert BrokerGoesAway().rate(ORDERS) == 2.0
