"""The settings of the graph as frozen values. Nothing here imports Beam."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from beam_pipeline.compiled.kernel import KernelLibrary
from beam_pipeline.covered_offsets import CoveredOffsets
from beam_pipeline.files.names import DEFAULT_PARTITION_KEYS
from beam_pipeline.records import DEFAULT_KAFKA_COLUMNS
from beam_pipeline.schemas import Contract
from beam_pipeline.storage.config import StorageConfig
from beam_pipeline.times import DEFAULT_TIME_UNIT

_Times = TypeVar("_Times", int, npt.NDArray[np.int64])


@dataclass(frozen=True)
class Windowing:
    """How long windows are, and how far the watermark is behind the events; both in seconds.

    The watermark follows Kafka's append time. Elements get the timestamp `shifted(their time)`,
    and the windows of Beam are shifted too, so an event that Kafka got up to
    `watermark_delay_seconds` after its window's end is still on time. Names and footers of files
    have the window of the events, which is not shifted.
    """

    window_seconds: int
    watermark_delay_seconds: int = 2

    def shifted(self, time_us: _Times) -> _Times:
        """Return the timestamp in Beam for an event time, both in microseconds since 1970.

        >>> Windowing(10, watermark_delay_seconds=2).shifted(5)
        2000005
        """
        return time_us + self.watermark_delay_seconds * 1_000_000

    def unshifted(self, timestamp_us: _Times) -> _Times:
        """Return the event time for a timestamp in Beam: the inverse of `shifted`."""
        return timestamp_us - self.watermark_delay_seconds * 1_000_000


@dataclass(frozen=True)
class CreateTimeTopics:
    """The input topics whose records are stamped by their producers, which is Kafka's default.

    `max_out_of_order_seconds` is how far a timestamp may be behind those before it in its
    partition. The watermark stays that far behind the newest timestamp.
    """

    topics: tuple[str, ...] = ()
    max_out_of_order_seconds: int = 60


MAX_BACKLOG_SECONDS = 300.0
"""The longest that a pane of a backlog is collected. A kill has what is in no file read again."""


@dataclass(frozen=True)
class PaneTiming:
    """When a window fires panes, besides the pane at its end; all in seconds of the clock.

    Rows that come after the window has closed are collected for `late_pane_seconds`. With
    `early_pane_seconds` above 0, an open window fires that long after its first row.
    """

    late_pane_seconds: float = 5.0
    early_pane_seconds: float = 0.0


class PartitionEnd(NamedTuple):
    """An offset of a partition, exclusive: every record before it."""

    topic: str
    partition: int
    end: int


@dataclass(frozen=True)
class ReadGoal:
    """What a run reads before it ends.

    Attributes:
      epoch: the submission of the job that reads it.
      ends: the partitions that have unread records, and where the goal is in each.
      readers: how many worker processes share the partitions.
    """

    epoch: str
    ends: tuple[PartitionEnd, ...]
    readers: int = 1

    def end_of(self, topic: str, partition: int) -> int:
        """Return where the goal is in a partition; 0 if it has nothing to read."""
        return self._by_partition.get((topic, partition), 0)

    def is_read(self, read_ends: Mapping[tuple[str, int], int]) -> bool:
        """Return whether a worker process has read its share of the partitions to the goal.

        A process is not told which partitions it reads. It takes those that it has seen for its
        share, if there are as many as a share has at least.

        >>> goal = ReadGoal("e1", (PartitionEnd("t", 0, 5), PartitionEnd("t", 1, 7)), readers=2)
        >>> goal.is_read({("t", 1): 6}), goal.is_read({("t", 1): 7}), goal.is_read({})
        (False, True, False)
        """
        least = max(1, len(self.ends) // self.readers)
        seen = [key for key in read_ends if key in self._by_partition]
        return len(seen) >= least and all(read_ends[key] >= self._by_partition[key] for key in seen)

    @functools.cached_property
    def _by_partition(self) -> dict[tuple[str, int], int]:
        return {(end.topic, end.partition): end.end for end in self.ends}


@dataclass(frozen=True)
class Cut:
    """Where a run ends in the logs: it drops the records from there on.

    Attributes:
      ends: the first offset of each partition that is dropped. A partition without an end has none.
      end_ms: records that Kafka stamped at this time or later are dropped, in milliseconds since
        1970.
    """

    ends: tuple[PartitionEnd, ...] = ()
    end_ms: int | None = None


@dataclass(frozen=True)
class ValidationRules:
    """What makes a record valid, apart from its schema.

    `event_time_field` is a dotted path, or None to take Kafka's timestamp as event time.
    `max_event_age_seconds` and `max_event_skew_seconds` are how far an event time may be before
    and after the append time; 0 sets no limit. `event_time_unit` is that of an event time that is a
    number, one of `times.TIME_UNITS`. `keeps_null_values` makes a record whose value is null a row
    of its Kafka columns, at its Kafka timestamp; else it is a dead letter. `kernel` proves rows by
    the compiled contract; without it, and for the rows that it does not prove, the result is the
    same.
    """

    event_time_field: str | None
    max_event_age_seconds: int = 0
    max_event_skew_seconds: int = 0
    max_value_bytes: int = 8 * 1024 * 1024
    event_time_unit: str = DEFAULT_TIME_UNIT
    kernel: KernelLibrary | None = None
    keeps_null_values: bool = False


@dataclass(frozen=True)
class BreakerLimits:
    """The share of dead letters among the records read over a time that a run may have."""

    max_dead_ratio: float
    window_seconds: float


@dataclass(frozen=True)
class Turns:
    """How long a turn of KafkaIO's reader on Prism takes at one partition, in milliseconds.

    Attributes:
      wait_ms: how long it waits for a first record; KafkaIO's own limit is 2 s (Beam 2.73).
      read_ms: how long a turn with records goes on.
    """

    wait_ms: int = 2_000
    read_ms: int = 2_000

    def shared_by(self, rounds: float) -> Turns:
        """Return the turns where so many rounds of partitions take turns.

        >>> Turns().shared_by(1), Turns().shared_by(4)
        (Turns(wait_ms=2000, read_ms=2000), Turns(wait_ms=250, read_ms=500))
        """
        return Turns(
            max(_LEAST_WAIT_MS, int(self.wait_ms / rounds**1.5)),
            max(_LEAST_TURN_MS, int(self.read_ms / rounds)),
        )


_LEAST_WAIT_MS, _LEAST_TURN_MS = 50, 200


@dataclass(frozen=True)
class IngestConfig:
    """Everything that `build_pipeline` needs, checked. Transforms take plain values out of it."""

    input_topics: tuple[str, ...]
    consumer_group: str
    contract: Contract
    rules: ValidationRules
    reference_dir: Path
    windowing: Windowing
    timing: PaneTiming
    output_dir: str
    dead_letter_dir: str
    private_dead_letters: bool
    dead_letter_topic_suffix: str
    num_shards: int
    parquet_codec: str
    epoch: str
    expansion_service: str | None
    follow_append_time: bool
    client_properties: Mapping[str, str] = field(repr=False)
    create_time: CreateTimeTopics = CreateTimeTopics()
    plain_source: bool = False
    packs_dir: str | None = None
    transforms: tuple[str, ...] = ()
    compiled_contract: bool = True
    covered: CoveredOffsets = field(default_factory=CoveredOffsets, repr=False)
    cut: Cut = Cut()
    partition_keys: tuple[str, str] = DEFAULT_PARTITION_KEYS
    storage: StorageConfig = field(default_factory=StorageConfig)
    parts_dir: str | None = None
    goal: ReadGoal | None = None
    turns: Turns = Turns()
    kafka_columns: tuple[str, ...] = DEFAULT_KAFKA_COLUMNS
    stores_arrow_schema: bool = True
