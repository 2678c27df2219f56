"""Commits to the consumer group what is landed, so that tools which watch groups see progress.

The files say where a start resumes; the group is for lag exporters and autoscalers alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from threading import Thread

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.offset_sets import TopicPartition

INTERVAL_SECONDS = 60.0
TELL_SECONDS = 3_600.0
LAST_SECONDS = 6.0
"""How long the end of a run waits for the last commit: a little longer than its request may take"""

Commit = Callable[[Mapping[TopicPartition, int]], None]


class GroupProgress:
    """Commits landed prefixes once a minute, in a thread, one commit at a time.

    Each partition is committed again even if nothing has changed: a broker forgets an offset that
    was not committed for `offsets.retention.minutes`.
    """

    def __init__(self, commit: Commit) -> None:
        """`commit` sets the group's offsets with one bounded request, or raises as that does."""
        self._commit = commit
        self._thread: Thread | None = None
        self._next = 0.0
        self._failure = self._told = ""
        self._told_at = float("-inf")

    def offer(self, landed_to: Mapping[TopicPartition, int]) -> list[str]:
        """Commit what is landed, if a minute has passed; never wait. Return notices."""
        now = time.monotonic()
        if now >= self._next and not self._is_busy and landed_to:
            self._next = now + INTERVAL_SECONDS
            self._begin(landed_to)
        return self._take_failure(now)

    def settle(self) -> None:
        """Wait for a commit that is under way; its request has a timeout.

        A commit that comes after the offsets of a new epoch were set would move them back.
        """
        if self._thread is not None:
            self._thread.join()
        self._next = time.monotonic() + INTERVAL_SECONDS

    def finish(self, landed_to: Mapping[TopicPartition, int]) -> list[str]:
        """Commit what the run has landed, and wait for that, but not for long; return notices."""
        deadline = time.monotonic() + LAST_SECONDS
        if self._thread is not None:
            self._thread.join(LAST_SECONDS)
        if landed_to and not self._is_busy:
            self._begin(landed_to).join(max(0.0, deadline - time.monotonic()))
        return self._take_failure(time.monotonic())

    @property
    def _is_busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _begin(self, landed_to: Mapping[TopicPartition, int]) -> Thread:
        self._thread = Thread(
            target=self._run, args=(dict(landed_to),), name="group-progress", daemon=True
        )
        self._thread.start()
        return self._thread

    def _run(self, landed_to: Mapping[TopicPartition, int]) -> None:
        try:
            self._commit(landed_to)
        except EnvironmentFailure as error:
            self._failure = str(error)

    def _take_failure(self, now: float) -> list[str]:
        """Return a line on a commit that failed; the same reason once an hour at most."""
        failure, self._failure = self._failure, ""
        if not failure or (failure == self._told and now - self._told_at < TELL_SECONDS):
            return []
        self._told, self._told_at = failure, now
        return [f"progress is not committed, which holds up nothing: {failure}"]
