"""Why a process ended: how, and the first error that its log has since its last good sign."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone

RECENT = timedelta(seconds=10)
"""An error that was logged longer before the end was survived."""

MAX_CHARACTERS = 300

_GOOD_SIGN = re.compile(r"\b(INFO|DEBUG|TRACE)\b")
_ERROR = re.compile(
    r"\b(ERROR|FATAL|SEVERE)\b"
    r"|^(panic|fatal error|runtime error|the job failed): "
    r"|^Exception in thread "
    r"|^(\w+\.)*\w*(Error|Exception)\b"
)
# Prism passes on a warning of gRPC's about garbage collection, and reports bundles that it cancels
# itself, both as errors. Beam's worker announces a traceback, whose last line has the reason.
_NOISE = re.compile(
    r"garbage collected without being shut down|pipeline canceled|Original traceback is$"
)
_STAMP = re.compile(r"^(?:time=)?(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)")
_LOGFMT = re.compile(r'\b(msg|error)=("(?:[^"\\]|\\.)*"|\S+)')
# The frames of a Java stack trace follow its message, and a gRPC error ends in a brace.
_FRAME = re.compile(r"^\s*(at |\.\.\. |File \"|Traceback |[^\w]*$)")


def end_of(name: str, exit_code: int | None) -> str:
    """Return how a process ended.

    >>> end_of("Prism", -9), end_of("job", 3)
    ('Prism was killed (SIGKILL)', 'job ended with exit code 3')
    """
    if exit_code is None or exit_code >= 0:
        return f"{name} ended with exit code {exit_code}"
    try:
        return f"{name} was killed ({signal.Signals(-exit_code).name})"
    except ValueError:
        return f"{name} was killed (signal {-exit_code})"


def first_error(lines: Sequence[str], ended_at: datetime) -> str | None:
    """Return the first error after the last good sign in the log of a process; None without one.

    Args:
      lines: the last lines of the log.
      ended_at: when the process was found to have ended, an aware time. Errors that were stamped
        more than `RECENT` before it do not count.

    >>> first_error(["INFO up", "ERROR disk is full", "ERROR bye"], datetime.now(timezone.utc))
    'ERROR disk is full'
    """
    start = max((at for at, line in enumerate(lines) if _GOOD_SIGN.search(line)), default=-1) + 1
    for line in lines[start:]:
        if _ERROR.search(line) and not _NOISE.search(line) and _is_recent(line, ended_at):
            return _shortened(line)
    return None


def last_message(lines: Sequence[str]) -> str | None:
    """Return the last line of a log that says something; None if there is none."""
    messages = [line for line in lines if not _FRAME.match(line)]
    return _shortened(messages[-1]) if messages else None


def _is_recent(line: str, ended_at: datetime) -> bool:
    """Return whether a line has no stamp, or a recent one. A log may have UTC or local time."""
    match = _STAMP.match(line)
    if match is None:
        return True
    stamp = datetime.fromisoformat(f"{match[1]} {match[2]}")
    return any(
        abs(ended_at - there) <= RECENT
        for there in (stamp.replace(tzinfo=timezone.utc), stamp.astimezone())
    )


def _shortened(line: str) -> str:
    """Return a line without what stands before its message, where that is known."""
    parts = [text.strip('"') for _, text in _LOGFMT.findall(line)]
    return (": ".join(parts) if parts else line.strip())[:MAX_CHARACTERS]
