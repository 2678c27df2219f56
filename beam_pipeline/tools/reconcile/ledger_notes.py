"""What the ledger beside the files says of offsets that the log no longer has.

Below the start of the log nothing can be checked any more. So for these offsets alone the word of
the runs counts: which offsets they covered (their files may be deleted since, or they had no
record), and which expired unread. For what the log still has the ledger is never asked.

What the user has left out on purpose (`--start`, `--end`) is told apart. It is not looked for in
the log; where a file has it all the same, the file counts.

The ledger also says which files are strays: files of epochs that are over, which the present epoch
does not count. That explains rows that are doubled; they are doubled all the same.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pyroaring import BitMap64

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.files.names import OutputFile
from beam_pipeline.offset_sets import OffsetSets, TopicPartition, interval
from beam_pipeline.storage.paths import StoredPath
from beam_pipeline.storage.protocol import StorageAwayError

_SNAPSHOT = Path("_ledger", "snapshot.json")
_EXPIRED = Path("_ledger", "expired.json")
_LEFT_OUT = Path("_ledger", "left_out.json")
_EPOCHS = Path("_ledger", "epochs")
_COLUMNS = Path("_ledger", "columns.json")

# Defaults of the pipeline's flags, for directories of older versions.
_MAX_EVENT_SKEW_SECONDS = 300
_LATE_PANE_SECONDS = 5.0
_WINDOW_SECONDS = 60.0
_WATERMARK_DELAY_SECONDS = 2.0
_UNLIMITED_SKEW_SECONDS = 86_400.0


@dataclass(frozen=True)
class LandedSettings:
    """Settings of the last run that landed rows; see the flags of these names.

    Attributes:
        max_event_skew_seconds: 0 sets no limit.
        has_early_panes: whether files may be written before their window has closed.
        late_pane_seconds: how long late records are collected.
        window_seconds, watermark_delay_seconds: when windows close.
        follows_clock: whether the watermark of an idle partition follows the clock.
    """

    max_event_skew_seconds: float = _MAX_EVENT_SKEW_SECONDS
    has_early_panes: bool = False
    late_pane_seconds: float = _LATE_PANE_SECONDS
    window_seconds: float = _WINDOW_SECONDS
    watermark_delay_seconds: float = _WATERMARK_DELAY_SECONDS
    follows_clock: bool = True

    @property
    def skew_seconds(self) -> float:
        """The skew, and a day where there is no limit."""
        return self.max_event_skew_seconds or _UNLIMITED_SKEW_SECONDS


def read_landed_settings(output_dir: StoredPath) -> LandedSettings:
    """Return the settings of the last run that landed rows; defaults where they are not noted.

    Raises:
        EnvironmentFailure: the note can't be read.
    """
    path = output_dir / _COLUMNS
    settings = _document(path).get("settings", {})
    try:
        return LandedSettings(
            float(settings.get("max_event_skew_seconds", _MAX_EVENT_SKEW_SECONDS)),
            bool(settings.get("early_pane_seconds", 0)),
            float(settings.get("late_pane_seconds", _LATE_PANE_SECONDS)),
            float(settings.get("window_seconds", _WINDOW_SECONDS)),
            float(settings.get("watermark_delay_seconds", _WATERMARK_DELAY_SECONDS)),
            settings.get("window_by") != "create_time",
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise EnvironmentFailure(
            f"{path} can't be read ({error}); move it away to compare without it"
        ) from None


class LeftOut(NamedTuple):
    """Offsets of a partition that a flag left out: from the first to before the end, if any."""

    flag: str
    first: int
    end: int | None

    def within(self, low: int, high: int) -> BitMap64:
        """Return those that are at least `low` and below `high`."""
        end = high if self.end is None else min(self.end, high)
        return interval(max(self.first, low), end)


@dataclass(frozen=True)
class LedgerNotes:
    """Sets of offsets by partition.

    Attributes:
        explained: offsets that files had, or that never had a record.
        unread: offsets that a run found expired before they were read.
        accepted: those that the user has accepted.
        counted_files: the names of the files that the present epoch counts.
        dead_epochs: the epochs that were over before it began.
        left_out: what was left out of each partition.
    """

    explained: OffsetSets = field(default_factory=dict)
    unread: OffsetSets = field(default_factory=dict)
    accepted: OffsetSets = field(default_factory=dict)
    counted_files: frozenset[str] = frozenset()
    dead_epochs: frozenset[str] = frozenset()
    left_out: Mapping[TopicPartition, Sequence[LeftOut]] = field(default_factory=dict)

    def excluded(self, partition: TopicPartition, low: int, high: int) -> BitMap64:
        """Return the offsets from `low` to before `high` that were left out."""
        excluded = BitMap64()
        for left_out in self.left_out.get(partition, ()):
            excluded |= left_out.within(low, high)
        return excluded

    def is_stray(self, name: str) -> bool:
        """Return whether a file that holds doubled rows is one of a dead epoch, and not counted."""
        file = OutputFile.parse(name)
        return (
            file is not None and file.epoch in self.dead_epochs and name not in self.counted_files
        )


def read_ledger_notes(output_dir: StoredPath) -> LedgerNotes:
    """Return the notes of an output directory; empty sets where there are none.

    Raises:
        EnvironmentFailure: a note can't be read.
    """
    snapshot, expired = _document(output_dir / _SNAPSHOT), _document(output_dir / _EXPIRED)
    epoch = snapshot.get("epoch")
    counted = _document(output_dir / _EPOCHS / f"{epoch}.json") if epoch else {}
    try:
        explained = _sets(snapshot.get("covered", []))
        for partition, offsets in _sets(expired.get("without_record", [])).items():
            explained[partition] = explained.get(partition, BitMap64()) | offsets
        return LedgerNotes(
            explained,
            _sets(expired.get("unread", [])),
            _sets(expired.get("accepted", [])),
            frozenset(counted.get("files", [])),
            frozenset(counted.get("dead", [])),
            _left_out(_document(output_dir / _LEFT_OUT).get("ranges", [])),
        )
    except (ValueError, LookupError, TypeError) as error:
        raise EnvironmentFailure(
            f"{output_dir / '_ledger'} can't be read ({error}); move it away to compare without it"
        ) from None


def _document(path: StoredPath) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except StorageAwayError:
        raise
    except (OSError, ValueError) as error:
        raise EnvironmentFailure(
            f"{path} can't be read ({error}); move it away to compare without it"
        ) from None
    return document if isinstance(document, dict) else {}


def _left_out(entries: list[dict[str, Any]]) -> dict[TopicPartition, list[LeftOut]]:
    left_out: dict[TopicPartition, list[LeftOut]] = {}
    for entry in entries:
        end = None if entry["end"] is None else int(entry["end"])
        left_out.setdefault(TopicPartition(entry["topic"], int(entry["partition"])), []).append(
            LeftOut(entry["by"], int(entry["first"]), end)
        )
    return left_out


def _sets(entries: list[dict[str, Any]]) -> dict[TopicPartition, BitMap64]:
    return {
        TopicPartition(entry["topic"], entry["partition"]): BitMap64.deserialize(
            base64.b64decode(entry["offsets"])
        )
        for entry in entries
    }
