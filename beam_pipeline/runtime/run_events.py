"""What happens in a run that a user may want to be told of at once."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.files.markers import Marker
from beam_pipeline.times import rfc3339

RESTART, HOUR_COMPLETE = "restart", "hour_complete"
DEAD_RATIO_TRIPPED, GIVEN_UP = "dead_ratio_tripped", "given_up"

MAX_EVENTS = 1_000
"""How many events wait for the one who takes them away; older ones are lost."""


class DeadRatioError(EnvironmentFailure):
    """Most records of a run are dead letters."""


@dataclass(frozen=True)
class RunEvent:
    """An event.

    Attributes:
      kind: one of the names above.
      text: one line for people.
      details: JSON data of this kind of event.
      at_s: when it happened, in seconds since 1970.
    """

    kind: str
    text: str
    details: Mapping[str, Any] = field(default_factory=dict)
    at_s: float = field(default_factory=time.time)


def hour_complete(directory: str, marker: Marker) -> RunEvent:
    """Return the event of a marker that was written for the directory of an hour."""
    rows, letters = (
        sum(span.size for span in spans.values()) for spans in (marker.rows, marker.dead_letters)
    )
    return RunEvent(
        HOUR_COMPLETE,
        f"{directory} is complete: {rows:,} rows, {letters:,} dead letters, "
        f"revision {marker.revision}",
        {
            "hour": rfc3339(marker.hour),
            "directory": directory,
            "revision": marker.revision,
            "files": marker.files,
            "bytes": marker.size_bytes,
            "rows": rows,
            "dead_letters": letters,
        },
    )
