"""Child processes that never outlive this process, each with a log file of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.runtime.failure_reasons import end_of, first_error, last_message
from beam_pipeline.storage.durable import PRIVATE_FILE_MODE, make_directory

LOOPBACK = "127.0.0.1"
_POLL_SECONDS = 0.02
_TAIL_BYTES = 65536
_TAIL_LINES = 200
_PR_SET_PDEATHSIG = 1  # linux/prctl.h

# Runs in the child and then executes the program in its place. A preexec_fn would run between fork
# and exec, where Python code is unsafe because of the threads of gRPC and librdkafka.
_EXEC_BOUND_TO_PARENT = f"""
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl({_PR_SET_PDEATHSIG}, signal.SIGKILL, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    os._exit(1)
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
os.execv(sys.argv[2], sys.argv[2:])
"""


class ManagedProcess:
    """A running child process in a session of its own, logging to a file (mode 0600).

    On Linux the kernel kills it when this process dies for any reason. The kernel watches the
    thread that started the child, so only the main thread may start one.

    A context manager: the process is terminated at the end.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        log_file: Path,
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        outlives_parent: bool = False,
    ) -> None:
        """Start `command`.

        Args:
            name: the name of the process in messages, for example "Kafka broker".
            command: program and arguments; the program is a path or a name on PATH.
            log_file: standard output and standard error are appended to it.
            env: variables added to this process's environment.
            cwd: working directory.
            outlives_parent: leave it running when this process dies.

        Raises:
            EnvironmentFailure: the program is missing, or the log file can't be written.
            RuntimeError: called outside the main thread.
        """
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError(f"{name} must be started from the main thread")
        self.name = name
        self.log_file = log_file
        # An earlier process may have written to the same log.
        self._log_start = log_file.stat().st_size if log_file.exists() else 0
        self._process = _spawn(name, command, log_file, env, cwd, outlives_parent)

    @property
    def pid(self) -> int:
        """Return the process id, which is also the id of its process group."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Return whether the process still runs."""
        return self._process.poll() is None

    @property
    def returncode(self) -> int | None:
        """Return the exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def wait(self, timeout_seconds: float | None = None) -> int | None:
        """Wait for the end; return the exit code, or None after `timeout_seconds`."""
        try:
            return self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            return None

    def wait_for_port(self, port: int, timeout_seconds: float = 30.0) -> None:
        """Wait until the process accepts connections on a loopback port.

        Raises:
            EnvironmentFailure: it ended first, or did not open the port in time.
        """
        deadline = time.monotonic() + timeout_seconds
        while not _accepts(port):
            if not self.alive:
                raise self.failure(f"ended with exit code {self.returncode} before it was ready")
            if time.monotonic() > deadline:
                raise self.failure(f"did not open port {port} within {timeout_seconds:g} s")
            time.sleep(_POLL_SECONDS)

    def failure(self, what: str) -> EnvironmentFailure:
        """Return an error that says `what` happened, with the reason in the log and its path."""
        return EnvironmentFailure(f"{self.name} {what}: {self._reason()} (log: {self.log_file})")

    def end(self) -> str:
        """Return one line on how the process ended: killed or by itself, and why if its log says.

        What is logged before a SIGKILL is not its reason, unless it is an error.
        """
        how = end_of(self.name, self.returncode)
        was_killed = (self.returncode or 0) < 0
        reason = self._error() if was_killed else self._reason()
        return f"{how}{f': {reason}' if reason else ''} (log: {self.log_file})"

    def _error(self) -> str | None:
        return first_error(self.tail(_TAIL_LINES), datetime.now(timezone.utc))

    def _reason(self) -> str:
        return self._error() or last_message(self.tail(_TAIL_LINES)) or "no output"

    def ask_to_end(self) -> None:
        """Send SIGTERM to the process and its whole group, and return at once."""
        _signal_group(self._process.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End the process and its whole group at once, by SIGKILL."""
        _signal_group(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def tail(self, lines: int = 20) -> list[str]:
        """Return the last lines that this process logged; none where the log can't be read."""
        return _tail(self.log_file, lines, self._log_start)

    def terminate(self, grace_seconds: float = 5.0) -> int:
        """End the process and its whole group: SIGTERM, then SIGKILL after `grace_seconds`.

        If the process has ended already, what it left behind in its group is killed.

        Returns:
            the exit code.
        """
        return _terminate(self._process, grace_seconds)

    def __enter__(self) -> ManagedProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.terminate()


class Service(NamedTuple):
    """A server in a child process, and its address."""

    process: ManagedProcess
    endpoint: str
    """host:port"""

    def wait_ready(self, timeout_seconds: float = 60.0) -> None:
        """Wait until it accepts connections.

        Raises:
            EnvironmentFailure: it ended first, or did not accept one in time.
        """
        self.process.wait_for_port(int(self.endpoint.rpartition(":")[2]), timeout_seconds)


def run_to_end(
    name: str,
    command: Sequence[str | Path],
    log_file: Path,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    on_tick: Callable[[], None] = lambda: None,
) -> int:
    """Run a program to its end, from any thread; return its exit code.

    Args:
        name, command, log_file, env, cwd: as for `ManagedProcess`.
        on_tick: called about five times a second. If it or a signal handler raises, the program is
            ended and the exception propagates.

    Raises:
        EnvironmentFailure: the program is missing, or the log file can't be written.
    """
    process = _spawn(name, command, log_file, env, cwd)
    try:
        while True:
            try:
                return process.wait(0.2)
            except subprocess.TimeoutExpired:
                on_tick()
    finally:
        _terminate(process, grace_seconds=2.0)


def free_port() -> int:
    """Return a loopback port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def free_port_like(port: int) -> int:
    """Return `port` if nothing listens on it now, else another free loopback port."""
    try:
        _listen_once(port)
    except OSError:
        return free_port()
    return port


def require_free_port(name: str, port: int) -> None:
    """Check that a loopback port can be listened on.

    Raises:
        EnvironmentFailure: it is taken.
    """
    try:
        _listen_once(port)
    except OSError as error:
        raise EnvironmentFailure(
            f"{name}: port {port} on {LOOPBACK} can't be used ({error.strerror}); "
            "end what listens there, or choose another port (0 takes a free one)"
        ) from error


def _listen_once(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((LOOPBACK, port))
        probe.listen()


def _accepts(port: int) -> bool:
    try:
        socket.create_connection((LOOPBACK, port), timeout=1.0).close()
    except OSError:
        return False
    return True


def _spawn(
    name: str,
    command: Sequence[str | Path],
    log_file: Path,
    env: Mapping[str, str] | None,
    cwd: Path | None,
    outlives_parent: bool = False,
) -> subprocess.Popen[bytes]:
    program = shutil.which(command[0])
    if program is None:
        raise EnvironmentFailure(f"{name}: the program {command[0]} is missing or can't be run")
    argv = [program, *map(str, command[1:])]
    if sys.platform == "linux" and not outlives_parent:
        bound = [sys.executable, "-I", "-S", "-c", _EXEC_BOUND_TO_PARENT, str(os.getpid())]
        argv = [*bound, *argv]
    try:
        make_directory(log_file.parent, private=True)
        log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, PRIVATE_FILE_MODE)
    except OSError as error:
        raise EnvironmentFailure(f"{name}: log file {log_file}: {error.strerror}") from error
    try:
        os.fchmod(log, PRIVATE_FILE_MODE)
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
    finally:
        os.close(log)


def _terminate(process: subprocess.Popen[bytes], grace_seconds: float) -> int:
    if process.poll() is None:
        _signal_group(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace_seconds)
    _signal_group(process.pid, signal.SIGKILL)
    return process.wait()


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _tail(path: Path, lines: int, start: int) -> list[str]:
    try:
        with path.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(start, size - _TAIL_BYTES))
            return log.read().decode("utf-8", "replace").splitlines()[-lines:]
    except OSError:
        return []
