"""Whether the object stores of a run answer. The job itself retries, and says nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from datetime import datetime, timezone

from beam_pipeline.files.ledger import SNAPSHOT
from beam_pipeline.storage.paths import ObjectPath, StoredPath
from beam_pipeline.storage.protocol import StorageAwayError


class StorageWatch:
    """Notes since when an object store is away. Directories always answer."""

    def __init__(self, roots: Sequence[StoredPath]) -> None:
        self.away_since: datetime | None = None
        self._roots = [root for root in roots if isinstance(root, ObjectPath)]

    def ask(self) -> bool:
        """Ask each store for an object; return whether all have answered."""
        try:
            for root in self._roots:
                with contextlib.suppress(FileNotFoundError):
                    (root / SNAPSHOT).stat()
        except StorageAwayError:
            self.note(answers=False)
        else:
            self.note(answers=True)
        return self.away_since is None

    def note(self, *, answers: bool) -> None:
        """Take an answer, or that there was none, of a request that was made elsewhere."""
        if answers:
            self.away_since = None
        elif self.away_since is None:
            self.away_since = datetime.now(timezone.utc)
