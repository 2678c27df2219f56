"""What a first start shows where there is no terminal."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from beam_pipeline.runtime.programs import progress
from beam_pipeline.runtime.programs.progress import SetupProgress


def test_a_long_step_says_that_it_is_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.01)
    out = io.StringIO()
    with SetupProgress(Console(file=out)) as setup, setup.step("Building"):
        deadline = time.monotonic() + 10
        while "so far" not in out.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
    first, *between, last = out.getvalue().splitlines()
    assert first == "Building ..."
    assert between
    assert all(line.startswith("Building: 0 s so far") for line in between)
    assert last.startswith("Building: done in ")
