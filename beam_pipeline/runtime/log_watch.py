"""What happens to the topics' logs behind a run: records expire unread, partitions are added."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from pyroaring import BitMap64

from beam_pipeline.config import MAX_BACKLOG_SECONDS, PaneTiming, Windowing
from beam_pipeline.covered_offsets import CoveredOffsets
from beam_pipeline.files.expired import ExpiredNote
from beam_pipeline.files.ledger import Ledger
from beam_pipeline.offset_sets import TopicPartition, interval, ranges

LOOK_SECONDS = 10.0
"""How often a run looks at the first offsets of the logs."""

AWAY_SECONDS = 60.0
"""How long it waits after a look that got no answer."""

_SLACK_SECONDS = 10.0
_RANGES_TOLD = 3


def landing_seconds(
    windowing: Windowing, timing: PaneTiming, max_out_of_order_seconds: float
) -> float:
    """Return how long a record that was read may take to be in a file, also in a backlog.

    >>> landing_seconds(Windowing(60, 2), PaneTiming(), max_out_of_order_seconds=60)
    432.0
    """
    open_seconds = (
        timing.early_pane_seconds or windowing.window_seconds + windowing.watermark_delay_seconds
    )
    collected_seconds = max(timing.late_pane_seconds, MAX_BACKLOG_SECONDS)
    return open_seconds + max_out_of_order_seconds + collected_seconds + _SLACK_SECONDS


@dataclass
class _Partition:
    """What is known of one partition in this epoch.

    Attributes:
      start: the offset from which the epoch reads.
      covered_at_start: the offsets that files held then.
      passed: offsets that the reader passed while the log had them.
      candidates: offsets below the log's start that were in no file at `candidates_since`.
    """

    start: int
    covered_at_start: BitMap64
    passed: BitMap64 = field(default_factory=BitMap64)
    candidates: BitMap64 = field(default_factory=BitMap64)
    candidates_since: float = 0.0


class LogWatch:
    """Finds the records that expired before they were read, in all epochs of a run.

    An offset below the log's start that is in no file may be on its way to one. So it counts as
    expired only once it has been there for `grace_seconds`, and no longer when a file has it.
    A reader passes offsets in their order: when an epoch has landed offset 90 and the log still
    begins at 50, the offsets from 50 to 89 can't expire unread any more. Those of them that are in
    no file never had a record, or are on their way.

    What expired before the first landed offset of a partition, or before the run began to read it,
    is no loss of this pipeline.
    """

    def __init__(
        self,
        note: ExpiredNote,
        grace_seconds: float,
        *,
        accept: bool = False,
        tells_of_added: bool = True,
    ) -> None:
        """Args:
        note: what earlier runs noted; it is changed, and saved by the caller.
        grace_seconds: how long a record may be on its way (`landing_seconds`).
        accept: whether losses are accepted (`--accept_expired`).
        tells_of_added: whether partitions that were added wait for the next start, so that the
          user must know.
        """
        self.note = note
        self._grace_seconds = grace_seconds
        self._accept = accept
        self._tells_of_added = tells_of_added
        self._partitions: dict[TopicPartition, _Partition] = {}
        self._first_starts: dict[TopicPartition, int] = {}
        self._waiting: set[TopicPartition] = set()
        self._told = CoveredOffsets()
        self.is_changed = False

    def begin(
        self,
        starts: Mapping[TopicPartition, int],
        log_starts: Mapping[TopicPartition, int],
        ledger: Ledger,
        *,
        is_restored: bool,
        now: float,
    ) -> list[str]:
        """Begin an epoch; return notices. A restored job may still have records on their way.

        Args:
          starts: the offsets from which the epoch reads.
          log_starts: the first offset of each log.
          ledger: what files cover.
          is_restored: whether the job continues from a checkpoint.
          now: seconds of a monotonic clock.
        """
        self._waiting.clear()
        self._partitions = {
            key: _Partition(start, ledger.covered.of(key)) for key, start in starts.items()
        }
        for key, start in starts.items():
            self._first_starts.setdefault(key, start)
        if is_restored:
            return self.look(log_starts, ledger, now)
        return list(
            self._confirm(
                {
                    key: self._unread(key, low, ledger) | self._lost(key, ledger)
                    for key, low in log_starts.items()
                }
            )
        )

    def look(
        self, log_starts: Mapping[TopicPartition, int], ledger: Ledger, now: float
    ) -> list[str]:
        """Compare the logs' first offsets with what is in files; return notices, each once.

        `ledger` must have been refreshed before `log_starts` was fetched.
        """
        found = {}
        for key, low in log_starts.items():
            partition = self._partitions.get(key)
            if partition is None:
                continue
            landed = (
                ledger.covered.of(key) - partition.covered_at_start - ledger.offset_gaps.of(key)
            )
            if landed:
                partition.passed |= interval(max(low, partition.start), landed.max() + 1)
            unread = self._unread(key, low, ledger)
            if now - partition.candidates_since < self._grace_seconds and partition.candidates:
                continue
            settled = partition.candidates & unread
            passed = settled & partition.passed
            self.note.without_record.add(*key, passed)
            self.is_changed |= bool(passed)
            found[key] = settled - partition.passed
            partition.candidates = unread - settled
            partition.candidates_since = now
        added = sorted(log_starts.keys() - self._partitions.keys() - self._waiting)
        self._waiting.update(added)
        notices = _notices_of_added(added) if self._tells_of_added else []
        return [*self._confirm(found), *notices]

    def finish(self, log_starts: Mapping[TopicPartition, int], ledger: Ledger) -> list[str]:
        """End the last epoch, whose job is over; return notices.

        No record is on its way any more. What the reader passed is left to the next start.
        """
        return list(
            self._confirm(
                {
                    key: self._unread(key, low, ledger) - self._partitions[key].passed
                    for key, low in log_starts.items()
                    if key in self._partitions
                }
            )
        )

    @property
    def waiting(self) -> list[TopicPartition]:
        """The partitions that were added since the epoch began to read; the next start reads."""
        return sorted(self._waiting)

    def expired(self, ledger: Ledger) -> dict[TopicPartition, int]:
        """Return how many records may have expired unread, accepted ones left out."""
        lost = {key: self._lost(key, ledger) for key in self.note.unread.partitions()}
        counts = {
            key: len(offsets - self.note.accepted.of(key))
            for key, offsets in lost.items()
            if key in self._first_starts
        }
        return {key: count for key, count in counts.items() if count}

    def missing(self, key: TopicPartition, first: int, end: int, ledger: Ledger) -> int:
        """Return how many offsets from `first` to before `end` can still come into a file."""
        uncovered = ledger.missing(key, first, end)
        if not uncovered:
            return 0
        gone = self._lost(key, ledger) | (self.note.without_record.of(key) - ledger.covered.of(key))
        gone -= ledger.left_out.of(key)
        return uncovered - gone.range_cardinality(first, max(first, end))

    def landed_to(self, key: TopicPartition, start: int, ledger: Ledger) -> int:
        """Return the first offset from `start` on that is in no file and can still have a record.

        What `--start` left out is passed over, and so are records that expired unread once the loss
        is accepted.
        """
        landed_to = ledger.passed_to(key, start)
        gone = self.note.accepted.of(key) | self.note.without_record.of(key)
        if landed_to not in gone:
            return landed_to
        together = CoveredOffsets()
        together.add(*key, ledger.covered.of(key) | ledger.left_out.of(key) | gone)
        return together.prefix_end(*key, start)

    def _lost(self, key: TopicPartition, ledger: Ledger) -> BitMap64:
        return self.note.unread.of(key) - ledger.covered.of(key)

    def _unread(self, key: TopicPartition, low: int, ledger: Ledger) -> BitMap64:
        """Return the offsets below the log's start that are in no file and not explained."""
        first, _ = ledger.covered.bounds(*key) or (low, low)
        first = min(first, self._first_starts.get(key, low))
        uncovered = ledger.uncovered(key, first, low)
        return uncovered - self.note.without_record.of(key)

    def _confirm(self, found: Mapping[TopicPartition, BitMap64]) -> Iterator[str]:
        """Note offsets that expired unread; yield a notice for those that were not told yet."""
        for key, offsets in found.items():
            self.note.unread.add(*key, offsets)
            fresh = offsets - self.note.accepted.of(key) - self._told.of(key)
            self._told.add(*key, fresh)
            self.is_changed |= bool(offsets)
            if self._accept:
                self.note.accepted.add(*key, offsets)
            if fresh:
                yield expired_notice(key, fresh, is_accepted=self._accept)


