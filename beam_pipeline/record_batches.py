"""Public names that moved: `CollectRecords` is in `beam_pipeline.io`, `RECORD_SCHEMA` in
`beam_pipeline.schemas`. Imports from here keep working."""

from beam_pipeline.io import CollectRecords
from beam_pipeline.schemas import RECORD_SCHEMA

__all__ = ["RECORD_SCHEMA", "CollectRecords"]
