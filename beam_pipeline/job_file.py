"""The JSON file that tells a job what to run: settings that were converted and checked before."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from beam_pipeline.config import Cut, IngestConfig, PartitionEnd, ReadGoal
from beam_pipeline.covered_offsets import CoveredOffsets
from beam_pipeline.settings.config import PipelineSettings

COLUMNS_FILE = "columns.json"
"""Beside the status file: the columns of the files that the job writes."""


@dataclass(frozen=True)
class JobFile:
    """What one submission of the job is told by the process that starts it.

    Attributes:
      settings: the pipeline's flags. Passwords are not among them, only the file that has them.
      epoch: the identity of the submission.
      covered: the offsets that files of earlier epochs hold (`CoveredOffsets.to_json`).
      status_file: where the job writes its state and counters.
      goal: what is read before the run ends; empty for a run without a goal.
      cut: where the run ends in the logs.
    """

    settings: PipelineSettings
    epoch: str
    covered: list[dict[str, Any]]
    status_file: str
    goal: tuple[PartitionEnd, ...] = ()
    cut: Cut = field(default_factory=Cut)

    def write(self, path: Path) -> None:
        """Write the file.

        Raises:
          OSError: it can't be written.
        """
        path.write_bytes(msgspec.json.encode(self))

    @staticmethod
    def read(path: Path) -> JobFile:
        """Read a file that `write` wrote.

        Raises:
          OSError, msgspec.DecodeError: it can't be read, or is not such a file.
        """
        return msgspec.json.decode(path.read_bytes(), type=JobFile)

    def ingest_config(self, expansion_service: str | None) -> IngestConfig:
        """Read the files that the settings name, and return what `build_pipeline` needs.

        Raises:
          UsageError: a file is not usable.
        """
        covered = CoveredOffsets.from_json(self.covered)
        config = self.settings.ingest_config(self.epoch, expansion_service, covered)
        goal = ReadGoal(self.epoch, self.goal) if self.goal else None
        return replace(config, goal=goal, cut=self.cut)
