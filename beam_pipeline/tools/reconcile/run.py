"""Checks from the log and the files that each record of a topic is in exactly one place."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from pyroaring import BitMap64

from beam_pipeline.files.names import JSON_LINES_SUFFIX, PARQUET_SUFFIX
from beam_pipeline.files.tree import visible_files
from beam_pipeline.kafka.admin import watermarks
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.kafka.log_reader import READ_UNCOMMITTED, find_records
from beam_pipeline.offset_sets import OffsetSets, TopicPartition
from beam_pipeline.storage.paths import StoredPath
from beam_pipeline.terminal import progress_bar
from beam_pipeline.tools.reconcile.compare import LogBounds, ReconcileReport, compare, uncovered
from beam_pipeline.tools.reconcile.coverage import (
    Coverage,
    FileOverlap,
    FileProblem,
    find_overlaps,
    read_coverage,
)
from beam_pipeline.tools.reconcile.ledger_notes import (
    LandedSettings,
    read_landed_settings,
    read_ledger_notes,
)
from beam_pipeline.tools.reconcile.letter_topic import LetterTopic, compare_letter_topics
from beam_pipeline.tools.reconcile.markers import (
    HourCounts,
    claimed_ends,
    compare_markers,
    read_markers,
)
from beam_pipeline.tools.reconcile.rewritten import find_rewritten
from beam_pipeline.tools.reconcile.up_to import Until, UpTo, comparable

LATE_FILE_SECONDS = 5.0
"""How long a late pane may take to become a file once it fires."""


def reconcile(
    connection: KafkaConnection,
    topics: Sequence[str],
    output_dir: StoredPath,
    dead_letter_dir: StoredPath,
    isolation_level: str | None = None,
    dead_letter_topic_suffix: str | None = None,
    *,
    accept_expired: bool = False,
    up_to: UpTo = Until.END,
) -> ReconcileReport:
    """Compare the topics' logs with the files.

    The log's end is fetched at the call; records that arrive later are left out.

    Args:
        connection: the cluster.
        topics: the input topics to compare.
        output_dir: the root of the Parquet files.
        dead_letter_dir: the root of the dead-letter files.
        isolation_level: that of the pipeline's consumer, `read_uncommitted` or `read_committed`.
            None means the connection's `isolation.level`, or else Kafka's default, the former.
        dead_letter_topic_suffix: look for each dead letter in the topic with this suffix; None
            looks at no dead-letter topic.
        accept_expired: whether records that expired unread are accepted.
        up_to: up to where the log is compared (`tools.reconcile.up_to`).

    Raises:
        UsageError: a directory is missing.
        EnvironmentFailure: a topic is missing, or the cluster can't be read.
    """
    isolation_level = isolation_level or connection.properties.get(
        "isolation.level", READ_UNCOMMITTED
    )
    log = _log_bounds(connection, topics)
    # Before the files: what a marker says must be in files that are listed after it was read.
    markers, unreadable_markers = read_markers(output_dir)
    hours = HourCounts((output_dir, dead_letter_dir), markers)
    parquet_paths = visible_files(output_dir, PARQUET_SUFFIX, "--output_dir")
    dead_paths = visible_files(dead_letter_dir, JSON_LINES_SUFFIX, "--dead_letter_dir")
    parquet, parquet_problems = _read("Reading Parquet files", parquet_paths, topics, hours)
    dead, dead_problems = _read("Reading dead letters", dead_paths, topics, hours)

    settings = read_landed_settings(output_dir)
    notes = read_ledger_notes(output_dir)
    part = comparable(
        connection, log, up_to, [*parquet_paths, *dead_paths], [parquet, dead], settings, notes
    )
    whole_log, log = log, part.bounds
    not_in_files = uncovered(log, parquet, dead, notes)
    offset_gaps = _offset_gaps(connection, not_in_files, isolation_level)
    log = _without_expired(log, _log_bounds(connection, topics))
    compare_files = partial(
        compare,
        log,
        parquet,
        dead,
        offset_gaps,
        notes=notes,
        accept_expired=accept_expired,
        rewritten=find_rewritten(connection, whole_log, [parquet, dead]),
        ends={key: high for key, (_, high) in whole_log.items()},
    )
    reconciliation = compare_files()
    if up_to is not Until.END and reconciliation.missing:
        read: set[StoredPath] = {*parquet_paths, *dead_paths}
        since = _await_late_panes(output_dir, dead_letter_dir, read, topics, settings)
        compare_files = partial(compare_files, landed_since=since)
        reconciliation = compare_files()
    if reconciliation.beyond_end:
        # A running pipeline may have written records that arrived after the first look at the log.
        ends = {partition: high for partition, (_, high) in _log_bounds(connection, topics).items()}
        reconciliation = compare_files(ends=ends)
    suspects = {
        partition.partition: partition.doubled | partition.beyond_end
        for partition in reconciliation.partitions
        if partition.doubled or partition.beyond_end
    }
    overlaps = _overlaps([*parquet_paths, *dead_paths], suspects)
    return ReconcileReport(
        reconciliation=reconciliation,
        overlaps=overlaps,
        strays=frozenset(
            overlap.path.name for overlap in overlaps if notes.is_stray(overlap.path.name)
        ),
        problems=parquet_problems + dead_problems,
        parquet_files=len(parquet_paths),
        dead_letter_files=len(dead_paths),
        isolation_level=isolation_level,
        letter_topics=_letter_topics(
            connection, topics, dead_letter_topic_suffix, dead_letter_dir, dead_paths
        ),
        up_to=part.text,
        behind=part.behind,
        markers=compare_markers(
            markers,
            hours.hours,
            _unlanded(
                connection,
                claimed_ends(markers),
                whole_log,
                partial(uncovered, parquet=parquet, dead=dead, notes=notes),
                isolation_level,
            ),
            unreadable_markers,
        ),
    )


def _unlanded(
    connection: KafkaConnection,
    ends: Mapping[TopicPartition, int],
    log: LogBounds,
    uncovered_of: Callable[[LogBounds], OffsetSets],
    isolation_level: str,
) -> dict[TopicPartition, BitMap64]:
    """Return the offsets of records that are in no file, though a marker says that they are.

    Left out are those that were left out on purpose.
    """
    claimed = {
        key: (low, max(low, min(high, ends[key])))
        for key, (low, high) in log.items()
        if key in ends
    }
    not_in_files = uncovered_of(claimed)
    gaps = _offset_gaps(connection, not_in_files, isolation_level)
    return {key: offsets - gaps[key] for key, offsets in not_in_files.items()}


def _await_late_panes(
    output_dir: StoredPath,
    dead_letter_dir: StoredPath,
    read: set[StoredPath],
    topics: Sequence[str],
    settings: LandedSettings,
) -> Coverage:
    """Wait until late records that were read already are in files; return what new files hold."""
    time.sleep(settings.late_pane_seconds + LATE_FILE_SECONDS)
    paths = [
        *visible_files(output_dir, PARQUET_SUFFIX, "--output_dir"),
        *visible_files(dead_letter_dir, JSON_LINES_SUFFIX, "--dead_letter_dir"),
    ]
    coverage, _ = read_coverage([path for path in paths if path not in read], topics)
    return coverage


def _letter_topics(
    connection: KafkaConnection,
    topics: Sequence[str],
    suffix: str | None,
    dead_letter_dir: StoredPath,
    paths: Sequence[StoredPath],
) -> list[LetterTopic]:
    if suffix is None:
        return []
    with progress_bar("Looking for the dead letters in their topic", len(paths)) as progress:
        return compare_letter_topics(connection, topics, suffix, dead_letter_dir, paths, progress)


def _log_bounds(connection: KafkaConnection, topics: Sequence[str]) -> LogBounds:
    return {
        TopicPartition(topic, partition): bounds
        for topic in topics
        for partition, bounds in watermarks(connection, topic).items()
    }


def _without_expired(before: LogBounds, after: LogBounds) -> LogBounds:
    """Return the bounds of `before`, from where the log begins after it was read.

    What expired while the log was read had no record there, and is no gap for that.
    """
    return {
        partition: (max(low, min(high, after.get(partition, (low, high))[0])), high)
        for partition, (low, high) in before.items()
    }


def _read(
    description: str, paths: Sequence[StoredPath], topics: Sequence[str], hours: HourCounts
) -> tuple[Coverage, list[FileProblem]]:
    with progress_bar(description, len(paths)) as progress:
        return read_coverage(paths, topics, progress, hours.add)


def _offset_gaps(
    connection: KafkaConnection, not_in_files: OffsetSets, isolation_level: str
) -> dict[TopicPartition, BitMap64]:
    total = sum(len(offsets) for offsets in not_in_files.values())
    with progress_bar("Reading the log at offsets that no file has", total) as progress:
        records = find_records(connection, not_in_files, isolation_level, progress)
    return {partition: offsets - records[partition] for partition, offsets in not_in_files.items()}


def _overlaps(paths: Sequence[StoredPath], suspects: OffsetSets) -> list[FileOverlap]:
    if not suspects:
        return []
    with progress_bar("Finding the files at fault", len(paths)) as progress:
        return find_overlaps(paths, suspects, progress)
