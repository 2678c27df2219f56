"""Runs the command of `--on_event` for each event of a run, in a thread that holds up nothing."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any

import orjson

from beam_pipeline.errors import PipelineError
from beam_pipeline.runtime.run_events import (
    DEAD_RATIO_TRIPPED,
    GIVEN_UP,
    DeadRatioError,
    RunEvent,
)
from beam_pipeline.runtime.run_status import RunStatus
from beam_pipeline.settings.config import EventCommand
from beam_pipeline.settings.masking import masked
from beam_pipeline.storage.durable import PRIVATE_FILE_MODE, make_directory
from beam_pipeline.terminal import plural
from beam_pipeline.times import rfc3339_of_ms

TIMEOUT_SECONDS = 30.0
LAST_SECONDS = 40.0
"""How long a run that failed waits for its last events: a command that hangs, and one more."""

STOP_SECONDS = 10.0
"""The same where nothing failed; what stops a run kills it soon after."""

MAX_WAITING = 100
TELL_SECONDS = 600.0


class EventRunner:
    """A context manager for the time of a run; at its end the last events are delivered."""

    def __init__(
        self,
        command: EventCommand,
        about: Mapping[str, Any],
        log_file: Path,
        status: RunStatus,
    ) -> None:
        """Args:
        command: what is run.
        about: what each event says of the run, JSON data.
        log_file: gets what the commands print.
        status: that of the run, whose events are taken away; failures are its notices.
        """
        self._command = command
        self._about = about
        self._log_file = log_file
        self._status = status
        self._waiting: queue.Queue[RunEvent | None] = queue.Queue(MAX_WAITING)
        self._failures: deque[str] = deque(maxlen=MAX_WAITING)
        self._lost = 0
        self._next_notice = 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self._is_over = False
        self._thread = Thread(target=self._run, name="events", daemon=True)

    def take(self, status: RunStatus) -> None:
        """Take the events away that happened since; never wait."""
        while status.events:
            self._offer(status.events.popleft())
        if not (self._failures or self._lost) or time.monotonic() < self._next_notice:
            return
        self._next_notice = time.monotonic() + TELL_SECONDS
        status.notices.append(self._failure_text())

    def _failure_text(self) -> str:
        failures = len(self._failures)
        parts = [f"{self._failures[-1]} (log: {self._log_file})"] if failures else []
        if failures > 1:
            parts.append(f"{plural(failures, 'command')} failed")
        if self._lost:
            parts.append(f"{plural(self._lost, 'event')} not delivered, too many waited")
        self._failures.clear()
        self._lost = 0
        return f"--on_event: {'; '.join(parts)}"

    def _offer(self, event: RunEvent) -> None:
        try:
            self._waiting.put_nowait(event)
        except queue.Full:
            self._lost += 1

    def __enter__(self) -> EventRunner:
        make_directory(self._log_file.parent, private=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        seconds = LAST_SECONDS if error is not None else min(LAST_SECONDS, STOP_SECONDS)
        deadline = time.monotonic() + seconds
        last: list[RunEvent | None] = [*self._status.events]
        self._status.events.clear()
        if isinstance(error, DeadRatioError):
            last.append(RunEvent(DEAD_RATIO_TRIPPED, str(error)))
        if isinstance(error, Exception):
            told = isinstance(error, PipelineError)
            last.append(RunEvent(GIVEN_UP, str(error) if told else type(error).__name__))
        for event in [*last, None]:
            with contextlib.suppress(queue.Full):
                self._waiting.put(event, timeout=max(0.0, deadline - time.monotonic()))
        self._thread.join(max(0.0, deadline - time.monotonic()))
        self._is_over = True
        if self._thread.is_alive() and (process := self._process) is not None:
            _kill(process)
            self._thread.join(1.0)

    def _run(self) -> None:
        while (event := self._waiting.get()) is not None and not self._is_over:
            try:
                self._deliver(event)
            except OSError as error:
                self._failures.append(f"{event.kind}: {error.strerror or error}")

    def _deliver(self, event: RunEvent) -> None:
        text = masked("", event.text)
        document = {
            "event": event.kind,
            "at": rfc3339_of_ms(round(1000 * event.at_s)),
            "text": text,
            **self._about,
            **event.details,
        }
        log = os.open(self._log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, PRIVATE_FILE_MODE)
        try:
            process = subprocess.Popen(
                self._command.words,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={
                    **self._command.environment,
                    "BEAM_PIPELINE_EVENT": event.kind,
                    "BEAM_PIPELINE_EVENT_TEXT": text,
                },
                start_new_session=True,
            )
        finally:
            os.close(log)
        self._process = process
        try:
            process.communicate(orjson.dumps(document) + b"\n", timeout=TIMEOUT_SECONDS)
            if process.returncode:
                self._failures.append(f"{event.kind}: exit code {process.returncode}")
        except subprocess.TimeoutExpired:
            self._failures.append(f"{event.kind}: not at its end within {TIMEOUT_SECONDS:g} s")
            _kill(process)
        finally:
            self._process = None


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a command that has not ended, with its process group."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
