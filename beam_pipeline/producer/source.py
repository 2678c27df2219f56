"""Where the records to produce come from: made up, or the lines of a file."""

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
    """A record to produce; `kind` is VALID, LATE, INPUT or the name of a `Breakage`."""

    key: bytes | None
    value: bytes | None
    kind: str


def wall_clock_ms() -> int:
    """Milliseconds since the epoch, now."""
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
    """Events of a made-up shop, without end; the key is the visitor's `user_id`.

    Args:
        seed: the same seed gives the same records, byte for byte, for the same times.
        contract: the schema that every valid event must pass before it is given out.
        invalid_ratio: share of all records, 0 to 1, that are broken, in turn by each of
            `BREAKAGES`.
        late_ratio: share of all records, 0 to 1, that are valid but late; the two shares add up
            to 1 at most.
        late_seconds: how late those are: from half of it to all of it.
        clock_ms: gives the time of each event, in milliseconds since the epoch.

    Raises:
        UsageError: a valid event does not pass; the schema is not that of a commerce event.
    """
    rng = Random(f"source {seed}")
    factory = EventFactory(seed)
    judge = Judge(contract.document, _MAX_EVENT_BYTES)
    breakages = _shuffled_again_and_again(rng)
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
                    f"--schema={contract.source}: a made-up event breaks it ({failure.message}); "
                    "give the schema of a commerce event, or records of your own with --input"
                )
        yield SourceRecord(event["user_id"].encode(), value, kind)


def from_lines(lines: BinaryIO, key_field: str | None = None) -> Iterator[SourceRecord]:
    r"""One record a line, byte for byte without the `\n` that ends it.

    An empty line is a record with an empty value; `\r` is kept; a last line counts without its
    `\n` too.

    Args:
        lines: a file opened for reading bytes.
        key_field: top-level field of the JSON object in each line whose value becomes the key
            (text as it is, anything else as JSON). The key is null where there is no such field.
    """
    for line in lines:
        value = line.removesuffix(b"\n")
        yield SourceRecord(_key_of(value, key_field) if key_field else None, value, INPUT)


def _shuffled_again_and_again(rng: Random) -> Iterator[Breakage]:
    """Every breakage once in random order, then every one again: short runs show them all."""
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
