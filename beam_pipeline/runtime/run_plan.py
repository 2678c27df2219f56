"""What a run is to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from beam_pipeline.config import BreakerLimits
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.outbox.publisher import OutboxSettings
from beam_pipeline.runtime.resume import KafkaSource
from beam_pipeline.settings.config import PipelineSettings
from beam_pipeline.settings.table import TableJob
from beam_pipeline.storage.paths import StoredPath


@dataclass(frozen=True)
class RunPlan:
    """What to run; `beam_flags` go to Beam as they are."""

    connection: KafkaConnection
    settings: PipelineSettings
    beam_flags: Sequence[str]
    max_restarts: int
    breaker_limits: BreakerLimits | None = None
    detach: bool = False
    dead_letter_topic_timeout_seconds: float = 60.0
    accept_expired: bool = False
    discovery_interval_seconds: float = 0.0
    table: TableJob | None = None

    @property
    def output_dir(self) -> StoredPath:
        """Return the root of the Parquet files."""
        return self.settings.output_path

    @property
    def dead_letter_dir(self) -> StoredPath:
        """Return the root of the dead-letter files."""
        return self.settings.dead_letter_path

    @property
    def outbox_settings(self) -> OutboxSettings:
        """Return what a publisher of dead letters needs."""
        return OutboxSettings(
            self.connection,
            self.settings.dead_letter_topic_suffix,
            self.settings.dead_letter_dir,
            private=self.settings.private_dead_letters,
            storage=self.settings.storage,
        )

    @property
    def source(self) -> KafkaSource:
        """Return the topics, as the consumer group reads them."""
        settings = self.settings
        return KafkaSource(self.connection, settings.input_topics, settings.consumer_group)
