"""Beam's Kafka source and sink, as this pipeline uses them."""

# No `from __future__ import annotations`: Beam's RowCoder (2.73) reads a NamedTuple's field types
# as they stand, and takes a text for "any type".

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Optional

import apache_beam as beam
import pyarrow as pa
from apache_beam import coders
from apache_beam.io.kafka import ReadFromKafka, WriteToKafka
from apache_beam.transforms.external import JavaExternalTransform

from beam_pipeline.io.dead_letters import to_headers
from beam_pipeline.record_batches import MAX_BATCH_RECORDS, CollectRecords, batch_of_pack
from beam_pipeline.records import DeadLetter

MAX_PACK_BYTES = 4 * 1024 * 1024
"""What becomes one element between Java and Python, beside `MAX_BATCH_RECORDS`."""


class ReadRecords(beam.PTransform[Any, Any]):
    """PBegin to PCollection[pa.RecordBatch] of `RECORD_SCHEMA`, a batch of one partition each.

    Nothing is ever committed for having been read: auto-commit is off, and where reading starts is
    the group's committed offset, which the ledger sets. Timestamps and the watermark follow
    Kafka's append time, or with `follow_append_time` off the clock; the elements are in the global
    window.

    `expansion_service` is one with java/src on its class path, whose `PackRecords` packs the
    records before they leave Java; with None, Beam's own, they are packed in Python.
    """

    def __init__(
        self,
        client_properties: Mapping[str, str],
        topics: Sequence[str],
        consumer_group: str,
        expansion_service: str | None,
        follow_append_time: bool = True,
    ) -> None:
        super().__init__()
        self._consumer_config = {
            "auto.offset.reset": "earliest",
            **client_properties,
            "group.id": consumer_group,
            "enable.auto.commit": "false",
        }
        self._topics = list(topics)
        self._timestamp_policy = (
            ReadFromKafka.log_append_time
            if follow_append_time
            else ReadFromKafka.processing_time_policy
        )
        self._expansion_service = expansion_service

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection[Any]:
        rows: beam.PCollection[Any] = begin | "ReadFromKafka" >> ReadFromKafka(
            consumer_config=self._consumer_config,
            topics=self._topics,
            timestamp_policy=self._timestamp_policy,
            with_metadata=True,
            expansion_service=self._expansion_service,
        )
        batches: beam.PCollection[Any]
        if self._expansion_service is None:  # Beam's own, which does not know our Java
            batches = rows | CollectRecords()
            return batches
        pack = JavaExternalTransform("beam_pipeline.PackRecords", self._expansion_service)
        batches = (
            rows
            | "PackRecords" >> pack(MAX_BATCH_RECORDS, MAX_PACK_BYTES)
            | "ToBatches" >> beam.Map(batch_of_pack).with_output_types(pa.RecordBatch)
        )
        return batches


class KafkaHeader(NamedTuple):
    """A header, as `WriteToKafka(with_headers=True)` takes it."""

    key: str
    value: bytes


class LetterRow(NamedTuple):
    """A record, as `WriteToKafka(with_headers=True)` takes it (Beam 2.73, KafkaIO)."""

    key: Optional[bytes]  # noqa: UP045 - Beam's RowCoder does not read `bytes | None`
    value: Optional[bytes]  # noqa: UP045
    headers: list[KafkaHeader]
    topic: str
    timestamp: int


for _row_type in (KafkaHeader, LetterRow):
    coders.registry.register_coder(_row_type, coders.RowCoder)


class WriteDeadLetterTopic(beam.PTransform[Any, Any]):
    """PCollection[DeadLetter] to the topic `<input topic><suffix>`: bytes and timestamp unchanged.

    At least once: Beam's Python SDK has no transactional Kafka sink. `dlq.id` lets a reader drop
    repeats.
    """

    def __init__(
        self,
        client_properties: Mapping[str, str],
        topic_suffix: str,
        epoch: str,
        expansion_service: str | None,
    ) -> None:
        super().__init__()
        self._producer_config = {
            "max.request.size": str(64 * 1024 * 1024),
            "compression.type": "zstd",
            **client_properties,
        }
        self._topic_suffix = topic_suffix
        self._epoch = epoch
        self._expansion_service = expansion_service

    def expand(self, letters: beam.PCollection[Any]) -> beam.PCollection[Any]:
        sent: beam.PCollection[Any] = (
            letters
            | "ToRows"
            >> beam.ParDo(_ToRow(self._topic_suffix, self._epoch)).with_output_types(LetterRow)
            | "WriteToKafka"
            >> WriteToKafka(
                producer_config=self._producer_config,
                topic=f"any{self._topic_suffix}",  # each row names its own
                with_headers=True,
                expansion_service=self._expansion_service,
            )
        )
        return sent


class _ToRow(beam.DoFn):
    def __init__(self, topic_suffix: str, epoch: str) -> None:
        self._topic_suffix = topic_suffix
        self._epoch = epoch

    def process(self, letter: DeadLetter) -> Iterator[LetterRow]:
        added = to_headers(letter, self._epoch)
        names = {name for name, _ in added}
        headers = [(name, value or b"") for name, value in letter.headers if name not in names]
        yield LetterRow(
            key=letter.key,
            value=letter.value,
            headers=[KafkaHeader(name, value) for name, value in headers + added],
            topic=f"{letter.topic}{self._topic_suffix}",
            timestamp=letter.timestamp,
        )
