"""The sums of a report over all files: footers and statistics of Parquet, lines of dead letters.

Memory grows by 48 bytes per file and with the number of columns and topics, not with rows.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Set
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pyroaring import BitMap64

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.files.contents import UnreadableFile
from beam_pipeline.files.epochs import COMPACTION_EPOCH
from beam_pipeline.files.names import PARQUET_SUFFIX, OutputFile
from beam_pipeline.files.reading import read_each
from beam_pipeline.offset_sets import TopicPartition
from beam_pipeline.storage.paths import StoredPath
from beam_pipeline.storage.protocol import StorageAwayError
from beam_pipeline.times import parse_rfc3339
from beam_pipeline.tools.dlq.letters import Letter, read_letters
from beam_pipeline.tools.dlq.outcomes import redriven_of
from beam_pipeline.tools.inspect.inspection import FileInspection, inspect_file
from beam_pipeline.tools.inspect.statistics import ColumnStatistics
from beam_pipeline.tools.reconcile.coverage import Coverage, FileProblem
from beam_pipeline.tools.report.time_bins import OTHERS, TimeCounts

PROBLEMS_KEPT = 100
_REASONS_KEPT = 100
_FIELDS_KEPT = 1_000
_FIELD_WIDTH = 200
_WINDOW_SHARE = 0.95
_KAFKA_TIMESTAMP = "kafka_timestamp"


@dataclass(slots=True)
class Reason:
    """The dead letters of one code, and the message of the first one."""

    letters: int = 0
    message: str = ""


@dataclass(slots=True)
class Landed:
    """Sums over the files.

    Attributes:
        topics: rows, files and dead letters of each topic.
        rows: rows by the start of their window and by topic.
        letters: dead letters by code and by the record's Kafka timestamp, or the time of the
            failure if the record has none.
        fields: dead letters by violated keyword and field (a JSON pointer); beyond 10,000 pairs the
            rarest are dropped.
        window_rows: rows by the length of their window in seconds.
        file_sizes: bytes of each Parquet file.
        delay_rows: rows of each file with a delay. Compacted files have none, as their modification
            time is that of the compaction.
        end_delays, start_delays: seconds from the window's end, and from its start, to the file.
        kafka_delays: seconds from the oldest record's Kafka timestamp to the file, for
            `kafka_delay_rows`.
        coverage: the offsets of footers and dead letters.
        replayed_letters: how many dead letters were sent back.
        dead_again: the ids of those whose record died again.
        problems: the first files that can't be read; `unreadable` counts all.
    """

    topics: dict[str, Counter[str]] = field(default_factory=dict)
    rows: TimeCounts = field(default_factory=TimeCounts)
    letters: TimeCounts = field(default_factory=TimeCounts)
    reasons: dict[str, Reason] = field(default_factory=dict)
    fields: Counter[tuple[str, str]] = field(default_factory=Counter)
    row_count: int = 0
    letter_count: int = 0
    letter_files: int = 0
    letter_bytes: int = 0
    replayed_letters: int = 0
    dead_again: set[str] = field(default_factory=set)
    first_window: datetime | None = None
    last_window: datetime | None = None
    window_rows: Counter[int] = field(default_factory=Counter)
    epochs: set[str] = field(default_factory=set)
    compacted_files: int = 0
    file_sizes: array[int] = field(default_factory=lambda: array("q"))
    delay_rows: array[int] = field(default_factory=lambda: array("q"))
    end_delays: array[float] = field(default_factory=lambda: array("d"))
    start_delays: array[float] = field(default_factory=lambda: array("d"))
    kafka_delay_rows: array[int] = field(default_factory=lambda: array("q"))
    kafka_delays: array[float] = field(default_factory=lambda: array("d"))
    newest_record: datetime | None = None
    columns: dict[str, ColumnStatistics] = field(default_factory=dict)
    coverage: Coverage = field(default_factory=Coverage)
    problems: list[FileProblem] = field(default_factory=list)
    unreadable: int = 0

    @property
    def window_seconds(self) -> int:
        """The length that the windows of 95% of the rows do not exceed."""
        reached = 0
        for length, rows in sorted(self.window_rows.items()):
            reached += rows
            if reached >= _WINDOW_SHARE * self.window_rows.total():
                return length
        return 1

    @property
    def doubled(self) -> int:
        """How many offsets are in more than one place, by footers and dead letters."""
        return sum(map(len, self.coverage.doubled.values()))

    def add_problem(self, path: StoredPath, reason: str) -> None:
        """Add a file that can't be read."""
        self.unreadable += 1
        if len(self.problems) < PROBLEMS_KEPT:
            self.problems.append(FileProblem(path, reason))


