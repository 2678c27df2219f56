"""The metrics of a run: what its supervisor leaves behind at each step."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from threading import Lock

from beam_pipeline.commands.metrics import catalogue
from beam_pipeline.commands.metrics.catalogue import Sample
from beam_pipeline.commands.metrics.server import MetricsServer
from beam_pipeline.commands.metrics.snapshot import Snapshot, free_bytes_of, resident_bytes
from beam_pipeline.runtime.run_status import RunStatus
from beam_pipeline.settings.config import MetricsSettings
from beam_pipeline.storage.paths import StoredPath

UPDATE_SECONDS = 1.0
DISK_SECONDS = 10.0
_MEMORY_SECONDS = 5.0


class RunMetrics(MetricsServer):
    """The metrics of one run.

    Args:
      settings: where to listen.
      directories: the directories whose free space is told, by name.
    """

    def __init__(self, settings: MetricsSettings, directories: Mapping[str, StoredPath]) -> None:
        super().__init__(settings, Snapshot(time.monotonic()))
        self._directories = directories
        self._started_s = time.time()
        self._next_update = self._next_disk = 0.0
        self._free_bytes: dict[str, int] = {}
        self._memory: dict[str, int] = {}
        self._memory_at = 0.0
        self._memory_lock = Lock()

    def update(self, status: RunStatus) -> None:
        """Take what the supervisor knows now; it is called several times a second."""
        now = time.monotonic()
        if now < self._next_update and status.state != "ended":
            return
        self._next_update = now + UPDATE_SECONDS
        if now >= self._next_disk:
            self._next_disk = now + DISK_SECONDS
            self._free_bytes = free_bytes_of(self._directories, with_temporary=True)
        self.show(snapshot_of(status, self._free_bytes))

    def _samples(self) -> Iterator[Sample]:
        yield from super()._samples()
        yield Sample(catalogue.STARTED, (), self._started_s)
        for processes, resident in self._resident().items():
            yield Sample(catalogue.MEMORY, (processes,), resident)

    def _resident(self) -> dict[str, int]:
        with self._memory_lock:
            now = time.monotonic()
            if now - self._memory_at > _MEMORY_SECONDS:
                self._memory_at, self._memory = now, resident_bytes()
            return self._memory


def snapshot_of(status: RunStatus, free_bytes: Mapping[str, int]) -> Snapshot:
    """Return the status of now; later changes of `status` don't reach it."""
    return Snapshot(
        taken_at=time.monotonic(),
        state=status.state,
        counters=dict(status.counters),
        totals=status.landed.copy(),
        note=status.watermarks,
        restarts=status.restarts,
        refused_letters=status.refused_letters,
        up={
            "engine": status.engine_is_up,
            "job": status.job_is_up,
            "broker": status.broker_away_since is None,
            "storage": status.storage_away_since is None,
        },
        free_bytes=free_bytes,
        table=status.table,
    )
