"""Measures time, memory and CPU of a program with all its processes (Linux, by /proc)."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from beam_pipeline.runtime.processes import ManagedProcess

SAMPLE_SECONDS = 0.2
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Usage:
    """The resources that a program used from its start to its end.

    `peak_rss_bytes` is the largest sum of the resident memory of its processes, sampled every
    `SAMPLE_SECONDS`; shared pages count once per process.
    """

    started_ns: int
    exit_code: int
    peak_rss_bytes: int
    cpu_seconds: float


def run_measured(
    name: str,
    command: Sequence[str | Path],
    log_file: Path,
    *,
    env: Mapping[str, str],
    cwd: Path,
    timeout_seconds: float,
) -> Usage:
    """Run a program to its end, and measure it with all its descendants.

    No other child of this process may end meanwhile.

    Raises:
        EnvironmentFailure: the program could not be started, or did not end in time.
    """
    cpu_before = _cpu_of_ended_children()
    started_ns = time.time_ns()
    peak_rss_bytes = 0
    cpu_seconds: dict[int, float] = {}
    with ManagedProcess(name, command, log_file, env=env, cwd=cwd) as process:
        while process.wait(SAMPLE_SECONDS) is None:
            rss_bytes = 0
            for pid in process_tree(process.pid):
                usage = _read_usage(pid)
                if usage is not None:
                    rss_bytes += usage[0]
                    cpu_seconds[pid] = usage[1]
            peak_rss_bytes = max(peak_rss_bytes, rss_bytes)
            if time.time_ns() - started_ns > timeout_seconds * 1e9:
                raise process.failure(f"did not end within {timeout_seconds:g} s")
    # The kernel sums up children that were waited for; the samples have the others.
    cpu = max(_cpu_of_ended_children() - cpu_before, sum(cpu_seconds.values()))
    return Usage(started_ns, process.returncode or 0, peak_rss_bytes, cpu)


def process_tree(root: int) -> set[int]:
    """Return the process `root` and its current descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat_fields(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    tree, waiting = set(), [root]
    while waiting:
        pid = waiting.pop()
        tree.add(pid)
        waiting.extend(children.get(pid, ()))
    return tree


def _read_usage(pid: int) -> tuple[int, float] | None:
    """Return resident bytes and CPU seconds of a process; None if it has ended."""
    fields = _stat_fields(pid)
    if fields is None:
        return None
    return int(fields[21]) * _PAGE_BYTES, (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND


def _stat_fields(pid: int) -> list[str] | None:
    """Return the fields of proc(5) stat from the third (state) on."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return stat.rpartition(")")[2].split()  # the second field, the name, may contain anything


def _cpu_of_ended_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class FirstFetch:
    """The time of the broker's first read of a topic's log, whichever client fetches it.

    The kernel updates a file's access time on a read (also by sendfile) if it is older than the
    modification time. So it is set back before a run and read afterwards. On a file system mounted
    with noatime it does not change.
    """

    def __init__(self, segments: Iterable[Path]) -> None:
        self._segments = list(segments)
        for segment in self._segments:
            os.utime(segment, ns=(0, segment.stat().st_mtime_ns))

    def time_ns(self) -> int | None:
        """Return nanoseconds since 1970; None if the access time did not change."""
        times = [segment.stat().st_atime_ns for segment in self._segments]
        return min((time for time in times if time), default=None)
