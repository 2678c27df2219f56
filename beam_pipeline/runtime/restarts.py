"""How often a run is started again in a row, and after what backoff."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RestartLimits:
    """Limits of restarts in a row; times are in seconds.

    Attributes:
      max_restarts: how many restarts in a row are allowed.
      first_backoff_seconds: the wait before the first one; each further wait is twice as long.
      max_backoff_seconds: the longest wait.
      stable_seconds: an epoch that ran longer than this starts the count anew.
    """

    max_restarts: int
    first_backoff_seconds: float = 1.0
    max_backoff_seconds: float = 30.0
    stable_seconds: float = 600.0


class Restarts:
    """Counts the restarts in a row."""

    def __init__(self, limits: RestartLimits) -> None:
        self._limits = limits
        self._in_a_row = 0

    def backoff_after(self, ran_seconds: float, *, is_outage: bool) -> float | None:
        """Count the failure of an epoch, and return the backoff before the next epoch.

        A failure while the broker or an object store is away is not counted: that is waited for,
        without a backoff.

        Args:
          ran_seconds: how long the epoch ran.
          is_outage: whether one of them does not answer now.

        Returns:
          seconds; None when the restarts in a row are used up.
        """
        limits = self._limits
        if ran_seconds > limits.stable_seconds:
            self._in_a_row = 0
        if is_outage:
            return 0.0
        self._in_a_row += 1
        if self._in_a_row > limits.max_restarts:
            return None
        backoff = limits.first_backoff_seconds * 2.0 ** (self._in_a_row - 1)
        return min(backoff, limits.max_backoff_seconds)
