"""Fails each unit test that starts a process or uses the network. Those go to tests/component."""

from __future__ import annotations

import platform
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
import urllib3.util.connection  # noqa: F401 - it binds a socket when it is imported

# Python reports these before it does them: https://docs.python.org/3/library/audit_events.html
_FORBIDDEN = frozenset(
    {
        "os.exec",
        "os.fork",
        "os.forkpty",
        "os.posix_spawn",
        "os.spawn",
        "os.system",
        "socket.bind",
        "socket.connect",
        "socket.getaddrinfo",
        "socket.gethostbyname",
        "socket.sendto",
        "subprocess.Popen",
    }
)


class _Guard:
    """Refuses the forbidden events while a unit test runs, and keeps them for the report."""

    def __init__(self) -> None:
        self.on = False
        self.events: list[str] = []

    def __call__(self, event: str, args: tuple[object, ...]) -> None:
        if self.on and event in _FORBIDDEN:
            self.events.append(f"{event} {args!r}"[:300])
            raise PermissionError(f"{event}: a unit test starts no process and uses no network")


platform.processor()  # it starts a process once, and importing an SDK may call it
_guard = _Guard()
sys.addaudithook(_guard)  # for the life of the process; a hook can't be removed


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    # pytest calls this hook for every item, also for those of other directories.
    _guard.on = Path(__file__).parent in item.path.parents
    try:
        return (yield)
    finally:
        _guard.on = False


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail the test even if it suppressed the guard's exception, or a thread of it raised it."""
    report = yield
    if _guard.events:
        report.outcome = "failed"
        report.sections.append(("forbidden in tests/unit", "\n".join(_guard.events)))
        if report.longrepr is None:
            report.longrepr = f"forbidden in tests/unit: {_guard.events[0]}"
        _guard.events.clear()
    return report
