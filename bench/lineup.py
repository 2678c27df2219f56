"""The contenders of the throughput benchmark and their commands."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from beam_pipeline import resources
from beam_pipeline.records import PROVENANCE_COLUMNS

CONTENDERS_DIR = Path(__file__).resolve().parent / "contenders"
JOB_VARIABLE = "BENCH_JOB"
FLINK_PARALLELISM = 2

_KEEP_BYTECODE = {"PYTHONDONTWRITEBYTECODE": ""}
"""Set to anything, every start compiles what pip has not: the checkout, of which ours has most."""


@dataclass(frozen=True, slots=True)
class Workload:
    """A filled topic.

    Attributes:
        ends: the end offset of each partition.
        schema: the records' JSON Schema; None means that of the commerce events, the only one that
            other contenders than this pipeline know.
    """

    bootstrap_servers: str
    topic: str
    ends: Mapping[int, int]
    window_seconds: int
    schema: Path | None = None

    @property
    def records(self) -> int:
        """How many records the topic has."""
        return sum(self.ends.values())


@dataclass(frozen=True, slots=True)
class Launch:
    """A command with additional environment variables.

    It runs in `directory`, and writes to `out` and `dead` there.
    """

    command: list[str]
    env: dict[str, str]


@dataclass(frozen=True, slots=True)
class Contender:
    """A contender: its name on the command line and in the results, and its command.

    `missing` is the reason why it can't run here; None if it can.
    """

    name: str
    title: str
    launch: Callable[[Workload, Path], Launch]
    missing: Callable[[], str | None]


def lineup(bench_python: Path) -> list[Contender]:
    """Return all contenders, this pipeline's first.

    Args:
        bench_python: the Python of the environment with the other contenders' packages.
    """

    def other(name: str, title: str, *command: str) -> Contender:
        return Contender(
            name,
            title,
            lambda workload, _: Launch([str(bench_python), *command], _job(workload)),
            lambda: None if bench_python.exists() else f"there is no {bench_python}",
        )

    return [
        Contender("prism", "ours on Prism", _ours(), lambda: None),
        Contender(
            "flink",
            f"ours on Flink, parallelism {FLINK_PARALLELISM}",
            _ours("--engine=flink", f"--parallelism={FLINK_PARALLELISM}"),
            _flink_missing,
        ),
        other("loop", "hand-written loop", str(CONTENDERS_DIR / "loop.py")),
        other("bytewax", "Bytewax 0.21.1", "-m", "bytewax.run", "bytewax_flow:flow"),
        other("pathway", "Pathway 0.33.0", str(CONTENDERS_DIR / "pathway_app.py")),
        other("quixstreams", "Quix Streams 3.28.1", str(CONTENDERS_DIR / "quix_app.py")),
    ]


def _ours(*flags: str) -> Callable[[Workload, Path], Launch]:
    def launch(workload: Workload, directory: Path) -> Launch:
        command = [
            *(sys.executable, "-m", "beam_pipeline", "run", "--until=caught_up"),
            f"--kafka_bootstrap_servers={workload.bootstrap_servers}",
            f"--input_topics={workload.topic}",
            f"--window_seconds={workload.window_seconds}",
            *("--output_dir=out", "--dead_letter_dir=dead"),
            f"--kafka_columns={','.join(PROVENANCE_COLUMNS)}",
            f"--log_dir={directory / 'logs'}",
            *([f"--schema={workload.schema}"] if workload.schema else []),
            *flags,
        ]
        return Launch(command, {"PYTHONPATH": _import_path(), **_KEEP_BYTECODE})

    return launch


def _import_path() -> str:
    root = resources.project_root()
    return str(root) if root else ""


def _job(workload: Workload) -> dict[str, str]:
    job = {
        **asdict(workload),
        "output_dir": "out",
        "dead_letter_dir": "dead",
        "schema": str(resources.event_schema_path()),
        "reference_dir": str(resources.reference_dir()),
    }
    return {
        JOB_VARIABLE: json.dumps(job),
        "PYTHONPATH": str(CONTENDERS_DIR),
        **_KEEP_BYTECODE,
    }


def _flink_missing() -> str | None:
    help_text = subprocess.run(
        [sys.executable, "-m", "beam_pipeline", "run", "--help"],
        env={"PYTHONPATH": _import_path(), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    return None if "--engine" in help_text else "this checkout's `run` has no --engine=flink"
