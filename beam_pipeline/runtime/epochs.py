"""The identity of an epoch, which is one submission of the job."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ResumedEpoch:
    """The epoch of a restored job, and the offsets that the job skips (`CoveredOffsets.to_json`).

    Offsets in files of the epoch itself are not among them: the job adopts those files.
    """

    name: str
    covered: list[dict[str, Any]]


def new_epoch() -> str:
    """Return a new identity of an epoch, such as `20261124T133350Zx3f9a`; they sort by time."""
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}x{secrets.token_hex(2)}"
