"""Files that travel with the code: contracts, reference data, lock files.

In a checkout they lie at its top level; in an installed wheel under `beam_pipeline/_resources`.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def project_root() -> Path | None:
    """Top of the checkout that the code runs from; None for an installed wheel."""
    top = _PACKAGE.parent
    return top if (top / "pyproject.toml").is_file() and (top / "java").is_dir() else None


def program(script: str, installed: str = "beam-pipeline") -> str:
    """How the user starts a command: by a script at the checkout's top, or as it is installed."""
    return f"./{script}" if project_root() else installed


def event_schema_path() -> Path:
    """JSON Schema of the events that the pipeline takes by default."""
    return _resource("schema") / "commerce_event.schema.json"


def dead_letter_schema_path() -> Path:
    """JSON Schema of one line of a dead-letter file."""
    return _resource("schema") / "dead_letter.schema.json"


def reference_dir() -> Path:
    """Directory of the reference tables that events are enriched from."""
    return _resource("data/reference")


def java_lock_path(name: str) -> Path:
    """Lock file of a set of Java artifacts: "expansion", "kafka", "flink" or "compiler"."""
    return _resource("java") / f"{name}.lock"


def java_source_dir() -> Path:
    """Directory of the project's own Java classes."""
    return _resource("java") / "src"


def requirements_path(name: str) -> Path:
    """pip requirements of what is fetched when needed: "java", "go", "flink", "flink-build"."""
    return _resource("requirements") / f"{name}.txt"


def _resource(relative: str) -> Path:
    return (project_root() or _PACKAGE / "_resources") / relative
