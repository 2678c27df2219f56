"""The lease between processes, and between machines that share the storage but not the flock."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from integration.pipeline_runs import wait_for

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.runtime.lease import hold_lease
from beam_pipeline.runtime.lease_terms import LEASE_FILE

HOLDER = """
import os, signal, sys, time
from pathlib import Path
from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.runtime import lease
from beam_pipeline.runtime.lease_terms import LeaseTimes

directory, host = Path(sys.argv[1]), sys.argv[2]
times = LeaseTimes(heartbeat=0.05, expiry=1.0)
if host != "this one":  # another machine: the storage is shared, and its flock is not
    lease.socket.gethostname = lambda: host
    lease.fcntl.flock = lambda *arguments: None
    lease._is_shared = lambda directory: True
if sys.argv[3:] == ["together"]:
    print("ready", flush=True)
    sys.stdin.readline()

def freeze(*arguments):
    os.kill(os.getpid(), signal.SIGSTOP)

def freeze_then_write(*arguments):
    lease.os.pwrite = write
    freeze()
    return write(*arguments)

write = os.pwrite
try:
    with lease.hold_lease(directory, "--output_dir", times) as held:
        print("held", flush=True)
        if sys.argv[3:] == ["freezes between heartbeats"]:
            freeze()
        if sys.argv[3:] == ["freezes within a heartbeat"]:
            lease.os.pwrite = freeze_then_write
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            held.beat()
            time.sleep(0.01)
except EnvironmentFailure as error:
    print(error, flush=True)
"""
Holder = subprocess.Popen[str]


@pytest.fixture
def processes() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def holder(processes: ExitStack, directory: Path, *arguments: str) -> Holder:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(directory), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    processes.callback(process.communicate)
    processes.callback(process.kill)
    return process


def next_line(process: Holder) -> str:
    assert process.stdout is not None
    return process.stdout.readline().rstrip()


def is_stopped(process: Holder) -> bool:
    state = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
    return state == "T"


def owner(directory: Path) -> int | None:
    """The process id in the lease; None while it is being written."""
    try:
        return int(json.loads((directory / LEASE_FILE).read_bytes())["pid"])
    except (ValueError, KeyError):
        return None


def test_a_second_holder_is_refused_until_the_first_is_dead(
    processes: ExitStack, tmp_path: Path
) -> None:
    first = holder(processes, tmp_path, "this one")
    assert next_line(first) == "held"
    with (
        pytest.raises(EnvironmentFailure, match=f"process {first.pid} "),
        hold_lease(tmp_path, "--output_dir"),
    ):
        pass
    first.kill()
    first.wait()
    with hold_lease(tmp_path, "--output_dir"):
        pass


def frozen_and_successor(
    processes: ExitStack, directory: Path, when: str, *successor: str
) -> tuple[Holder, Holder]:
    """Start a holder that freezes, and one on another machine that takes the lease; wake the first.

    It freezes itself, because a signal from here would now and then fall within a heartbeat.
    `successor` says when the other freezes, if it does.
    """
    frozen = holder(processes, directory, "machine-a", when)
    assert next_line(frozen) == "held"

    def taken_over() -> Holder | None:
        other = holder(processes, directory, "machine-b", *successor)
        return other if next_line(other) == "held" else None

    wait_for(lambda: is_stopped(frozen), "the freezing", 20)
    other = wait_for(taken_over, "the lease to expire", 30)
    frozen.send_signal(signal.SIGCONT)
    return frozen, other


def test_a_holder_that_was_frozen_stops_when_another_machine_has_the_lease(
    processes: ExitStack, tmp_path: Path
) -> None:
    frozen, other = frozen_and_successor(processes, tmp_path, "freezes between heartbeats")
    assert f"process {other.pid} on machine-b" in next_line(frozen)
    assert frozen.wait(10) == 0, "it has left its block"
    assert wait_for(lambda: owner(tmp_path), "a whole lease") == other.pid
    assert other.poll() is None


def test_a_holder_that_was_frozen_within_a_heartbeat_takes_the_lease_back(
    processes: ExitStack, tmp_path: Path
) -> None:
    """The other one does nothing meanwhile: if it wrote at that moment, it would keep the lease."""
    frozen, other = frozen_and_successor(
        processes, tmp_path, "freezes within a heartbeat", "freezes between heartbeats"
    )
    wait_for(lambda: owner(tmp_path) == frozen.pid, "the first one's heartbeat", 20)
    wait_for(lambda: is_stopped(other), "the freezing of the other", 20)
    other.send_signal(signal.SIGCONT)
    assert f"process {frozen.pid} on machine-a" in next_line(other)
    assert other.wait(10) == 0, "it has left its block"
    assert wait_for(lambda: owner(tmp_path), "a whole lease") == frozen.pid
    assert frozen.poll() is None


def test_of_two_machines_that_start_at_once_one_holds_the_lease(
    processes: ExitStack, tmp_path: Path
) -> None:
    both = [holder(processes, tmp_path, f"machine-{name}", "together") for name in "ab"]
    for process in both:
        assert next_line(process) == "ready"
    for process in both:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    told = [next_line(process) for process in both]
    assert told.count("held") == 1
    (refusal,) = (line for line in told if line != "held")
    assert "is being written by another pipeline" in refusal
    assert owner(tmp_path) == both[told.index("held")].pid
