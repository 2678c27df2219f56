"""Checks from the log and the files that each record of a topic is in exactly one place."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from beam_pipeline.files.names import JSON_LINES_SUFFIX, PARQUET_SUFFIX, OutputFile
from beam_pipeline.files.tree import visible_files
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.offset_sets import OffsetSets
from beam_pipeline.storage.paths import StoredPath
from beam_pipeline.terminal import progress_bar
from beam_pipeline.tools.reconcile.against_log import (
    compare_with_log,
    isolation_level_of,
    log_bounds,
    unlanded,
)
from beam_pipeline.tools.reconcile.compare import ReconcileReport, uncovered
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
from beam_pipeline.tools.reconcile.up_to import Until, UpTo

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
    isolation_level = isolation_level_of(connection, isolation_level)
    log = log_bounds(connection, topics)
    # Before the files: what a marker says must be in files that are listed after it was read.
    markers, unreadable_markers = read_markers(output_dir)
    hours = HourCounts((output_dir, dead_letter_dir), markers)
    parquet_paths = visible_files(output_dir, PARQUET_SUFFIX, "--output_dir")
    dead_paths = visible_files(dead_letter_dir, JSON_LINES_SUFFIX, "--dead_letter_dir")
    parquet, parquet_problems = _read("Reading Parquet files", parquet_paths, topics, hours)
    dead, dead_problems = _read("Reading dead letters", dead_paths, topics, hours)
    notes = read_ledger_notes(output_dir)
    contents = _Files(
        output_dir, dead_letter_dir, topics, [*parquet_paths, *dead_paths], parquet, dead
    )
    comparison = compare_with_log(
        connection,
        topics,
        log,
        contents,
        read_landed_settings(output_dir),
        notes,
        isolation_level=isolation_level,
        accept_expired=accept_expired,
        up_to=up_to,
    )
    return ReconcileReport(
        reconciliation=comparison.reconciliation,
        overlaps=comparison.overlaps,
        strays=frozenset(
            overlap.path.name
            for overlap in comparison.overlaps
            if notes.is_stray(overlap.path.name)
        ),
        problems=parquet_problems + dead_problems,
        parquet_files=len(parquet_paths),
        dead_letter_files=len(dead_paths),
        isolation_level=isolation_level,
        letter_topics=_letter_topics(
            connection, topics, dead_letter_topic_suffix, dead_letter_dir, dead_paths
        ),
        up_to=comparison.part.text,
        behind=comparison.part.behind,
        markers=compare_markers(
            markers,
            hours.hours,
            unlanded(
                connection,
                claimed_ends(markers),
                log,
                partial(uncovered, parquet=parquet, dead=dead, notes=notes),
                isolation_level,
            ),
            unreadable_markers,
        ),
    )


@dataclass(frozen=True)
class _Files:
    """The files of two directories, read once."""

    output_dir: StoredPath
    dead_letter_dir: StoredPath
    topics: Sequence[str]
    paths: Sequence[StoredPath]
    parquet: Coverage
    dead: Coverage

    @property
    def window_ends(self) -> list[datetime]:
        return [file.window_end for file in map(OutputFile.parse, self.paths) if file is not None]

    def await_newer(self, settings: LandedSettings) -> Coverage:
        time.sleep(settings.late_pane_seconds + LATE_FILE_SECONDS)
        read = set(self.paths)
        paths = [
            *visible_files(self.output_dir, PARQUET_SUFFIX, "--output_dir"),
            *visible_files(self.dead_letter_dir, JSON_LINES_SUFFIX, "--dead_letter_dir"),
        ]
        coverage, _ = read_coverage([path for path in paths if path not in read], self.topics)
        return coverage

    def overlaps(self, suspects: OffsetSets) -> list[FileOverlap]:
        with progress_bar("Finding the files at fault", len(self.paths)) as progress:
            return find_overlaps(self.paths, suspects, progress)


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


def _read(
    description: str, paths: Sequence[StoredPath], topics: Sequence[str], hours: HourCounts
) -> tuple[Coverage, list[FileProblem]]:
    with progress_bar(description, len(paths)) as progress:
        return read_coverage(paths, topics, progress, hours.add)
