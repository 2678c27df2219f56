"""The lease on an object store between processes that are killed, frozen and woken."""

from __future__ import annotations

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
from beam_pipeline.runtime.lease_terms import LEASE_FILE, LeaseTimes
from beam_pipeline.runtime.store_lease import HeldLease, parse_store_lease
from beam_pipeline.storage.directory import DirectoryStorage
from beam_pipeline.storage.paths import ObjectPath

# The lock of a storage in a directory must not be held by a process that is frozen: no store has
# one. So it freezes itself, between two requests.
HOLDER = """
import os, signal, sys, threading, time
from pathlib import Path
from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.runtime import store_lease
from beam_pipeline.runtime.lease import hold_lease
from beam_pipeline.runtime.lease_terms import LeaseTimes
from beam_pipeline.storage.directory import DirectoryStorage
from beam_pipeline.storage.paths import ObjectPath

directory, machine, expiry = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
if machine != "this one":
    store_lease.socket.gethostname = store_lease._boot = lambda: machine
requests = threading.Lock()

class Store(DirectoryStorage):
    def put_if_match(self, *arguments):
        with requests:
            return super().put_if_match(*arguments)

def wait():
    print("ready", flush=True)
    sys.stdin.readline()

if "together" in sys.argv:
    wait()
try:
    times = LeaseTimes(heartbeat=0.05, expiry=expiry)
    with hold_lease(ObjectPath(Store(directory)), "--output_dir", times) as held:
        print("held", flush=True)
        if "freezes" in sys.argv:
            with requests:
                os.kill(os.getpid(), signal.SIGSTOP)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            held.beat()
            time.sleep(0.01)
except EnvironmentFailure as error:
    print(error, flush=True)
"""
Holder = subprocess.Popen[str]
SHORT, LONG = "0.5", "600"


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


def await_freeze(process: Holder) -> None:
    """Wait until a process has stopped itself: a signal to go on before that would be lost."""
    status = Path(f"/proc/{process.pid}/stat")
    wait_for(lambda: ") T " in status.read_text(), "the holder to freeze")


def owner(directory: Path) -> HeldLease:
    lease = parse_store_lease((directory / LEASE_FILE).read_bytes())
    assert isinstance(lease, HeldLease)
    return lease


def test_a_holder_that_beats_is_respected_and_a_killed_one_frees_its_machine_at_once(
    processes: ExitStack, tmp_path: Path
) -> None:
    first = holder(processes, tmp_path, "this one", LONG)
    assert next_line(first) == "held"
    root, times = ObjectPath(DirectoryStorage(tmp_path)), LeaseTimes(heartbeat=0.05, expiry=600.0)
    with (
        pytest.raises(EnvironmentFailure, match=f"another pipeline \\(process {first.pid} on "),
        hold_lease(root, "--output_dir", times),
    ):
        pass
    first.kill()
    first.wait()
    notices: list[str] = []
    with hold_lease(root, "--output_dir", times, notices.append):
        assert owner(tmp_path).generation == 2
    assert notices == []


def test_a_killed_holder_of_another_machine_is_waited_for(
    processes: ExitStack, tmp_path: Path
) -> None:
    first = holder(processes, tmp_path, "machine-a", LONG)
    assert next_line(first) == "held"
    first.kill()
    first.wait()
    root, notices = ObjectPath(DirectoryStorage(tmp_path)), list[str]()
    times = LeaseTimes(heartbeat=0.05, expiry=float(SHORT))
    with hold_lease(root, "--output_dir", times, notices.append):
        assert owner(tmp_path).generation == 2
    (notice,) = notices
    assert f"process {first.pid} on machine-a has not released it" in notice


def test_a_holder_that_was_frozen_stops_when_another_one_has_the_lease(
    processes: ExitStack, tmp_path: Path
) -> None:
    frozen = holder(processes, tmp_path, "machine-a", SHORT, "freezes")
    assert next_line(frozen) == "held"
    await_freeze(frozen)
    other = holder(processes, tmp_path, "machine-b", SHORT)
    assert next_line(other) == "held"
    frozen.send_signal(signal.SIGCONT)
    assert next_line(frozen) == (
        f"--output_dir={tmp_path}: another pipeline (process {other.pid} on machine-b) took the "
        f"lease over, because this one stood still for {SHORT} s; this one has stopped. Nothing "
        "is lost: the other one resumes from the files"
    )
    assert frozen.wait(10) == 0, "it has left its block"
    assert owner(tmp_path).pid == other.pid
    assert other.poll() is None


def test_a_holder_that_was_frozen_for_a_moment_goes_on(
    processes: ExitStack, tmp_path: Path
) -> None:
    frozen = holder(processes, tmp_path, "machine-a", LONG, "freezes")
    assert next_line(frozen) == "held"
    await_freeze(frozen)
    other = holder(processes, tmp_path, "machine-b", LONG)
    frozen.send_signal(signal.SIGCONT)
    assert f"is being written by another pipeline (process {frozen.pid} on" in next_line(other)
    assert frozen.poll() is None


@pytest.mark.parametrize("before", ["nothing", "a killed holder"])
def test_of_two_that_start_at_once_one_holds_the_lease(
    processes: ExitStack, tmp_path: Path, before: str
) -> None:
    if before != "nothing":
        killed = holder(processes, tmp_path, "machine-c", LONG)
        assert next_line(killed) == "held"
        killed.kill()
        killed.wait()
    both = [holder(processes, tmp_path, f"machine-{name}", SHORT, "together") for name in "ab"]
    for process in both:
        assert next_line(process) == "ready"
    for process in both:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    lines = [next_line(process) for process in both]
    assert lines.count("held") == 1
    (refusal,) = (line for line in lines if line != "held")
    assert "is being written by another pipeline" in refusal
    assert owner(tmp_path).pid == both[lines.index("held")].pid
