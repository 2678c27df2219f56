"""The ways to break a synthetic event, each with the dead letter that it must become."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import Any

import orjson

from beam_pipeline.producer.events import Event
from beam_pipeline.records import ErrorCode
from beam_pipeline.times import parse_rfc3339

# Far deeper than any decoder of the pipeline accepts.
_TOO_DEEP_LEVELS = 5_000

_REQUIRED_FIELDS = ("event_id", "event_type", "event_time", "user_id", "session_id", "device")
_WRONG_TYPES = (
    ("user_agent", 42),
    ("device", "mobile"),
    ("event_time", 1764000000),
    ("consent", 1),
)
_BAD_PATTERNS = (("user_id", "u-NOT-A-USER!"), ("country", "D1"), ("country", "€€"))
_BAD_IDS = ("event_id", "session_id")


@dataclass(frozen=True, slots=True)
class Breakage:
    """One way to break a valid event.

    Attributes:
        name: its name in counts and logs.
        code: the error code of the dead letter that must result.
        keyword: the JSON Schema keyword that must be violated, if the code is SCHEMA_VIOLATION.
        apply: returns the record's value for a valid event, which stays unchanged.
        event_type: the type that the event must have; None for any.
    """

    name: str
    code: ErrorCode
    keyword: str | None
    apply: Callable[[Event, Random], bytes | None]
    event_type: str | None = None


def _truncated_json(event: Event, rng: Random) -> bytes:
    data = orjson.dumps(event)
    cut = data[: rng.randrange(1, len(data))]
    return cut.decode("utf-8", "ignore").encode()  # not through the middle of a character


def _not_utf8(event: Event, rng: Random) -> bytes:
    data = orjson.dumps({**event, "note": "#"})
    return data.replace(b'"note":"#"', b'"note":"caf\xe9"')  # Latin-1


def _empty_value(event: Event, rng: Random) -> bytes:
    return b""


def _tombstone(event: Event, rng: Random) -> None:
    return None


def _too_deep(event: Event, rng: Random) -> bytes:
    nested = b"[" * _TOO_DEEP_LEVELS + b"]" * _TOO_DEEP_LEVELS
    return orjson.dumps(event)[:-1] + b',"note":' + nested + b"}"


def _changed(change: Callable[[Event, Random], Any]) -> Callable[[Event, Random], bytes]:
    """A breakage that changes the event and leaves it JSON."""

    def apply(event: Event, rng: Random) -> bytes:
        broken = copy.deepcopy(event)
        change(broken, rng)
        return orjson.dumps(broken)

    return apply


def _remove_required(event: Event, rng: Random) -> None:
    del event[rng.choice(_REQUIRED_FIELDS)]


def _remove_purchase(event: Event, rng: Random) -> None:
    del event["purchase"]


def _set_wrong_type(event: Event, rng: Random) -> None:
    field, value = rng.choice(_WRONG_TYPES)
    event[field] = value


def _set_bad_enum(event: Event, rng: Random) -> None:
    event["event_type"] = rng.choice(("PAGE_VIEW", "click", ""))


def _set_bad_pattern(event: Event, rng: Random) -> None:
    field, value = rng.choice(_BAD_PATTERNS)
    event[field] = value


def _set_bad_uuid(event: Event, rng: Random) -> None:
    field = rng.choice(_BAD_IDS)
    event[field] = event[field][:-1] + "x"


def _set_bad_time(event: Event, rng: Random) -> None:
    event["event_time"] = event["event_time"].replace("T", " ").partition(".")[0]


def _set_amount_above(event: Event, rng: Random) -> None:
    event["purchase"]["amount"] = 10_000_000.01


def _set_amount_below(event: Event, rng: Random) -> None:
    event["purchase"]["amount"] = -event["purchase"]["amount"]


def _set_no_items(event: Event, rng: Random) -> None:
    event["purchase"]["items"] = []


def _set_long_url(event: Event, rng: Random) -> None:
    event["page_url"] += "?q=" + "x" * 2048


def _add_device_property(event: Event, rng: Random) -> None:
    event["device"]["battery_percent"] = rng.randrange(101)


def _shift_time(delta: timedelta) -> Callable[[Event, Random], None]:
    def change(event: Event, rng: Random) -> None:
        moment = parse_rfc3339(event["event_time"]) + delta
        event["event_time"] = moment.isoformat(timespec="milliseconds")

    return change


def _violation(
    name: str,
    keyword: str,
    change: Callable[[Event, Random], None],
    event_type: str | None = None,
) -> Breakage:
    return Breakage(name, ErrorCode.SCHEMA_VIOLATION, keyword, _changed(change), event_type)


BREAKAGES: tuple[Breakage, ...] = (
    Breakage("truncated_json", ErrorCode.MALFORMED_JSON, None, _truncated_json),
    Breakage("empty_value", ErrorCode.MALFORMED_JSON, None, _empty_value),
    Breakage("not_utf8", ErrorCode.NOT_UTF8, None, _not_utf8),
    Breakage("tombstone", ErrorCode.NULL_VALUE, None, _tombstone),
    Breakage("too_deep", ErrorCode.TOO_DEEP, None, _too_deep),
    Breakage("too_old", ErrorCode.TOO_OLD, None, _changed(_shift_time(timedelta(days=-30)))),
    Breakage("in_the_future", ErrorCode.IN_THE_FUTURE, None, _changed(_shift_time(timedelta(1)))),
    _violation("missing_field", "required", _remove_required),
    _violation("missing_purchase", "required", _remove_purchase, "purchase"),
    _violation("wrong_type", "type", _set_wrong_type),
    _violation("unknown_event_type", "enum", _set_bad_enum),
    _violation("bad_pattern", "pattern", _set_bad_pattern),
    _violation("bad_uuid", "format", _set_bad_uuid),
    _violation("bad_event_time", "format", _set_bad_time),
    _violation("amount_too_high", "maximum", _set_amount_above, "purchase"),
    _violation("amount_negative", "minimum", _set_amount_below, "purchase"),
    _violation("no_items", "minItems", _set_no_items, "refund"),
    _violation("long_url", "maxLength", _set_long_url),
    _violation("unknown_device_field", "additionalProperties", _add_device_property),
)
