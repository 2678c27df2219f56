"""Marks the hours that are complete, and notes how far in time each topic is landed.

The supervisor calls it every ten seconds, when it has looked at the logs. What a look costs grows
with the partitions and with the files of the hours that have changed, not with the files in place.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone

from pyroaring import BitMap64

from beam_pipeline.config import Windowing
from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.files.ledger import FileContent, LastRecord, Ledger, content_of
from beam_pipeline.files.left_out import LeftOutNote
from beam_pipeline.files.markers import (
    HOUR,
    HourContent,
    Marker,
    Spans,
    digest_of,
    hour_of,
    read_marker,
    sizes_in,
    spans_of,
    united,
    write_marker,
)
from beam_pipeline.files.names import JSON_LINES_SUFFIX, PARQUET_SUFFIX, OutputFile, hour_directory
from beam_pipeline.files.reading import read_each
from beam_pipeline.files.watermark_note import (
    PartitionNote,
    TopicNote,
    WatermarkNote,
    load_watermark_note,
)
from beam_pipeline.offset_sets import OffsetSets, TopicPartition, interval, ranges
from beam_pipeline.runtime.gap_finder import GapFinder
from beam_pipeline.runtime.landed_time import LandedTimes
from beam_pipeline.runtime.log_watch import LogWatch
from beam_pipeline.runtime.run_events import RunEvent, hour_complete
from beam_pipeline.storage.paths import ObjectPath, StoredPath
from beam_pipeline.times import ms_of

CLOCK_SLACK_MS = 5_000
"""How far the clock of a broker may be behind that of this machine."""

REVISION_SECONDS = 60.0
"""How long late files of an hour are collected before its marker is written again."""

MARKING_SECONDS = 0.5
LAST_MARKING_SECONDS = 30.0
_KEPT_SECONDS = 3_600.0
_GAP_OFFSETS = 1_000_000


@dataclass(frozen=True)
class HourRules:
    """What decides when an hour is complete, and which records may be of it.

    `max_out_of_order_seconds` counts for topics that producers stamp. `max_event_skew_seconds` is
    how far an event may be after the time at which Kafka stamped it; 0 sets no limit.
    """

    topics: Sequence[str]
    windowing: Windowing
    max_out_of_order_seconds: int = 0
    max_event_skew_seconds: int = 0

    def end_ms(self, hour: datetime) -> int:
        """Return the end of the last window that begins in the hour, in milliseconds since 1970.

        It is the end of the hour where no window begins in it.

        >>> noon = datetime(2026, 11, 24, 12, tzinfo=timezone.utc)
        >>> [HourRules((), Windowing(s)).end_ms(noon) - ms_of(noon) for s in (60, 7200, 5400)]
        [3600000, 7200000, 5400000]
        """
        end_ms, window_ms = ms_of(hour + HOUR), 1000 * self.windowing.window_seconds
        last_start_ms = (end_ms - 1) // window_ms * window_ms
        return max(end_ms, last_start_ms + window_ms) if last_start_ms >= ms_of(hour) else end_ms

    def may_have(self, hour: datetime, before_ms: int | None) -> bool:
        """Return whether an hour may have records that Kafka stamped before a time.

        >>> noon = datetime(2026, 11, 24, 12, tzinfo=timezone.utc)
        >>> rules = HourRules((), Windowing(60), max_event_skew_seconds=300)
        >>> [rules.may_have(noon, ms_of(noon) - seconds * 1000) for seconds in (299, 300)]
        [True, False]
        """
        if before_ms is None or not self.max_event_skew_seconds:
            return True
        return ms_of(hour) < before_ms + 1000 * self.max_event_skew_seconds

    def delay_ms(self, *, by_producers: bool) -> int:
        """Return how long after an event's time Kafka may get it in time."""
        seconds = self.windowing.watermark_delay_seconds
        return 1000 * (seconds + (self.max_out_of_order_seconds if by_producers else 0))


@dataclass
class _Hour:
    """The files of an hour that were read, by name."""

    rows: dict[str, Spans] = field(default_factory=dict)
    dead_letters: dict[str, Spans] = field(default_factory=dict)
    changed_at: float = field(default_factory=time.monotonic)


