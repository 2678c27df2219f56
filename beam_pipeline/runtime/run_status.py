"""What a run has done so far, as its supervisor knows it."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from beam_pipeline.covered_offsets import CoveredOffsets
from beam_pipeline.files.watermark_note import WatermarkNote
from beam_pipeline.offset_sets import TopicPartition
from beam_pipeline.runtime.landed_totals import LandedTotals
from beam_pipeline.runtime.outbox import Unsent
from beam_pipeline.runtime.run_events import MAX_EVENTS, RunEvent
from beam_pipeline.runtime.table_committer import TableStatus
from beam_pipeline.storage.paths import StoredPath

NEW_FILES_KEPT = 64


@dataclass
class RunStatus:
    """What a run has done so far; counts are over all its epochs.

    Attributes:
      state: "starting", "running", "restarting", "waiting for the broker", "waiting for the object
        store", "sending dead letters", "committing to the table" or "ended".
      epoch: the present epoch.
      counters: the job's counters by name.
      files: how many files the run has written.
      restarts: how often something was started again.
      remaining: how many offsets before the goal are in no file; None without a goal.
      waits_for: what they wait for, if all of them seem to be read; else empty.
      notices: one line each, for the user.
      starts: the offsets from which the epoch reads.
      covered: the offsets that are in files now.
      ends: where the run ends in partitions, as far as that is known.
      new_files: the newest files; the reader takes them away.
      refused_letters: how many dead letters their topic has refused in every form.
      unsent: at the end, the dead letters that are in files and not in their topic.
      unsent_reason: why; empty if that is not known.
      broker_away_since: since when no broker has answered; None while one answers.
      storage_away_since: since when an object store has not answered; None while all answer.
      expired: how many records expired unread, at most, and are not accepted.
      waiting: the partitions that were added to topics, and wait for the next epoch.
      landed: how much the files of the run hold.
      watermarks: how far in time the topics are landed, at the last look.
      events: what happened; the reader takes them away.
      table: what is known of the run's table; None without one.
      engine_is_up: whether the engine runs.
      job_is_up: whether the job runs; with Prism that is the Python worker too.
    """

    state: str = "starting"
    epoch: str = ""
    counters: Counter[str] = field(default_factory=Counter)
    files: int = 0
    restarts: int = 0
    remaining: int | None = None
    waits_for: str = ""
    notices: list[str] = field(default_factory=list)
    starts: dict[TopicPartition, int] = field(default_factory=dict)
    covered: CoveredOffsets = field(default_factory=CoveredOffsets)
    ends: Mapping[TopicPartition, int] = field(default_factory=dict)
    new_files: deque[StoredPath] = field(default_factory=lambda: deque(maxlen=NEW_FILES_KEPT))
    refused_letters: int = 0
    unsent: Unsent = field(default_factory=Unsent)
    unsent_reason: str = ""
    broker_away_since: datetime | None = None
    storage_away_since: datetime | None = None
    expired: dict[TopicPartition, int] = field(default_factory=dict)
    waiting: list[TopicPartition] = field(default_factory=list)
    landed: LandedTotals = field(default_factory=LandedTotals)
    watermarks: WatermarkNote = field(default_factory=WatermarkNote)
    events: deque[RunEvent] = field(default_factory=lambda: deque(maxlen=MAX_EVENTS))
    table: TableStatus | None = None
    engine_is_up: bool = False
    job_is_up: bool = False


OnTick = Callable[[RunStatus], None]
"""Called several times a second; what it raises ends the run."""
