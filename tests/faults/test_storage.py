"""A disk that is full, and directories that vanish."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faults.scenario import Scenario
from integration.pipeline_runs import wait_for

DISK_MB = 32
FULL_SECONDS = 15.0
NO_SPACE = os.strerror(errno.ENOSPC)


@pytest.mark.faults
@pytest.mark.parametrize("which", ["output", "dead"])
def test_a_full_disk(scenario: Callable[..., Scenario], which: str) -> None:
    filling = scenario(f"disk full, {which}")
    directory = filling.run.directory / which
    with small_disk(directory):
        filling.start()
        filling.load.start()
        filling.await_progress()
        filler = directory / "filler"
        wait_for(lambda: fill(filler) and told_no_space(filling), "a word about the disk", 120)
        full_until = time.monotonic() + FULL_SECONDS
        while time.monotonic() < full_until:
            fill(filler)
            time.sleep(0.2)
        ended = filling.supervisor.poll() is not None
        if ended:
            assert NO_SPACE in filling.ended_clearly()
        assert "Traceback" not in filling.told()
        filler.unlink()
        if ended:
            filling.start()
        filling.await_progress()
        filling.settle()


@pytest.mark.faults
def test_a_disk_that_stays_full(scenario: Callable[..., Scenario]) -> None:
    filling = scenario("disk full, until given up", "--max_restarts=2")
    with small_disk(filling.run.output_dir):
        filling.start()
        filling.load.start()
        filling.await_progress()
        filler = filling.run.output_dir / "filler"
        wait_for(lambda: fill(filler) and filling.supervisor.poll() is not None, "the end", 180)
        told = filling.ended_clearly()
        assert NO_SPACE in told
        assert "gave up after 2 restarts" in told
        filler.unlink()
        filling.start()
        filling.await_progress()
        filling.settle()


@contextlib.contextmanager
def small_disk(directory: Path) -> Iterator[None]:
    """A file system of `DISK_MB` at `directory` for the time of the block."""
    directory.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(directory)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"a tmpfs can't be mounted: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def fill(filler: Path) -> bool:
    """Takes what the disk has left; True."""
    with filler.open("ab", buffering=0) as sink, contextlib.suppress(OSError):
        while True:
            sink.write(bytes(65536))
    return True


def told_no_space(filling: Scenario) -> bool:
    return NO_SPACE in filling.told() or filling.supervisor.poll() is not None


@pytest.mark.faults
@pytest.mark.parametrize("which", ["output", "dead"])
def test_a_directory_vanishes(scenario: Callable[..., Scenario], which: str) -> None:
    vanishing = scenario(f"directory vanishes, {which}")
    vanishing.start()
    vanishing.load.start()
    vanishing.await_progress()
    time.sleep(vanishing.random.uniform(0, 5))
    vanishing.vanish(vanishing.run.directory / which)
    vanishing.await_progress()
    vanishing.settle()
