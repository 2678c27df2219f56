"""Beam sources and sinks: read Kafka records; write Parquet files, dead-letter files and topics."""

from beam_pipeline.config import PaneTiming
from beam_pipeline.files.footer import read_footer
from beam_pipeline.io.dead_letters import (
    PublishDeadLetterFiles,
    WriteDeadLetterFiles,
    WriteDeadLetterTopic,
)
from beam_pipeline.io.kafka import CollectRecords, ReadRecords
from beam_pipeline.io.parquet import WriteToParquet
from beam_pipeline.io.windowed_files import FileLayout

__all__ = [
    "CollectRecords",
    "FileLayout",
    "PaneTiming",
    "PublishDeadLetterFiles",
    "ReadRecords",
    "WriteDeadLetterFiles",
    "WriteDeadLetterTopic",
    "WriteToParquet",
    "read_footer",
]
