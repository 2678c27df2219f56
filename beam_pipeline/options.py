"""Beam's view of the pipeline's flags, for `python -m beam_pipeline.job` and your own pipelines.

The command line does not use it: there the flags are parsed once, and the job gets a file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from apache_beam.options.pipeline_options import PipelineOptions

from beam_pipeline.config import IngestConfig as IngestConfig
from beam_pipeline.covered_offsets import CoveredOffsets
from beam_pipeline.settings.config import pipeline_settings
from beam_pipeline.settings.flags import add_job_flags, add_pipeline_flags


class IngestOptions(PipelineOptions):
    """The flags in `beam_pipeline.settings.flags` as options of a Beam pipeline."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        add_pipeline_flags(parser)
        add_job_flags(parser)

    def ingest_config(self) -> IngestConfig:
        """Convert and check the options, and read the files they name.

        Raises:
          UsageError: a flag is missing, out of range, or names a file that is not usable.
        """
        values = self.get_all_options()
        covered = CoveredOffsets()
        if values["covered_offsets"]:
            covered = CoveredOffsets.from_json(
                json.loads(Path(values["covered_offsets"]).read_text(encoding="utf-8"))
            )
        settings = pipeline_settings(values)
        return settings.ingest_config(values["epoch"], values["expansion_service"], covered)
