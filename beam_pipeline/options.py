"""The pipeline's options: one PipelineOptions subclass, turned once into a frozen config."""

from __future__ import annotations

import argparse
import json
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from apache_beam.options.pipeline_options import PipelineOptions

from beam_pipeline.errors import UsageError
from beam_pipeline.flags import add_job_flags, add_pipeline_flags, check_pipeline_flags
from beam_pipeline.io.kafka_connection import KafkaConnection
from beam_pipeline.offsets import CoveredOffsets
from beam_pipeline.schemas import Contract, load_contract
from beam_pipeline.transforms.validate import ValidationRules
from beam_pipeline.transforms.windowing import Windowing


class IngestOptions(PipelineOptions):
    """Beam's view of the flags in `beam_pipeline.flags`."""

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
    output_dir: str
    dead_letter_dir: str
    dead_letter_topic_suffix: str
    num_shards: int
    parquet_codec: str
    epoch: str
    expansion_service: str | None
    client_properties: Mapping[str, str] = field(repr=False)
    covered: CoveredOffsets = field(default_factory=CoveredOffsets, repr=False)

    @staticmethod
    def from_options(options: PipelineOptions) -> IngestConfig:
        """Checks the options and reads the files they name.

        Raises:
          UsageError: a flag is missing, out of range, or names a file that does not serve.
        """
        flags = options.view_as(IngestOptions)
        check_pipeline_flags(flags)
        topics = topics_of(flags.input_topics)
        contract = load_contract(flags.schema)
        covered = CoveredOffsets()
        if flags.covered_offsets:
            covered = CoveredOffsets.from_json(json.loads(Path(flags.covered_offsets).read_text()))
        connection = connection_of(flags)
        early = flags.early_pane_seconds
        return IngestConfig(
            input_topics=topics,
            consumer_group=flags.consumer_group,
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
                late_pane_seconds=flags.late_pane_seconds,
                early_pane_seconds=flags.window_seconds + 60 if early is None else early,
            ),
            output_dir=os.path.abspath(flags.output_dir),
            dead_letter_dir=os.path.abspath(flags.dead_letter_dir),
            dead_letter_topic_suffix=flags.dead_letter_topic_suffix,
            num_shards=flags.num_shards,
            parquet_codec=flags.parquet_codec,
            epoch=flags.epoch or new_epoch(),
            expansion_service=flags.expansion_service,
            client_properties=connection.for_java(),
            covered=covered,
        )


def connection_of(flags: argparse.Namespace) -> KafkaConnection:
    """The cluster that `--kafka_bootstrap_servers` and `--kafka_config` describe."""
    config_file = Path(flags.kafka_config) if flags.kafka_config else None
    return KafkaConnection.from_flags(flags.kafka_bootstrap_servers, config_file)


def topics_of(flag: str | None) -> tuple[str, ...]:
    """The topics that `--input_topics` names.

    Raises:
      UsageError: it names none.
    """
    topics = tuple(topic for part in (flag or "").split(",") if (topic := part.strip()))
    if not topics:
        raise UsageError("--input_topics is missing: name the topic to land, or several with commas")
    return topics


def event_time_field(flags: argparse.Namespace, contract: Contract) -> str | None:
    """The event time field's path, None when windows follow the append time.

    Raises:
      UsageError: no field is named, or the schema has no such field.
    """
    if flags.window_by == "append_time":
        return None
    path: str | None = flags.event_time_field or contract.event_time_field
    if path is None:
        raise UsageError(
            f"--event_time_field is missing, and --schema={contract.source} names none "
            "(x-event-time); name the field, or give --window_by=append_time"
        )
    columns = contract.event_schema
    for step in [path] if path in columns.names else path.split("."):
        names = [column.name for column in columns]
        if step not in names:
            raise UsageError(
                f"--event_time_field={path}: --schema={contract.source} has no property {step!r}; "
                f"there are {', '.join(names)}"
            )
        columns = columns.field(step).type
    return path


def new_epoch() -> str:
    """An identity for a submission that sorts by time: `20261124T133350Zx3f9a`."""
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}x{secrets.token_hex(2)}"
