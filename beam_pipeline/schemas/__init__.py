"""Event contracts: load a JSON Schema, judge events by it, derive Arrow columns from it."""

from beam_pipeline.schemas.columns import ColumnBuilder, build_column
from beam_pipeline.schemas.contract import RECORD_SCHEMA, Contract, file_schema, load_contract
from beam_pipeline.schemas.judge import Judge
from beam_pipeline.schemas.versions import load_contracts

__all__ = [
    "RECORD_SCHEMA",
    "ColumnBuilder",
    "Contract",
    "Judge",
    "build_column",
    "file_schema",
    "load_contract",
    "load_contracts",
]
