"""Whether the broker answers while a job runs. The job itself retries, and says nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timezone

INTERVAL_SECONDS = 5.0


class BrokerWatch:
    """Asks the broker now and then while nothing is read, from a thread of its own.

    An answer may take seconds to fail, and the supervisor has a lease to renew meanwhile.
    """

    def __init__(self, is_reachable: Callable[[], bool]) -> None:
        self.away_since: datetime | None = None
        self._is_reachable = is_reachable
        self._moved = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="broker-watch", daemon=True)

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def stop(self) -> None:
        """Stop asking; a question that waits for its answer is not waited for."""
        self._stopped.set()

    def saw_records(self) -> None:
        """Take the records that were read as an answer."""
        self._moved.set()
        self.away_since = None

    def note(self, is_reachable: bool) -> None:
        """Take the answer to a question that was asked elsewhere."""
        if is_reachable:
            self.away_since = None
        elif self.away_since is None:
            self.away_since = datetime.now(timezone.utc)

    def _run(self) -> None:
        while not self._stopped.wait(INTERVAL_SECONDS):
            if self._moved.is_set():
                self._moved.clear()
            else:
                self.note(self._is_reachable())