def gather(
    paths: Iterable[StoredPath],
    topics: Collection[str] | None = None,
    progress: Callable[[int], object] = lambda files: None,
    replayed: Set[str] = frozenset(),
) -> Landed:
    """Return the sums over some files.

    Args:
        paths: Parquet files and dead-letter files.
        topics: the topics to count; None means all.
        progress: called with 1 after each file.
        replayed: the ids of the dead letters that were sent back.
    """
    landed = Landed()
    for path, inspect in read_each(paths, _inspection_of):
        name = OutputFile.parse(path)
        if name is None:
            landed.add_problem(path, "has no name that the pipeline gives")
        elif topics is None or name.topic in topics:
            try:
                file = inspect()
                if file is not None:
                    _add_parquet(landed, name, file, path.stat().st_mtime)
                else:
                    _add_letters(landed, name, path, replayed)
            except StorageAwayError:
                raise
            except (UnreadableFile, EnvironmentFailure, OSError) as error:
                landed.add_problem(path, str(error))
        progress(1)
    return landed


def _inspection_of(path: StoredPath) -> FileInspection | None:
    """Return what a Parquet file's footer says, and None for dead letters."""
    return inspect_file(path) if path.suffix == PARQUET_SUFFIX else None


def _add_parquet(landed: Landed, name: OutputFile, file: FileInspection, written: float) -> None:
    landed.row_count += file.rows
    _topic(landed, name.topic)["rows"] += file.rows
    _topic(landed, name.topic)["files"] += 1
    landed.rows.add(name.window_start.timestamp(), name.topic, file.rows)
    landed.window_rows[round((name.window_end - name.window_start).total_seconds())] += file.rows
    landed.file_sizes.append(file.size_bytes)
    landed.epochs.add(name.epoch)
    _widen(landed, name)
    for path, column in file.columns.items():
        if path in landed.columns:
            landed.columns[path].add(column)
        else:
            landed.columns[path] = column
    for partition, offsets in file.offsets.items():
        _cover(landed, partition, offsets)

    received = file.columns.get(_KAFKA_TIMESTAMP)
    newest = received.largest if received else None
    if isinstance(newest, datetime) and newest.tzinfo:
        landed.newest_record = max(landed.newest_record or newest, newest)
    if COMPACTION_EPOCH.fullmatch(name.epoch):
        landed.compacted_files += 1
        return
    landed.delay_rows.append(file.rows)
    landed.end_delays.append(written - name.window_end.timestamp())
    landed.start_delays.append(written - name.window_start.timestamp())
    oldest = received.smallest if received else None
    if isinstance(oldest, datetime) and oldest.tzinfo:
        landed.kafka_delay_rows.append(file.rows)
        landed.kafka_delays.append(written - oldest.timestamp())


def _add_letters(landed: Landed, name: OutputFile, path: StoredPath, replayed: Set[str]) -> None:
    landed.letter_files += 1
    landed.letter_bytes += path.stat().st_size
    landed.epochs.add(name.epoch)
    offsets: dict[TopicPartition, BitMap64] = {}
    for letter in read_letters([path]):
        landed.letter_count += 1
        if replayed:
            landed.replayed_letters += letter.dlq_id in replayed
            landed.dead_again.update(redriven_of(letter))
        _topic(landed, name.topic)["letters"] += 1
        known = letter.code in landed.reasons or len(landed.reasons) < _REASONS_KEPT
        code = letter.code if known else OTHERS
        reason = landed.reasons.setdefault(code, Reason())
        reason.letters += 1
        reason.message = reason.message or str(letter.document["error"]["message"])
        landed.letters.add(_received(letter), code, 1)
        landed.fields.update(
            {(rule[:_FIELD_WIDTH], place[:_FIELD_WIDTH]) for rule, place in letter.violations}
        )
        if len(landed.fields) > 10 * _FIELDS_KEPT:
            landed.fields = Counter(dict(landed.fields.most_common(_FIELDS_KEPT)))
        partition = TopicPartition(letter.topic, letter.partition)
        seen = offsets.setdefault(partition, BitMap64())
        if letter.offset in seen:
            _cover(landed, partition, BitMap64([letter.offset]))
        seen.add(letter.offset)
    for partition, seen in offsets.items():
        _cover(landed, partition, seen)


def _received(letter: Letter) -> float:
    timestamp: Any = letter.document["source"]["timestamp"]
    if timestamp is None:
        return letter.failed_at.timestamp()
    return parse_rfc3339(timestamp).timestamp()


def _topic(landed: Landed, topic: str) -> Counter[str]:
    return landed.topics.setdefault(topic, Counter())


def _cover(landed: Landed, partition: TopicPartition, offsets: BitMap64) -> None:
    own = Coverage({partition: offsets}, {}, Counter({partition: len(offsets)}))
    landed.coverage.merge(own)


def _widen(landed: Landed, name: OutputFile) -> None:
    landed.first_window = min(landed.first_window or name.window_start, name.window_start)
    landed.last_window = max(landed.last_window or name.window_end, name.window_end)
