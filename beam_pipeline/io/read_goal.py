"""Tells the sinks of a worker process that everything before a run's goal is read.

A pane of a backlog waits until no more rows come. With a goal, a sink need not wait for that: the
source notes how far it has read, and the sinks call on their panes to fire. A call is a hint.
Without it a pane fires by its timer. A call that comes too early costs the window one more file.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import NamedTuple

from apache_beam.transforms.window import BoundedWindow

from beam_pipeline.config import ReadGoal
from beam_pipeline.files.parts import PartRef


class _Progress:
    """What this process has read and written for one goal."""

    def __init__(self) -> None:
        self.read_ends: dict[tuple[str, int], int] = {}
        self.unfired: defaultdict[str, dict[str, Unfired]] = defaultdict(dict)


class Unfired(NamedTuple):
    """A call on the pane of a key, and the window of the part that waits for it."""

    call: PartRef
    window: BoundedWindow


_progress: defaultdict[ReadGoal, _Progress] = defaultdict(_Progress)
_lock = threading.Lock()


def note_read(goal: ReadGoal, topic: str, partition: int, end: int) -> None:
    """Note that this process has read the records of a partition before offset `end`."""
    with _lock:
        _progress[goal].read_ends[topic, partition] = end


def note_part(goal: ReadGoal, sink: str, key: str, part: PartRef, window: BoundedWindow) -> None:
    """Note that a sink wrote a part, if it has a record before the goal.

    Args:
      goal: what the run reads.
      sink: the root of the sink's files.
      key: the key of the part in the shuffle.
      part: what it wrote.
      window: the window of the part.
    """
    is_before = any(
        ranges[0][0] < goal.end_of(part.topic, partition)
        for partition, ranges in part.offsets.items()
        if ranges
    )
    if is_before:
        call = part._replace(path="", rows=0, offsets={}, last_records={}, inline=None)
        with _lock:
            _progress[goal].unfired[sink][key] = Unfired(call, window)


def take_unfired(goal: ReadGoal, sink: str) -> dict[str, Unfired]:
    """Return the keys of a sink that have parts noted, once the goal is read; else nothing.

    A key is returned once. It comes again if another part of it is noted.
    """
    with _lock:
        progress = _progress[goal]
        if not progress.unfired[sink] or not goal.is_read(progress.read_ends):
            return {}
        return progress.unfired.pop(sink)
