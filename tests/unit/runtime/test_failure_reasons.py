"""Why a process ended, as a user reads it after a restart."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from beam_pipeline.runtime.failure_reasons import end_of, first_error, last_message

NOW = datetime(2026, 11, 26, 18, 23, 20, tzinfo=timezone.utc)
GARBAGE = (
    'time=2026-11-26T18:23:19.983Z level=ERROR msg="[SDK] *~*~*~ Previous channel Channel{logId=8} '
    'was garbage collected without being shut down! ~*~*~*"'
)


@pytest.mark.parametrize(
    ("exit_code", "how"),
    [
        (0, "Prism ended with exit code 0"),
        (1, "Prism ended with exit code 1"),
        (-9, "Prism was killed (SIGKILL)"),
        (-15, "Prism was killed (SIGTERM)"),
        (-250, "Prism was killed (signal 250)"),
        (None, "Prism ended with exit code None"),
    ],
)
def test_how_it_ended(exit_code: int | None, how: str) -> None:
    assert end_of("Prism", exit_code) == how


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ([], None),
        (["[main] INFO up", "[main] WARN slow"], None),
        ([GARBAGE], None),
        (
            ['time=2026-11-26T18:23:19Z level=ERROR msg="Failed." error="pipeline canceled"'],
            None,
        ),
        (
            ['time=2026-11-26T18:23:19Z level=ERROR msg="Job failed" error="no space left"'],
            "Job failed: no space left",
        ),
        (['time=2026-11-26T18:20:00Z level=ERROR msg="long ago"'], None),
        (
            ["2026-11-26 18:23:19,5 INFO up", "panic: runtime error", "goroutine 1"],
            "panic: runtime error",
        ),
        (["2026-11-26 18:23:10 ERROR first", "2026-11-26 18:23:11 INFO well again"], None),
        (
            ["[kafka] ERROR disk /data failed", "[kafka] ERROR shutting down"],
            "[kafka] ERROR disk /data failed",
        ),
        (
            ['Exception in thread "main" java.lang.OutOfMemoryError: heap', "\tat a.B(C.java:1)"],
            'Exception in thread "main" java.lang.OutOfMemoryError: heap',
        ),
        (
            [
                "2026-11-26 18:23:19 ERROR sdk_worker: Error processing 12. Original traceback is",
                "Traceback (most recent call last):",
                '  File "a.py", line 1, in f',
                "OSError: [Errno 28] No space left on device: 'x'",
                "the job failed: OSError: [Errno 28]",
            ],
            "OSError: [Errno 28] No space left on device: 'x'",
        ),
    ],
)
def test_the_first_error_after_the_last_good_sign(log: list[str], reason: str | None) -> None:
    assert first_error(log, NOW) == reason


def test_a_stamp_without_a_zone_may_be_local_time() -> None:
    stamp = NOW.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    assert first_error([f"{stamp},1 ERROR now"], NOW) == f"{stamp},1 ERROR now"


@pytest.mark.parametrize(
    ("log", "message"),
    [
        ([], None),
        (["}", "", "  at a.B(C.java:1)"], None),
        (["no such thing", "  }", ""], "no such thing"),
        (["x" * 1000], "x" * 300),
    ],
)
def test_the_last_message(log: list[str], message: str | None) -> None:
    assert last_message(log) == message
