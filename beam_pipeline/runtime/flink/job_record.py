"""Records of the Flink jobs that write an output directory, one for each epoch, beside the ledger.

A later command finds the job by its record. A savepoint is resumed by it: it has the epoch, whose
files the restored job continues, and the offsets that the job skips.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.runtime.flink.rest import FlinkJob, FlinkRest
from beam_pipeline.storage.documents import documents_in, remove_documents, write_document
from beam_pipeline.storage.paths import StoredPath
from beam_pipeline.storage.protocol import StorageAwayError

RECORDS = Path("_ledger", "flink")
# CheckpointStorage of Flink 1.19: savepoint-<start of the job's id>-<random>, <job's id>/chk-<n>
_SAVEPOINT = re.compile(r"savepoint-([0-9a-f]{6})-[0-9a-f]+")
_JOB_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class FlinkJobRecord:
    """The jobs of an epoch: the first, and one more for each restore.

    Attributes:
      epoch: the epoch.
      master: host:port of the cluster's REST interface.
      dead_letter_dir, part_retention_seconds, parts_dir: the run's flags.
      covered: the offsets that the jobs skip (`CoveredOffsets.to_json`).
      detached: whether no command watches the jobs.
      local: whether the cluster ends with the command that started it.
      job_ids: Flink's ids of the jobs, the newest last.
      savepoints: paths of the savepoints that were taken.
      submitted_at: Unix time in seconds.
      is_part: whether the jobs pass records that they do not land (`--end`, `backfill`). They can't
        be resumed: what they passed would be missing.
    """

    epoch: str
    master: str
    dead_letter_dir: str
    part_retention_seconds: int
    covered: list[dict[str, Any]] = field(default_factory=list, repr=False)
    detached: bool = False
    local: bool = False
    job_ids: tuple[str, ...] = ()
    savepoints: tuple[str, ...] = ()
    submitted_at: float = field(default_factory=time.time)
    parts_dir: str | None = None
    is_part: bool = False

    @property
    def job_name(self) -> str:
        """Return the name of the epoch's jobs in Flink."""
        return job_name(self.epoch)

    def with_job(self, job_id: str) -> FlinkJobRecord:
        """Return the record with one more job."""
        return replace(self, job_ids=(*self.job_ids, job_id))

    def with_savepoint(self, path: str) -> FlinkJobRecord:
        """Return the record with one more savepoint."""
        return replace(self, savepoints=(*self.savepoints, path))

    def took(self, savepoint: str) -> bool:
        """Return whether a savepoint or a retained checkpoint is of one of the jobs."""
        names = PurePosixPath(savepoint.rstrip("/")).parts
        starts = [match[1] for name in names if (match := _SAVEPOINT.fullmatch(name))]
        starts += [name for name in names if _JOB_ID.fullmatch(name)]
        return savepoint in self.savepoints or any(
            job.startswith(start) for job in self.job_ids for start in starts
        )

    def running_job(self) -> FlinkJob | None:
        """Return the epoch's job that is not over, if any; raise as `FlinkRest` does."""
        jobs = [job for job in FlinkRest(self.master).jobs() if job.name == self.job_name]
        return next((job for job in jobs if not job.is_over), None)

    def save(self, output_dir: StoredPath) -> None:
        """Write the record atomically.

        Raises:
          OSError: it can't be written.
        """
        path = output_dir / RECORDS / f"{self.epoch}.json"
        write_document(path, json.dumps(asdict(self)).encode(), durable=False)


def job_name(epoch: str) -> str:
    """Return the name of an epoch's jobs in Flink."""
    return f"beam-pipeline-{epoch}"


def job_records(output_dir: StoredPath) -> list[FlinkJobRecord]:
    """Return every record of the directory, the newest first.

    Raises:
      EnvironmentFailure: a record can't be read.
    """
    records = []
    for path in documents_in(output_dir / RECORDS, ".json"):
        try:
            fields = json.loads(path.read_bytes())
            lists = {name: tuple(fields[name]) for name in ("job_ids", "savepoints")}
            records.append(FlinkJobRecord(**{**fields, **lists}))
        except FileNotFoundError:
            continue
        except StorageAwayError:
            raise
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise EnvironmentFailure(
                f"{path} can't be read ({error}); make sure that no Flink job writes {output_dir}, "
                "and remove it"
            ) from None
    return sorted(records, key=lambda record: -record.submitted_at)


def remove_records(output_dir: StoredPath, *, but_epoch: str = "") -> None:
    """Remove the records of all epochs but one; their savepoints can't be resumed any more."""
    remove_documents(
        output_dir / RECORDS / f"{record.epoch}.json"
        for record in job_records(output_dir)
        if record.epoch != but_epoch
    )


def record_of_savepoint(output_dir: StoredPath, savepoint: str) -> FlinkJobRecord:
    """Return the record of the epoch that took a savepoint or a retained checkpoint.

    Raises:
      EnvironmentFailure: it is not of the directory's last epoch.
    """
    for record in job_records(output_dir):
        if record.took(savepoint):
            if record.is_part:
                raise EnvironmentFailure(
                    f"--from_savepoint={savepoint}: its job landed only a part of the log (--end, "
                    "or backfill). Start without it: a start resumes from the files"
                )
            return record
    raise EnvironmentFailure(
        f"--from_savepoint={savepoint}: not of the job that wrote --output_dir={output_dir} last; "
        "a job restored from it would write again what was written since. Start without it: a "
        "start resumes from the files"
    )
