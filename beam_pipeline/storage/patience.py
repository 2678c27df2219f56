"""Waits for a storage that is away."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from beam_pipeline.storage.protocol import StorageAwayError

_Result = TypeVar("_Result")

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 15.0


def patiently(
    call: Callable[[], _Result], seconds: float, tell: Callable[[StorageAwayError], object]
) -> _Result:
    """Make a call that may be repeated, again and again while the storage is away.

    The pauses double up to `LONGEST_PAUSE_SECONDS`, less a random part.

    Args:
        call: what to do.
        seconds: how long to go on after the first failure.
        tell: called with each failure that is followed by another try.

    Raises:
        StorageAwayError: the storage is still away.
    """
    deadline: float | None = None
    pause = FIRST_PAUSE_SECONDS
    while True:
        try:
            return call()
        except StorageAwayError as error:
            now = time.monotonic()
            deadline = now + seconds if deadline is None else deadline
            if now >= deadline:
                raise
            tell(error)
        time.sleep(pause * random.uniform(0.5, 1.0))
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
