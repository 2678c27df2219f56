"""Which Flink jobs land an output directory: a record of each epoch's, beside the ledger.

A record is how a later command finds the job, and what a savepoint needs to be resumed: the epoch
it was taken in, whose files the resumed job goes on with, and the offsets in files before it.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.files.durable import write_atomically
from beam_pipeline.runtime.flink.rest import FlinkJob, FlinkRest

RECORDS = Path("_ledger", "flink")
# CheckpointStorage of Flink 1.19: savepoint-<start of the job's id>-<random>, <job's id>/chk-<n>
_SAVEPOINT = re.compile(r"savepoint-([0-9a-f]{6})-[0-9a-f]+")
_JOB_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class FlinkJobRecord:
    """The jobs of an epoch: one, and one more for each time it was restored.

    `covered` is `CoveredOffsets.to_json` of what they skip; `detached` says that nobody watches
    them; `local` that their cluster ends with the command that started it.
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

    @property
    def job_name(self) -> str:
        """The name of the epoch's jobs in Flink."""
        return job_name(self.epoch)

    def with_job(self, job_id: str) -> FlinkJobRecord:
        """The record, with one more job."""
        return replace(self, job_ids=(*self.job_ids, job_id))

    def with_savepoint(self, path: str) -> FlinkJobRecord:
        """The record, with one more savepoint."""
        return replace(self, savepoints=(*self.savepoints, path))

    def took(self, savepoint: str) -> bool:
        """Whether a savepoint, or a retained checkpoint, is of one of the jobs."""
        names = PurePosixPath(savepoint.rstrip("/")).parts
        starts = [match[1] for name in names if (match := _SAVEPOINT.fullmatch(name))]
        starts += [name for name in names if _JOB_ID.fullmatch(name)]
        return savepoint in self.savepoints or any(
            job.startswith(start) for job in self.job_ids for start in starts
        )

    def running_job(self) -> FlinkJob | None:
        """The epoch's job that is not over; raises as `FlinkRest` does."""
        jobs = [job for job in FlinkRest(self.master).jobs() if job.name == self.job_name]
        return next((job for job in jobs if not job.is_over), None)

    def save(self, output_dir: Path) -> None:
        """Writes the record, atomically."""
        directory = output_dir / RECORDS
        directory.mkdir(parents=True, exist_ok=True)
        content = json.dumps(asdict(self)).encode()
        write_atomically(directory / f"{self.epoch}.json", content, durable=False, private=False)


def job_name(epoch: str) -> str:
    """What the jobs of an epoch are called in Flink."""
    return f"beam-pipeline-{epoch}"


def job_records(output_dir: Path) -> list[FlinkJobRecord]:
    """Every record of the directory, the newest first.

    Raises:
      EnvironmentFailure: one can't be read.
    """
    records = []
    for path in (output_dir / RECORDS).glob("*.json"):
        try:
            found = json.loads(path.read_bytes())
            lists = {name: tuple(found[name]) for name in ("job_ids", "savepoints")}
            records.append(FlinkJobRecord(**{**found, **lists}))
        except FileNotFoundError:
            continue
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise EnvironmentFailure(
                f"{path} can't be read ({error}); see that no Flink job writes {output_dir}, "
                "and remove it"
            ) from None
    return sorted(records, key=lambda record: -record.submitted_at)


def remove_records(output_dir: Path, *, but_epoch: str = "") -> None:
    """Removes the records of all epochs but one: their savepoints can't be resumed any more."""
    for record in job_records(output_dir):
        if record.epoch != but_epoch:
            (output_dir / RECORDS / f"{record.epoch}.json").unlink(missing_ok=True)


def record_of_savepoint(output_dir: Path, savepoint: str) -> FlinkJobRecord:
    """The record of the epoch that took a savepoint, or a retained checkpoint.

    Raises:
      EnvironmentFailure: the directory's last epoch did not.
    """
    for record in job_records(output_dir):
        if record.took(savepoint):
            return record
    raise EnvironmentFailure(
        f"--from_savepoint={savepoint}: not of the job that landed --output_dir={output_dir} last; "
        "resuming from it would land again what was landed since. Start without it: a start goes "
        "on where the files end"
    )
