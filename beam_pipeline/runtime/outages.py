"""Outages of the broker and of object stores: a run waits for their end, and tells the user."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone

from beam_pipeline.runtime.broker_watch import BrokerWatch
from beam_pipeline.runtime.run_status import RunStatus
from beam_pipeline.runtime.storage_watch import StorageWatch
from beam_pipeline.storage.protocol import StorageAwayError


@dataclass(frozen=True)
class Outages:
    """What is away while a run goes on.

    Args:
        status: of the run; gets since when something is away, and notices of changes.
        broker: whether the broker answers.
        storage: whether the object stores answer.
    """

    status: RunStatus
    broker: BrokerWatch
    storage: StorageWatch

    def broker_answers(self, is_reachable: bool) -> bool:
        """Take the answer to a question to the broker; return it."""
        self.broker.note(is_reachable)
        self.tell_of_broker()
        return is_reachable

    def tell_of_broker(self) -> None:
        """Show in the status whether the broker answers; tell the user when that changes."""
        before, now = self.status.broker_away_since, self.broker.away_since
        self.status.broker_away_since = now
        self._tell("the broker", before, now)

    def storage_answers(self) -> bool:
        """Ask the object stores; return whether all have answered."""
        answers = self.storage.ask()
        self._tell_of_storage()
        return answers

    def with_storage(self, step: Callable[[], object]) -> None:
        """Take a step at the storage. One that is away is told, and the run goes on."""
        try:
            step()
        except StorageAwayError:
            self.storage.note(answers=False)
        self._tell_of_storage()

    def _tell_of_storage(self) -> None:
        """Show in the status whether the object stores answer; tell when that changes."""
        before, now = self.status.storage_away_since, self.storage.away_since
        self.status.storage_away_since = now
        self._tell("the object store", before, now)

    def _tell(self, what: str, before: datetime | None, now: datetime | None) -> None:
        if before is None and now is not None:
            self.status.notices.append(
                f"{what} has not answered since {now:%H:%M:%S} UTC; the run waits for it"
            )
        elif before is not None and now is None:
            seconds = (datetime.now(timezone.utc) - before).total_seconds()
            self.status.notices.append(f"{what} answers again, after {seconds:.0f} s")
