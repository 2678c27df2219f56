"""Looks in a thread for offsets without a record that hold the landed prefix of a partition."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.offset_sets import OffsetSets


class GapFinder:
    """Reads the log at uncovered offsets, one question at a time, so that nothing waits for it."""

    def __init__(self, find_gaps: Callable[[OffsetSets], OffsetSets]) -> None:
        """`find_gaps` returns those of some offsets that will never have a record."""
        self._find_gaps = find_gaps
        self._thread: Thread | None = None
        self._answer: OffsetSets | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a question has no answer yet."""
        return self._thread is not None

    def ask(self, offsets: OffsetSets) -> None:
        """Begin to look at some offsets; the finder must not be busy."""
        self._thread = Thread(target=self._look, args=(offsets,), name="gap-finder", daemon=True)
        self._thread.start()

    def take(self) -> OffsetSets:
        """Return the gaps that were found since the last call."""
        if self._thread is None or self._thread.is_alive():
            return {}
        self._thread, answer, self._answer = None, self._answer or {}, None
        return answer

    def _look(self, offsets: OffsetSets) -> None:
        try:
            self._answer = self._find_gaps(offsets)
        except EnvironmentFailure:  # the broker went away; the caller asks again
            self._answer = {}
