"""Settings of a pipeline, as the command line makes them."""

from __future__ import annotations

from beam_pipeline.cli import command_parsers
from beam_pipeline.settings.config import PipelineSettings, pipeline_settings


def settings_of(*flags: str) -> PipelineSettings:
    """Return the settings of `run` with these flags, and an address where no flag gives one."""
    words = ["--kafka_bootstrap_servers=127.0.0.1:5", *flags]
    return pipeline_settings(vars(command_parsers()["run"].parse_args(words)))