def expired_notice(key: TopicPartition, offsets: BitMap64, *, is_accepted: bool) -> str:
    """Return a line on offsets that expired unread."""
    spans = [f"{first}-{last}" if first < last else f"{first}" for first, last in ranges(offsets)]
    more = ", …" if len(spans) > _RANGES_TOLD else ""
    accepted = " This is accepted (--accept_expired)" if is_accepted else f" {EXPIRED_REMEDY}"
    return (
        f"{key}: at most {len(offsets):,} records expired from the log before they were read "
        f"(offsets {', '.join(spans[:_RANGES_TOLD])}{more}); they are lost to this pipeline."
        + accepted
    )


EXPIRED_REMEDY = (
    "Raise retention.ms or retention.bytes of the topic; --accept_expired accepts the loss"
)


def expired_text(counts: Mapping[TopicPartition, int]) -> str | None:
    """Return a line on what expired unread in a run; None if nothing did."""
    if not counts:
        return None
    where = ", ".join(f"{key}: {count:,}" for key, count in sorted(counts.items()))
    return f"at most {sum(counts.values()):,} records expired unread ({where}). {EXPIRED_REMEDY}"


def waiting_text(partitions: Iterable[TopicPartition]) -> str | None:
    """Return a line on partitions that were added to topics; None if none was."""
    added = list(partitions)
    if not added:
        return None
    return (
        f"{', '.join(map(str, added))} added since the start: not read yet; the next start reads "
        "them from their beginning"
    )


def _notices_of_added(partitions: Iterable[TopicPartition]) -> list[str]:
    text = waiting_text(partitions)
    return [text] if text else []
