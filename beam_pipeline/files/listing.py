"""Lists the output files below a root, again and again while a job writes there.

A directory is listed whole each time. A large tree of an object store is not: each thousand keys
are a request. There, the hours that get files are listed, and the whole tree each minute.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path

from beam_pipeline.files.names import DEFAULT_PARTITION_KEYS, hour_directory
from beam_pipeline.files.tree import visible_paths
from beam_pipeline.storage.paths import ObjectPath, StoredPath

SMALL_TREE = 3_000
"""So many keys are listed in three requests."""
WHOLE_SECONDS = 60.0
LATELY_SECONDS = 600.0


@dataclass
class TreeListing:
    """Lists one root.

    Args:
        root: a directory, or the prefix of an object store.
        partition_keys: the names of day and hour in the directories below it.
        now: returns the time, aware.
    """

    root: StoredPath
    partition_keys: tuple[str, str] = DEFAULT_PARTITION_KEYS
    now: Callable[[], datetime] = lambda: datetime.now(timezone.utc)
    _present: set[str] = field(default_factory=set)
    _is_large: bool = False
    _next_whole: float = 0.0
    _landed_at: dict[str, float] = field(default_factory=dict)

    def look(self, *, whole: bool) -> Iterable[StoredPath]:
        """Return the visible files of the tree, or of the hours that get files, in no order.

        These are the present hour, the one before, and those with files that `note_landed` was
        told of in the last ten minutes.

        Args:
            whole: whether the whole tree is wanted, also where it is a large one in a store.

        Raises:
            EnvironmentFailure: a directory can't be listed.
            StorageAwayError: the object store does not answer.
        """
        if isinstance(self.root, Path):
            return visible_paths(self.root)
        started = time.monotonic()
        if self._is_large and not whole and started < self._next_whole:
            paths = [path for hour in self._hours() for path in visible_paths(self.root / hour)]
            self._present.update(path.name for path in paths)
            return paths
        paths = list(visible_paths(self.root))
        self._present = {path.name for path in paths}
        self._is_large = len(paths) > SMALL_TREE
        self._next_whole = started + WHOLE_SECONDS
        return paths

    def present(self) -> set[str]:
        """Return the names that are there now; of a store, as far as it was listed last.

        Raises:
            EnvironmentFailure: a directory can't be listed.
        """
        if isinstance(self.root, Path):
            return {path.name for path in visible_paths(self.root)}
        return self._present

    def _hours(self) -> set[str]:
        oldest = time.monotonic() - LATELY_SECONDS
        self._landed_at = {hour: at for hour, at in self._landed_at.items() if at >= oldest}
        present = self.now()
        return {
            *self._landed_at,
            str(hour_directory(present, self.partition_keys)),
            str(hour_directory(present - timedelta(hours=1), self.partition_keys)),
        }

    def note_landed(self, path: StoredPath) -> None:
        """Note a new file of this tree; its hour is listed for a while."""
        if isinstance(path, ObjectPath) and isinstance(self.root, ObjectPath):
            self._landed_at[str(path.parent.relative_to(self.root))] = time.monotonic()
