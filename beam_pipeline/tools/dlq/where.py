"""The conditions of `--where`, which select dead letters.

A condition is `NAME=VALUE`, or `NAME=VALUE,VALUE…` to match any of the values. A letter must match
all conditions.

- `code`, `keyword`, `stage`, `topic`, `partition`, `id`: fields of the letter. `keyword` is a JSON
  Schema keyword among its violations.
- `field`: the place of a violation in the event, as a JSON pointer such as `/customer/email`. `*`
  matches any text: `/items/*/price`.
- `since` (inclusive), `until` (exclusive): the time of the failure. A date (`2026-11-23`), a time
  (`2026-11-23T20:28:30Z`; UTC unless it has an offset), or an age (`90s`, `30m`, `2h`, `7d`).
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta, timezone
from fnmatch import fnmatchcase

from beam_pipeline.errors import UsageError
from beam_pipeline.times import parse_rfc3339
from beam_pipeline.tools.dlq.letters import Letter

Condition = Callable[[Letter], bool]

_AGO = re.compile(r"([0-9]{1,9})([smhd])")
_AGO_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

_TEXTS: dict[str, Callable[[Letter], Iterable[str]]] = {
    "code": lambda letter: [letter.code],
    "keyword": lambda letter: [keyword for keyword, _ in letter.violations],
    "field": lambda letter: [path for _, path in letter.violations],
    "stage": lambda letter: [letter.stage],
    "topic": lambda letter: [letter.topic],
    "partition": lambda letter: [str(letter.partition)],
    "id": lambda letter: [letter.dlq_id],
}
NAMES = (*_TEXTS, "since", "until")


def parse_conditions(texts: Sequence[str], now: datetime) -> Condition:
    """Return the condition that all `--where` flags make together.

    Args:
        texts: such as `["code=TOO_OLD,IN_THE_FUTURE", "since=2h"]`; an empty list matches all.
        now: the time that an age such as `2h` is subtracted from; aware.

    Raises:
        UsageError: a condition can't be parsed.
    """
    conditions = [_parse(text, now) for text in texts]
    return lambda letter: all(condition(letter) for condition in conditions)


def _parse(text: str, now: datetime) -> Condition:
    name, equals, value = text.partition("=")
    if not equals or name not in NAMES or not value:
        raise UsageError(f"--where={text}: give NAME=VALUE, with a name of {', '.join(NAMES)}")
    if name == "since":
        since = _moment(text, value, now)
        return lambda letter: letter.failed_at >= since
    if name == "until":
        until = _moment(text, value, now)
        return lambda letter: letter.failed_at < until
    texts_of, matches = _TEXTS[name], _field_matches if name == "field" else operator.eq
    values = value.split(",")
    return lambda letter: any(matches(text, value) for text in texts_of(letter) for value in values)


def _field_matches(pointer: str, pattern: str) -> bool:
    # fnmatch reads brackets as sets of characters; in names of fields they are ordinary.
    return fnmatchcase(pointer, pattern.replace("[", "[[]"))


def _moment(text: str, value: str, now: datetime) -> datetime:
    try:
        if ago := _AGO.fullmatch(value):
            return now - timedelta(**{_AGO_UNITS[ago[2]]: int(ago[1])})
        moment = parse_rfc3339(value)
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"--where={text}: give a date (2026-11-23), a time (2026-11-23T20:28:30Z), "
            "or how long ago (30m, 2h, 7d)"
        ) from error
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
