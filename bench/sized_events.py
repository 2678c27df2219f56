"""Valid events whose JSON has a given number of bytes."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from random import Random
from typing import Any

import orjson
from mimesis import Locale, Text

from beam_pipeline.producer.events import EventFactory
from beam_pipeline.producer.source import VALID, SourceRecord, wall_clock_ms

READING_SCHEMA = Path(__file__).resolve().parent / "reading.schema.json"
SMALLEST_COMMERCE_BYTES = 300
SMALLEST_READING_BYTES = 180

_TEXT_BYTES = 4_000_000
_SENSORS = 500
_UNITS = ("celsius", "hpa", "percent")
_OPTIONAL = ("purchase", "referrer", "consent", "experiment", "search_query")
_NOTE = len(b',"note":""')


def sized_events(
    size: int, seed: int, clock_ms: Callable[[], int] = wall_clock_ms
) -> tuple[Iterator[SourceRecord], Path | None]:
    """Return endless events of `size` bytes, and their schema; None for commerce events.

    Events of `SMALLEST_COMMERCE_BYTES` or more are commerce events. Smaller ones are readings, of
    `SMALLEST_READING_BYTES` or more.
    """
    if size < SMALLEST_COMMERCE_BYTES:
        return _readings(size, seed, clock_ms), READING_SCHEMA
    return _commerce_events(size, seed, clock_ms), None


def _commerce_events(size: int, seed: int, clock_ms: Callable[[], int]) -> Iterator[SourceRecord]:
    """Yield synthetic events, filled up by a field `note` that the schema does not name.

    An event that would be too large is replaced by a page view without optional fields.
    """
    factory, filler = EventFactory(seed), _Filler(seed)
    while True:
        event = factory.make(clock_ms())
        value = orjson.dumps(event)
        if len(value) + _NOTE > size:
            value = orjson.dumps(_least(event))
            if len(value) + _NOTE > size:
                event["user_agent"] = "-"
                value = orjson.dumps(_least(event))
        yield SourceRecord(event["user_id"].encode(), filler.fill(value, size), VALID)


def _least(event: dict[str, Any]) -> dict[str, Any]:
    least = {name: value for name, value in event.items() if name not in _OPTIONAL}
    device = {name: event["device"][name] for name in ("kind", "os")}
    return {**least, "event_type": "page_view", "page_url": "/", "device": device}


def _readings(size: int, seed: int, clock_ms: Callable[[], int]) -> Iterator[SourceRecord]:
    rng, filler = Random(f"readings {seed}"), _Filler(seed)
    sensors = [f"s-{rng.getrandbits(32):08x}" for _ in range(_SENSORS)]
    while True:
        moment = datetime.fromtimestamp(clock_ms() / 1000, timezone.utc)
        sensor = rng.choice(sensors)
        reading = {
            "reading_id": str(uuid.UUID(int=rng.getrandbits(128), version=4)),
            "measured_at": moment.isoformat(timespec="milliseconds"),
            "sensor_id": sensor,
            "unit": rng.choice(_UNITS),
            "value": round(rng.uniform(-50, 1100), 2),
        }
        value = filler.fill(orjson.dumps(reading), size)
        yield SourceRecord(sensor.encode(), value, VALID)


class _Filler:
    """Fills JSON objects up to a size with English words from a random place in 4 MB of words."""

    def __init__(self, seed: int) -> None:
        self._random = Random(f"filler {seed}")
        vocabulary = Text(Locale.EN, seed=seed).words(2_000)
        words = self._random.choices(vocabulary, k=_TEXT_BYTES // 5)
        self._text = " ".join(words).encode("ascii", "ignore").translate(None, b'"\\')

    def fill(self, value: bytes, size: int) -> bytes:
        """Return the object with a further field `note`, `size` bytes in total.

        Raises:
            ValueError: the object is too large.
        """
        length = size - len(value) - _NOTE
        if length < 0:
            raise ValueError(f"an event of {len(value)} bytes can't be filled up to {size}")
        start = self._random.randrange(len(self._text) - length)
        return value[:-1] + b',"note":"' + self._text[start : start + length] + b'"}'
