"""What of the logs a run lands: all of it, a part of it by time, or what earlier runs left out.

The supervisor asks a scope at the start of each epoch. What a scope leaves out is noted
(`files.left_out`) before the epoch reads.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from pyroaring import BitMap64

from beam_pipeline.config import Cut, PartitionEnd
from beam_pipeline.covered_offsets import CoveredOffsets
from beam_pipeline.files.ledger import Ledger
from beam_pipeline.files.left_out import (
    LeftOutNote,
    LeftOutRange,
    StoredNote,
    left_out_text,
    load_left_out,
)
from beam_pipeline.offset_sets import TopicPartition, interval
from beam_pipeline.runtime.complete_hours import CLOCK_SLACK_MS
from beam_pipeline.runtime.log_watch import LogWatch
from beam_pipeline.runtime.resume import Ends, ResumePoint, Source
from beam_pipeline.settings.config import EndPoint, StartPoint
from beam_pipeline.storage.paths import StoredPath

END_SLACK_MS = CLOCK_SLACK_MS
"""How long after `--end` the ends are asked for: the clock of a broker may be behind."""


@dataclass(frozen=True)
class Reading:
    """What an epoch reads.

    Attributes:
      starts: the offsets from which it reads.
      skipped: the offsets from there on that it drops.
      cut: where it ends in the logs.
    """

    starts: Ends
    skipped: CoveredOffsets
    cut: Cut


class Scope(Protocol):
    """What of the logs a run lands.

    Attributes:
      note: what is left out now.
      notices: one line each for the user; the supervisor takes them away.
    """

    note: LeftOutNote
    notices: list[str]

    def prepare(self, source: Source, topics: Collection[str], ledger: Ledger, now_ms: int) -> None:
        """Prepare an epoch before its resume point is looked for: note what is left out.

        Raises:
          EnvironmentFailure: the cluster did not answer, or the note can't be read.
          OSError: the note can't be written.
        """

    def reading(self, ledger: Ledger, point: ResumePoint) -> Reading:
        """Return what the epoch reads."""

    def goal(self, source: Source, now_ms: int) -> Ends | None:
        """Return the end of the run in each partition; None while it is not known.

        Raises:
          EnvironmentFailure: the cluster did not answer.
          OSError: the note can't be written.
        """

    def remaining(self, goal: Ends, starts: Ends, ledger: Ledger, log_watch: LogWatch) -> int:
        """Return how many offsets before the goal are in no file."""

    def cover_gaps(self, goal: Ends, starts: Ends, source: Source, ledger: Ledger) -> None:
        """Read the log at the offsets before the goal that are in no file.

        Raises:
          EnvironmentFailure: the cluster refuses, or does not answer.
        """

    def finish(self, ledger: Ledger) -> None:
        """Take in what was landed, when the last job is over.

        Raises:
          EnvironmentFailure: another run holds the directory.
          OSError: the note can't be written.
        """


class PartByTime:
    """The whole of the logs, or what is between `--start` and `--end`."""

    def __init__(
        self,
        output_dir: StoredPath,
        start: StartPoint | None = None,
        end: EndPoint | None = None,
    ) -> None:
        """Args:
        output_dir: where the note is.
        start: where topics begin of which the directory has nothing; None: at their first record.
        end: where the run ends; None: nowhere.
        """
        self.note = LeftOutNote()
        self.notices: list[str] = []
        self._output_dir = output_dir
        self._start = start
        self._end = end
        self._stored = StoredNote(self.note, None)
        self._is_begun = False
        self._started: frozenset[str] = frozenset()
        self._topics: Collection[str] = ()
        self._ends: Ends | None = None

    def prepare(self, source: Source, topics: Collection[str], ledger: Ledger, now_ms: int) -> None:
        stored = load_left_out(self._output_dir)
        self._topics = topics
        note = stored.note
        if not self._is_begun:
            self._tell_of_ends(note)
            if self._start is not None:
                note = self._with_start(note, self._start, source, topics, ledger, now_ms)
        ends = self._end_ranges(self._ends or {})
        self._keep(stored.replaced_by(note.with_end(topics, ends), self._output_dir))
        ledger.left_out = self.note.offsets()

    def _keep(self, stored: StoredNote) -> None:
        self._stored, self.note = stored, stored.note

    def _tell_of_ends(self, note: LeftOutNote) -> None:
        """Tell what an earlier run with `--end` left out, and this one reads."""
        spans = [
            span for span in note.ranges if span.end is None and span.key.topic in self._topics
        ]
        if spans and self._end is None:
            self.notices.append(f"read now: what was left out {left_out_text(spans)}")

    def _with_start(
        self,
        note: LeftOutNote,
        start: StartPoint,
        source: Source,
        topics: Collection[str],
        ledger: Ledger,
        now_ms: int,
    ) -> LeftOutNote:
        known = note.topics | {key.topic for key in ledger.covered.partitions()}
        self._started = frozenset(topics) - known
        if not self._started or start.is_earliest:
            return note.with_start(self._started, ())
        by_producers = source.create_time_topics() if start.time_ms is None else ()
        begins = source.log_bounds().starts
        spans = [
            LeftOutRange(
                key,
                begins.get(key, 0),
                offset,
                start.flag,
                None if key.topic in by_producers else start.time_ms or now_ms + CLOCK_SLACK_MS,
            )
            for key, offset in sorted(source.offsets_at(start.time_ms).items())
            if key.topic in self._started
        ]
        note = note.with_start(self._started, spans)
        left_out = [span for span in note.before_start if span.key.topic in self._started]
        if left_out:
            self.notices.append(f"left out: {left_out_text(left_out)}; `backfill` lands them")
        return note

    def _end_ranges(self, ends: Ends) -> list[LeftOutRange]:
        flag = self._end.flag if self._end else ""
        return [LeftOutRange(key, end, None, flag) for key, end in ends.items()]

    def reading(self, ledger: Ledger, point: ResumePoint) -> Reading:
        if not self._is_begun and self._start is not None:
            kept = {key: at for key, at in point.starts.items() if key.topic not in self._started}
            if kept:
                self.notices.append(
                    f"{self._start.flag} counts for topics that this directory has not read; "
                    f"{_starts_text(kept)}"
                )
        self._is_begun = True
        skipped = ledger.covered.copy()
        skipped.update(ledger.left_out)
        return Reading(dict(point.starts), skipped.beyond(point.starts), self._cut)

    @property
    def _cut(self) -> Cut:
        if self._end is None:
            return Cut()
        ends = tuple(PartitionEnd(*key, end) for key, end in (self._ends or {}).items())
        return Cut(ends, self._end.time_ms)

    def goal(self, source: Source, now_ms: int) -> Ends | None:
        if self._end is None or now_ms < self._end.time_ms + END_SLACK_MS:
            return None
        if self._ends is None:
            ends = source.offsets_at(self._end.time_ms)
            note = self.note.with_end(self._topics, self._end_ranges(ends))
            self._keep(self._stored.replaced_by(note, self._output_dir))
            self._ends = ends
        return self._ends

    def remaining(self, goal: Ends, starts: Ends, ledger: Ledger, log_watch: LogWatch) -> int:
        return sum(
            log_watch.missing(key, starts.get(key, 0), end, ledger) for key, end in goal.items()
        )

    def cover_gaps(self, goal: Ends, starts: Ends, source: Source, ledger: Ledger) -> None:
        spans = {key: (starts.get(key, 0), end) for key, end in goal.items()}
        source.cover_offset_gaps(ledger, spans)

    def finish(self, ledger: Ledger) -> None:
        """Nothing is to be done: what this run left out stays left out."""


@dataclass
class Backfill:
    """What `--start` has left out, between two times; None is the beginning, and the end.

    Attributes:
      output_dir: where the note is.
      from_ms, to_ms: milliseconds since 1970.
    """

    output_dir: StoredPath
    from_ms: int | None = None
    to_ms: int | None = None
    note: LeftOutNote = field(default_factory=LeftOutNote)
    notices: list[str] = field(default_factory=list)
    _stored: StoredNote = field(default_factory=lambda: StoredNote(LeftOutNote(), None))
    _chosen: dict[TopicPartition, BitMap64] | None = None
    _wanted: dict[TopicPartition, BitMap64] = field(default_factory=dict)

    def prepare(self, source: Source, topics: Collection[str], ledger: Ledger, now_ms: int) -> None:
        self._keep(load_left_out(self.output_dir))
        ledger.left_out = self.note.offsets()
        if self._chosen is None:
            firsts = {} if self.from_ms is None else source.offsets_at(self.from_ms)
            ends = {} if self.to_ms is None else source.offsets_at(self.to_ms)
            self._chosen = chosen_offsets(self.note, topics, firsts, ends)
            self._wanted = {key: offsets.copy() for key, offsets in self._chosen.items()}
            self._drop_expired(source.log_bounds().starts, ledger)

    def _keep(self, stored: StoredNote) -> None:
        self._stored, self.note = stored, stored.note

    def reading(self, ledger: Ledger, point: ResumePoint) -> Reading:
        starts, skipped = {}, CoveredOffsets()
        cut = []
        for key, at in point.starts.items():
            unread = self._wanted.get(key, BitMap64()) - ledger.covered.of(key)
            if not unread:  # at the end of what is landed there is the least to drop
                starts[key] = at
                cut.append(PartitionEnd(*key, 0))
                continue
            starts[key], end = unread.min(), unread.max() + 1
            skipped.add(*key, interval(starts[key], end) - unread)
            cut.append(PartitionEnd(*key, end))
        return Reading(starts, skipped.beyond(starts), Cut(tuple(cut)))

    def _drop_expired(self, log_starts: Ends, ledger: Ledger) -> None:
        """Want no more what the log has not any more; tell how many offsets that are."""
        for key, offsets in self._wanted.items():
            low = log_starts.get(key, 0)
            if expired := (offsets & interval(0, low)) - ledger.covered.of(key):
                offsets -= expired
                self.notices.append(
                    f"{key}: {len(expired):,} of the offsets that were left out are not in the log "
                    f"any more, which begins at {low:,}; they stay left out"
                )

    def goal(self, source: Source, now_ms: int) -> Ends | None:
        return {key: offsets.max() + 1 for key, offsets in self._wanted.items() if offsets}

    def remaining(self, goal: Ends, starts: Ends, ledger: Ledger, log_watch: LogWatch) -> int:
        return sum(len(self._wanted[key] - ledger.covered.of(key)) for key in goal)

    def cover_gaps(self, goal: Ends, starts: Ends, source: Source, ledger: Ledger) -> None:
        uncovered = {key: self._wanted[key] - ledger.covered.of(key) for key in goal}
        for key, gaps in source.find_gaps(uncovered).items():
            ledger.add_offset_gaps(*key, gaps)
        self._drop_expired(source.log_bounds().starts, ledger)

    def finish(self, ledger: Ledger) -> None:
        """Take what is in files, or has no record, out of the note.

        The ledger is saved first, since the note had the offsets without a record until now.
        """
        ledger.refresh()
        landed = {
            key: offsets & ledger.covered.of(key) for key, offsets in (self._chosen or {}).items()
        }
        if not any(landed.values()):
            return
        ledger.save()
        self._keep(self._stored.replaced_by(self.note.without(landed), self.output_dir))
        ledger.left_out = self.note.offsets()


def chosen_offsets(
    note: LeftOutNote,
    topics: Collection[str],
    firsts: Mapping[TopicPartition, int],
    ends: Mapping[TopicPartition, int],
) -> dict[TopicPartition, BitMap64]:
    """Return what `--start` left out of some topics, from the firsts to before the ends.

    A partition without a first begins with what is left out, and one without an end ends with it.

    >>> key = TopicPartition("orders", 0)
    >>> note = LeftOutNote((LeftOutRange(key, 0, 10, "--start=latest"),))
    >>> list(chosen_offsets(note, ["orders"], {key: 3}, {key: 6})[key])
    [3, 4, 5]
    """
    chosen: dict[TopicPartition, BitMap64] = {}
    for span in note.before_start:
        if span.key.topic not in topics or span.end is None:
            continue
        first = max(span.first, firsts.get(span.key, 0))
        offsets = interval(first, min(span.end, ends.get(span.key, span.end)))
        if offsets:
            chosen[span.key] = chosen.get(span.key, BitMap64()) | offsets
    return chosen


_STARTS_TOLD = 5


def _starts_text(starts: Mapping[TopicPartition, int]) -> str:
    places: Iterable[str] = [f"{key} goes on at {at:,}" for key, at in sorted(starts.items())]
    shown = list(places)[:_STARTS_TOLD]
    more = len(starts) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more else "")
