"""The names that Kafka allows for topics. Imports nothing heavy: the command line uses it."""

from __future__ import annotations

import re

from beam_pipeline.errors import UsageError

# org.apache.kafka.common.internals.Topic: legal characters, at most 249 of them, not "." or "..".
_LEGAL = re.compile(r"[A-Za-z0-9._-]{1,249}")


def is_topic_name(name: str) -> bool:
    """Return whether a topic may have this name.

    >>> is_topic_name("orders.eu"), is_topic_name("orders.*"), is_topic_name("..")
    (True, False, False)
    """
    return _LEGAL.fullmatch(name) is not None and name not in (".", "..")


def check_topic_name(flag: str, name: str) -> None:
    """Check that a topic may have the name that a flag gives.

    Raises:
      UsageError: it may not. A pattern is no name.
    """
    if not is_topic_name(name):
        raise UsageError(
            f"{flag}={name}: no topic has such a name; it has letters, digits, dots, dashes and "
            "underscores, 249 at most. Patterns are not taken: name each topic"
        )
