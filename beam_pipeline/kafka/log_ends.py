"""End offsets of the topics, fetched every two seconds in a thread; for display only."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from threading import Event, Thread
from types import TracebackType

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.kafka.admin import EndOffsets
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.offset_sets import TopicPartition

INTERVAL_SECONDS = 2.0
RATE_SECONDS = 30.0


class LogEnds:
    """Fetches the end offset of each partition in a thread of its own, so that a broker that does
    not answer blocks no one. A context manager; what is not known is left out."""

    def __init__(self, connection: KafkaConnection) -> None:
        self._connection = connection
        self._partitions: Sequence[TopicPartition] = ()
        # Replaced by the thread as a whole, never changed: a reader takes it once.
        self._seen: deque[tuple[float, Mapping[TopicPartition, int]]] = deque()
        self._stop = Event()
        self._thread = Thread(target=self._fetch, name="log-ends", daemon=True)

    def watch(self, partitions: Sequence[TopicPartition]) -> None:
        """Set the partitions to fetch from now on."""
        self._partitions = partitions

    def ends(self) -> Mapping[TopicPartition, int]:
        """Return the offset after the last record of each partition; empty while the broker is
        away."""
        seen = self._seen
        return seen[-1][1] if seen else {}

    def rate(self, partition: TopicPartition) -> float | None:
        """Return how many records a second were appended, over the last half minute at most."""
        seen = self._seen
        if len(seen) < 2:
            return None
        (first_at, first), (last_at, last) = seen[0], seen[-1]
        if partition not in first or partition not in last:
            return None
        return max(0, last[partition] - first[partition]) / (last_at - first_at)

    def _fetch(self) -> None:
        client: EndOffsets | None = None
        while not self._stop.wait(INTERVAL_SECONDS if self._seen else 0.2):
            if not self._partitions:
                continue
            try:
                client = client or EndOffsets(self._connection)
                ends = client.fetch(self._partitions)
            except EnvironmentFailure:
                # librdkafka 2.16: a client that knows the leader's epoch from before a broker's
                # restart gets FENCED_LEADER_EPOCH ever after; a new client asks anew.
                client = None
                self._seen = deque()
                continue
            now = time.monotonic()
            kept = [(at, seen) for at, seen in self._seen if now - at <= RATE_SECONDS]
            self._seen = deque([*kept, (now, ends)])

    def __enter__(self) -> LogEnds:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
