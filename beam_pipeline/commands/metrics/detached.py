"""What can be known of a Flink job that runs without a supervisor: from files, log and cluster.

Nothing is written, so it needs no lease, and any number of these may look at one job.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from beam_pipeline.commands.metrics.snapshot import Snapshot, free_bytes_of
from beam_pipeline.config import PaneTiming, Windowing
from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.files.expired import load_expired_note
from beam_pipeline.files.ledger import FileContent, Ledger
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.offset_sets import TopicPartition
from beam_pipeline.runtime.complete_hours import CompleteHours, HourRules
from beam_pipeline.runtime.flink.job_record import FlinkJobRecord, job_records
from beam_pipeline.runtime.flink.metrics import job_counters
from beam_pipeline.runtime.flink.rest import FlinkRest
from beam_pipeline.runtime.held_columns import held_columns
from beam_pipeline.runtime.landed_totals import LandedTotals
from beam_pipeline.runtime.log_watch import LOOK_SECONDS, LogWatch, landing_seconds
from beam_pipeline.runtime.resume import KafkaSource
from beam_pipeline.storage.paths import ObjectPath, StoredPath
from beam_pipeline.storage.protocol import StorageAwayError

POLL_SECONDS = 5.0
REST_TIMEOUT_SECONDS = 5.0
_WHOLE_LISTINGS = 6
"""In an object store one listing in so many is of the whole tree; see `Ledger.refresh`."""

# Defaults of the flags, for directories whose notes lack them.
_WINDOW_SECONDS, _DELAY_SECONDS, _LATE_SECONDS, _OUT_OF_ORDER_SECONDS = 60, 2, 5, 60


@dataclass(frozen=True)
class DetachedPlace:
    """Where the job's record and files are, and the cluster of its topics.

    Attributes:
      output_dir: the root of the Parquet files.
      dead_letter_dir: returns the root of the dead-letter files by the text in the job's record.
      connection: the Kafka cluster.
      topics: those that the job reads; empty for those that the directory's notes name.
    """

    output_dir: StoredPath
    dead_letter_dir: Callable[[str], StoredPath]
    connection: KafkaConnection
    topics: Sequence[str] = ()


class DetachedJob:
    """The job that writes a directory, looked at again and again."""

    def __init__(self, place: DetachedPlace) -> None:
        self._place = place
        self._epoch: _Epoch | None = None

    def look(self) -> Snapshot:
        """Return what is known now. What is away is down in the snapshot.

        Raises:
          EnvironmentFailure: a file of the ledger can't be read.
        """
        try:
            records = job_records(self._place.output_dir)
        except StorageAwayError:
            return self._without_storage()
        if not records:
            return Snapshot(
                time.monotonic(),
                "no job is recorded",
                up={"engine": False, "job": False},
                restarts=None,
                refused_letters=None,
            )
        record = records[0]
        if self._epoch is None or self._epoch.record.epoch != record.epoch:
            try:
                self._epoch = _Epoch(self._place, record)
            except StorageAwayError:
                return self._without_storage()
        return self._epoch.look(record)

    def _without_storage(self) -> Snapshot:
        last = self._epoch.last if self._epoch else Snapshot(0.0, restarts=None)
        up = {**last.up, "storage": False}
        return replace(last, taken_at=time.monotonic(), refused_letters=None, up=up)


class _Epoch:
    """One epoch of jobs, with what its files cover."""

    def __init__(self, place: DetachedPlace, record: FlinkJobRecord) -> None:
        """Read the snapshot of the ledger.

        Raises:
          EnvironmentFailure: it can't be read.
          StorageAwayError: the object store does not answer.
        """
        self.record = record
        self.last = Snapshot(time.monotonic(), restarts=None, refused_letters=None)
        self._place = place
        self._directories = {
            "output": place.output_dir,
            "dead_letters": place.dead_letter_dir(record.dead_letter_dir),
        }
        roots = place.output_dir, self._directories["dead_letters"]
        self._in_store = any(isinstance(root, ObjectPath) for root in roots)
        self._totals = LandedTotals()
        self._ledger = Ledger(*roots, on_counted=self._note_file)
        self._ledger.load_snapshot()
        self._totals.begin(record.epoch, ())
        held = held_columns(place.output_dir)
        settings: Mapping[str, Any] = held.settings if held else {}
        windowing = Windowing(
            int(settings.get("window_seconds", _WINDOW_SECONDS)),
            int(settings.get("watermark_delay_seconds", _DELAY_SECONDS)),
        )
        timing = PaneTiming(
            settings.get("late_pane_seconds", _LATE_SECONDS), settings.get("early_pane_seconds", 0)
        )
        out_of_order = int(settings.get("max_out_of_order_seconds", _OUT_OF_ORDER_SECONDS))
        self._grace_seconds = landing_seconds(windowing, timing, out_of_order)
        self._topics = tuple(place.topics or settings.get("input_topics", ()))
        self._source = KafkaSource(place.connection, self._topics, "")
        self._log_watch = LogWatch(load_expired_note(place.output_dir), self._grace_seconds)
        self._hours = CompleteHours(
            *roots,
            HourRules(self._topics, windowing, out_of_order),
            self._log_watch,
            self._source.find_gaps,
            self._grace_seconds,
            is_read_only=True,
        )
        self._has_begun = self._has_listed = False
        self._next_look, self._looks = 0.0, 0
        self._up: dict[str, bool] = {}
        self._counters: Counter[str] = Counter()
        self._restarts: int | None = None

    def _note_file(self, path: StoredPath, content: FileContent) -> None:
        self._hours.note_file(path, content)
        self._totals.note(path, content)

    def look(self, record: FlinkJobRecord) -> Snapshot:
        """Look at the cluster, and each ten seconds at files and logs."""
        self.record = record
        state = self._look_at_job()
        if time.monotonic() >= self._next_look:
            self._look_at_files_and_logs()
            self._next_look = time.monotonic() + LOOK_SECONDS
        self.last = Snapshot(
            taken_at=time.monotonic(),
            state=state,
            counters=dict(self._counters),
            totals=self._totals.copy(),
            note=self._hours.note,
            restarts=self._restarts,
            refused_letters=None,
            up=dict(self._up),
            free_bytes=free_bytes_of(self._directories, with_temporary=False),
        )
        return self.last

    def _look_at_job(self) -> str:
        """Read state and counters of the job; return the state in our words."""
        rest = FlinkRest(self.record.master, REST_TIMEOUT_SECONDS)
        try:
            jobs = [job for job in rest.jobs() if job.name == self.record.job_name]
            job = next((job for job in jobs if not job.is_over), None)
            self._up["engine"], self._up["job"] = True, job is not None and job.state == "RUNNING"
            if job is None:
                return jobs[0].state.lower() if jobs else "the cluster does not know the job"
            self._counters = job_counters(rest, job.id) or self._counters
            restarts = rest.metrics(f"/jobs/{job.id}", "numRestarts").get("numRestarts")
            self._restarts = int(restarts) if restarts else self._restarts
            return job.state.lower()
        except EnvironmentFailure:
            self._up["engine"] = self._up["job"] = False
            return "the cluster does not answer"

    def _look_at_files_and_logs(self) -> None:
        try:
            self._ledger.refresh(whole=not self._in_store or self._looks % _WHOLE_LISTINGS == 0)
            self._up["storage"] = True
        except StorageAwayError:
            self._up["storage"] = False
            return
        self._looks += 1
        if not self._has_listed:
            # When the files came that were there already is not known.
            self._has_listed, self._totals.last_file_s = True, None
        asked_at = time.time()
        try:
            bounds = self._source.log_bounds()
            if not self._has_begun:
                self._begin(bounds.starts)
            self._up["broker"] = True
        except EnvironmentFailure:
            self._up["broker"] = False
            return
        self._log_watch.look(bounds.starts, self._ledger, time.monotonic())
        self._hours.look(self._ledger, *bounds, asked_at)

    def _begin(self, log_starts: Mapping[TopicPartition, int]) -> None:
        starts = {
            key: self._ledger.covered.prefix_end(*key, low) for key, low in log_starts.items()
        }
        create_time_topics = self._source.create_time_topics()
        self._log_watch.begin(
            starts, log_starts, self._ledger, is_restored=True, now=time.monotonic()
        )
        self._hours.begin(self._ledger, starts, self._topics, create_time_topics)
        self._has_begun = True
