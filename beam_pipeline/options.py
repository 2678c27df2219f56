"""The pipeline's options: one PipelineOptions subclass, turned once into a frozen config."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from apache_beam.options.pipeline_options import PipelineOptions

from beam_pipeline.config import PaneTiming, ValidationRules, Windowing
from beam_pipeline.covered_offsets import CoveredOffsets
from beam_pipeline.schemas import Contract
from beam_pipeline.settings.flags import (
    CREATE_TIME,
    PRIVATE,
    add_job_flags,
    add_pipeline_flags,
    check_pipeline_flags,
    connection_of,
    consumer_group_of,
    contract_of,
    event_time_field,
    topics_of,
)


class IngestOptions(PipelineOptions):
    """Beam's view of the flags in `beam_pipeline.settings.flags`."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        add_pipeline_flags(parser)
        add_job_flags(parser)


@dataclass(frozen=True)
class IngestConfig:
    """Everything `build_pipeline` needs, checked; transforms take plain values out of it."""

    input_topics: tuple[str, ...]
    consumer_group: str
    contract: Contract
    rules: ValidationRules
    reference_dir: Path
    windowing: Windowing
    timing: PaneTiming
    output_dir: str
    dead_letter_dir: str
    private_dead_letters: bool
    dead_letter_topic_suffix: str
    num_shards: int
    parquet_codec: str
    epoch: str
    expansion_service: str | None
    follow_append_time: bool
    client_properties: Mapping[str, str] = field(repr=False)
    transforms: tuple[str, ...] = ()
    covered: CoveredOffsets = field(default_factory=CoveredOffsets, repr=False)

    @staticmethod
    def from_options(options: PipelineOptions) -> IngestConfig:
        """Checks the options and reads the files they name.

        Raises:
          UsageError: a flag is missing, out of range, or names a file that does not serve.
        """
        flags = argparse.Namespace(**options.view_as(IngestOptions).get_all_options())
        check_pipeline_flags(flags)
        topics = topics_of(flags.input_topics)
        contract = contract_of(flags)
        covered = CoveredOffsets()
        if flags.covered_offsets:
            covered = CoveredOffsets.from_json(json.loads(Path(flags.covered_offsets).read_text()))
        connection = connection_of(flags)
        return IngestConfig(
            input_topics=topics,
            consumer_group=consumer_group_of(flags),
            contract=contract,
            rules=ValidationRules(
                event_time_field=event_time_field(flags, contract),
                max_event_age_seconds=flags.max_event_age_seconds,
                max_event_skew_seconds=flags.max_event_skew_seconds,
                max_value_bytes=flags.max_value_bytes,
            ),
            reference_dir=Path(flags.reference_dir),
            windowing=Windowing(
                window_seconds=flags.window_seconds,
                watermark_delay_seconds=flags.watermark_delay_seconds,
            ),
            timing=PaneTiming(
                late_pane_seconds=flags.late_pane_seconds,
                early_pane_seconds=flags.early_pane_seconds or 0,
            ),
            output_dir=str(Path(flags.output_dir).absolute()),
            dead_letter_dir=str(Path(flags.dead_letter_dir).absolute()),
            private_dead_letters=flags.dead_letter_access == PRIVATE,
            dead_letter_topic_suffix=flags.dead_letter_topic_suffix,
            num_shards=flags.num_shards,
            parquet_codec=flags.parquet_codec,
            epoch=flags.epoch,
            expansion_service=flags.expansion_service,
            follow_append_time=flags.window_by != CREATE_TIME,
            client_properties=connection.for_java(),
            transforms=tuple(flags.transform or ()),
            covered=covered,
        )
