"""How far in time the partitions of the topics are landed. Pure: no I/O and no clock.

Two facts prove that each record that Kafka got before a time is in a file:

- A landed record of a topic that brokers stamp, with every offset before it landed too. The times
  of a partition don't go back there, so records before its time have smaller offsets.
- A look at the end of the log. Once every offset before that end is landed, so is each record that
  the log had at the time of the look. This is the only fact for topics that producers stamp, and it
  moves partitions without records.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from beam_pipeline.files.ledger import LastRecord
from beam_pipeline.offset_sets import TopicPartition

MAX_LOOKS = 512


@dataclass
class LandedTime:
    """How far in time one partition is landed.

    Attributes:
        landed_to: the first offset that may be in no file.
        log_end: the offset after the last record, at the last look.
        reached_ms: each record that Kafka got before it is in a file, in milliseconds since 1970.
    """

    landed_to: int = 0
    log_end: int | None = None
    reached_ms: int | None = None
    _records: list[LastRecord] = field(default_factory=list)
    _looks: deque[tuple[int, int]] = field(default_factory=deque)

    def note_record(self, record: LastRecord) -> None:
        """Note a landed record that a broker has stamped."""
        heapq.heappush(self._records, record)

    def forget_records(self) -> None:
        """Forget the records that are noted: their times are those of producers."""
        self._records.clear()

    def note_look(self, log_end: int, at_ms: int) -> None:
        """Note where the log ended at a time; times rise from call to call."""
        self.log_end = log_end
        if self._looks and self._looks[-1][0] == log_end:
            self._looks.pop()
        self._looks.append((log_end, at_ms))
        if len(self._looks) > MAX_LOOKS:  # fewer looks prove the same, later
            last = self._looks[-1]
            self._looks = deque([*list(self._looks)[:-1:2], last])

    def advance(self, landed_to: int) -> None:
        """Take in that each offset before `landed_to` is landed, or never will be."""
        self.landed_to = landed_to
        while self._records and self._records[0].offset < landed_to:
            self._reach(heapq.heappop(self._records).timestamp_ms)
        while self._looks and self._looks[0][0] <= landed_to:
            self._reach(self._looks.popleft()[1])

    def _reach(self, time_ms: int) -> None:
        if self.reached_ms is None or time_ms > self.reached_ms:
            self.reached_ms = time_ms


class LandedTimes:
    """How far in time the partitions of a run's topics are landed."""

    def __init__(self) -> None:
        self.partitions: dict[TopicPartition, LandedTime] = {}
        self._looked_at_ms: int | None = None
        self._unstamped: frozenset[str] = frozenset()

    def begin(
        self,
        starts: Mapping[TopicPartition, int],
        last_records: Mapping[TopicPartition, LastRecord],
        create_time_topics: Iterable[str],
    ) -> None:
        """Begin an epoch; what is known of a partition stays.

        Args:
            starts: the offsets from which the epoch reads.
            last_records: the landed record at the highest offset of each partition.
            create_time_topics: the topics that producers stamp.
        """
        self._unstamped = frozenset(create_time_topics)
        for key, start in starts.items():
            partition = self.partitions.setdefault(key, LandedTime())
            partition.landed_to = start
            if key.topic in self._unstamped:
                partition.forget_records()
            elif key in last_records:
                partition.note_record(last_records[key])

    def note_record(self, key: TopicPartition, record: LastRecord) -> None:
        """Note a landed record."""
        if key.topic not in self._unstamped:
            self.partitions.setdefault(key, LandedTime()).note_record(record)

    def look(self, log_ends: Mapping[TopicPartition, int], at_ms: int) -> None:
        """Note where the logs ended at a time; partitions that were added begin here.

        Args:
            log_ends: the offset after the last record of each partition that there is.
            at_ms: a time before the question, in milliseconds since 1970.
        """
        self._looked_at_ms = at_ms
        for key, log_end in log_ends.items():
            self.partitions.setdefault(key, LandedTime()).note_look(log_end, at_ms)

    def reached_ms(self, topic: str) -> int | None:
        """Return the time before which each record that Kafka got is in a file.

        None while that of a partition is not known. It is no later than the last look, since a
        partition could have been added then.
        """
        reached = [time.reached_ms for key, time in self.partitions.items() if key.topic == topic]
        if not reached or self._looked_at_ms is None:
            return None
        known = [time_ms for time_ms in reached if time_ms is not None]
        return min([*known, self._looked_at_ms]) if len(known) == len(reached) else None
