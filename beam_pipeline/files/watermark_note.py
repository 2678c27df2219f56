"""How far in time each topic is landed: `<output_dir>/_ledger/watermark.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.offset_sets import TopicPartition
from beam_pipeline.storage.documents import write_document
from beam_pipeline.storage.paths import StoredPath
from beam_pipeline.storage.protocol import StorageAwayError
from beam_pipeline.times import rfc3339_of_ms

NOTE = Path("_ledger", "watermark.json")
_VERSION = 1


@dataclass(frozen=True)
class PartitionNote:
    """How far one partition is landed.

    Attributes:
        landed_to: the first offset that may be in no file.
        log_end: the offset after the last record of the log; None if it is not known.
        watermark_ms: as in `TopicNote`, for this partition alone.
        expired_unread: how many records expired unread and are not accepted, at most. They hold
            the watermark.
    """

    landed_to: int
    log_end: int | None = None
    watermark_ms: int | None = None
    expired_unread: int = 0

    @property
    def lag(self) -> int | None:
        """How many offsets lie between what is landed and the end of the log."""
        return None if self.log_end is None else max(0, self.log_end - self.landed_to)


@dataclass(frozen=True)
class TopicNote:
    """How far one topic is landed.

    Attributes:
        watermark_ms: every event before it is in a file, if Kafka got the event in time; in
            milliseconds since 1970. None while nothing is known. It never goes back.
        partitions: by number.
    """

    watermark_ms: int | None = None
    partitions: Mapping[int, PartitionNote] = field(default_factory=dict)


@dataclass(frozen=True)
class WatermarkNote:
    """The note of one output directory.

    Attributes:
        looked_at_ms: when a run has looked last, in milliseconds since 1970; 0 for never.
        topics: by name, also those of earlier runs.
        open_hours: the directories, below the root, that have files and no marker of them yet.
    """

    looked_at_ms: int = 0
    topics: Mapping[str, TopicNote] = field(default_factory=dict)
    open_hours: frozenset[str] = frozenset()

    def landed_to(self) -> dict[TopicPartition, int]:
        """Return the first offset of each partition that may be in no file."""
        return {
            TopicPartition(topic, number): partition.landed_to
            for topic, about in self.topics.items()
            for number, partition in about.partitions.items()
        }

    def to_json(self) -> bytes:
        """Return the content of the file."""
        return orjson.dumps(
            {
                "version": _VERSION,
                "looked_at": rfc3339_of_ms(self.looked_at_ms),
                "looked_at_ms": self.looked_at_ms,
                "topics": {topic: _topic_json(about) for topic, about in self.topics.items()},
                "open_hours": sorted(self.open_hours),
            },
            option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE,
        )

    def save(self, output_dir: StoredPath) -> None:
        """Write the note, atomically and durably.

        Raises:
            OSError: it can't be written.
        """
        write_document(output_dir / NOTE, self.to_json())


def load_watermark_note(output_dir: StoredPath) -> WatermarkNote | None:
    """Return the note of an output directory; None where there is none.

    Raises:
        EnvironmentFailure: it can't be read.
        StorageAwayError: the object store does not answer.
    """
    path = output_dir / NOTE
    try:
        document = orjson.loads(path.read_bytes())
        if document["version"] != _VERSION:
            raise ValueError(f"version {document['version']}")
        return WatermarkNote(
            looked_at_ms=int(document["looked_at_ms"]),
            topics={topic: _topic_of(about) for topic, about in document["topics"].items()},
            open_hours=frozenset(document["open_hours"]),
        )
    except (FileNotFoundError, NotADirectoryError):
        return None
    except StorageAwayError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise EnvironmentFailure(
            f"{path} can't be read ({error}); remove it, and the next run makes it anew"
        ) from None


def _topic_json(about: TopicNote) -> dict[str, Any]:
    return {
        "watermark": _text(about.watermark_ms),
        "watermark_ms": about.watermark_ms,
        "partitions": {
            str(number): {
                "landed_to": partition.landed_to,
                "log_end": partition.log_end,
                "watermark": _text(partition.watermark_ms),
                "watermark_ms": partition.watermark_ms,
                "expired_unread": partition.expired_unread,
            }
            for number, partition in sorted(about.partitions.items())
        },
    }


def _topic_of(about: Mapping[str, Any]) -> TopicNote:
    return TopicNote(
        _ms(about["watermark_ms"]),
        {
            int(number): PartitionNote(
                int(partition["landed_to"]),
                _ms(partition["log_end"]),
                _ms(partition["watermark_ms"]),
                int(partition["expired_unread"]),
            )
            for number, partition in about["partitions"].items()
        },
    )


def _text(time_ms: int | None) -> str | None:
    return None if time_ms is None else rfc3339_of_ms(time_ms)


def _ms(value: Any) -> int | None:
    return None if value is None else int(value)
