"""Compares the dead letters in files with the dead-letter topics, by their ids."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from beam_pipeline.files.tree import BrokenLine, json_lines
from beam_pipeline.kafka.admin import topic_config, watermarks
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.kafka.log_reader import LogReader
from beam_pipeline.offset_sets import TopicPartition
from beam_pipeline.storage.paths import StoredPath
from beam_pipeline.storage.protocol import StorageAwayError

Progress = Callable[[int], object]

_ID_HEADER = "dlq.id"
_NOTES = "_published"


@dataclass(frozen=True, slots=True)
class LetterInFile:
    """A dead letter of a file: its id, its record, and the file."""

    dlq_id: str
    partition: TopicPartition
    offset: int
    path: StoredPath


@dataclass(frozen=True, slots=True)
class LetterTopic:
    """The letters of one input topic, compared with its dead-letter topic.

    Attributes:
        topic: the dead-letter topic.
        letters: how many letters the files have.
        in_topic: how many of them the topic has, once or more often.
        refused: how many the topic has refused, by the notes beside the files.
        expired: how many were sent and are no longer there: the topic has a retention time, or is
            compacted.
        missing: those that are in no topic and in no note.
    """

    topic: str
    letters: int = 0
    in_topic: int = 0
    refused: int = 0
    expired: int = 0
    missing: list[LetterInFile] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether the topic has, or has refused, each letter."""
        return not self.missing


@dataclass(frozen=True, slots=True)
class _Log:
    """What a topic holds: the ids in it, and whether it has removed records itself."""

    ids: set[bytes]
    is_whole: bool


def compare_letter_topics(
    connection: KafkaConnection,
    topics: Sequence[str],
    topic_suffix: str,
    dead_letter_dir: StoredPath,
    paths: Iterable[StoredPath],
    progress: Progress = lambda files: None,
) -> list[LetterTopic]:
    """Read the dead-letter topics from the beginning, and look for each letter of the files.

    Lines that can't be read are left out; `read_coverage` reports their files.

    Args:
        connection: the cluster.
        topics: the input topics.
        topic_suffix: what is put behind their names.
        dead_letter_dir: the root of the files.
        paths: the dead-letter files.
        progress: called with how many more files were read.

    Raises:
        EnvironmentFailure: a dead-letter topic is missing, though there are letters for it, or it
            can't be read.
    """
    letters: dict[str, dict[bytes, LetterInFile]] = {topic: {} for topic in topics}
    for path in paths:
        for letter in _letters(path):
            if letter.partition.topic in letters:
                letters[letter.partition.topic][bytes.fromhex(letter.dlq_id)] = letter
        progress(1)
    return [
        _compare(
            f"{topic}{topic_suffix}",
            of_topic,
            _read_log(connection, f"{topic}{topic_suffix}") if of_topic else _Log(set(), True),
            dead_letter_dir / _NOTES,
        )
        for topic, of_topic in letters.items()
    ]


def _compare(
    topic: str, letters: Mapping[bytes, LetterInFile], log: _Log, notes: StoredPath
) -> LetterTopic:
    absent = [letter for dlq_id, letter in letters.items() if dlq_id not in log.ids]
    refused, expired = 0, 0
    missing = []
    refusals: dict[StoredPath, frozenset[str] | None] = {}
    for letter in absent:
        if letter.path not in refusals:
            refusals[letter.path] = _refused_in(notes / letter.path.name)
        noted = refusals[letter.path]
        if noted is not None and letter.dlq_id in noted:
            refused += 1
        elif noted is not None and not log.is_whole:
            expired += 1
        else:
            missing.append(letter)
    missing.sort(key=lambda letter: (letter.partition, letter.offset))
    return LetterTopic(topic, len(letters), len(letters) - len(absent), refused, expired, missing)


def _letters(path: StoredPath) -> Iterable[LetterInFile]:
    try:
        for line in json_lines(path):
            source = line["source"]
            partition = TopicPartition(source["topic"], source["partition"])
            yield LetterInFile(line["dlq_id"], partition, source["offset"], path)
    except StorageAwayError:
        raise
    except (BrokenLine, OSError, KeyError, TypeError):
        return


def _refused_in(note: StoredPath) -> frozenset[str] | None:
    """Return the ids that a note lists as refused; None if the file has no note."""
    try:
        return frozenset(letter["dlq_id"] for letter in json.loads(note.read_bytes())["refused"])
    except StorageAwayError:
        raise
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _read_log(connection: KafkaConnection, topic: str) -> _Log:
    bounds = watermarks(connection, topic)
    policy = topic_config(connection, [topic])[topic].get("cleanup.policy", "")
    ids: set[bytes] = set()
    with LogReader(connection) as reader:
        for partition, (low, high) in bounds.items():
            for messages in reader.read(TopicPartition(topic, partition), low, high):
                for message in messages:
                    headers: Any = message.headers() or ()
                    # The record's own headers come first and may have the same name.
                    values = [value for name, value in headers if name == _ID_HEADER and value]
                    if values:
                        ids.add(_id_of(values[-1]))
    return _Log(ids, all(low == 0 for low, _ in bounds.values()) and "compact" not in policy)


def _id_of(value: bytes) -> bytes:
    try:
        return bytes.fromhex(value.decode("ascii"))
    except ValueError:  # another producer's
        return value
