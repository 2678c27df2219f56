"""An engine without a runner and topics without a broker, for tests of the supervisor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.files.ledger import Ledger
from beam_pipeline.kafka.admin import LogBounds
from beam_pipeline.offset_sets import OffsetSets, TopicPartition
from beam_pipeline.runtime.engine import EngineStatus
from beam_pipeline.runtime.resume import Ends, ResumePoint, Spans

ORDERS = TopicPartition("orders", 0)
RUNNING = EngineStatus()


@dataclass
class FakeEngine:
    """Plays what a test gives it, and notes what it was told.

    Attributes:
      statuses: what `status` returns, one after another; then `RUNNING`.
      checkpoints: what `checkpoint` returns, one after another; then None.
      start_errors: what `start` raises, one after another; then nothing.
      calls: the names of the methods that were called, but for `status`.
    """

    statuses: list[EngineStatus] = field(default_factory=list)
    checkpoints: list[str] = field(default_factory=list)
    start_errors: list[Exception] = field(default_factory=list)
    restores_checkpoints: bool = False
    name: str = "fake engine"
    calls: list[str] = field(default_factory=list)
    epochs: list[str] = field(default_factory=list)

    def start(self, epoch: str) -> None:
        self.calls.append("start")
        self.epochs.append(epoch)
        if self.start_errors:
            raise self.start_errors.pop(0)

    def job_flags(self) -> list[str]:
        return ["--runner=Fake"]

    def status(self) -> EngineStatus:
        return self.statuses.pop(0) if self.statuses else RUNNING

    def checkpoint(self) -> str | None:
        return self.checkpoints.pop(0) if self.checkpoints else None

    def stop(self) -> None:
        self.calls.append("stop")

    def leave(self) -> None:
        self.calls.append("leave")


class FakeSource:
    """Logs that begin at offset 0 and have a record at each offset.

    Attributes:
      partitions: those that there are now; one of `orders` at first.
      names: the topics of the cluster.
    """

    def __init__(self, reachable: Iterable[bool] = ()) -> None:
        """`reachable` is what `is_reachable` returns, one after another; then True."""
        self.reachable = list(reachable)
        self.log_begins = 0
        self.partitions = [ORDERS]
        self.names = ["orders"]
        self.log_end = 0
        self.group_offsets: list[Ends] = []
        self.commits: list[Ends] = []
        self.commit_errors: list[EnvironmentFailure] = []
        self.asked: Counter[str] = Counter()
        self.resume_errors: list[EnvironmentFailure] = []

    def is_reachable(self) -> bool:
        self.asked["is_reachable"] += 1
        return self.reachable.pop(0) if self.reachable else True

    def find_resume_point(self, ledger: Ledger) -> ResumePoint:
        if self.resume_errors:
            raise self.resume_errors.pop(0)
        starts = {key: ledger.passed_to(key, self.log_begins) for key in self.partitions}
        return ResumePoint(starts, self._log_starts())

    def _log_starts(self) -> dict[TopicPartition, int]:
        return dict.fromkeys(self.partitions, self.log_begins)

    def with_topics(self, topics: Sequence[str]) -> FakeSource:
        known = {key.topic for key in self.partitions}
        self.partitions = [
            *(key for key in self.partitions if key.topic in topics),
            *(TopicPartition(topic, 0) for topic in topics if topic not in known),
        ]
        return self

    def log_bounds(self) -> LogBounds:
        self.asked["log_bounds"] += 1
        return LogBounds(self._log_starts(), dict.fromkeys(self.partitions, self.log_end))

    def find_gaps(self, offsets: OffsetSets) -> OffsetSets:
        self.asked["find_gaps"] += 1
        return {}

    def create_time_topics(self) -> tuple[str, ...]:
        return ()

    def offsets_at(self, time_ms: int | None) -> Ends:
        """Records are stamped with their offsets."""
        end = self.log_end if time_ms is None else min(time_ms, self.log_end)
        return dict.fromkeys(self.partitions, end)

    def set_group_offsets(self, starts: Ends) -> None:
        self.group_offsets.append(dict(starts))

    def commit(self, landed_to: Ends) -> None:
        self.commits.append(dict(landed_to))
        if self.commit_errors:
            raise self.commit_errors.pop(0)

    def cover_offset_gaps(self, ledger: Ledger, spans: Spans) -> int:
        self.asked["cover_offset_gaps"] += 1
        raise EnvironmentFailure("the broker went away")
