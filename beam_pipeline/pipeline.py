"""The whole graph."""

from __future__ import annotations

from typing import Any, NamedTuple

import apache_beam as beam

from beam_pipeline.config import IngestConfig
from beam_pipeline.io.dead_letters import PublishDeadLetterFiles, WriteDeadLetterFiles
from beam_pipeline.io.kafka import ReadRecords
from beam_pipeline.io.parquet import WriteToParquet
from beam_pipeline.io.windowed_files import FileLayout
from beam_pipeline.records import DeadLetter
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
    dead letters ─▶ WriteDeadLetterFiles ─▶ PublishDeadLetters (the topic, from files in place)
    """
    records = pipeline | "ReadRecords" >> ReadRecords(
        config.client_properties,
        config.input_topics,
        config.consumer_group,
        config.expansion_service,
        config.follow_append_time,
        config.create_time,
        config.plain_source,
        config.goal,
        config.turns,
        config.packs_dir,
    )
    landed = _land(records, config)
    _ = landed.letter_files | "PublishDeadLetters" >> PublishDeadLetterFiles(
        config.client_properties, config.dead_letter_topic_suffix, _letter_layout(config)
    )


def land_records(records: beam.PCollection[Any], config: IngestConfig) -> beam.PCollection[Any]:
    """Write records from anywhere to files, and return the dead letters, which are in files too."""
    letters = _land(records, config).letters
    each: beam.PCollection[Any] = letters | "EachLetter" >> beam.FlatMap(list).with_output_types(
        DeadLetter
    )
    return each


class _Landed(NamedTuple):
    """PCollections of DeadLetters, and of WrittenFile for the files that hold them."""

    letters: beam.PCollection[Any]
    letter_files: beam.PCollection[Any]


def _land(records: beam.PCollection[Any], config: IngestConfig) -> _Landed:
    contract, windowing = config.contract, config.windowing
    normalize = Normalize(contract)
    enrich = Enrich(contract, config.reference_dir)
    schema = enrich.output_schema(normalize.output_schema(contract.batch_schema))
    user = user_transforms(config.transforms, schema, contract.ref)
    for transform in user:
        schema = transform.output_schema(schema)

    with DeadLetterCollector(records.pipeline) as dead:
        validated = records | "Validate" >> Validate(
            contract, config.rules, covered=config.covered, cut=config.cut
        )
        normalized = dead.collect(validated) | "Normalize" >> normalize
        enriched = dead.collect(normalized) | "Enrich" >> enrich
        rows = dead.collect(enriched)
        for number, transform in enumerate(user, start=1):
            rows = dead.collect(rows | f"Transform{number}" >> transform)
        bound_seconds = config.create_time.max_out_of_order_seconds
        windowed = rows | "WindowBatches" >> WindowBatches(windowing, bound_seconds)
        written = windowed | "WriteToParquet" >> WriteToParquet(
            config.output_dir,
            file_schema(schema, config.kafka_columns),
            codec=config.parquet_codec,
            num_shards=config.num_shards,
            epoch=config.epoch,
            schema_ref=contract.ref,
            timing=config.timing,
            partition_keys=config.partition_keys,
            storage_config=config.storage,
            parts_dir=config.parts_dir,
            goal=config.goal,
            store_arrow_schema=config.stores_arrow_schema,
        )
        dead.collect(written)

    letters: beam.PCollection[Any] = dead.output() | WindowDeadLetters(windowing)
    written = letters | WriteDeadLetterFiles(
        _letter_layout(config), config.num_shards, config.timing, config.goal
    )
    return _Landed(letters, written.main)


def _letter_layout(config: IngestConfig) -> FileLayout:
    """Return where the dead-letter files go."""
    return FileLayout(
        config.dead_letter_dir,
        config.epoch,
        private=config.private_dead_letters,
        partition_keys=config.partition_keys,
        storage_config=config.storage,
        parts_dir=config.parts_dir,
    )
