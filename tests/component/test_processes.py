"""Child processes: none outlives its parent, each ends in time, each says why it failed."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.runtime.processes import (
    ManagedProcess,
    Service,
    free_port,
    require_free_port,
    run_to_end,
)


def shell(script: str, log_file: Path) -> ManagedProcess:
    return ManagedProcess("test shell", ["sh", "-c", script], log_file)


def eventually(condition: Callable[[], bool], timeout_seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def is_running(pid: int) -> bool:
    """Whether a process runs; one that has ended but was not collected doesn't."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def logged(process: ManagedProcess, line: str) -> Callable[[], bool]:
    return lambda: line in process.tail()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_a_child_dies_with_its_killed_parent(tmp_path: Path) -> None:
    script = (
        "import time, pathlib, sys\n"
        "from beam_pipeline.runtime.processes import ManagedProcess\n"
        "log = pathlib.Path(sys.argv[1])\n"
        "child = ManagedProcess('sleeper', ['sleep', '600'], log)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, tmp_path / "log"], stdout=subprocess.PIPE, text=True
    ) as parent:
        try:
            assert parent.stdout is not None
            child = int(parent.stdout.readline())
            program = Path(f"/proc/{child}/cmdline")
            assert eventually(lambda: program.read_bytes().split(b"\0")[0].endswith(b"sleep"))
            assert is_running(child)
        finally:
            parent.kill()
    assert eventually(lambda: not is_running(child))


def test_terminate_lets_a_process_end_by_itself(tmp_path: Path) -> None:
    process = shell(
        "trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.05; done", tmp_path / "log"
    )
    assert eventually(logged(process, "up"))
    assert process.alive
    assert process.returncode is None
    assert process.terminate(grace_seconds=5) == 7
    assert not process.alive
    assert process.tail(1) == ["bye"]
    assert process.terminate() == 7


def test_terminate_kills_what_does_not_listen(tmp_path: Path) -> None:
    process = shell("trap '' TERM; echo up; while :; do sleep 0.05; done", tmp_path / "log")
    assert eventually(logged(process, "up"))
    started = time.monotonic()
    assert process.terminate(grace_seconds=0.3) == -signal.SIGKILL
    assert 0.3 <= time.monotonic() - started < 3


def test_terminate_ends_a_stopped_process(tmp_path: Path) -> None:
    process = shell("echo up; exec sleep 600", tmp_path / "log")
    assert eventually(logged(process, "up"))
    os.kill(process.pid, signal.SIGSTOP)
    assert process.terminate(grace_seconds=0.1) in (-signal.SIGTERM, -signal.SIGKILL)


@pytest.mark.parametrize("leader_ends_first", [True, False])
def test_terminate_ends_the_whole_group(leader_ends_first: bool, tmp_path: Path) -> None:
    last = "exit 0" if leader_ends_first else "exec sleep 600"
    process = shell(f"(trap '' TERM; exec sleep 600) & echo $!; {last}", tmp_path / "log")
    assert eventually(lambda: bool(process.tail()))
    grandchild = int(process.tail()[0])
    if leader_ends_first:
        assert process.wait(5) == 0
    assert is_running(grandchild)
    process.terminate(grace_seconds=0.2)
    assert eventually(lambda: not is_running(grandchild))


def test_several_end_in_reverse_order(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with ExitStack() as stack:
        for name in ("first", "second"):
            script = (
                f"trap 'echo {name} ends; exit' TERM; echo {name} up; while :; do sleep 0.05; done"
            )
            process = stack.enter_context(shell(script, log))
            assert eventually(logged(process, f"{name} up"))
    ends = [line for line in log.read_text().splitlines() if line.endswith("ends")]
    assert ends == ["second ends", "first ends"]


def test_log_file_is_private_and_appended(tmp_path: Path) -> None:
    log = tmp_path / "new" / "log"
    for word in ("one", "two"):
        with shell(f"echo {word}; echo {word} >&2", log) as process:
            assert process.wait(5) == 0
    assert log.read_text() == "one\none\ntwo\ntwo\n"
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert process.tail(1) == ["two"]


def test_what_an_earlier_process_logged_is_no_reason(tmp_path: Path) -> None:
    with shell("echo ERROR of the first; exit 1", tmp_path / "log") as first:
        first.wait(10)
    assert "ended with exit code 1: ERROR of the first" in first.end()
    with shell("kill -KILL $$", tmp_path / "log") as second:
        second.wait(10)
    assert second.end() == f"test shell was killed (SIGKILL) (log: {tmp_path / 'log'})"


def test_a_service_is_ready_when_its_port_is(tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)]
    with ManagedProcess("web server", command, tmp_path / "log", cwd=tmp_path) as process:
        Service(process, f"127.0.0.1:{port}").wait_ready(timeout_seconds=10)
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        with pytest.raises(EnvironmentFailure, match=f"web server: port {port} .*can't be used"):
            require_free_port("web server", port)
    require_free_port("web server", port)


def test_a_process_that_ends_before_it_is_ready_says_why(tmp_path: Path) -> None:
    with (
        shell("echo no such thing >&2; echo '  }'; echo; exit 3", tmp_path / "log") as process,
        pytest.raises(EnvironmentFailure) as caught,
    ):
        process.wait_for_port(free_port(), timeout_seconds=5)
    message = str(caught.value)
    assert message.startswith(
        "test shell ended with exit code 3 before it was ready: no such thing"
    )
    assert str(tmp_path / "log") in message


def test_a_process_that_is_never_ready(tmp_path: Path) -> None:
    with (
        shell("exec sleep 600", tmp_path / "log") as process,
        pytest.raises(EnvironmentFailure, match=r"did not open port \d+ within 0.2 s"),
    ):
        process.wait_for_port(free_port(), timeout_seconds=0.2)


def test_what_cannot_be_started(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFailure, match="ghost: the program /no/such/program is missing"):
        ManagedProcess("ghost", ["/no/such/program"], tmp_path / "log")
    with pytest.raises(EnvironmentFailure, match="sh: log file"):
        ManagedProcess("sh", ["sh"], tmp_path)


def test_only_the_main_thread_may_start_one(tmp_path: Path) -> None:
    errors: list[BaseException] = []

    def start() -> None:
        try:
            shell("true", tmp_path / "log")
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert [str(error) for error in errors] == ["test shell must be started from the main thread"]


def test_run_to_end(tmp_path: Path) -> None:
    command = ["sh", "-c", 'echo "$WORD"; exit 4']
    assert run_to_end("echo", command, tmp_path / "log", env={"WORD": "hello"}) == 4
    assert (tmp_path / "log").read_text() == "hello\n"


def test_run_to_end_ends_the_program_when_it_is_interrupted(tmp_path: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    log = tmp_path / "log"
    with pytest.raises(KeyboardInterrupt):
        run_to_end("sleeper", ["sh", "-c", "echo $$; exec sleep 600"], log, on_tick=interrupt)
    assert not is_running(int(log.read_text()))
