"""A clean end on SIGINT and SIGTERM."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any, TypeVar

T = TypeVar("T")
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _Interrupted(BaseException):
    """Interrupts a read that would block until the next line."""


class StopRequest:
    """A context manager that notes SIGINT and SIGTERM instead of ending the process.

    Only the main thread can enter it, because Python handles signals there.
    """

    def __init__(self) -> None:
        self.requested = False
        self._reading = False
        self._previous: dict[signal.Signals, Any] = {}

    def next_of(self, items: Iterator[T]) -> T | None:
        """Return the next item; None at the end, or if a signal arrives while waiting for it."""
        if self.requested:
            return None
        try:
            self._reading = True
            item = next(items, None)
            self._reading = False
            return item
        except _Interrupted:
            return None
        except BaseException:
            self._reading = False
            raise

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self.requested = True
        if self._reading:
            self._reading = False
            raise _Interrupted

    def __enter__(self) -> StopRequest:
        self._previous = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