@dataclass
class _Held:
    """A partition whose landed prefix stands still: at which offset, since when."""

    offset: int
    since: float
    log_end: int


class CompleteHours:
    """The markers and the note of one output directory; the caller holds the leases."""

    def __init__(
        self,
        output_dir: StoredPath,
        dead_letter_dir: StoredPath,
        rules: HourRules,
        log_watch: LogWatch,
        find_gaps: Callable[[OffsetSets], OffsetSets],
        held_seconds: float,
        *,
        is_read_only: bool = False,
    ) -> None:
        """Args:
        output_dir, dead_letter_dir: the roots of the files.
        rules: when an hour is complete.
        log_watch: knows which offsets expired.
        find_gaps: reads the log; returns those of some offsets that will never have a record.
        held_seconds: how long a prefix stands still before the log is read there.
        is_read_only: whether no marker and no note are written; another process may hold the
          leases then. The note is made anew, and not that of earlier runs.
        """
        self._is_read_only = is_read_only
        self._roots = {PARQUET_SUFFIX: output_dir, JSON_LINES_SUFFIX: dead_letter_dir}
        self._output_dir = output_dir
        self._rules = rules
        self._log_watch = log_watch
        self._find_gaps = find_gaps
        self._gaps = GapFinder(find_gaps)
        self._held_seconds = held_seconds
        self._times = LandedTimes()
        self._by_producers: frozenset[str] = frozenset()
        self._starts: dict[TopicPartition, int] = {}
        self._held: dict[TopicPartition, _Held] = {}
        self._hours: dict[str, _Hour] = {}
        self._written_at: dict[str, float] = {}
        self._open: set[str] = set()
        self._told: set[str] = set()
        self.note = WatermarkNote()
        self.events: list[RunEvent] = []
        self._left_out = LeftOutNote()
        self._is_loaded = False

    def take_left_out(self, note: LeftOutNote, ledger: Ledger) -> None:
        """Take in what is left out; where that is less than before, open the hours that lack less.

        Raises:
            StorageAwayError, OSError: a marker can't be read.
        """
        landed = set(self._left_out.before_start) - set(note.before_start)
        self._left_out = note
        if not landed:
            return
        directories = {
            str(hour_directory(file.window_start, ledger.partition_keys))
            for file in map(OutputFile.parse, ledger.files)
            if file is not None and file.suffix == PARQUET_SUFFIX
        }
        keys = {left_out.key for left_out in landed}
        places = [
            self._output_dir / directory
            for directory in sorted(directories)
            if (hour := hour_of(directory)) is not None
            and any(self._rules.may_have(hour, left_out.before_ms) for left_out in landed)
        ]
        for place, read in read_each(places, read_marker):
            marker = read().marker
            if marker is not None and marker.lacking & keys:
                directory = f"{place.parent.name}/{place.name}"
                self._open.add(directory)
                self._written_at.pop(directory, None)

    def note_end(self, ends: Mapping[TopicPartition, int], end_ms: int) -> None:
        """Note the first offsets that Kafka stamped at a time or later.

        Where brokers stamp, that proves as much as a landed record of that time before each.
        """
        for key, end in ends.items():
            self._times.note_record(key, LastRecord(end - 1, end_ms))

    def note_file(self, path: StoredPath, content: FileContent) -> None:
        """Note a file that the ledger has counted."""
        for key, record in content.last_records.items():
            self._times.note_record(key, record)
        if self._is_read_only or (directory := self._directory_of(path)) is None:
            return
        hour = self._hours.setdefault(directory, _Hour())
        kind = hour.rows if path.suffix == PARQUET_SUFFIX else hour.dead_letters
        kind[path.name] = spans_of(content.covered)
        hour.changed_at = time.monotonic()
        self._open.add(directory)

    def begin(
        self,
        ledger: Ledger,
        starts: Mapping[TopicPartition, int],
        topics: Sequence[str],
        create_time_topics: Sequence[str],
    ) -> list[str]:
        """Begin an epoch, once the ledger has its files; return notices.

        The note is saved, so that the hours of files which the next snapshot has are not forgotten.

        Args:
            ledger: what files cover.
            starts: the offsets from which the epoch reads.
            topics: those that the epoch reads.
            create_time_topics: those of the topics that producers stamp.

        Raises:
            EnvironmentFailure: the note can't be read.
            OSError: it can't be written.
        """
        self._rules = replace(self._rules, topics=topics)
        self._starts = dict(starts)
        self._by_producers = frozenset(create_time_topics)
        self._times.begin(starts, ledger.last_records, create_time_topics)
        is_known = self._is_loaded or self._is_read_only
        notices = [] if is_known else list(self._load(ledger))
        self._save(self.note)
        return notices

    def _load(self, ledger: Ledger) -> Iterator[str]:
        """Read the note of earlier runs; yield a notice where it is not true any more."""
        self._is_loaded = True
        note = load_watermark_note(self._output_dir)
        if note is None:  # files of older versions have no markers
            for file in map(OutputFile.parse, ledger.files):
                if file is not None and file.suffix == PARQUET_SUFFIX:
                    keys = ledger.partition_keys
                    self._open.add(str(hour_directory(file.window_start, keys)))
            return
        self._open |= note.open_hours
        topics = dict(note.topics)
        for key, landed_to in note.landed_to().items():
            is_read = key in self._starts and key.topic in topics
            if is_read and self._has_holes(key, landed_to, ledger):
                del topics[key.topic]
                yield (
                    f"{key} was landed up to offset {landed_to:,} and is not any more: files that "
                    f"no snapshot has were removed. The watermark of {key.topic} begins anew"
                )
        self.note = WatermarkNote(note.looked_at_ms, topics, note.open_hours)

    def _has_holes(self, key: TopicPartition, landed_to: int, ledger: Ledger) -> bool:
        """Whether records before an offset are in no file; gaps that no snapshot has are covered.

        A killed run has not saved the last gaps that it found.
        """
        start = self._log_watch.landed_to(key, self._starts[key], ledger)
        uncovered = ledger.uncovered(key, start, landed_to)
        if not uncovered:
            return False
        gaps = self._find_gaps({key: uncovered}).get(key, BitMap64())
        ledger.add_offset_gaps(*key, gaps)
        return self._log_watch.landed_to(key, start, ledger) < landed_to

    def look(
        self,
        ledger: Ledger,
        log_starts: Mapping[TopicPartition, int],
        log_ends: Mapping[TopicPartition, int],
        asked_at: float,
        *,
        is_last: bool = False,
    ) -> list[str]:
        """Mark the hours that are complete, and save the note; return notices.

        Args:
            ledger: what files cover; refreshed.
            log_starts: the first offset of each partition that there is.
            log_ends: the offset after the last record of each.
            asked_at: a time before they were asked for, in seconds since 1970.
            is_last: whether the run ends, so that no late file is waited for.

        Raises:
            StorageAwayError, OSError: a marker or the note can't be written; the next look does it.
        """
        for key, offsets in self._gaps.take().items():
            ledger.add_offset_gaps(key.topic, key.partition, offsets)
        asked_at_ms = round(1000 * asked_at)
        self._times.look(
            {key: end for key, end in log_ends.items() if key.topic in self._rules.topics},
            asked_at_ms - CLOCK_SLACK_MS,
        )
        expired = self._log_watch.expired(ledger)
        for key, landed in self._times.partitions.items():
            start = self._starts.get(key, log_starts.get(key))
            if start is not None and key not in expired:
                landed.advance(self._log_watch.landed_to(key, start, ledger))
        self._look_for_gaps(ledger)
        reached = {topic: self._watermark_ms(topic) for topic in self._rules.topics}
        notices = list(self._mark(ledger, reached, is_last=is_last))
        self._save(self._noted(reached, expired, asked_at_ms))
        return notices

    def _watermark_ms(self, topic: str) -> int | None:
        return self._event_time_ms(topic, self._times.reached_ms(topic))

    def _event_time_ms(self, topic: str, reached_ms: int | None) -> int | None:
        by_producers = topic in self._by_producers
        delay_ms = self._rules.delay_ms(by_producers=by_producers)
        return None if reached_ms is None else reached_ms - delay_ms

    def _look_for_gaps(self, ledger: Ledger) -> None:
        """Read the log where a landed prefix stands still: offsets may have no record there."""
        now, asked = time.monotonic(), dict[TopicPartition, BitMap64]()
        for key, landed in self._times.partitions.items():
            held = self._held.get(key)
            if landed.log_end is None or landed.landed_to >= landed.log_end:
                self._held.pop(key, None)
            elif key in self._starts and (held is None or held.offset != landed.landed_to):
                self._held[key] = _Held(landed.landed_to, now, landed.log_end)
            elif held and now - held.since >= self._held_seconds and not self._gaps.is_busy:
                end = min(held.log_end, held.offset + _GAP_OFFSETS)
                if landed.log_end != held.log_end:  # its last records are on their way
                    _, covered_end = ledger.covered.bounds(*key) or (0, 0)
                    end = min(end, covered_end)
                if offsets := ledger.uncovered(key, held.offset, end):
                    asked[key] = offsets
                self._held[key] = _Held(held.offset, now, landed.log_end)
        if asked:
            self._gaps.ask(asked)

    def _mark(
        self, ledger: Ledger, reached: Mapping[str, int | None], *, is_last: bool
    ) -> Iterator[str]:
        """Write the markers of complete hours, the latest first; yield notices.

        It takes no longer than a part of a second, so the hours of older versions take many looks.
        """
        if (watermark_ms := _least(reached)) is None:
            return
        began = time.monotonic()
        limit = began + (LAST_MARKING_SECONDS if is_last else MARKING_SECONDS)
        for directory in sorted(self._open, key=_hour_in, reverse=True):
            hour = hour_of(directory)
            if hour is None:
                self._open.discard(directory)
                continue
            since_written = began - self._written_at.get(directory, -REVISION_SECONDS)
            if self._rules.end_ms(hour) > watermark_ms:
                continue
            if since_written < REVISION_SECONDS and not is_last:
                continue
            if time.monotonic() > limit:
                break
            try:
                is_marked = self._mark_hour(ledger, directory, hour, watermark_ms)
            except EnvironmentFailure as error:  # a file that can't be read; `reconcile` names it
                if directory not in self._told:
                    self._told.add(directory)
                    yield f"{directory} gets no marker: {error}"
                is_marked = False
            self._written_at[directory] = time.monotonic()
            if is_marked:
                self._open.discard(directory)
        self._forget_hours()

    def _mark_hour(self, ledger: Ledger, directory: str, hour: datetime, watermark_ms: int) -> bool:
        """Write the marker of an hour unless it is in place; return whether it is now."""
        content = self._content(ledger, directory)
        if not content.sizes:
            return True  # the hour was deleted, or has dead letters alone
        place = self._output_dir / directory
        earlier, version = read_marker(place)
        lacking = self._lacking(ledger, hour)
        if earlier is not None and earlier.has(content) and earlier.lacking == lacking:
            return True
        landed_to = {
            key: landed.landed_to
            for key, landed in sorted(self._times.partitions.items())
            if key.topic in self._rules.topics
        }
        marker = Marker(
            hour=hour,
            revision=earlier.revision + 1 if earlier else 1,
            watermark_ms=watermark_ms,
            written_at=datetime.now(timezone.utc),
            files=len(content.sizes),
            size_bytes=sum(content.sizes.values()),
            sha256=digest_of(content.sizes),
            rows=content.rows,
            dead_letters=content.dead_letters,
            landed_to=landed_to,
            excluded=dict(self._excluded(ledger, landed_to)),
            lacking=lacking,
        )
        is_written = write_marker(place, marker, version)
        if is_written:
            self.events.append(hour_complete(directory, marker))
        return is_written

    def _lacking(self, ledger: Ledger, hour: datetime) -> frozenset[TopicPartition]:
        """Return the partitions of which records are left out that may be of an hour."""
        return frozenset(
            left_out.key
            for left_out in self._left_out.before_start
            if left_out.key.topic in self._rules.topics
            and self._rules.may_have(hour, left_out.before_ms)
            and left_out.offsets - ledger.covered.of(left_out.key)
        )

    def _excluded(
        self, ledger: Ledger, landed_to: Mapping[TopicPartition, int]
    ) -> Iterator[tuple[TopicPartition, tuple[tuple[int, int], ...]]]:
        """Yield the inclusive ranges below the landed prefix that are left out, by partition."""
        for key, end in landed_to.items():
            offsets = ledger.left_out.of(key) & interval(0, end)
            if offsets := offsets - ledger.covered.of(key):
                yield key, tuple(ranges(offsets))

    def _content(self, ledger: Ledger, directory: str) -> HourContent:
        """Return what an hour holds now: what is in place, as far as the ledger counts it."""
        hour = self._hours.setdefault(directory, _Hour())
        sizes: dict[str, dict[str, int]] = {}
        known = {PARQUET_SUFFIX: hour.rows, JSON_LINES_SUFFIX: hour.dead_letters}
        for suffix, spans in known.items():
            place = self._roots[suffix] / directory
            in_place = sizes_in(place, suffix)
            sizes[suffix] = {name: size for name, size in in_place.items() if name in ledger.files}
            unread = [place / name for name in sizes[suffix] if name not in spans]
            for path, read in read_each(unread, content_of):
                try:
                    spans[path.name] = spans_of(read().covered)
                except FileNotFoundError:  # deleted since it was listed
                    del sizes[suffix][path.name]
        return HourContent(
            sizes[PARQUET_SUFFIX],
            *(
                united(spans[name] for name in sorted(sizes[suffix]))
                for suffix, spans in known.items()
            ),
        )

    def _noted(
        self,
        reached: Mapping[str, int | None],
        expired: Mapping[TopicPartition, int],
        looked_at_ms: int,
    ) -> WatermarkNote:
        """Return the note of now; a watermark that stood for hours without a marker waits."""
        topics = dict(self.note.topics)
        least_ms = _least(reached)
        due = [
            end_ms
            for directory in self._open - self._written_at.keys()
            if (hour := hour_of(directory)) is not None
            and least_ms is not None
            and (end_ms := self._rules.end_ms(hour)) <= least_ms
        ]
        for topic, watermark_ms in reached.items():
            earlier_ms = topics[topic].watermark_ms if topic in topics else None
            if watermark_ms is not None and earlier_ms is not None:
                unmarked = [end_ms - 1 for end_ms in due if end_ms > earlier_ms]
                watermark_ms = max(earlier_ms, min([watermark_ms, *unmarked]))
            topics[topic] = TopicNote(
                earlier_ms if watermark_ms is None else watermark_ms,
                {
                    key.partition: PartitionNote(
                        landed.landed_to,
                        landed.log_end,
                        self._event_time_ms(topic, landed.reached_ms),
                        expired.get(key, 0),
                    )
                    for key, landed in sorted(self._times.partitions.items())
                    if key.topic == topic
                },
            )
        return WatermarkNote(looked_at_ms, topics, frozenset(self._open))

    def _save(self, note: WatermarkNote) -> None:
        note = WatermarkNote(note.looked_at_ms, note.topics, frozenset(self._open))
        if note != self.note:
            if not self._is_read_only:
                note.save(self._output_dir)
            self.note = note

    def _forget_hours(self) -> None:
        """Forget the files of hours that have their markers and have got no file for an hour."""
        oldest = time.monotonic() - _KEPT_SECONDS
        for directory, hour in list(self._hours.items()):
            if directory not in self._open and hour.changed_at < oldest:
                del self._hours[directory]
                self._written_at.pop(directory, None)

    def _directory_of(self, path: StoredPath) -> str | None:
        """Return the directory of a file below its root, where it is that of its hour."""
        root, file = self._roots[path.suffix], OutputFile.parse(path)
        try:
            if isinstance(path, ObjectPath):
                assert isinstance(root, ObjectPath)
                directory = str(path.parent.relative_to(root))
            else:
                assert not isinstance(root, ObjectPath)
                directory = str(path.parent.relative_to(root))
        except ValueError:
            return None
        hour = hour_of(directory)
        is_its_hour = (
            file is not None and hour is not None and (hour <= file.window_start < hour + HOUR)
        )
        return directory if is_its_hour else None


def _least(watermarks: Mapping[str, int | None]) -> int | None:
    """Return the earliest watermark of all topics; None where that of one is not known."""
    known = [watermark_ms for watermark_ms in watermarks.values() if watermark_ms is not None]
    return min(known, default=None) if len(known) == len(watermarks) else None


def _hour_in(directory: str) -> str:
    """Return what sorts directories by time, whatever the names of their keys."""
    return "".join(name.partition("=")[2] for name in directory.split("/"))
