"""Where records come from and where rows and letters go: Kafka, Parquet, JSON lines, the ledger.

The public names are loaded when they are asked for: the command line uses modules of this package,
and must not wait for Beam.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from beam_pipeline.io.dead_letters import WriteDeadLetterFiles
    from beam_pipeline.io.footer import read_footer
    from beam_pipeline.io.kafka import ReadRecords, WriteDeadLetterTopic
    from beam_pipeline.io.parquet import WriteToParquet
    from beam_pipeline.io.windowed_files import FileLayout, PaneTiming

__all__ = [
    "FileLayout",
    "PaneTiming",
    "ReadRecords",
    "WriteDeadLetterFiles",
    "WriteDeadLetterTopic",
    "WriteToParquet",
    "read_footer",
]

_MODULES = {
    "FileLayout": "windowed_files",
    "PaneTiming": "windowed_files",
    "ReadRecords": "kafka",
    "WriteDeadLetterFiles": "dead_letters",
    "WriteDeadLetterTopic": "kafka",
    "WriteToParquet": "parquet",
    "read_footer": "footer",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
