"""Sources of records to produce: synthetic events, or the lines of a file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from random import Random
from typing import BinaryIO, NamedTuple

import orjson

from beam_pipeline.errors import UsageError
from beam_pipeline.producer.breakage import BREAKAGES, Breakage
from beam_pipeline.producer.events import EventFactory
from beam_pipeline.schemas import Contract, Judge

VALID = "valid"
LATE = "late"
INPUT = "input"

_MAX_EVENT_BYTES = 1_000_000


class SourceRecord(NamedTuple):
    """A record to produce. `kind` is VALID, LATE, INPUT or the name of a `Breakage`."""

    key: bytes | None
    value: bytes | None
    kind: str


def wall_clock_ms() -> int:
    """Return the current time in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def synthetic(
    *,
    seed: int,
    contract: Contract,
    invalid_ratio: float = 0.0,
    late_ratio: float = 0.0,
    late_seconds: float = 30.0,
    clock_ms: Callable[[], int] = wall_clock_ms,
) -> Iterator[SourceRecord]:
    """Yield events of a synthetic shop without end. The key is the visitor's `user_id`.

    Args:
        seed: the same seed gives the same records, byte for byte, for the same times.
        contract: the schema that every valid event is checked against.
        invalid_ratio: share of invalid records, 0 to 1, broken by each of `BREAKAGES` in turn.
        late_ratio: share of valid records that are late, 0 to 1. The sum of both shares is 1 at
            most.
        late_seconds: how late they are: between half of it and all of it.
        clock_ms: returns the time of each event, in milliseconds since 1970.

    Raises:
        UsageError: a valid event violates the schema, which is not that of a commerce event.
    """
    rng = Random(f"source {seed}")
    factory = EventFactory(seed)
    judge = Judge(contract.document, _MAX_EVENT_BYTES)
    breakages = _shuffled_rounds(rng)
    while True:
        now_ms = clock_ms()
        draw = rng.random()
        if draw < invalid_ratio:
            breakage = next(breakages)
            event = factory.make(now_ms, event_type=breakage.event_type)
            value, kind = breakage.apply(event, rng), breakage.name
        else:
            late = draw < invalid_ratio + late_ratio
            late_ms = int(rng.uniform(0.5, 1.0) * late_seconds * 1000) if late else 0
            event = factory.make(now_ms, late_ms=late_ms)
            value, kind = orjson.dumps(event), LATE if late else VALID
            _, failure = judge.judge(value)
            if failure is not None:
                raise UsageError(
                    f"--schema={contract.source}: a synthetic event violates it "
                    f"({failure.message}); "
                    "give the schema of a commerce event, or records of your own with --input"
                )
        yield SourceRecord(event["user_id"].encode(), value, kind)


def from_lines(lines: BinaryIO, key_field: str | None = None) -> Iterator[SourceRecord]:
    r"""Yield one record per line, byte for byte without its `\n`.

    An empty line is a record with an empty value; `\r` is kept; the last line needs no `\n`.

    Args:
        lines: a file opened for reading bytes.
        key_field: the top-level field of each line's JSON object that becomes the key (text as it
            is, other values as JSON). The key is null if there is no such field.
    """
    for line in lines:
        value = line.removesuffix(b"\n")
        yield SourceRecord(_key_of(value, key_field) if key_field else None, value, INPUT)


def _shuffled_rounds(rng: Random) -> Iterator[Breakage]:
    """Yield all breakages in random order, again and again: even short runs have each."""
    while True:
        yield from rng.sample(BREAKAGES, len(BREAKAGES))


def _key_of(value: bytes, key_field: str) -> bytes | None:
    try:
        event = orjson.loads(value)
    except ValueError:
        return None
    content = event.get(key_field) if isinstance(event, dict) else None
    if content is None:
        return None
    return content.encode() if isinstance(content, str) else orjson.dumps(content)
