"""The whole graph."""

from __future__ import annotations

from typing import Any

import apache_beam as beam

from beam_pipeline.config import IngestConfig
from beam_pipeline.io.dead_letters import WriteDeadLetterFiles, WriteDeadLetterTopic
from beam_pipeline.io.kafka import ReadRecords
from beam_pipeline.io.parquet import WriteToParquet
from beam_pipeline.io.windowed_files import FileLayout
from beam_pipeline.schemas.contract import file_schema
from beam_pipeline.transforms import (
    DeadLetterCollector,
    Enrich,
    Normalize,
    Validate,
    WindowBatches,
    WindowDeadLetters,
    user_transforms,
)


def build_pipeline(pipeline: beam.Pipeline, config: IngestConfig) -> None:
    """Read Kafka records, write them as Parquet rows and dead letters.

    ReadRecords ─▶ Validate ─▶ Normalize ─▶ Enrich ─▶ (user) ─▶ WindowBatches ─▶ WriteToParquet
                      └─ dead ─────┴───────────┴─────────┴──────────────────────────┴─▶ dead letters
    """
    records = pipeline | "ReadRecords" >> ReadRecords(
        config.client_properties,
        config.input_topics,
        config.consumer_group,
        config.expansion_service,
        config.follow_append_time,
    )
    dead = land_records(records, config)
    _ = dead | "WriteDeadLetterTopic" >> WriteDeadLetterTopic(
        config.client_properties,
        config.dead_letter_topic_suffix,
        config.epoch,
        config.expansion_service,
    )


def land_records(records: beam.PCollection[Any], config: IngestConfig) -> beam.PCollection[Any]:
    """Write records from anywhere to files, and return the dead letters, which are in files too."""
    contract, windowing = config.contract, config.windowing
    normalize = Normalize(contract)
    enrich = Enrich(contract, config.reference_dir)
    schema = enrich.output_schema(normalize.output_schema(contract.batch_schema))
    user = user_transforms(config.transforms, schema, contract.ref)
    for transform in user:
        schema = transform.output_schema(schema)

    with DeadLetterCollector(records.pipeline) as dead:
        validated = records | "Validate" >> Validate(contract, config.rules, covered=config.covered)
        normalized = dead.collect(validated) | "Normalize" >> normalize
        enriched = dead.collect(normalized) | "Enrich" >> enrich
        rows = dead.collect(enriched)
        for number, transform in enumerate(user, start=1):
            rows = dead.collect(rows | f"Transform{number}" >> transform)
        windowed = rows | "WindowBatches" >> WindowBatches(windowing)
        written = windowed | "WriteToParquet" >> WriteToParquet(
            config.output_dir,
            file_schema(schema),
            codec=config.parquet_codec,
            num_shards=config.num_shards,
            epoch=config.epoch,
            watermark_delay_seconds=windowing.watermark_delay_seconds,
            schema_ref=contract.ref,
            timing=config.timing,
        )
        dead.collect(written)

    letters: beam.PCollection[Any] = dead.output() | WindowDeadLetters(windowing)
    layout = FileLayout(
        config.dead_letter_dir,
        config.epoch,
        windowing.watermark_delay_seconds,
        private=config.private_dead_letters,
    )
    _ = letters | WriteDeadLetterFiles(layout, config.num_shards, config.timing)
    return letters
