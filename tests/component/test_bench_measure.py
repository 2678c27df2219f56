"""What the throughput bench measures, on processes and files that are known to cost something."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from beam_pipeline.errors import EnvironmentFailure
from bench.landing import Run, figures, spread_of
from bench.measure import FirstFetch, Usage, run_measured

ALLOCATED_MB = 60
BUSY_SECONDS = 0.5

GRANDCHILD = f"""
import time
held = bytearray({ALLOCATED_MB} * 1_000_000)
held[::4096] = b"x" * len(held[::4096])
while time.process_time() < {BUSY_SECONDS}:
    pass
time.sleep(0.6)
"""
CHILD = f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', {GRANDCHILD!r}]))"


def measure(tmp_path: Path, code: str, timeout_seconds: float = 60) -> Usage:
    return run_measured(
        "child",
        [sys.executable, "-c", code],
        tmp_path / "child.log",
        env={},
        cwd=tmp_path,
        timeout_seconds=timeout_seconds,
    )


def test_memory_and_cpu_of_a_grandchild_count(tmp_path: Path) -> None:
    before_ns = time.time_ns()
    usage = measure(tmp_path, CHILD)
    assert usage.exit_code == 0
    assert before_ns <= usage.started_ns <= time.time_ns()
    assert usage.peak_rss_bytes > ALLOCATED_MB * 1_000_000
    assert BUSY_SECONDS <= usage.cpu_seconds < BUSY_SECONDS + 5


def test_exit_code_is_the_programs(tmp_path: Path) -> None:
    assert measure(tmp_path, "raise SystemExit(7)").exit_code == 7


def test_a_program_that_does_not_end_is_ended(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFailure, match=r"child did not end within 0\.5 s"):
        measure(tmp_path, "import time; time.sleep(60)", timeout_seconds=0.5)


def test_first_read_of_any_segment_is_the_first_fetch(tmp_path: Path) -> None:
    segments = [tmp_path / "0.log", tmp_path / "1.log"]
    for segment in segments:
        segment.write_bytes(b"record")
    fetch = FirstFetch(segments)
    assert fetch.time_ns() is None
    before_ns = time.time_ns()
    segments[1].read_bytes()
    after_ns = time.time_ns()
    time.sleep(0.05)
    segments[0].read_bytes()
    told = fetch.time_ns()
    if told is None:
        pytest.skip("the file system keeps no access times")
    clock_step_ns = 20_000_000  # the kernel's coarse clock
    assert before_ns - clock_step_ns <= told <= after_ns


def test_figures_of_a_run() -> None:
    usage = Usage(1_000_000_000, 0, peak_rss_bytes=150_000_000, cpu_seconds=3.0)
    run = figures(2_000, usage, 3_000_000_000, last_file_ns=5_000_000_000, output_bytes=123)
    assert run == Run(
        events_per_second=500.0,
        streaming_events_per_second=1000.0,
        seconds_to_first_read=2.0,
        peak_rss_mb=150.0,
        cpu_seconds_per_million=1500.0,
        output_bytes=123,
    )
    unknown = figures(2_000, usage, None, last_file_ns=5_000_000_000, output_bytes=123)
    assert spread_of([run, unknown], "streaming_events_per_second") is None
    spread = spread_of([run, unknown], "events_per_second")
    assert spread is not None
    assert (spread.median, spread.least, spread.most) == (500.0, 500.0, 500.0)
