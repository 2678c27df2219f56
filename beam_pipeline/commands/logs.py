"""Where a run's logs go: one set of files a run, side by side."""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field
from pathlib import Path

from beam_pipeline.runtime.preflight import check_writable


@dataclass(frozen=True)
class RunLogs:
    """Log files of one run: `<directory>/<start>-<process>.log`."""

    directory: Path
    started: str = field(default_factory=lambda: time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()))

    def file(self, name: str) -> Path:
        """The log file for the process `name`."""
        return self.directory / f"{self.started}-{name}.log"


def add_log_flag(parser: argparse.ArgumentParser) -> None:
    """Adds `--log_dir`."""
    parser.add_argument(
        "--log_dir",
        metavar="DIR",
        type=Path,
        default=Path("logs"),
        help="where log files go, one set a run (default: %(default)s)",
    )


def logs_of(args: argparse.Namespace) -> RunLogs:
    """The log files of a run that starts now.

    Raises:
      EnvironmentFailure: the directory can't be written.
    """
    check_writable(args.log_dir, "--log_dir", private=True)
    return RunLogs(args.log_dir)
