"""The journals of replays, wherever the dead letters are: files in a directory, or objects."""

from __future__ import annotations

from pathlib import Path

from beam_pipeline.storage.documents import documents_in
from beam_pipeline.storage.paths import ObjectPath, StoredPath
from beam_pipeline.tools.dlq.replay_journal import (
    JOURNAL_SUFFIX,
    JOURNALS,
    FileJournal,
    JournalState,
    ReplayJournal,
    journal_path,
    read_file_journal,
)
from beam_pipeline.tools.dlq.replay_objects import (
    BEAT_SECONDS,
    EXPIRY_SECONDS,
    ObjectJournal,
    read_object_journal,
)


def journal_of(dead_letter_dir: StoredPath, topic: str) -> ReplayJournal:
    """Return the journal of a topic, not open yet."""
    if isinstance(dead_letter_dir, Path):
        return FileJournal(dead_letter_dir, topic)
    return ObjectJournal(
        dead_letter_dir, topic, beat_seconds=BEAT_SECONDS, expiry_seconds=EXPIRY_SECONDS
    )


def read_journal(dead_letter_dir: StoredPath, topic: str) -> JournalState:
    """Return the content of a topic's journal, which is empty if there is none.

    Raises:
        EnvironmentFailure: the journal can't be read.
    """
    if isinstance(dead_letter_dir, Path):
        return read_file_journal(journal_path(dead_letter_dir, topic))
    return read_object_journal(dead_letter_dir, topic)


def replayed_ids(dead_letter_dir: StoredPath) -> set[str]:
    """Return the ids of all letters that were sent back, to whichever topic.

    Raises:
        EnvironmentFailure: a journal can't be read.
        OSError: the journals can't be listed.
    """
    topics = _topics_of(dead_letter_dir / JOURNALS)
    return {dlq_id for topic in topics for dlq_id in read_journal(dead_letter_dir, topic).sent}


def _topics_of(journals: StoredPath) -> set[str]:
    topics = {path.name.removesuffix(JOURNAL_SUFFIX) for path in documents_in(journals, ".jsonl")}
    if isinstance(journals, ObjectPath):
        topics |= {path.name for path in journals.iterdir() if path.listed is None}
    return topics
