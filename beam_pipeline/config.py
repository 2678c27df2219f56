"""The settings of the graph as frozen values. Nothing here imports Beam."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from beam_pipeline.covered_offsets import CoveredOffsets
from beam_pipeline.schemas import Contract


@dataclass(frozen=True)
class Windowing:
    """How long windows are, and how far the watermark trails; both in seconds.

    Elements are stamped with their time + `watermark_delay_seconds` and the windows are shifted by
    as much. The watermark, which follows Kafka's append time, so trails the events, and an event
    up to that late is still on time. Files carry the unshifted window.
    """

    window_seconds: int
    watermark_delay_seconds: int = 2


@dataclass(frozen=True)
class PaneTiming:
    """When the panes of a window fire, beside the one at its end; all in seconds.

    Rows that come after the window has closed are collected for `late_pane_seconds`. With
    `early_pane_seconds` above 0 an open window gives what it has that long after its first row.
    """

    late_pane_seconds: float = 5.0
    early_pane_seconds: float = 0.0


@dataclass(frozen=True)
class ValidationRules:
    """What makes a record valid, apart from its schema.

    `event_time_field` is a dotted path, or None to take Kafka's append time as event time.
    `max_event_age_seconds` and `max_event_skew_seconds` are measured against the append time;
    0 sets no limit.
    """

    event_time_field: str | None
    max_event_age_seconds: int = 0
    max_event_skew_seconds: int = 0
    max_value_bytes: int = 8 * 1024 * 1024


@dataclass(frozen=True)
class BreakerLimits:
    """The share of dead letters among the records read over a time that a run may have."""

    max_dead_ratio: float
    window_seconds: float


@dataclass(frozen=True)
class IngestConfig:
    """Everything that `build_pipeline` needs, checked. Transforms take plain values out of it."""

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
